/// The head of one HTTP/1 request: request line and header fields (RFC 9112 §3, §5), checked by `RequestHeadParser`.
struct RequestHead: Sendable {
    /// `GET`; methods are case-sensitive.
    let method: String
    /// The request target as it came: `/app/x?auth=…` or `http://host/…`. It may carry a token: never log it.
    let target: String
    /// The target's path, still percent-encoded; begins with `/`.
    let path: String
    /// The raw query, without `?`; empty where there is none.
    let query: String
    /// The minor version: 0 for HTTP/1.0, 1 for HTTP/1.1.
    let minorVersion: Int
    /// Host and port that the request is for; the target's where it names one (RFC 9112 §3.2.2), else the Host field's.
    let authority: String
    let fields: HeaderFields

    /// The values of every header line of this name, in order. `name` is lower-case.
    func values(of name: String) -> [String] { fields.values(of: name) }

    /// Lower-cased names, each once; lines of one name are joined with ", ".
    var headers: [(name: String, value: String)] { fields.all }
}
