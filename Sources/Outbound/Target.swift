internal import CCurl
internal import Relay

/// Where a URL leads, read by libcurl's own parser, so that what is checked is what will be asked.
struct Target {
    let isSecure: Bool
    /// Without brackets; an IPv4 address in whatever form is in the usual one.
    let name: String
    let port: UInt16
    let host: HTTPAllowList.Host

    /// Checks a URL. `from` is where a redirect comes from.
    init(_ url: String, _ allowed: HTTPAllowList, from: Target? = nil) throws(OutboundFailure) {
        guard let parsed = curl_url() else { throw OutboundFailure(.unavailable, "There is no memory for a URL.") }
        defer { curl_url_cleanup(parsed) }
        guard !url.utf8.contains(where: { $0 <= 0x20 || $0 >= 0x7f }) else {
            throw OutboundFailure(.badParameters, "The URL has characters that must be percent-encoded.")
        }
        let flags = UInt32(CURLU_DISALLOW_USER | CURLU_NON_SUPPORT_SCHEME)
        let code = curl_url_set(parsed, CURLUPART_URL, url, flags)
        guard code != CURLUE_USER_NOT_ALLOWED else {
            throw OutboundFailure(
                .badParameters, "A URL with a user or a password is refused: send the header \"authorization\".")
        }
        let scheme = Self.part(CURLUPART_SCHEME, of: parsed)?.lowercased()
        guard code == CURLUE_OK, scheme == "http" || scheme == "https",
            var name = Self.part(CURLUPART_HOST, of: parsed),
            let port = Self.part(CURLUPART_PORT, of: parsed, UInt32(CURLU_DEFAULT_PORT)).flatMap(UInt16.init), port > 0
        else {
            throw OutboundFailure(.badParameters, "The URL must be http://HOST[:PORT]/… or https://HOST[:PORT]/….")
        }
        isSecure = scheme == "https"
        if let from, from.isSecure, !isSecure {
            throw OutboundFailure(.forbidden, "A redirect from https to http is not followed.")
        }
        if name.hasPrefix("["), name.hasSuffix("]") { name = String(name.dropFirst().dropLast()) }
        self.name = name
        self.port = port
        guard let host = allowed.host(name, port: port) else {
            let hint = name.contains(":") ? "[\(name)]:\(port)" : "\(name):\(port)"
            throw OutboundFailure(
                .forbidden,
                allowed.entries.isEmpty
                    ? "No host is allowed: start the relay with --http-allow \(hint), or set http.allow."
                    : "\(hint) is not among the hosts that are allowed (--http-allow, http.allow).")
        }
        self.host = host
    }

    func isSameOrigin(_ other: Target) -> Bool {
        (isSecure, port) == (other.isSecure, other.port) && name.lowercased() == other.name.lowercased()
    }

    private static func part(_ part: CURLUPart, of url: OpaquePointer, _ flags: UInt32 = 0) -> String? {
        var text: UnsafeMutablePointer<CChar>?
        guard curl_url_get(url, part, &text, flags) == CURLUE_OK, let text else { return nil }
        defer { curl_free(text) }
        return String(cString: text)
    }
}
