import Testing

@testable import Relay

/// Relays as their tables alone, whose messages are delivered in an order that a test chooses.
private struct Network {
    var tables: [RouteTable]
    var local: [[ServerID: PortSet]]
    /// By both ends; each end has an id of its own for the link.
    var links: [(a: Int, b: Int, atA: ConnectionID, atB: ConnectionID)] = []
    /// What is on its way, in order for each direction of a link.
    var mail: [(link: ConnectionID, to: Int, news: RouteTable.News)] = []
    private var lastLink: UInt64 = 0

    init(_ count: Int) {
        tables = (0..<count).map { _ in RouteTable(own: .random()) }
        local = Array(repeating: [:], count: count)
    }

    mutating func link(_ a: Int, _ b: Int, cost: Int = 1) {
        lastLink += 2
        let (atA, atB) = (ConnectionID(rawValue: lastLink), ConnectionID(rawValue: lastLink + 1))
        links.append((a, b, atA, atB))
        tables[a].met(tables[b].own, on: atA, cost: cost)
        tables[b].met(tables[a].own, on: atB, cost: cost)
        tell(a, atA, Set(tables[a].servers).union(local[a].keys))
        tell(b, atB, Set(tables[b].servers).union(local[b].keys))
    }

    mutating func cut(_ a: Int, _ b: Int) {
        guard let index = links.firstIndex(where: { $0.a == a && $0.b == b }) else { return }
        let link = links.remove(at: index)
        mail.removeAll { $0.link == link.atA || $0.link == link.atB }
        let atA = tables[a].left(link.atA)
        let atB = tables[b].left(link.atB)
        tellAll(a, atA)
        tellAll(b, atB)
    }

    mutating func install(_ server: ServerID, at relay: Int) {
        local[relay][server] = .all
        tellAll(relay, [server])
    }

    mutating func remove(_ server: ServerID, at relay: Int) {
        local[relay][server] = nil
        tellAll(relay, [server])
    }

    private mutating func tell(_ relay: Int, _ link: ConnectionID, _ servers: Set<ServerID>) {
        let own = local[relay]
        let news = tables[relay].news(for: link, about: servers) { own[$0] }
        guard !news.isEmpty, let found = links.first(where: { $0.atA == link || $0.atB == link }) else { return }
        let isA = found.atA == link
        mail.append((isA ? found.atB : found.atA, isA ? found.b : found.a, news))
    }

    private mutating func tellAll(_ relay: Int, _ servers: Set<ServerID>) {
        for link in tables[relay].links { tell(relay, link, servers) }
    }

    /// Delivers until nothing is on its way; returns how many messages that took.
    mutating func settle(_ random: inout SeededGenerator) -> Int {
        var count = 0
        while !mail.isEmpty {
            // The first of some link: each direction is in order.
            let link = mail.randomElement(using: &random)!.link
            let index = mail.firstIndex { $0.link == link }!
            let (_, relay, news) = mail.remove(at: index)
            var changed: Set<ServerID> = []
            for (server, advertisement) in news.routes
            where tables[relay].heard(server, advertisement, on: link) == .changed {
                changed.insert(server)
            }
            for server in news.gone where tables[relay].gone(server, on: link) { changed.insert(server) }
            tellAll(relay, changed)
            count += 1
        }
        return count
    }

    /// Where an open from `relay` arrives, as the relays would pass it on; nil where it is refused on the way.
    func destination(of server: ServerID, from relay: Int) -> (relay: Int, hops: Int, cost: Int)? {
        var at = relay
        var via: [RelayID] = []
        let cost = tables[relay].route(to: server)?.cost ?? 0
        while local[at][server] == nil {
            guard !via.contains(tables[at].own), via.count < RouteTable.maximumHops,
                let route = tables[at].route(to: server, avoiding: via),
                let link = links.first(where: { $0.atA == route.link || $0.atB == route.link })
            else { return nil }
            via.append(tables[at].own)
            at = link.atA == route.link ? link.b : link.a
        }
        return (at, via.count, cost)
    }
}

/// Xorshift: what a seed makes is the same everywhere.
private struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}

@Suite struct RouteTableTests {
    private let box = ServerID.name("box")

    @Test func `a server is known along a line, with its cost and its relays`() {
        var random = SeededGenerator(state: 1)
        var network = Network(4)
        network.link(0, 1, cost: 1)
        network.link(1, 2, cost: 10)
        network.install(box, at: 0)
        _ = network.settle(&random)
        network.link(2, 3, cost: 100)
        _ = network.settle(&random)
        let route = network.tables[3].route(to: box)
        #expect(route?.cost == 111)
        #expect(route?.path == [2, 1, 0].map { network.tables[$0].own })
        network.remove(box, at: 0)
        _ = network.settle(&random)
        #expect(network.tables.allSatisfy { $0.servers.isEmpty })
    }

    @Test func `the cheapest way is taken, then the shortest, and then it stays`() {
        var random = SeededGenerator(state: 2)
        var network = Network(4)
        network.link(0, 3, cost: 5)
        network.link(0, 1)
        network.link(1, 2)
        network.link(2, 3)
        network.install(box, at: 0)
        _ = network.settle(&random)
        #expect(network.destination(of: box, from: 3)?.hops == 3)
        network.cut(1, 2)
        _ = network.settle(&random)
        #expect(network.tables[3].route(to: box)?.cost == 5)
        network.link(1, 2, cost: 3)
        _ = network.settle(&random)
        // As cheap, but longer.
        #expect(network.destination(of: box, from: 3)?.hops == 1)
    }

    @Test func `of two servers with one name the nearer serves, and the other one when it goes`() {
        var random = SeededGenerator(state: 3)
        var network = Network(4)
        for relay in 1...3 { network.link(relay - 1, relay) }
        network.install(box, at: 0)
        network.install(box, at: 3)
        _ = network.settle(&random)
        #expect(network.destination(of: box, from: 1)?.relay == 0)
        #expect(network.destination(of: box, from: 2)?.relay == 3)
        #expect(network.destination(of: box, from: 0)?.relay == 0)
        network.remove(box, at: 3)
        _ = network.settle(&random)
        for relay in 1...3 { #expect(network.destination(of: box, from: relay)?.relay == 0) }
    }

    @Test func `65 - a ring settles, and forgets a server that has gone`() {
        var random = SeededGenerator(state: 4)
        var network = Network(5)
        for relay in 1...4 { network.link(relay - 1, relay) }
        network.link(0, 4)
        network.install(box, at: 2)
        #expect(network.settle(&random) < 100)
        for relay in 0...4 { #expect(network.destination(of: box, from: relay)?.hops == abs(relay - 2)) }
        network.remove(box, at: 2)
        #expect(network.settle(&random) < 200)
        #expect(network.tables.allSatisfy { $0.servers.isEmpty })
    }

    @Test func `65 - a way has sixteen relays at most`() {
        var random = SeededGenerator(state: 5)
        var network = Network(20)
        for relay in 1..<20 { network.link(relay - 1, relay) }
        network.install(box, at: 0)
        _ = network.settle(&random)
        #expect(network.tables[16].route(to: box)?.path.count == 16)
        #expect(network.tables[17].route(to: box) == nil)
    }

    @Test(arguments: 1...40)
    func `whatever comes and goes, everybody reaches the cheapest server in the end`(seed: UInt64) {
        var random = SeededGenerator(state: seed &* 0x9E37_79B9_7F4A_7C15)
        var network = Network(7)
        var edges: [(Int, Int, Int)] = []
        for _ in 0..<60 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4:
                let a = Int.random(in: 0..<6, using: &random)
                let b = Int.random(in: (a + 1)..<7, using: &random)
                guard !edges.contains(where: { $0.0 == a && $0.1 == b }) else { continue }
                let cost = Int.random(in: 1...9, using: &random)
                edges.append((a, b, cost))
                network.link(a, b, cost: cost)
            case 4..<6:
                guard !edges.isEmpty else { continue }
                let edge = edges.remove(at: Int.random(in: 0..<edges.count, using: &random))
                network.cut(edge.0, edge.1)
            case 6..<8: network.install(box, at: Int.random(in: 0..<7, using: &random))
            default: network.remove(box, at: Int.random(in: 0..<7, using: &random))
            }
            if Bool.random(using: &random) { _ = network.settle(&random) }
        }
        #expect(network.settle(&random) < 5_000)
        // Bellman and Ford know what it costs from each relay to the nearest server.
        var costs = network.local.map { $0[box] == nil ? 1_000_000 : 0 }
        for _ in 0..<7 {
            for (a, b, cost) in edges {
                costs[a] = min(costs[a], costs[b] + cost)
                costs[b] = min(costs[b], costs[a] + cost)
            }
        }
        for relay in 0..<7 {
            let found = network.destination(of: box, from: relay)
            #expect((found != nil) == (costs[relay] < 1_000_000), "relay \(relay), seed \(seed)")
            if let found { #expect(found.cost == (found.hops == 0 ? found.cost : costs[relay]), "seed \(seed)") }
        }
    }

    @Test func `what a neighbour tells is checked`() {
        var table = RouteTable(own: .random())
        let link = ConnectionID(rawValue: 1)
        let neighbour = RelayID.random()
        let other = RelayID.random()
        func heard(_ path: [RelayID], cost: Int = 0) -> RouteTable.Heard {
            table.heard(box, .init(ports: .all, cost: cost, path: path), on: link)
        }
        #expect(heard([neighbour]) == .unchanged, "nobody has introduced himself")
        table.met(neighbour, on: link, cost: 1)
        for path in [[], [other], [neighbour, table.own], Array(repeating: neighbour, count: 17)] {
            #expect(heard(path) == .unchanged)
        }
        #expect(heard([neighbour], cost: -1) == .unchanged)
        #expect(heard([neighbour], cost: .max) == .unchanged)
        #expect(heard([neighbour, other]) == .changed)
        #expect(heard([neighbour, other]) == .unchanged)
        // A way that is none takes the place of the one before.
        #expect(heard([neighbour, table.own]) == .changed)
        #expect(table.servers.isEmpty)
    }

    @Test func `a neighbour may tell of so many servers`() {
        var table = RouteTable(own: .random())
        let link = ConnectionID(rawValue: 1)
        let neighbour = RelayID.random()
        table.met(neighbour, on: link, cost: 1)
        let way = RouteTable.Advertisement(ports: .all, cost: 0, path: [neighbour])
        for number in 0..<RouteTable.maximumServersPerLink {
            #expect(table.heard(.number(Int64(number)), way, on: link) == .changed)
        }
        #expect(table.heard(.number(-1), way, on: link) == .tooMany)
        #expect(table.gone(.number(0), on: link) == true)
        #expect(table.heard(.number(-1), way, on: link) == .changed)
        #expect(table.left(link).count == RouteTable.maximumServersPerLink)
        #expect(table.servers.isEmpty)
    }

    @Test func `a neighbour is told of so many servers, and of others when some have gone`() {
        var table = RouteTable(own: .random())
        let link = ConnectionID(rawValue: 1)
        table.met(.random(), on: link, cost: 1)
        let most = RouteTable.maximumServersPerLink
        var local = Set((0..<Int64(most + 2)).map { ServerID.number($0) })
        var told = Set(table.news(for: link, about: local) { _ in .all }.routes.map(\.server))
        #expect(told.count == most)
        #expect(table.isFull(link))
        for _ in 0..<3 {
            let server = told.removeFirst()
            local.remove(server)
            let news = table.news(for: link, about: [server]) { local.contains($0) ? .all : nil }
            #expect(news.gone == [server])
            told.formUnion(news.routes.map(\.server))
            #expect(told.count == min(most, local.count))
        }
        #expect(told == local)
        #expect(!table.isFull(link))
    }

    @Test func `over two links to one neighbour the newer is taken, whatever comes first`() {
        for order in [[1, 2], [2, 1]] {
            var table = RouteTable(own: .random())
            let neighbour = RelayID.random()
            let way = RouteTable.Advertisement(ports: .all, cost: 0, path: [neighbour])
            for link in order { table.met(neighbour, on: ConnectionID(rawValue: UInt64(link)), cost: 1) }
            for link in order { #expect(table.heard(box, way, on: ConnectionID(rawValue: UInt64(link))) == .changed) }
            #expect(table.route(to: box)?.link == ConnectionID(rawValue: 2))
            _ = table.left(ConnectionID(rawValue: 2))
            #expect(table.route(to: box)?.link == ConnectionID(rawValue: 1))
        }
    }
}

@Suite struct LinkTextTests {
    @Test func `the longest servers are told in texts that a neighbour reads`() throws {
        let ports = (0..<64).map { "\(60_000 + 3 * $0)-\(60_001 + 3 * $0)" }.joined(separator: ",")
        let way = RouteTable.Advertisement(
            ports: try #require(PortSet(ports)), cost: 160_000, path: Array(repeating: .random(), count: 16))
        var news = RouteTable.News()
        for number in 0..<100 {
            let digits = [number / 10, number % 10].map { Character(Unicode.Scalar(UInt8($0 + 1))) }
            let name = String(repeating: "\u{1}", count: 253) + String(digits)
            news.routes.append((.name(name), way))
            news.gone.append(.name(name))
        }
        let messages = LinkMessage.messages(news)
        #expect(messages.allSatisfy { $0.json.count <= LinkMessage.maximumBytes })
        #expect(messages.reduce(0) { $0 + ($1.routes?.count ?? 0) } == 100)
        #expect(messages.reduce(0) { $0 + ($1.gone?.count ?? 0) } == 100)
        // What has gone makes room for what has come.
        #expect(messages.first?.gone != nil && messages.last?.routes != nil)
    }

    @Test(
        arguments: [
            ("ws://a", "ws://a", nil, 1), ("wss://a.example:8443?auth=x%3dy&cost=7", "wss://a.example:8443", "x=y", 7),
            ("ws://[::1]:1/app/team?credential=id.secret", "ws://[::1]:1/app/team", "id.secret", 1),
            ("ws://[fe80::1]/", "ws://[fe80::1]/", nil, 1),
            ("wss://a/relay/?auth=x", "wss://a/relay/", "x", 1),
            ("ws://a/relay/app/team", "ws://a/relay/app/team", nil, 1),
        ] as [(String, String, String?, Int)])
    func `a link's URL is read`(text: String, url: String, secret: String?, cost: Int) throws {
        let link = try LinkURL(parsing: text)
        #expect((link.url, link.secret, link.cost) == (url, secret, cost))
        #expect(secret.map { !link.description.contains($0) } ?? true)
    }

    @Test(arguments: [
        "", "a:1", "http://a", "ws://", "ws:///x", "ws://a/c/box/1", "ws://u@a", "ws://a#f", "ws://a?auth=",
        "ws://a?x=1",
        "ws://a?auth=1&auth=2", "ws://a?auth=1&credential=2", "ws://a?cost=0", "ws://a?cost=10001", "ws://a?cost=x",
        "ws://a?auth=%zz", "ws://a b", "ws://a?auth=%0a", "ws://a:0", "ws://a:65536", "ws://a:", "ws://a:+1", "ws://:1",
        "ws://[::1", "ws://[::1]x:1", "ws://[a]:1", "ws://a:b:1", "ws://::1", "ws://a/s/box", "ws://a/app/x/y",
        "ws://a/../x",
    ])
    func `what is no link's URL is refused`(text: String) {
        #expect(throws: ConfigurationError.self) { try LinkURL(parsing: text) }
    }

    @Test func `the relays of an open are sixteen at most`() {
        let relay = RelayID.random().description
        #expect(RelayID.list("")?.isEmpty == true)
        #expect(RelayID.list(Array(repeating: relay, count: 16).joined(separator: ","))?.count == 16)
        for text in [
            Array(repeating: relay, count: 17).joined(separator: ","), ",", relay + ",", "x", relay.dropLast() + "g",
        ] { #expect(RelayID.list(String(text)) == nil) }
    }
}
