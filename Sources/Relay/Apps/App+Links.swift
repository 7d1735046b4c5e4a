internal import Logging
internal import Synchronization

// Relays that are linked: each tells its neighbours which servers it leads to (docs/links.md). Channels through a link
// are those of any multiplexed connection.
extension App {
    /// A link of the configuration is there.
    func begin(_ connection: Connection, _ dialler: LinkDialler) {
        connection.app = self
        members[connection.id] = .here(connection)
        links.dialled[connection.id] = dialler
    }

    /// Whether a connection that is open now is a link; it is greeted then.
    func linkOpened(_ member: Member) -> Bool {
        guard member.subprotocol == .link else { return false }
        links.set(.new, of: member.id)
        send(
            LinkMessage(hello: .init(relay: links.table.own.description, cost: links.dialled[member.id]?.url.cost)),
            to: member)
        return true
    }

    /// A link is gone: so are the ways through it. False where the connection was none.
    func linkClosed(_ id: ConnectionID, _ code: CloseCode, _ reason: String) -> Bool {
        let dialler = links.dialled.removeValue(forKey: id)
        if !loop.isDraining {
            dialler?.failed(reason.isEmpty ? "the link ended with \(code)" : reason, at: loop.now)
        }
        guard links.remove(id) else { return dialler != nil }
        passOn(links.table.left(id))
        return true
    }

    /// The neighbour will go: whatever begins now takes another way, and what is under way goes on.
    func linkDrains(_ id: ConnectionID) {
        guard links.contains(id) else { return }
        links.set(.draining, of: id)
        passOn(links.table.left(id))
    }

    // MARK: What the neighbour says

    func linkReceived(_ bytes: UnsafeRawBufferPointer, _ link: Member) {
        guard let phase = links.phases[link.id], let message = LinkMessage(bytes) else {
            return link.close(.protocolError, reason: "a message of a link cannot be read")
        }
        switch phase {
        case .new:
            guard let hello = message.hello, let relay = RelayID(hello.relay),
                RouteTable.costs.contains(hello.cost ?? 1)
            else { return link.close(.protocolError, reason: "a link begins with who is there") }
            met(relay, hello, link)
        case .known:
            guard message.hello == nil else {
                return link.close(.protocolError, reason: "a neighbour has introduced itself twice")
            }
            heard(message, link)
        case .draining: break
        }
    }

    private func met(_ relay: RelayID, _ hello: LinkMessage.Hello, _ link: Member) {
        guard relay != links.table.own else {
            return link.close(.policyViolation, reason: "the link leads back to this relay itself")
        }
        links.set(.known, of: link.id)
        let dialler = links.dialled[link.id]
        // Whoever dials knows what the way costs.
        links.table.met(relay, on: link.id, cost: dialler?.url.cost ?? hello.cost ?? 1)
        if let dialler {
            dialler.linked(with: relay)
        } else {
            shared.logger.info("linked", metadata: ["remote": "\(link.address.host)", "relay": "\(relay)"])
        }
        tell(link.id, about: Set(links.table.servers).union(servers.all.map(\.server)))
    }

    private func heard(_ message: LinkMessage, _ link: Member) {
        var changed: Set<ServerID> = []
        defer { passOn(changed) }
        for server in message.gone ?? [] where links.table.gone(server, on: link.id) { changed.insert(server) }
        for announcement in message.routes ?? [] {
            let server = announcement.server
            guard let advertisement = announcement.advertisement else {
                return link.close(.protocolError, reason: "a route of a link cannot be read")
            }
            guard link.may(.listen(server)) else {
                leaveOut(server, .lacksRight, link.id, "the link's credential lacks the right listen:\(server)")
                continue
            }
            switch links.table.heard(server, advertisement, on: link.id) {
            case .changed: changed.insert(server)
            case .unchanged: break
            case .tooMany: leaveOut(server, .hearsTooMany, link.id, Self.tooMany)
            }
        }
    }

    private static let tooMany = "a link leads to \(RouteTable.maximumServersPerLink) servers at most"

    /// Is said once for each cause: what comes and goes would fill the log.
    private func leaveOut(_ server: ServerID?, _ omission: Links.Omission, _ link: ConnectionID, _ reason: String) {
        guard links.isNew(omission, of: link) else { return }
        var metadata: Logger.Metadata = ["link": "\(link)", "reason": "\(reason)"]
        if let server { metadata["server"] = "\(server)" }
        shared.logger.info("servers are left out of a link", metadata: metadata)
    }

    // MARK: What neighbours are told

    /// Servers have come or gone here: a script can install many, which are told together.
    func tellLinks(about servers: some Collection<ServerID>) {
        guard !links.phases.isEmpty, !servers.isEmpty else { return }
        if links.news.isEmpty { afterwards.append(.tellLinks) }
        links.news.formUnion(servers)
        settle()
    }

    func tellNeighbours() {
        let servers = links.news
        links.news = []
        for link in links.table.links { tell(link, about: servers) }
    }

    /// What neighbours have told is passed on at once, and then not for a while, in which changes become one. Without
    /// that each relay of a dense network tells of every way that it tries when a server has gone, and those grow as n!
    /// (Labovitz et al., Delayed Internet Routing Convergence; RFC 4271 §9.2.1.1): of eight relays that all know each
    /// other each spent 6 ms on every server that went.
    private static let pauseMilliseconds: UInt64 = 100

    /// Ways to servers of other relays have changed.
    private func passOn(_ servers: Set<ServerID>) {
        guard !servers.isEmpty else { return }
        guard links.pause == nil else { return links.learnt.formUnion(servers) }
        let serial = Self.lastTimer.wrappingAdd(1, ordering: .relaxed).newValue
        links.pause = (serial, loop.schedule(script: serial, of: self, after: Self.pauseMilliseconds))
        tellLinks(about: servers)
    }

    func pauseEnded() {
        links.pause = nil
        let servers = links.learnt
        links.learnt = []
        passOn(servers)
    }

    func abandonLinks() {
        if let pause = links.pause { loop.cancel(script: pause.serial, pause.timer) }
        links.pause = nil
    }

    private func tell(_ link: ConnectionID, about servers: some Sequence<ServerID>) {
        guard let member = members[link] else { return }
        let news = links.table.news(for: link, about: servers) { server in
            // What does not speak relay.v1 is for scripts alone.
            guard let holder = self.servers[server], members[holder]?.subprotocol == .relay else { return nil }
            return self.servers.ports(of: server)
        }
        for message in LinkMessage.messages(news) { send(message, to: member) }
        if links.table.isFull(link) { leaveOut(nil, .tellsTooMany, link, Self.tooMany) }
    }

    /// More than the longest table: a neighbour that does not read it is told no deltas.
    private static let mostQueuedBytes = 16 << 20

    private func send(_ message: LinkMessage, to member: Member) {
        guard member.queuedBytes < Self.mostQueuedBytes else {
            return member.close(.slowConsumer, reason: "the link's messages are not read")
        }
        message.json.withUnsafeBytes { _ = member.sendMessage($0, isText: true) }
    }

    // MARK: Lists

    /// The servers of other relays.
    var remoteServers: [ServerDescription] {
        links.table.all.map { entry in
            ServerDescription(
                server: entry.server, connection: entry.route.link.rawValue,
                remoteAddress: members[entry.route.link]?.address.host, ports: entry.route.ports.description,
                cost: entry.route.cost, path: entry.route.path.map(\.description))
        }
    }

    var linkDescriptions: [LinkDescription] {
        let open = links.phases.keys.sorted { $0.rawValue < $1.rawValue }.map { id in
            LinkDescription(
                connection: id.rawValue, remoteAddress: members[id]?.address.host,
                relay: links.table.relay(of: id)?.description, url: links.dialled[id]?.url.url,
                cost: links.table.cost(of: id), servers: links.table.serverCount(of: id))
        }
        let dialled = Set(links.dialled.values.map { ObjectIdentifier($0) })
        let missing = links.diallers.filter { !dialled.contains(ObjectIdentifier($0)) }.map {
            LinkDescription(url: $0.url.url, cost: $0.url.cost, servers: 0, failure: $0.failure)
        }
        return open + missing
    }
}
