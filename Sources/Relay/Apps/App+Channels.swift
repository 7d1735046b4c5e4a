internal import Logging
internal import Synchronization

/// What can only be done once the connections it is about have moved to the loop where their channels will be.
enum ChannelWork {
    /// The server is to be asked.
    case opening(ChannelOpening)
    /// A server's dedicated connection is to be joined to the open that waits for it.
    case ticket(ConnectionID, ChannelTicket)
}

// Who may meet whom, and on which loop: every channel of an app begins here, and from then on the app has nothing to do
// with it.
extension App {
    // MARK: Servers

    /// A connection wants to be a server by its path. The credential decides; the same credential may take over.
    func register(_ connection: Connection, _ server: ServerID, _ options: ServerOptions) {
        guard connection.isAdmin || connection.credential?.allows(listen: server) == true else {
            return refuse(connection, "listen:\(server)")
        }
        if case .name(let name) = server, !(1...ServerID.maximumNameBytes).contains(name.utf8.count) {
            return connection.refuse(.notFound, "A server's name has 1 to \(ServerID.maximumNameBytes) bytes.")
        }
        if let holder = servers[server], members[holder]?.credential != connection.credential {
            return connection.refuse(.conflict, "The server '\(server)' is there already, with another credential.")
        }
        connection.letIn()
        guard connection.lifecycle.isOpen else { return }
        if let code = install(server: server, connection: connection.id, options: options) {
            connection.close(.limit, reason: "the server cannot be installed: \(code.rawValue)")
        }
    }

    private func refuse(_ connection: Connection, _ right: String) {
        guard connection.credential != nil || connection.isAdmin else {
            return connection.refuse(
                .unauthorized, "This takes a credential with the right \(right).",
                headers: [("WWW-Authenticate", "Bearer realm=\"relayd\"")])
        }
        connection.refuse(.forbidden, "The credential lacks the right \(right).")
    }

    // MARK: Requests

    /// A clean client asks by its path.
    func requestChannel(_ connection: Connection, _ server: ServerID, _ port: UInt16) {
        open(
            ChannelRequest(
                client: connection.id, number: .connection, server: server, port: port,
                credit: loop.limits.channelCreditBytes))
    }

    /// A client asks: the scripts are asked in turn, and where they have no opinion its credential decides.
    func open(_ request: ChannelRequest) {
        guard members[request.client] != nil else { return }
        // Of a client of another relay, its scripts there have been asked.
        guard let chain = set.chains[.connect], request.origin == nil else { return decide(request) }
        let arguments = CallArguments.connect(
            connection: request.client, server: request.server, port: request.port)
        call(chain, .fixed("connect hook"), arguments, .connect(request))
    }

    func decided(_ request: ChannelRequest, _ outcome: CallOutcome) {
        switch outcome {
        case .connect(.undecided):
            decide(request)
        case .connect(.refused(let status, let reason)):
            reject(request, UInt16(status), reason)
        case .connect(.allowed(let server, let port, let metadata)):
            var request = request
            request.server = server ?? request.server
            request.port = port ?? request.port
            if let refusal = connect(request, metadata) { reject(request, refusal.code, refusal.reason) }
        case .failed(let failure):
            unattendedFailure(failure)
            reject(request, ChannelReject.failed, "A script that decides about channels failed.")
        case .returned, .refused, .response, .suspended:
            preconditionFailure("a connect hook's call ended as another's")
        }
    }

    private func decide(_ request: ChannelRequest) {
        guard let client = members[request.client] else { return }
        let right = "connect:\(request.server):\(request.port)"
        let service = ListenerURL.Service(server: request.server, port: request.port)
        guard
            client.may(.connect(request.server, port: request.port)) || client.here?.listener.service == service
        else {
            guard client.credential != nil else {
                return reject(request, ChannelReject.unauthorized, "This takes a credential with the right \(right).")
            }
            return reject(request, ChannelReject.forbidden, "The credential lacks the right \(right).")
        }
        if let refusal = connect(request, request.origin?.metadata) { reject(request, refusal.code, refusal.reason) }
    }

    private func reject(_ request: ChannelRequest, _ code: UInt16, _ reason: String) {
        guard let client = members[request.client] else { return }
        if let connection = client.here, request.number == .connection, connection.cleanEnd == nil {
            let headers = code == 401 ? [("WWW-Authenticate", "Bearer realm=\"relayd\"")] : []
            return connection.refuse(ChannelReject.status(code), reason, headers: headers)
        }
        let address = ChannelAddress(loop: location(client), connection: request.client, number: request.number)
        loop.tell(address, .reject(code: code, reason: reason))
    }

    // MARK: Placing

    struct Rejection: Error {
        let code: UInt16
        let reason: String
        let error: ErrorCode

        static func absent(_ server: ServerID) -> Rejection {
            Rejection(code: ChannelReject.badGateway, reason: "There is no server '\(server)'.", error: .notFound)
        }
    }

    /// Finds the server and sees to it that both ends are on one loop where that can be; nil where all is under way.
    private func connect(_ request: ChannelRequest, _ metadata: String?) -> Rejection? {
        guard let client = members[request.client] else { return nil }
        let via = request.origin?.via ?? []
        let server: Member
        switch find(request.server, port: request.port, via, metadata) {
        case .success(let found): server = found
        case .failure(let rejection): return rejection
        }
        var credit = request.credit
        if request.number == .connection, let connection = client.here, connection.cleanEnd == nil {
            // Refused or gone while a script made up its mind.
            guard connection.lifecycle.isAdmitting || connection.lifecycle.isOpen else { return nil }
            credit = beginClean(connection)
        }
        place(client, server)
        let record = record(
            client: request.client, request.server, server, port: request.port,
            remoteAddress: request.origin?.remoteAddress ?? client.address.host)
        let address = ChannelAddress(loop: client.loop, connection: request.client, number: request.number)
        advance(
            .opening(
                ChannelOpening(
                    client: address, serverConnection: server.id, credit: credit, metadata: metadata,
                    via: via + [links.table.own], record: record)))
        return nil
    }

    /// Where a channel to this port of a server goes: to the server, or to the link that leads there. `via` are the
    /// relays that it has passed.
    func find(
        _ id: ServerID, port: UInt16, _ via: [RelayID] = [], _ metadata: String?
    ) -> Result<Member, Rejection> {
        func refused(_ code: UInt16, _ reason: String, _ error: ErrorCode) -> Result<Member, Rejection> {
            .failure(Rejection(code: code, reason: reason, error: error))
        }
        // A server of this relay's own goes before all others; but what does not speak relay.v1 is for scripts alone.
        let own = servers[id].flatMap { members[$0] }
        let route = own?.subprotocol == .relay ? nil : links.table.route(to: id, avoiding: via)
        if let refusal = links.refusal(of: route, via, metadata) { return .failure(refusal) }
        guard let server = route.flatMap({ members[$0.link] }) ?? own, server.isOpen else {
            return .failure(.absent(id))
        }
        guard (route?.ports ?? servers.ports(of: id)).contains(port) else {
            return refused(ChannelReject.notFound, "The server '\(id)' offers no port \(port).", .notFound)
        }
        guard departures[server.id]?.count ?? 0 < loop.limits.channelsPerConnection else {
            return refused(ChannelReject.limit, "Too many wait for the server '\(id)'.", .limit)
        }
        guard server.subprotocol == .relay || route != nil else {
            return refused(ChannelReject.badGateway, "The server '\(id)' does not speak relay.v1.", .conflict)
        }
        return .success(server)
    }

    /// What is known of a channel from here on, wherever it is.
    func record(
        client: ConnectionID, _ id: ServerID, _ server: Member, port: UInt16, remoteAddress: String
    ) -> ChannelRecord {
        let record = ChannelRecord(
            client: client, server: id, serverConnection: server.id, port: port, remoteAddress: remoteAddress,
            openedAt: loop.now, load: shared.loops[server.loop].load)
        channels.append(record)
        return record
    }

    /// A clean connection is an end of its channel from here on. Returns what may be sent to it.
    private func beginClean(_ connection: Connection) -> Int {
        let end = ChannelEnd(connection, .connection, isServer: false)
        _ = end.window.grant(end.limit)
        connection.cleanEnd = end
        connection.limitsChanged()
        loop.channelConnections[connection.id] = connection
        return end.window.passOn(queued: 0, limit: end.limit)
    }

    /// A server has its place from its first channel on: the loop that carries the fewest. A client joins it there,
    /// unless it has channels elsewhere already; these two talk from loop to loop, as a script's end, which has no
    /// connection, always does.
    func place(_ client: Member?, _ server: Member) {
        if let connection = server.here, !connection.isPlaced {
            let isBound = client.map { $0.here?.isPlaced ?? true } ?? false
            connection.move(to: isBound ? client?.loop ?? loop.index : leastLoadedLoop())
        }
        if let connection = client?.here, !connection.isPlaced { connection.move(to: server.loop) }
    }

    /// The home loop, unless another one has less to do.
    private func leastLoadedLoop() -> Int {
        func load(_ loop: EventLoop) -> Int { loop.load.channels.load(ordering: .relaxed) }
        var best = loop
        for other in shared.loops where load(other) < load(best) { best = other }
        return best.index
    }

    /// Where a member is at this moment, be it about to leave.
    private func location(_ member: Member) -> Int {
        switch member {
        case .here: loop.index
        case .away(let connection): connection.loop
        }
    }

    /// Goes on with what does not have to wait for a connection to arrive.
    func advance(_ work: ChannelWork) {
        switch work {
        case .opening(let opening):
            guard !waits(work, for: opening.serverConnection), !waits(work, for: opening.client.connection) else {
                return
            }
            guard let server = members[opening.serverConnection] else {
                return loop.tell(
                    opening.client, .reject(code: ChannelReject.badGateway, reason: "the server has left"))
            }
            guard server.loop != loop.index else { return loop.openChannel(opening) }
            shared.loops[server.loop].mailbox.post(.openChannel(opening))
        case .ticket(let id, let ticket):
            guard !waits(work, for: id), let member = members[id] else { return }
            guard member.loop != loop.index else { return loop.joinChannel(id, ticket) }
            shared.loops[member.loop].mailbox.post(.joinChannel(id, ticket))
        }
    }

    private func waits(_ work: ChannelWork, for id: ConnectionID) -> Bool {
        guard let connection = members[id]?.here, connection.isMoving else { return false }
        departures[id, default: []].append(work)
        return true
    }

    /// A connection has left for another loop: what is posted there from now on comes after it.
    func departed(_ connection: AwayConnection) {
        members[connection.id] = .away(connection)
        for work in departures.removeValue(forKey: connection.id) ?? [] { advance(work) }
    }

    // MARK: Rendezvous

    /// A server opens a connection of its own for one client.
    func use(_ ticket: ChannelTicket, _ connection: Connection) {
        guard let server = members[ticket.connection] else {
            return connection.refuse(.notFound, "This ticket is not known, was used, or is too late.")
        }
        connection.cleanEnd = ChannelEnd(connection, .connection, isServer: true)
        loop.channelConnections[connection.id] = connection
        connection.move(to: server.loop)
        advance(.ticket(connection.id, ticket))
    }

    // MARK: What scripts ask for

    package func connect(
        _ connection: ConnectionID, server: ServerID, port: UInt16, metadata: String?
    ) -> ConnectResult {
        guard let client = members[connection], client.isOpen else { return .refused(.notFound) }
        guard !client.isTaken else { return .refused(.conflict) }
        guard client.identity.subprotocol == .relay else {
            let request = ChannelRequest(
                client: connection, number: .connection, server: server, port: port,
                credit: loop.limits.channelCreditBytes)
            if let refusal = connect(request, metadata) { return .refused(refusal.error) }
            // What it sends from now on is for the server, and waits until that has accepted.
            client.here?.beginWaiting()
            return .channel(nil)
        }
        guard let number = nextNumber(client) else { return .refused(.limit) }
        let request = ChannelRequest(
            client: connection, number: number, server: server, port: port, credit: loop.limits.channelCreditBytes)
        let location = location(client)
        if location == loop.index {
            loop.expect(connection, number, credit: request.credit)
        } else {
            shared.loops[location].mailbox.post(.connection(connection, .expect(number, credit: request.credit)))
        }
        guard let refusal = connect(request, metadata) else { return .channel(number.rawValue) }
        loop.tell(
            ChannelAddress(loop: location, connection: connection, number: number),
            .reject(code: refusal.code, reason: refusal.reason))
        return .refused(refusal.error)
    }

    /// The next number of a channel that a script opens.
    private func nextNumber(_ client: Member) -> ChannelNumber? {
        switch client {
        case .here(let connection): connection.channels?.scriptNumbers.take()
        case .away(let connection): connection.takeScriptNumber()
        }
    }
}
