internal import Synchronization

// Channels whose client is a script: `relay.dial`.
extension App {
    package func dial(
        server id: ServerID, port: UInt16, callbacks: DialCallbacks, metadata: String?
    ) -> DialResult {
        guard !isShutDown else { return .refused(.unavailable) }
        guard dialled.count < loop.limits.channelsPerConnection else { return .refused(.limit) }
        let server: Member
        switch find(id, port: port, [], metadata) {
        case .success(let found): server = found
        case .failure(let rejection): return .refused(rejection.error)
        }
        place(nil, server)
        let channel = ScriptChannel(self, callbacks)
        let record = record(client: channel.id, id, server, port: port, remoteAddress: Self.ownAddress)
        dialled[channel.id] = channel
        loop.scriptChannels[channel.id] = channel
        advance(
            .opening(
                ChannelOpening(
                    client: channel.address, serverConnection: server.id, credit: channel.begin(record),
                    metadata: metadata, via: [links.table.own], record: record)))
        return .channel(channel.id)
    }

    /// The remote address that a server sees of a client that is the relay itself.
    private static let ownAddress = "relay"

    // MARK: Callbacks

    func call(
        _ channel: ScriptChannel, _ function: FunctionReference, _ name: StaticString, _ arguments: CallArguments
    ) {
        callingChannel = channel
        call(function, .fixed(name), arguments, .channel(channel.id))
        callingChannel = nil
    }

    /// All has been said.
    func forget(_ channel: ScriptChannel, _ callbacks: DialCallbacks) {
        dialled[channel.id] = nil
        for function in [callbacks.open, callbacks.message, callbacks.close] {
            if let function { engine.release(function) }
        }
        engine.forget(channel.id)
    }

    func abandonScriptChannels() {
        for channel in dialled.values { channel.abandon() }
        dialled = [:]
        if let sweep = channelSweep { loop.cancel(script: sweep.serial, sweep.timer) }
        channelSweep = nil
    }

    // MARK: Waiting

    /// Who has waited for a receiver's output goes on: a connection, or a channel of a script.
    func stopWaiting(_ id: ConnectionID) {
        if let member = members[id] { member.stopWaiting() } else { dialled[id]?.stopWaiting() }
    }

    /// Something waits for a server to take it. One that takes nothing from one sweep to the next is too slow.
    func watchScriptChannels() {
        guard channelSweep == nil else { return }
        let serial = Self.lastTimer.wrappingAdd(1, ordering: .relaxed).newValue
        let milliseconds = max(1, loop.limits.slowConsumerDeadline.wholeMilliseconds)
        channelSweep = (serial, loop.schedule(script: serial, of: self, after: milliseconds))
    }

    func sweepScriptChannels(_ serial: UInt64) {
        guard channelSweep?.serial == serial else { return }
        channelSweep = nil
        for channel in dialled.values where channel.isStalled() {
            channel.fail(.slowConsumer, "the server has taken nothing for too long")
        }
        if dialled.values.contains(where: \.hasBacklog) { watchScriptChannels() }
    }
}
