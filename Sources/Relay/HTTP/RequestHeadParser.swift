/// Reads the head of an HTTP/1 request, strictly (RFC 9112): what two readers could understand differently is refused.
///
/// What delimits a body is checked here (`RequestFraming`), so that no byte of one can ever be read as another request.
enum RequestHeadParser {
    enum Result: Sendable {
        case incomplete
        /// The head is the first `length` bytes.
        case head(RequestHead, length: Int)
        /// Answer with this status and reason, and close.
        case refused(HTTPStatus, reason: StaticString)
    }

    /// A longer request line is answered with 414 (RFC 9112 §3 asks for at least 8000 bytes).
    static let maximumRequestLineBytes = 8192
    /// No registered method is longer than 17 bytes.
    private static let maximumMethodBytes = 32

    /// Reads a head that may have come whole. `bytes` is everything that has come so far: call again with more after
    /// `incomplete`. Nothing is remembered in between: a head of 16 000 bytes that came one by one took 20 ms, and the
    /// kernel as long to receive it.
    static func parse(_ bytes: UnsafeRawBufferPointer, maximumBytes: Int) -> Result {
        if let refusal = checkStart(bytes) { return refusal }
        var scan = HeadScan()
        let scanned = scan.advance(UnsafeRawBufferPointer(rebasing: bytes.prefix(maximumBytes)))
        // The request line first: it is what a client that speaks something else has got wrong.
        let lineLength = scan.firstLineEnd ?? bytes.count
        guard lineLength <= min(maximumRequestLineBytes, maximumBytes) else {
            return .refused(.uriTooLong, reason: "The request line is too long.")
        }
        switch scanned {
        case .badLineEnd:
            return .refused(.badRequest, reason: "The request has a line that does not end with CRLF, or a NUL.")
        case .tooManyLines:
            return .refused(.headerFieldsTooLarge, reason: "The request has too many header lines.")
        case .incomplete:
            if let end = scan.firstLineEnd, case .failure(let refusal) = requestLine(bytes, end) {
                return refusal.result
            }
            guard bytes.count < maximumBytes else {
                return .refused(.headerFieldsTooLarge, reason: "The request head is too large.")
            }
            return .incomplete
        case .complete(let length):
            // `scan` completes behind an empty line, which is not the first one unless `requestLine` refuses it.
            guard let lineEnd = scan.firstLineEnd else { return .incomplete }
            return finish(UnsafeRawBufferPointer(rebasing: bytes[..<length]), lineEnd)
        }
    }

    /// Whatever is no HTTP is told by its first bytes: a TLS hello, a preface of HTTP/2, noise.
    private static func checkStart(_ bytes: UnsafeRawBufferPointer) -> Result? {
        for (index, byte) in bytes.prefix(maximumMethodBytes + 1).enumerated() {
            if HTTPCharacter.isToken(byte) { continue }
            guard byte == 0x20, index > 0 else {
                return bytes[0] == 0x16
                    ? .refused(.badRequest, reason: "This port does not speak TLS.")
                    : .refused(.badRequest, reason: "The request does not begin with a method.")
            }
            return nil
        }
        guard bytes.count <= maximumMethodBytes else {
            return .refused(.badRequest, reason: "The request does not begin with a method.")
        }
        return nil
    }

    private static func finish(_ head: UnsafeRawBufferPointer, _ lineEnd: Int) -> Result {
        let line: RequestHead.Line
        switch requestLine(head, lineEnd) {
        case .success(let parsed): line = parsed
        case .failure(let refusal): return refusal.result
        }
        let fields: HeaderFields
        do { fields = try HeaderFields(Array(head), from: lineEnd + 2) } catch {
            switch error {
            case .malformed(let reason): return .refused(.badRequest, reason: reason)
            case .tooMany: return .refused(.headerFieldsTooLarge, reason: "The request has too many header lines.")
            }
        }
        if let reason = problem(with: fields, line) { return .refused(.badRequest, reason: reason) }
        return .head(RequestHead(line: line, fields: fields), length: head.count)
    }

    /// What RFC 9112 §3.2 (Host) and §6 (framing) ask of the fields; nil where all is well.
    private static func problem(with fields: HeaderFields, _ line: RequestHead.Line) -> StaticString? {
        let hosts = fields.rawValues(of: "host")
        guard hosts.count == 1 || (hosts.isEmpty && line.minorVersion == 0) else {
            return "The request needs exactly one Host field."
        }
        guard hosts.allSatisfy({ isAuthority($0) }) else { return "The Host field is not HOST or HOST:PORT." }
        guard RequestFraming.read(fields, minorVersion: line.minorVersion) != nil else {
            return "The length of the body is not given by one Content-Length or by Transfer-Encoding: chunked."
        }
        return nil
    }

    /// `uri-host [":" port]` (RFC 9110 §4.2, RFC 3986 §3.2), not empty.
    static func isAuthority(_ bytes: some Collection<UInt8>) -> Bool {
        var host = bytes[...]
        if let first = host.first, first == UInt8(ascii: "["), let end = host.firstIndex(of: UInt8(ascii: "]")) {
            let address = host[host.index(after: host.startIndex)..<end]
            let isAddress = address.allSatisfy {
                HTTPCharacter.hexadecimal($0) != nil || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ".")
            }
            guard isAddress, address.contains(UInt8(ascii: ":")) else { return false }
            host = host[host.index(after: end)...]
            return host.isEmpty || (host.first == UInt8(ascii: ":") && isPort(host.dropFirst()))
        }
        if let colon = host.firstIndex(of: UInt8(ascii: ":")) {
            guard isPort(host[host.index(after: colon)...]) else { return false }
            host = host[..<colon]
        }
        return !host.isEmpty && host.allSatisfy { isHostCharacter($0) }
    }

    /// Digits up to 65535, or nothing, which RFC 3986 §3.2.3 allows.
    private static func isPort(_ digits: some Collection<UInt8>) -> Bool {
        guard digits.count <= 5, digits.allSatisfy({ HTTPCharacter.isDigit($0) }) else { return false }
        return digits.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) } <= 65535
    }

    /// `unreserved`, `sub-delims` but the comma, which would join two hosts, and `%`.
    private static func isHostCharacter(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        case UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"), UInt8(ascii: "%"),
            UInt8(ascii: "!"), UInt8(ascii: "$"), UInt8(ascii: "&"), UInt8(ascii: "'"), UInt8(ascii: "("),
            UInt8(ascii: ")"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: ";"), UInt8(ascii: "="):
            true
        default: false
        }
    }
}

// The request line (RFC 9112 §3).
extension RequestHeadParser {
    private struct Refusal: Error {
        var status = HTTPStatus.badRequest
        let reason: StaticString
        var result: Result { .refused(status, reason: reason) }
    }

    /// `method SP request-target SP HTTP-version`, the first `end` bytes.
    private static func requestLine(
        _ bytes: UnsafeRawBufferPointer, _ end: Int
    ) -> Swift.Result<RequestHead.Line, Refusal> {
        let parts = bytes[..<end].split(separator: 0x20, omittingEmptySubsequences: false)
        guard parts.count == 3, HTTPCharacter.isToken(parts[0]) else {
            return .failure(Refusal(reason: "The request line is not METHOD, target and version."))
        }
        let version = parts[2]
        guard version.count == 8, version.starts(with: "HTTP/".utf8),
            HTTPCharacter.isDigit(version[version.startIndex + 5]),
            version[version.startIndex + 6] == UInt8(ascii: "."), HTTPCharacter.isDigit(version[version.startIndex + 7])
        else { return .failure(Refusal(reason: "The request line does not end with an HTTP version.")) }
        guard version[version.startIndex + 5] == UInt8(ascii: "1") else {
            // "PRI * HTTP/2.0" opens an HTTP/2 connection: no request at all (RFC 9113 §3.4).
            let isPreface = parts[0].elementsEqual("PRI".utf8)
            return .failure(
                Refusal(
                    status: isPreface ? .badRequest : .versionNotSupported, reason: "This port speaks HTTP/1.1 only."))
        }
        guard !parts[1].isEmpty, parts[1].allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "#") }) else {
            return .failure(Refusal(reason: "The request target holds a character that must be percent-encoded."))
        }
        guard !parts[0].elementsEqual("CONNECT".utf8) else {
            return .failure(Refusal(reason: "CONNECT is for proxies, and this is none."))
        }
        guard let (authority, origin) = split(target: parts[1]) else {
            return .failure(Refusal(reason: "The request target is neither a path nor an http or ws URL."))
        }
        let path = origin.prefix { $0 != UInt8(ascii: "?") }
        return .success(
            RequestHead.Line(
                method: range(of: parts[0]), target: range(of: parts[1]), authority: range(of: authority),
                path: range(of: path), query: range(of: origin[path.endIndex...].dropFirst()),
                minorVersion: version[version.startIndex + 7] - UInt8(ascii: "0")))
    }

    /// Where in the line a part of it lies: `parse` has bounded the line by `maximumRequestLineBytes`.
    private static func range(of part: Slice<UnsafeRawBufferPointer>) -> Range<UInt16> {
        UInt16(part.startIndex)..<UInt16(part.endIndex)
    }

    /// Origin form (`/path?query`) as it is; absolute form (`http://host/path?query`) in two parts. The other two forms
    /// are for CONNECT and OPTIONS, which nothing here answers.
    private static func split(
        target: Slice<UnsafeRawBufferPointer>
    ) -> (authority: Slice<UnsafeRawBufferPointer>, origin: Slice<UnsafeRawBufferPointer>)? {
        if target.first == UInt8(ascii: "/") { return (target.prefix(0), target) }
        for scheme in ["http://", "https://", "ws://", "wss://"] {
            let start = target.prefix(scheme.utf8.count)
            guard start.map(HTTPCharacter.lowercased).elementsEqual(scheme.utf8) else { continue }
            let rest = target.dropFirst(scheme.utf8.count)
            let end = rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? rest.endIndex
            guard isAuthority(rest[..<end]) else { return nil }
            return (rest[..<end], rest[end...])
        }
        return nil
    }
}
