/// Where the relay listens and what it asks of whoever connects there (DESIGN §5): `ws://HOST:PORT`,
/// `wss://HOST:PORT`, `unix:PATH`, with the query items of `items`.
///
/// The token is in `token` and nowhere else: `description` redacts it.
package struct ListenerURL: Hashable, Sendable, CustomStringConvertible {
    package enum Address: Hashable, Sendable {
        /// `host` is a name or an address in the text form that getaddrinfo(3) takes, IPv6 without brackets. Port 0
        /// picks a free port.
        case internet(host: String, port: UInt16)
        case unix(path: String)
    }

    /// The server and its port that every connection is a clean client of.
    package struct Service: Hashable, Sendable {
        package let server: ServerID
        package let port: UInt16

        package init(server: ServerID, port: UInt16) {
            self.server = server
            self.port = port
        }
    }

    /// What may stand in the query.
    static let items = "auth=TOKEN, bearer=scripts, link=0, livecode=1, proxy=v1|v2|any, server=NAME&port=N"

    /// The longest path of a Unix socket: `sun_path` has 108 bytes, the last of them a NUL.
    static let longestUnixPath = 107

    package let address: Address
    /// `wss`: TLS comes before HTTP.
    package let isSecure: Bool
    /// What every connection must present (`auth=`).
    package let token: String?
    /// Whether node-livecode's log lines are sent to every connection (DESIGN §6).
    package let livecode: Bool
    /// The PROXY header that every connection must begin with.
    package let proxyVersion: ProxyHeader.Version?
    package let service: Service?

    /// Whether a bearer token that is no credential of this relay's is let through, for the scripts to judge
    /// (`bearer=scripts`). Else it is answered with 401.
    package let leavesBearerToScripts: Bool
    /// Whether the token lets relays link themselves (docs/links.md).
    package private(set) var takesLinks = true

    package init(
        address: Address, isSecure: Bool = false, token: String? = nil, livecode: Bool = false,
        proxyVersion: ProxyHeader.Version? = nil, service: Service? = nil, leavesBearerToScripts: Bool = false
    ) {
        self.address = address
        self.isSecure = isSecure
        self.token = token
        self.livecode = livecode
        self.proxyVersion = proxyVersion
        self.service = service
        self.leavesBearerToScripts = leavesBearerToScripts
    }

    /// Reads what `--listen` takes.
    package init(parsing text: String) throws(ConfigurationError) {
        // The location is printed as one line, and its parts are separated by blanks in RELAYD_LISTEN.
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f }) else {
            throw ConfigurationError("a listener URL must hold no blanks and no control characters.")
        }
        let mark = text.firstIndex(of: "?") ?? text.endIndex
        let place = text[..<mark]
        if place.hasPrefix("ws://") {
            address = try Self.internet(place.dropFirst(5), of: place)
            isSecure = false
        } else if place.hasPrefix("wss://") {
            address = try Self.internet(place.dropFirst(6), of: place)
            isSecure = true
        } else if place.hasPrefix("unix:") {
            address = try Self.unix(place.dropFirst(5))
            isSecure = false
        } else {
            throw ConfigurationError(
                "listener \"\(place)\" must be ws://HOST:PORT, wss://HOST:PORT or unix:PATH, "
                    + "as in ws://127.0.0.1:8087.")
        }
        var token: String?, livecode: Bool?, proxyVersion: ProxyHeader.Version?, server: ServerID?, port: UInt16?
        var leavesBearerToScripts = false
        let query = mark == text.endIndex ? text[mark...] : text[text.index(after: mark)...]
        for item in query.split(separator: "&") {
            let parts = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let value = parts.count == 2 ? String(parts[1]) : ""
            switch parts[0] {
            case "auth":
                guard token == nil else { throw Self.twice("auth", place) }
                token = try Self.token(value, of: place)
            case "livecode":
                guard livecode == nil else { throw Self.twice("livecode", place) }
                guard value == "1" || value == "0" else {
                    throw ConfigurationError("listener \(place): livecode must be 1 or 0, not \"\(value)\".")
                }
                livecode = value == "1"
            case "bearer":
                guard value == "scripts" else {
                    throw ConfigurationError("listener \(place): bearer must be scripts, not \"\(value)\".")
                }
                leavesBearerToScripts = true
            case "link":
                guard value == "1" || value == "0" else {
                    throw ConfigurationError("listener \(place): link must be 1 or 0, not \"\(value)\".")
                }
                takesLinks = value == "1"
            case "proxy":
                guard proxyVersion == nil else { throw Self.twice("proxy", place) }
                proxyVersion = ProxyHeader.Version(rawValue: value)
                guard proxyVersion != nil else {
                    throw ConfigurationError("listener \(place): proxy must be v1, v2 or any, not \"\(value)\".")
                }
            case "server":
                guard server == nil else { throw Self.twice("server", place) }
                server = try Self.server(value, of: place)
            case "port":
                guard port == nil else { throw Self.twice("port", place) }
                port = Self.portNumber(Substring(value))
                guard port != nil else {
                    throw ConfigurationError("listener \(place): port must be from 0 to 65535, not \"\(value)\".")
                }
            default:
                throw ConfigurationError(
                    "listener \(place): there is no item \"\(parts[0])\"; a listener takes \(Self.items).")
            }
        }
        self.token = token
        self.livecode = livecode ?? false
        self.leavesBearerToScripts = leavesBearerToScripts
        self.proxyVersion = proxyVersion
        switch (server, port) {
        case (nil, nil): service = nil
        case (let server?, let port?): service = Service(server: server, port: port)
        default: throw ConfigurationError("listener \(place): server=NAME and port=N go together.")
        }
    }

    /// The URL without the query: what `listening` prints, with `port` in place of the one asked for.
    package func location(port actual: UInt16? = nil) -> String {
        switch address {
        case .internet(let host, let port):
            let shown = host.contains(":") ? "[\(host)]" : host
            return "\(isSecure ? "wss" : "ws")://\(shown):\(actual ?? port)"
        case .unix(let path):
            return "unix:\(path)"
        }
    }

    package var description: String {
        var items = (token == nil ? [] : ["auth=…"]) + (livecode ? ["livecode=1"] : [])
        if let proxyVersion { items.append("proxy=\(proxyVersion.rawValue)") }
        if let service { items.append("server=\(service.server)&port=\(service.port)") }
        if leavesBearerToScripts { items.append("bearer=scripts") }
        if !takesLinks { items.append("link=0") }
        return items.isEmpty ? location() : location() + "?" + items.joined(separator: "&")
    }
}

extension ListenerURL {
    private static func twice(_ item: String, _ place: Substring) -> ConfigurationError {
        ConfigurationError("listener \(place): the item \"\(item)\" is there twice.")
    }

    private static func internet(_ authority: Substring, of place: Substring) throws(ConfigurationError) -> Address {
        var rest = authority
        if rest.hasSuffix("/") { rest.removeLast() }
        guard !rest.contains("/"), !rest.contains("#"), !rest.contains("@") else {
            throw ConfigurationError(
                "listener \"\(place)\" must end after the port: paths name apps and are the client's choice.")
        }
        let host: Substring, afterHost: Substring
        if rest.hasPrefix("[") {
            guard let bracket = rest.firstIndex(of: "]") else {
                throw ConfigurationError("listener \"\(place)\": the bracket before the IPv6 address is never closed.")
            }
            host = rest[rest.index(after: rest.startIndex)..<bracket]
            afterHost = rest[rest.index(after: bracket)...]
            guard host.contains(":"), host.utf8.allSatisfy({ isAddressByte($0) }) else {
                throw ConfigurationError("listener \"\(place)\": \"\(host)\" is not an IPv6 address.")
            }
        } else {
            let colon = rest.firstIndex(of: ":") ?? rest.endIndex
            host = rest[..<colon]
            afterHost = rest[colon...]
            guard !afterHost.dropFirst().contains(":") else {
                throw ConfigurationError(
                    "listener \"\(place)\": write an IPv6 address in brackets, as in ws://[::1]:8087.")
            }
            guard !host.isEmpty else {
                throw ConfigurationError(
                    "listener \"\(place)\" has no host: write 0.0.0.0 or [::] for all addresses, 127.0.0.1 for this "
                        + "machine only.")
            }
        }
        guard afterHost.first == ":", let port = portNumber(afterHost.dropFirst()) else {
            throw ConfigurationError("listener \"\(place)\" needs a port from 0 to 65535; 0 picks a free one.")
        }
        return .internet(host: host.lowercased(), port: port)
    }

    private static func portNumber(_ text: Substring) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
        return UInt16(text)
    }

    /// What an IPv6 address with a zone is made of: hexadecimal digits, `:`, `.` and `%ZONE`.
    private static func isAddressByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: ":"), UInt8(ascii: "."), UInt8(ascii: "%"):
            true
        default: false
        }
    }

    private static func unix(_ text: Substring) throws(ConfigurationError) -> Address {
        // unix:///run/x is what other programs call unix:/run/x.
        let path = text.hasPrefix("///") ? text.dropFirst(2) : text
        guard !path.isEmpty, !path.hasPrefix("//") else {
            throw ConfigurationError("listener \"unix:\(text)\" needs a path, as in unix:/run/relayd/relayd.sock.")
        }
        guard path.utf8.count <= longestUnixPath else {
            throw ConfigurationError(
                "listener unix:\(path): the path has \(path.utf8.count) bytes, a Unix socket's has at most "
                    + "\(longestUnixPath).")
        }
        return .unix(path: String(path))
    }

    /// A server's id as in a path (`Route`), percent-encoded where needed.
    private static func server(_ text: String, of place: Substring) throws(ConfigurationError) -> ServerID {
        guard let decoded = PercentEncoding.decode(text.utf8), let name = String(validating: decoded, as: UTF8.self),
            (1...ServerID.maximumNameBytes).contains(decoded.count), decoded.allSatisfy({ $0 >= 0x20 && $0 != 0x7f })
        else {
            throw ConfigurationError(
                "listener \(place): a server's name has 1 to \(ServerID.maximumNameBytes) bytes and no control "
                    + "characters.")
        }
        return Route.serverID(name)
    }

    /// A token as it is compared: percent-decoded, visible ASCII only, because it must fit into a header and a
    /// subprotocol item.
    private static func token(_ text: String, of place: Substring) throws(ConfigurationError) -> String {
        guard let decoded = PercentEncoding.decode(text.utf8), !decoded.isEmpty,
            decoded.allSatisfy({ (0x21...0x7e).contains($0) })
        else {
            throw ConfigurationError(
                "listener \(place): the auth token must be visible ASCII characters, percent-encoded where needed.")
        }
        return String(decoding: decoded, as: UTF8.self)
    }
}
