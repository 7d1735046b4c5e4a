/// The client's side of a WebSocket handshake (RFC 6455 §4.1): what it sends.
package enum ClientHandshake {
    /// The request. `target` is path and query; `host` the authority of the URL; `key` 16 random bytes in base64.
    /// Control characters of values are left out.
    package static func encodeRequest(
        target: String, host: String, key: String, subprotocols: [String] = [], headers: [(String, String)] = []
    ) -> [UInt8] {
        var bytes = Array("GET ".utf8)
        bytes += target.utf8.lazy.filter { $0 > 0x20 && $0 < 0x7F }
        bytes += " HTTP/1.1\r\n".utf8
        HTTPResponse.append("Host", host, to: &bytes)
        bytes += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n".utf8
        HTTPResponse.append("Sec-WebSocket-Key", key, to: &bytes)
        if !subprotocols.isEmpty {
            HTTPResponse.append("Sec-WebSocket-Protocol", subprotocols.joined(separator: ", "), to: &bytes)
        }
        for (name, value) in headers where HTTPCharacter.isToken(name.utf8) {
            HTTPResponse.append(name, value, to: &bytes)
        }
        bytes += "\r\n".utf8
        return bytes
    }
}

/// Reads the head of a response (RFC 9112 §4), as strictly as requests are read.
package struct ResponseHeadParser: Sendable {
    package struct Head: Sendable {
        package let status: Int
        let fields: HeaderFields

        /// The values of every header line of this name, in order. `name` is lower-case.
        package func values(of name: String) -> [String] { fields.values(of: name) }
        /// Lower-cased names, each once; lines of one name are joined with ", ".
        package var headers: [(name: String, value: String)] { fields.all }

        /// Whether this is the 101 that RFC 6455 §4.1 asks for, `accept` being what must stand in Sec-WebSocket-Accept.
        package func isUpgrade(accept: String) -> Bool {
            let upgrade = fields.listItems(of: "upgrade").map { String(decoding: $0, as: UTF8.self).lowercased() }
            let options = fields.listItems(of: "connection").map { String(decoding: $0, as: UTF8.self).lowercased() }
            return status == 101 && upgrade == ["websocket"] && options.contains("upgrade")
                && values(of: "sec-websocket-accept") == [accept] && values(of: "sec-websocket-extensions").isEmpty
        }
    }

    package enum Result: Sendable {
        case incomplete
        /// The head is the first `length` bytes.
        case head(Head, length: Int)
        case refused(reason: StaticString)
    }

    /// Reads a head of at most `maximumBytes`. `bytes` is everything that has come so far.
    package static func parse(_ bytes: UnsafeRawBufferPointer, maximumBytes: Int = 16 << 10) -> Result {
        let expected = Array("HTTP/1.".utf8)
        guard bytes.prefix(expected.count).elementsEqual(expected.prefix(bytes.count)) else {
            return .refused(reason: "The answer is not HTTP/1.")
        }
        var scan = HeadScan()
        switch scan.advance(UnsafeRawBufferPointer(rebasing: bytes.prefix(maximumBytes))) {
        case .incomplete:
            return bytes.count < maximumBytes ? .incomplete : .refused(reason: "The head of the answer is too large.")
        case .badLineEnd: return .refused(reason: "The answer has a line that does not end with CRLF, or a NUL.")
        case .tooManyLines: return .refused(reason: "The answer has too many header lines.")
        case .complete(let length):
            // A head that is complete has a first line.
            guard let lineEnd = scan.firstLineEnd else { return .incomplete }
            return finish(Array(bytes[..<length]), lineEnd)
        }
    }

    /// `HTTP-version SP status-code SP [reason-phrase]`; the last space is missing from some servers' answers.
    private static func finish(_ head: [UInt8], _ lineEnd: Int) -> Result {
        let line = head[..<lineEnd]
        guard line.count >= 12, HTTPCharacter.isDigit(line[7]), line[8] == 0x20,
            line[9...11].allSatisfy(HTTPCharacter.isDigit), line.count == 12 || line[12] == 0x20,
            line.allSatisfy(HTTPCharacter.isFieldContent),
            let status = Int(String(decoding: line[9...11], as: UTF8.self)),
            (100...599).contains(status)
        else { return .refused(reason: "The answer has no valid status line.") }
        do {
            let fields = try HeaderFields(head, from: lineEnd + 2)
            return .head(Head(status: status, fields: fields), length: head.count)
        } catch {
            switch error {
            case .malformed(let reason): return .refused(reason: reason)
            case .tooMany: return .refused(reason: "The answer has too many header lines.")
            }
        }
    }
}
