/// A link that this relay makes (`--connect`): the other relay's listener, as a URL, with what only concerns the link
/// in its query: `auth=` or `credential=` is what is presented there, `cost=`, and `ca=`, a file of certificates.
///
/// The secret is in `secret` and nowhere else: `description` redacts it.
package struct LinkURL: Hashable, Sendable, CustomStringConvertible {
    /// The URL without what is below.
    package let url: String
    package let secret: String?
    package let cost: Int
    package let certificates: String?

    static var range: String {
        "ws[s]://HOST[:PORT][/PATH][/app/NAME], with ?auth=TOKEN, ?credential=SECRET, ?cost=N, ?ca=FILE"
    }

    package init(parsing text: String) throws(ConfigurationError) {
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            throw ConfigurationError("a link's URL must be visible ASCII characters.")
        }
        let mark = text.firstIndex(of: "?") ?? text.endIndex
        let place = text[..<mark]
        let afterScheme = ["ws://", "wss://"].first { place.hasPrefix($0) }.map { place.dropFirst($0.count) }
        guard let afterScheme, let authority = afterScheme.split(separator: "/").first,
            !afterScheme.hasPrefix("/"), !place.contains("#"), Self.isAuthority(authority)
        else {
            throw ConfigurationError("link \"\(place)\" must be ws://HOST[:PORT] or wss://HOST[:PORT].")
        }
        guard Self.isPath(afterScheme.dropFirst(authority.count)) else {
            throw ConfigurationError(
                "link \"\(place)\" must end after the port, with what the other relay is below, or with /app/NAME.")
        }
        var items: [String: String] = [:]
        for item in text[mark...].dropFirst().split(separator: "&") {
            let name = String(item.prefix { $0 != "=" })
            guard ["auth", "credential", "cost", "ca"].contains(name) else {
                throw ConfigurationError(
                    "link \(place): there is no item \"\(name)\"; a link takes auth=TOKEN, credential=SECRET, cost=N "
                        + "and ca=FILE.")
            }
            guard items[name] == nil else {
                throw ConfigurationError("link \(place): the item \"\(name)\" is there twice.")
            }
            guard let value = PercentEncoding.decode(item.dropFirst(name.count + 1).utf8), !value.isEmpty,
                value.allSatisfy({ $0 > 0x20 && $0 < 0x7f })
            else {
                throw ConfigurationError("link \(place): \(name) must be visible ASCII characters, percent-encoded.")
            }
            items[name] = String(decoding: value, as: UTF8.self)
        }
        guard items["auth"] == nil || items["credential"] == nil else {
            throw ConfigurationError("link \(place): auth and credential exclude each other.")
        }
        let cost = items["cost"] ?? "1"
        guard let cost = Int(cost), RouteTable.costs.contains(cost) else {
            throw ConfigurationError("link \(place): cost must be from 1 to \(RouteTable.costs.upperBound).")
        }
        self.cost = cost
        url = String(place)
        secret = items["auth"] ?? items["credential"]
        certificates = items["ca"]
    }

    /// A host, and a port from 1 to 65535 where there is a colon; IPv6 in brackets (RFC 3986 §3.2).
    private static func isAuthority(_ text: Substring) -> Bool {
        var host = text
        if !text.hasSuffix("]"), let colon = text.lastIndex(of: ":") {
            host = text[..<colon]
            let digits = text[colon...].dropFirst()
            guard digits.utf8.allSatisfy(HTTPCharacter.isDigit), UInt16(digits) ?? 0 > 0 else { return false }
        }
        if host.hasPrefix("["), host.hasSuffix("]") { return host.contains(":") }
        return !host.isEmpty && !host.contains { "[]:@".contains($0) }
    }

    /// Where a relay's apps are: what a proxy or the other relay's base path puts before (which is not known here), and
    /// the app. No other place of a relay.
    private static func isPath(_ path: Substring) -> Bool {
        switch Route.parse(path.isEmpty ? "/" : String(path)) {
        case .instruction, .other(Route.defaultApp): true
        default: false
        }
    }

    package var description: String {
        let items =
            (secret == nil ? [] : ["auth=…"]) + (cost == 1 ? [] : ["cost=\(cost)"])
            + (certificates.map { ["ca=\($0)"] } ?? [])
        return items.isEmpty ? url : url + "?" + items.joined(separator: "&")
    }
}
