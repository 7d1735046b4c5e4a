// What loops say to each other about channels, and about connections that live away from their app.
extension EventLoop {
    /// The end of a channel at an address of this loop.
    func channelEnd(_ address: ChannelAddress) -> ChannelEnd? {
        guard let connection = channelConnections[address.connection] else { return nil }
        if address.number == .connection { return connection.cleanEnd }
        return connection.channels?.end(address.number)
    }

    /// Tells an end of a channel, wherever it is.
    func tell(_ address: ChannelAddress, _ event: ChannelEvent) {
        guard address.isCallable(on: index) else {
            return shared.loops[address.loop].mailbox.post(.channel(address, event))
        }
        deliver(event, to: address)
    }

    /// Tells an end of this loop.
    func deliver(_ event: ChannelEvent, to address: ChannelAddress) {
        if address.number == .script, let channel = scriptChannels[address.connection] { return channel.receive(event) }
        if let end = channelEnd(address) { return end.receive(event) }
        switch event {
        case .asked(let server), .accept(_, let server, _):
            // The client has left while its server was asked.
            tell(server, .close(.abnormalClosure, reason: "the client has left"))
        case .reject, .data, .read, .credit, .end, .close:
            break
        }
    }

    /// A client is let in to a server of this loop.
    func openChannel(_ opening: ChannelOpening) {
        guard let server = channelConnections[opening.serverConnection], let channels = server.channels else {
            return tell(opening.client, .reject(code: ChannelReject.badGateway, reason: "the server has left"))
        }
        server.open(opening, channels)
    }

    /// A server's dedicated connection is here, with the ticket of an open that waits.
    func joinChannel(_ id: ConnectionID, _ ticket: ChannelTicket) {
        guard let connection = channelConnections[id], connection.lifecycle.isAdmitting else { return }
        guard let server = channelConnections[ticket.connection],
            let end = server.channels?.end(ticket.number), end.isServer, end.phase == .opening,
            end.isTicket(ticket.secret)
        else { return connection.refuse(.notFound, "This ticket is not known, was used, or is too late.") }
        connection.join(insteadOf: end)
    }

    /// A script opens a channel for a client of this loop.
    func expect(_ id: ConnectionID, _ number: ChannelNumber, credit: Int) {
        guard let connection = channelConnections[id], let channels = connection.channels else { return }
        guard channels.count < limits.channelsPerConnection else {
            return connection.reject(
                channel: number, ChannelReject.limit, "too many channels (channelsPerConnection)")
        }
        let end = ChannelEnd(connection, number, isServer: false)
        _ = end.window.grant(credit)
        _ = end.window.passOn(queued: 0, limit: credit)
        channels.insert(end)
    }

    func receive(_ message: ConnectionMessage, for id: ConnectionID) {
        guard let connection = channelConnections[id] else { return }
        switch message {
        case .expect(let number, let credit): expect(id, number, credit: credit)
        case .send(let bytes, let isText): connection.receivedFromHome(bytes, isText: isText)
        case .handled(let bytes): connection.handledAtHome(bytes)
        }
    }
}
