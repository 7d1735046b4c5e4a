/// The head of one HTTP/1 request: request line and header fields (RFC 9112 §3, §5), checked by `RequestHeadParser`.
/// Kept as the bytes that came; each part is made into text when somebody asks for it.
struct RequestHead: Sendable {
    /// Where the parts of the request line lie. `RequestHeadParser` bounds the line far below 64 KiB.
    struct Line: Sendable {
        var method: Range<UInt16>
        var target: Range<UInt16>
        /// Empty where the target is in origin form.
        var authority: Range<UInt16>
        var path: Range<UInt16>
        var query: Range<UInt16>
        var minorVersion: UInt8
    }

    let line: Line
    let fields: HeaderFields

    /// `GET`; methods are case-sensitive.
    var method: String { text(line.method) }
    /// The request target as it came: `/app/x?auth=…` or `http://host/…`. It may carry a token: never log it.
    var target: String { text(line.target) }
    /// The target's path, still percent-encoded; begins with `/`.
    var path: String { line.path.isEmpty ? "/" : text(line.path) }
    /// The raw query, without `?`; empty where there is none.
    var query: String { text(line.query) }
    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    var minorVersion: Int { Int(line.minorVersion) }
    /// Host and port that the request is for; the target's where it names one (RFC 9112 §3.2.2), else the Host field's.
    var authority: String { line.authority.isEmpty ? values(of: "host").first ?? "" : text(line.authority) }

    /// How the body is delimited; one of no bytes where there is none.
    var framing: RequestFraming {
        guard let framing = RequestFraming.read(fields, minorVersion: line.minorVersion) else {
            preconditionFailure("RequestHeadParser lets no such head through")
        }
        return framing
    }

    /// Whether the request wants to become a WebSocket. Offers to switch to anything else are not taken up
    /// (RFC 9110 §7.8).
    var asksForWebSocket: Bool { fields.contains("websocket", in: "upgrade") }

    /// Whether the connection may go on behind the response (RFC 9112 §9.3): `close` counts for more than anything.
    var keepsAlive: Bool {
        !fields.contains("close", in: "connection")
            && (line.minorVersion >= 1 || fields.contains("keep-alive", in: "connection"))
    }

    private func text(_ range: Range<UInt16>) -> String {
        String(decoding: fields.bytes[Int(range.lowerBound)..<Int(range.upperBound)], as: UTF8.self)
    }

    /// The values of every header line of this name, in order. `name` is lower-case.
    func values(of name: String) -> [String] { fields.values(of: name) }

    /// Lower-cased names, each once; lines of one name are joined with ", ".
    var headers: [(name: String, value: String)] { fields.all }
}
