/// Which connection is installed under which server id, in one app. Pure bookkeeping in both directions.
struct ServerRegistry {
    private var connections: [ServerID: ConnectionID] = [:]
    private var servers: [ConnectionID: Set<ServerID>] = [:]
    /// Ports that servers offer, of those that do not offer all.
    private var offers: [ServerID: PortSet] = [:]

    enum InstallAction: Equatable {
        case installed
        /// It was there already, under the same id.
        case unchanged
        /// Installed in the place of another connection, which has to go (4005).
        case replaced(ConnectionID)
        case taken
        /// The connection has as many ids as one may have.
        case tooMany
    }

    /// Server ids that one connection may hold: a script that installs in a loop is stopped by this.
    static let maximumPerConnection = 4_096

    mutating func install(_ server: ServerID, _ connection: ConnectionID, _ options: ServerOptions) -> InstallAction {
        if let holder = connections[server] {
            guard holder != connection else {
                offers[server] = options.ports
                return .unchanged
            }
            guard options.replaces else { return .taken }
            guard hasRoom(connection) else { return .tooMany }
            remove(server, of: holder)
            add(server, connection, options)
            return .replaced(holder)
        }
        guard hasRoom(connection) else { return .tooMany }
        add(server, connection, options)
        return .installed
    }

    /// The ports that an installed server offers.
    func ports(of server: ServerID) -> PortSet { offers[server] ?? .all }

    private func hasRoom(_ connection: ConnectionID) -> Bool {
        (servers[connection]?.count ?? 0) < Self.maximumPerConnection
    }

    mutating func uninstall(_ server: ServerID) -> Bool {
        guard let holder = connections[server] else { return false }
        remove(server, of: holder)
        return true
    }

    /// The connection is gone: the ids that it held are free again.
    mutating func removeAll(of connection: ConnectionID) -> [ServerID] {
        guard let held = servers.removeValue(forKey: connection) else { return [] }
        for server in held {
            connections[server] = nil
            offers[server] = nil
        }
        return held.sorted { $0.description < $1.description }
    }

    subscript(_ server: ServerID) -> ConnectionID? { connections[server] }

    var all: [(server: ServerID, connection: ConnectionID)] {
        connections.map { (server: $0.key, connection: $0.value) }
            .sorted { $0.connection.rawValue < $1.connection.rawValue }
    }

    private mutating func add(_ server: ServerID, _ connection: ConnectionID, _ options: ServerOptions) {
        connections[server] = connection
        offers[server] = options.ports
        servers[connection, default: []].insert(server)
    }

    private mutating func remove(_ server: ServerID, of connection: ConnectionID) {
        connections[server] = nil
        offers[server] = nil
        servers[connection]?.remove(server)
        if servers[connection]?.isEmpty == true { servers[connection] = nil }
    }
}
