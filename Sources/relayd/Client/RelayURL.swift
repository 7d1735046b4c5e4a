import Relay

/// Where a client finds a relay: `ws://HOST[:PORT][/PATH][?QUERY]`, `wss://…` or `unix:PATH[?QUERY]`.
struct RelayURL: CustomStringConvertible {
    enum Address: Equatable {
        case internet(host: String, port: UInt16)
        case unix(path: String)
    }

    let address: Address
    let isSecure: Bool
    /// What the request line asks for: path and query, as given.
    private(set) var target: String

    init(parsing text: String) throws(ClientFailure) {
        guard !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            throw .refused("The relay's URL must be visible ASCII characters, as in ws://127.0.0.1:8087.")
        }
        let query = text.firstIndex(of: "?").map { String(text[$0...]) } ?? ""
        let place = text.prefix { $0 != "?" }
        guard !text.contains("#") else { throw .refused("A relay's URL has no fragment: \"\(place)\".") }
        if place.hasPrefix("unix:") {
            var path = place.dropFirst(5)
            if path.hasPrefix("///") { path = path.dropFirst(2) }
            guard !path.isEmpty, path.utf8.count <= 107 else {
                throw .refused("\"\(place)\" needs a path of 1 to 107 bytes, as in unix:/run/relayd/relayd.sock.")
            }
            address = .unix(path: String(path))
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
        address = try Self.internet(authority, defaultPort: isSecure ? 443 : 80, of: place)
        let path = rest.dropFirst(authority.count)
        target = (path.isEmpty ? "/" : String(path)) + query
    }

    private static func internet(
        _ authority: Substring, defaultPort: UInt16, of place: Substring
    ) throws(ClientFailure) -> Address {
        let wrong = ClientFailure.refused("\"\(place)\" needs a host, and a port from 1 to 65535 where it has a colon.")
        let host: Substring, afterHost: Substring
        if authority.hasPrefix("["), let bracket = authority.firstIndex(of: "]") {
            host = authority[..<bracket].dropFirst()
            afterHost = authority[bracket...].dropFirst()
        } else {
            host = authority.prefix { $0 != ":" }
            afterHost = authority.dropFirst(host.count)
        }
        guard !host.isEmpty, !host.contains("@") else { throw wrong }
        if afterHost.isEmpty { return .internet(host: String(host), port: defaultPort) }
        guard afterHost.first == ":", afterHost.dropFirst().utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let port = UInt16(afterHost.dropFirst()), port > 0
        else { throw wrong }
        return .internet(host: String(host), port: port)
    }

    /// The same relay, seen by another app (DESIGN §5). The URL must not name a path of its own.
    func app(_ name: String) throws(ClientFailure) -> RelayURL {
        guard target.prefix(while: { $0 != "?" }) == "/" else {
            throw .refused("--app \(name) and a URL with a path exclude each other: \(self).")
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
        var copy = self
        copy.target = "/app/\(name)" + target.dropFirst()
        return copy
    }

    /// The name or address that the relay's certificate must be for.
    var host: String {
        guard case .internet(let host, _) = address else { return "localhost" }
        return host
    }

    /// The Host field (RFC 9110 §7.2).
    var hostField: String {
        switch address {
        case .unix: return "localhost"
        case .internet(let host, let port):
            let shown = host.contains(":") ? "[\(host)]" : host
            return port == (isSecure ? 443 : 80) ? shown : "\(shown):\(port)"
        }
    }

    /// Whether the host is this machine by its very address, so that a certificate in the local state directory may
    /// speak for it.
    var isLoopback: Bool {
        guard case .internet(let host, _) = address else { return true }
        return host == "localhost" || host == "::1" || host.hasPrefix("127.")
    }

    /// Without the query, which may hold a token.
    var description: String {
        let path = target.prefix { $0 != "?" }
        switch address {
        case .unix(let file): return "unix:\(file)" + (path == "/" ? "" : " (\(path))")
        case .internet(let host, let port):
            let shown = host.contains(":") ? "[\(host)]" : host
            return "\(isSecure ? "wss" : "ws")://\(shown):\(port)" + (path == "/" ? "" : path)
        }
    }
}
