/// Which servers are to be reached through which link: a path-vector table, as BGP has it (RFC 4271 §9), for server ids
/// instead of prefixes. Pure: what neighbours say comes in, the choice and what to tell each neighbour go out.
///
/// A route carries the relays that it leads through, the nearest first. One that leads through this relay is refused,
/// so there are no loops and nothing counts to infinity; so is one of more than `maximumHops` relays.
struct RouteTable {
    /// What a relay tells a neighbour about a server.
    struct Advertisement: Equatable, Sendable {
        var ports: PortSet
        /// Of the links between the one that tells and the server.
        var cost: Int
        /// From the one that tells, which comes first, to the one where the server is.
        var path: [RelayID]
    }

    /// A way to a server.
    struct Route: Equatable, Sendable {
        let link: ConnectionID
        let ports: PortSet
        /// That of the link included.
        let cost: Int
        let path: [RelayID]
        /// Which way came first. Over two links to one neighbour a way is the same.
        fileprivate let serial: UInt64

        /// Of one way the newest link is the best: the others may be dead, and nobody has noticed.
        fileprivate func isBetter(than other: Route) -> Bool {
            (cost, path.count, serial) == (other.cost, other.path.count, other.serial)
                ? link.rawValue > other.link.rawValue
                : (cost, path.count, serial) < (other.cost, other.path.count, other.serial)
        }
    }

    private struct Neighbour {
        let relay: RelayID
        let cost: Int
        /// Servers that it has told of.
        var servers: Set<ServerID> = []
        /// What it was told.
        var told: [ServerID: Advertisement] = [:]
        /// What it will be told of when it has heard that others have gone.
        var untold: Set<ServerID> = []
    }

    static let maximumHops = 16
    /// Servers that one neighbour may tell of, and is told of.
    static let maximumServersPerLink = 4_096
    static let costs = 1...10_000

    let own: RelayID
    private var neighbours: [ConnectionID: Neighbour] = [:]
    /// The best first.
    private var routes: [ServerID: [Route]] = [:]
    private var lastSerial: UInt64 = 0

    init(own: RelayID) { self.own = own }

    // MARK: What is known

    /// The best way to a server that leads through none of the relays of `visited`.
    func route(to server: ServerID, avoiding visited: [RelayID] = []) -> Route? {
        routes[server]?.first { route in !route.path.contains { visited.contains($0) } }
    }

    var all: [(server: ServerID, route: Route)] {
        routes.flatMap { server, routes in routes.map { (server: server, route: $0) } }
            .sorted { ($0.server.description, $0.route.serial) < ($1.server.description, $1.route.serial) }
    }

    func relay(of link: ConnectionID) -> RelayID? { neighbours[link]?.relay }
    func cost(of link: ConnectionID) -> Int? { neighbours[link]?.cost }
    func serverCount(of link: ConnectionID) -> Int { neighbours[link]?.servers.count ?? 0 }
    /// Whether there are more servers than its neighbour is told of.
    func isFull(_ link: ConnectionID) -> Bool { neighbours[link]?.untold.isEmpty == false }

    // MARK: What neighbours say

    /// A link is there.
    mutating func met(_ relay: RelayID, on link: ConnectionID, cost: Int) {
        neighbours[link] = Neighbour(relay: relay, cost: cost)
    }

    enum Heard: Equatable {
        /// There is a way to the server, or another one than before, or none any more.
        case changed
        case unchanged
        /// The neighbour has told of too many.
        case tooMany
    }

    /// A neighbour has a way to a server.
    mutating func heard(_ server: ServerID, _ advertisement: Advertisement, on link: ConnectionID) -> Heard {
        guard let neighbour = neighbours[link] else { return .unchanged }
        // A way that leads back, or too far, is none; and whatever the neighbour said before holds no more.
        guard advertisement.path.first == neighbour.relay, !advertisement.path.contains(own),
            advertisement.path.count <= Self.maximumHops,
            (0...Self.costs.upperBound * Self.maximumHops).contains(advertisement.cost)
        else { return gone(server, on: link) ? .changed : .unchanged }
        let known = routes[server]?.first { $0.link == link }
        guard known != nil || neighbour.servers.count < Self.maximumServersPerLink else { return .tooMany }
        let cost = advertisement.cost + neighbour.cost
        if let known, known.ports == advertisement.ports, known.cost == cost, known.path == advertisement.path {
            return .unchanged
        }
        lastSerial += 1
        let same = known ?? routes[server]?.first { $0.path == advertisement.path }
        let route = Route(
            link: link, ports: advertisement.ports, cost: cost, path: advertisement.path,
            serial: same?.serial ?? lastSerial)
        remove(server, link)
        neighbours[link]?.servers.insert(server)
        let place = routes[server]?.firstIndex { route.isBetter(than: $0) } ?? routes[server]?.count ?? 0
        routes[server, default: []].insert(route, at: place)
        return .changed
    }

    /// A neighbour has no way to a server any more; false where it had none.
    mutating func gone(_ server: ServerID, on link: ConnectionID) -> Bool {
        guard neighbours[link]?.servers.contains(server) == true else { return false }
        remove(server, link)
        return true
    }

    /// A link is gone, or leads nowhere any more; returns the servers that it led to.
    mutating func left(_ link: ConnectionID) -> Set<ServerID> {
        let servers = neighbours.removeValue(forKey: link)?.servers ?? []
        for server in servers { remove(server, link) }
        return servers
    }

    private mutating func remove(_ server: ServerID, _ link: ConnectionID) {
        neighbours[link]?.servers.remove(server)
        routes[server]?.removeAll { $0.link == link }
        if routes[server]?.isEmpty == true { routes[server] = nil }
    }

    // MARK: What neighbours are told

    /// What a neighbour has to hear, of what has changed.
    struct News: Equatable {
        var routes: [(server: ServerID, Advertisement)] = []
        var gone: [ServerID] = []
        var isEmpty: Bool { routes.isEmpty && gone.isEmpty }

        static func == (a: News, b: News) -> Bool {
            a.gone == b.gone && a.routes.elementsEqual(b.routes) { $0.server == $1.server && $0.1 == $1.1 }
        }
    }

    /// What is new to a neighbour about `servers`, which counts as told. `local` are the ports of a server of this
    /// relay's own, which goes before all others; nil where there is none.
    mutating func news(
        for link: ConnectionID, about servers: some Sequence<ServerID>, local: (ServerID) -> PortSet?
    ) -> News {
        // Taken out, so that it is changed in place.
        guard var neighbour = neighbours.removeValue(forKey: link) else { return News() }
        var news = News()
        func tell(_ server: ServerID) {
            let advertisement = advertisement(server, for: neighbour.relay, local: local(server))
            let told = neighbour.told[server]
            neighbour.untold.remove(server)
            guard advertisement != told else { return }
            guard let advertisement else {
                neighbour.told[server] = nil
                return news.gone.append(server)
            }
            guard told != nil || neighbour.told.count < Self.maximumServersPerLink else {
                neighbour.untold.insert(server)
                return
            }
            neighbour.told[server] = advertisement
            news.routes.append((server, advertisement))
        }
        for server in servers { tell(server) }
        while neighbour.told.count < Self.maximumServersPerLink, let server = neighbour.untold.first { tell(server) }
        neighbours[link] = neighbour
        return news
    }

    private func advertisement(_ server: ServerID, for neighbour: RelayID, local: PortSet?) -> Advertisement? {
        if let local { return Advertisement(ports: local, cost: 0, path: [own]) }
        // The best that does not lead through the neighbour: what an `open` from there would take.
        guard let route = route(to: server, avoiding: [neighbour]), route.path.count < Self.maximumHops else {
            return nil
        }
        return Advertisement(ports: route.ports, cost: route.cost, path: [own] + route.path)
    }

    /// The links whose neighbours have introduced themselves.
    var links: [ConnectionID] { Array(neighbours.keys) }
    /// All servers that there is a way to.
    var servers: [ServerID] { Array(routes.keys) }
}
