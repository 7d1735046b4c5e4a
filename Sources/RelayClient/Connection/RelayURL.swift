/// Where a client finds a relay: `ws://HOST[:PORT][/PATH][?QUERY]`, `wss://…` or `unix:PATH[?QUERY]`.
package struct RelayURL: CustomStringConvertible, Sendable {
    let endPoint: EndPoint
    let isSecure: Bool
    /// What the request line asks for: path and query, as given.
    private(set) var target: String

    package init(parsing text: String) throws(ClientFailure) {
        guard !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            throw .refused("The relay's URL must be visible ASCII characters, as in ws://127.0.0.1:8087.")
        }
        let query = text.firstIndex(of: "?").map { String(text[$0...]) } ?? ""
        let place = text.prefix { $0 != "?" }
        guard !text.contains("#") else { throw .refused("A relay's URL has no fragment: \"\(place)\".") }
        if place.hasPrefix("unix:") {
            guard let endPoint = EndPoint(place) else {
                throw .refused("\"\(place)\" needs a path of 1 to 107 bytes, as in unix:/run/relayd/relayd.sock.")
            }
            self.endPoint = endPoint
            isSecure = false
            target = "/" + query
            return
        }
        let rest: Substring
        if place.hasPrefix("ws://") {
            (rest, isSecure) = (place.dropFirst(5), false)
        } else if place.hasPrefix("wss://") {
            (rest, isSecure) = (place.dropFirst(6), true)
        } else {
            throw .refused(
                "\"\(place)\" is no URL of a relay: it starts with ws://, wss:// or unix:, as ws://127.0.0.1:8087 does."
            )
        }
        let authority = rest.prefix { $0 != "/" }
        guard !authority.hasPrefix("unix:"), let endPoint = EndPoint(authority, defaultPort: isSecure ? 443 : 80),
            case .internet(_, 1...) = endPoint
        else {
            throw .refused("\"\(place)\" needs a host, and a port from 1 to 65535 where it has a colon.")
        }
        self.endPoint = endPoint
        let path = rest.dropFirst(authority.count)
        target = (path.isEmpty ? "/" : String(path)) + query
    }

    /// The same relay, seen by another app (DESIGN §5). The URL's path may be what the relay is below, but no app's.
    package func app(_ name: String) throws(ClientFailure) -> RelayURL {
        guard target.prefix(while: { $0 != "?" }).split(separator: "/").dropLast().last != "app" else {
            throw .refused("--app \(name) and a URL that names an app exclude each other: \(self).")
        }
        let allowed = name.utf8.allSatisfy {
            switch $0 {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, UInt8(ascii: "_"), UInt8(ascii: "-"): true
            default: false
            }
        }
        guard allowed, (1...64).contains(name.utf8.count) else {
            throw .refused("An app's name has 1 to 64 of the characters A-Z a-z 0-9 _ -, unlike \"\(name)\".")
        }
        guard name != "default" else { return self }
        return appending(path: "/app/\(name)")
    }

    /// What lies behind this URL's path, as `/s/box`; `item` joins its query.
    func appending(path: String, query item: String? = nil) -> RelayURL {
        let base = target.prefix { $0 != "?" }
        let items = target.dropFirst(base.count + 1).split(separator: "&").map(String.init) + [item].compactMap { $0 }
        var copy = self
        copy.target = (base.hasSuffix("/") ? base.dropLast() : base) + path
        if !items.isEmpty { copy.target += "?" + items.joined(separator: "&") }
        return copy
    }

    /// The name or address that the relay's certificate must be for.
    package var host: String {
        guard case .internet(let host, _) = endPoint else { return "localhost" }
        return host
    }

    /// The Host field (RFC 9110 §7.2).
    var hostField: String {
        switch endPoint {
        case .unix: "localhost"
        case .internet(let host, isSecure ? 443 : 80): host.contains(":") ? "[\(host)]" : host
        case .internet: "\(endPoint)"
        }
    }

    /// Whether the host is this machine by its very address, so that a certificate in the local state directory may
    /// speak for it.
    package var isLoopback: Bool {
        guard case .internet(let host, _) = endPoint else { return true }
        return host == "localhost" || host == "::1" || host.hasPrefix("127.")
    }

    /// Without the query, which may hold a token.
    package var description: String {
        let path = target.prefix { $0 != "?" }
        switch endPoint {
        case .unix: return "\(endPoint)" + (path == "/" ? "" : " (\(path))")
        case .internet: return "\(isSecure ? "wss" : "ws")://\(endPoint)" + (path == "/" ? "" : path)
        }
    }
}
