/// One thing that a credential allows (DESIGN §9).
package enum Right: Hashable, Sendable, CustomStringConvertible {
    /// Everything.
    case admin
    /// To be installed as a server whose id matches.
    case listen(Glob)
    /// To be connected to these ports of a server whose id matches.
    case connect(Glob, PortSet)
    /// To invoke instructions whose name matches, public or not.
    case invoke(Glob)

    /// Reads `admin`, `listen:GLOB`, `connect:GLOB:PORTS` or `invoke:GLOB`. Nil for anything else. In `connect` the
    /// last colon ends the glob, so a server id may hold one.
    package init?(_ text: String) {
        if text == "admin" {
            self = .admin
            return
        }
        guard let colon = text.firstIndex(of: ":") else { return nil }
        let value = text[text.index(after: colon)...]
        switch text[..<colon] {
        case "listen":
            guard let glob = Glob(String(value)) else { return nil }
            self = .listen(glob)
        case "invoke":
            guard let glob = Glob(String(value)) else { return nil }
            self = .invoke(glob)
        case "connect":
            guard let last = value.lastIndex(of: ":"), let glob = Glob(String(value[..<last])),
                let ports = PortSet(String(value[value.index(after: last)...]))
            else { return nil }
            self = .connect(glob, ports)
        default: return nil
        }
    }

    package var description: String {
        switch self {
        case .admin: "admin"
        case .listen(let glob): "listen:\(glob)"
        case .connect(let glob, let ports): "connect:\(glob):\(ports)"
        case .invoke(let glob): "invoke:\(glob)"
        }
    }

    /// What somebody wants to do.
    package enum Access: Sendable {
        /// A built-in instruction, or anything else that only an operator may.
        case administer
        case listen(ServerID)
        case connect(ServerID, port: UInt16)
        case invoke(String)
    }

    package func allows(_ access: Access) -> Bool {
        switch (self, access) {
        case (.admin, _): true
        case (.listen(let glob), .listen(let server)): glob.matches(server.description)
        case (.connect(let glob, let ports), .connect(let server, let port)):
            ports.contains(port) && glob.matches(server.description)
        case (.invoke(let glob), .invoke(let name)): glob.matches(name)
        default: false
        }
    }
}

extension Right.Access {
    /// Reads `admin`, `listen:SERVER`, `connect:SERVER:PORT` or `invoke:INSTRUCTION`, without globs. Nil for anything
    /// else.
    package init?(_ text: String) {
        if text == "admin" {
            self = .administer
            return
        }
        guard let colon = text.firstIndex(of: ":") else { return nil }
        let value = String(text[text.index(after: colon)...])
        switch text[..<colon] {
        case "listen": self = .listen(.name(value))
        case "invoke": self = .invoke(value)
        case "connect":
            guard let last = value.lastIndex(of: ":"), let port = UInt16(value[value.index(after: last)...]) else {
                return nil
            }
            self = .connect(.name(String(value[..<last])), port: port)
        default: return nil
        }
    }
}
