/// Writes HTTP/1.1 responses that are not upgrades (RFC 9112 §4).
enum HTTPResponse {
    /// One whole response whose body is plain text.
    static func encode(
        _ status: HTTPStatus, date: String, headers: [(String, String)], body: String, close: Bool
    ) -> [UInt8] {
        encode(
            status, date: date, headers: headers, contentType: "text/plain; charset=utf-8", body: body.utf8,
            close: close)
    }

    /// One whole response; `close` says that the connection ends behind it.
    static func encode(
        _ status: HTTPStatus, date: String, headers: [(String, String)], contentType: String,
        body: some Collection<UInt8>, close: Bool
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(512 + body.count)
        bytes += "HTTP/1.1 \(status.code) \(status.reasonPhrase)\r\n".utf8
        append("Date", date, to: &bytes)
        append(headers, connection: close ? ["close"] : [], to: &bytes)
        append("Content-Type", contentType, to: &bytes)
        append("Content-Length", String(body.count), to: &bytes)
        bytes += "\r\n".utf8
        bytes += body
        return bytes
    }

    /// The head of a response that a script has made. `fields` are whole lines, checked where they were made.
    /// `bodyCount` is nil where the status allows no body (RFC 9110 §8.6).
    static func encodeHead(
        _ status: HTTPStatus, date: String, fields: UnsafeRawBufferPointer, bodyCount: Int?, connection: StaticString?
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(160 + fields.count)
        bytes += "HTTP/1.1 \(status.code) \(status.reasonPhrase)\r\n".utf8
        append("Date", date, to: &bytes)
        bytes += fields
        if let connection { append("Connection", "\(connection)", to: &bytes) }
        if let bodyCount { append("Content-Length", String(bodyCount), to: &bytes) }
        bytes += "\r\n".utf8
        return bytes
    }

    /// Field lines, and a Connection of those options and of `Upgrade`, which is hop-by-hop (RFC 9110 §7.6.1). Names
    /// that are no tokens are left out, and control characters of values with them, so that nothing a value was made
    /// from (a reason that a script gave, a path) can begin a line of its own.
    static func append(_ headers: [(String, String)], connection: [String] = [], to bytes: inout [UInt8]) {
        var options = connection
        for (name, value) in headers where HTTPCharacter.isToken(name.utf8) {
            if name.lowercased() == "upgrade" { options.append("Upgrade") }
            append(name, value, to: &bytes)
        }
        if !options.isEmpty { append("Connection", options.joined(separator: ", "), to: &bytes) }
    }

    /// One field line; what may not be in a value is left out of it.
    static func append(_ name: String, _ value: String, to bytes: inout [UInt8]) {
        bytes += name.utf8
        bytes += ": ".utf8
        bytes += value.utf8.lazy.filter(HTTPCharacter.isFieldContent)
        bytes += "\r\n".utf8
    }
}
