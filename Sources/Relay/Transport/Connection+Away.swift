// A connection of an app can live on another loop than the app, because its channels do. What it has to say to the app,
// and the other way round, goes by mail (`AwayConnection` is the app's side of it).
extension Connection {
    /// Tells the app: at once on its own loop, else by mail.
    func ask(_ message: AppMessage) {
        guard let app else { return }
        if app.loop === loop { return app.receive(message) }
        app.loop.mailbox.post(.app(AppTransfer(app), message))
    }

    var isAway: Bool {
        guard let app else { return false }
        return app.loop !== loop
    }

    /// What does not change any more.
    var identity: ConnectionIdentity {
        ConnectionIdentity(
            id: id, address: address, listener: listener, head: head, subprotocol: subprotocol, credential: credential,
            isAdmin: isAdmin, tls: secure?.session.version, isClean: cleanEnd != nil,
            isTrustedLink: isTrustedLink)
    }

    /// Messages on their way to the app may have so many bytes before this connection is read no further.
    private static let mostUnhandledBytes = 1 << 20
    /// What a message counts beyond its own bytes: each may begin a call that is suspended, and 256 of these may be on
    /// their way beside those that the app holds already (`maximumSuspendedCalls`).
    static let messageOverheadBytes = 4 << 10

    /// A whole message for the app, which is elsewhere.
    func mail(_ bytes: UnsafeRawBufferPointer, isText: Bool) {
        ask(.message(id, Array(bytes), isText: isText))
        mailed(bytes.count)
    }

    /// This connection wants a channel.
    func request(_ request: ChannelRequest) {
        ask(.open(request))
        if isAway { mailed(0) }
    }

    private func mailed(_ bytes: Int) {
        // A clean connection has one message at most, which began before its channel.
        guard let channels else { return }
        let before = channels.unhandledBytes
        channels.unhandledBytes += bytes + Self.messageOverheadBytes
        if before <= Self.mostUnhandledBytes, channels.unhandledBytes > Self.mostUnhandledBytes { beginWaiting() }
    }

    /// The app has handled so much.
    func handledAtHome(_ bytes: Int) {
        guard let channels else { return }
        let before = channels.unhandledBytes
        channels.unhandledBytes -= bytes
        if before > Self.mostUnhandledBytes, channels.unhandledBytes <= Self.mostUnhandledBytes { stopWaiting() }
    }

    /// A message from the app.
    func receivedFromHome(_ bytes: [UInt8], isText: Bool) {
        bytes.withUnsafeBytes { _ = sendMessage($0, isText: isText) }
        guard let channels else { return }
        channels.untakenBytes += bytes.count
        if queuedBytes <= loop.limits.outboundHighBytes { taken(channels) }
    }

    /// The app hears that there is room again.
    func taken(_ channels: Multiplexer) {
        guard channels.untakenBytes > 0 else { return }
        ask(.taken(id, bytes: channels.untakenBytes))
        channels.untakenBytes = 0
    }
}

/// What a connection tells its app, on whichever loop it is.
enum AppMessage: Sendable {
    /// A whole message, from a connection that is elsewhere.
    case message(ConnectionID, [UInt8], isText: Bool)
    /// So much of what the app has sent has been taken.
    case taken(ConnectionID, bytes: Int)
    /// The 101 is on its way.
    case opened(ConnectionID)
    case closed(ConnectionID, CloseCode, reason: String)
    /// A client wants a channel.
    case open(ChannelRequest)
    /// Of no connection: an HTTP request of a script has been answered.
    case answered(ScriptRequestID, OutboundResult)
    /// The relay at the other end will go.
    case linkDrains(ConnectionID)
    /// What a channel that a script has dialled has received is the script's turn now.
    case channel(ConnectionID)
}

/// What an app tells a connection that is elsewhere.
enum ConnectionMessage: Sendable {
    /// A script opens a channel for it.
    case expect(ChannelNumber, credit: Int)
    case send([UInt8], isText: Bool)
    case handled(bytes: Int)
}
