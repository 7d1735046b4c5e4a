/// A file that the relay serves over plain HTTP, complete in memory. Which there are, by their paths, is decided where
/// the relay is made.
package struct StaticFile: Sendable {
    /// The media type (RFC 9110 §8.3.1).
    let contentType: String
    let body: [UInt8]

    package init(contentType: String, body: [UInt8]) {
        self.contentType = contentType
        self.body = body
    }

    /// Where the example pages are: they are served only with the setting `examples`.
    static let examples = "/examples/"

    /// The fields of the response to a file at `path`. Every page may import the client; the example pages run nothing
    /// but what comes from the relay itself (Content Security Policy Level 3), and are nobody's frame.
    static func headers(for path: String) -> [(String, String)] {
        let common = [("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")]
        guard path.hasPrefix(examples) else { return common + [("Access-Control-Allow-Origin", "*")] }
        let policy =
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
            + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return common + [("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer")]
    }
}
