internal import Glibc
internal import Logging

/// One WebSocket to the relay: the thin executor of `Lifecycle`. It owns the descriptor, the TLS session, the frame
/// reader and the output that waits; it lives on one loop at a time and is touched by that loop's thread only.
///
/// What enters: completions of the loop (`received`, `sent`, `endOfStream`), calls of its app (`sendMessage`, `close`).
/// What leaves: whole messages to the app, bytes to the loop's backend, once per turn.
final class Connection {
    // First what every message touches, so that it lies in as few cache lines as possible: with a thousand connections
    // in turn each of them has to come from afar.

    // SAFETY: loops outlive their connections: they are freed when the process ends.
    private(set) unowned(unsafe) var loop: EventLoop
    var handle: IOHandle
    var lifecycle: Lifecycle
    var isDirty = false
    /// A send is with the backend: what it sends from must not be consumed until it completes.
    var isSending = false
    var isReceiving = true
    /// On the way to another loop, or about to be.
    var isMoving = false
    /// It has had its place since its first channel, and moves no more.
    var isPlaced = false
    /// What this one waits for before it reads on: receivers that are full (`backpressure`), credit, its app.
    var waitsFor: Int32 = 0
    /// Calls that messages of this connection have begun and that have yielded.
    private(set) var suspendedCalls: Int32 = 0
    /// Where it is going, while it is on the way.
    var destination: Int?
    let secure: SecureLayer?
    /// It was dialled: frames out are masked, those in are not (RFC 6455 §5.1).
    let isDialled: Bool
    /// Set for good by `relay.pipe`.
    var pipe: PipeEnd?
    /// Of a multiplexed connection.
    var channels: Multiplexer?
    /// Of a clean connection: it is one end of a channel, for good.
    var cleanEnd: ChannelEnd?
    /// Frames (or a response) on their way out; with TLS in front they are encrypted at the end of the turn.
    var outbound = OutboundBuffer()
    /// Received and not yet used: a head that is not whole, or what came behind one, or behind a pause.
    var unread: [UInt8] = []
    /// Those that wait for this one's output to drain.
    var waiters: Set<ConnectionID> = []
    var deadlines: Deadlines
    var reader: WebSocketReader
    var app: App?

    // From here on what a message touches now and then, or never.

    let id = ConnectionID.next()
    var rate = RateWindow()
    /// The message that is being put together from several frames or receives.
    var assembly = MessageAssembly()
    /// The client's, once it is known: a proxy's before that.
    var address: SocketAddress
    let listener: ListenerSettings
    /// Whether it counts against the limits of connections: one that was refused does not.
    let isCounted: Bool
    /// Whether its address counts, too: a proxy's does not, until it is known who is behind it.
    var isAddressCounted: Bool
    /// The loop counts its TLS handshake.
    private var isInHandshake: Bool

    /// What a request asked for, until it is answered.
    var pending: Pending?
    /// The head of the handshake's request: it stays for the facts that scripts read.
    var head: RequestHead?
    var subprotocol: Subprotocol?
    var credential: Credential?
    var isAdmin = false
    /// The 101 was sent: scripts have met it, and are told when it goes.
    var wasOpen = false
    var isLivecode = false
    /// A link that may lead to any server and tell of any: this relay has dialled it, or it presents a listener's
    /// token.
    var isTrustedLink = false
    private var isResuming = false
    /// The peer's end of stream came while messages before it were still unread.
    var hasEnded = false
    var deliveredMessage = false
    var timer: TimerID?

    /// How it ended, once it has: for hooks and logs.
    var closeCode = CloseCode.abnormalClosure
    var closeReason = ""

    /// `dialled` is the other end of a link that has answered the handshake already.
    init(
        fileDescriptor: Int32, address: SocketAddress, listener: ListenerSettings, loop: EventLoop, isCounted: Bool,
        isAddressCounted: Bool, dialled: DialledSocket? = nil
    ) {
        self.address = address
        self.listener = listener
        self.loop = loop
        self.isCounted = isCounted
        self.isAddressCounted = isAddressCounted
        handle = IOHandle(fileDescriptor: fileDescriptor, token: IOToken(rawValue: 0))
        isDialled = dialled != nil
        reader = WebSocketReader(role: isDialled ? .client : .server)
        let session = isDialled ? dialled?.session : listener.makeSession()
        secure = session.map { SecureLayer($0) }
        let isBehindProxy = listener.proxyVersion != nil
        lifecycle = isDialled ? .dialled : Lifecycle(isSecure: session != nil, isBehindProxy: isBehindProxy)
        deadlines = Deadlines(acceptedAt: loop.now, limits: loop.limits)
        isInHandshake = session != nil && !isDialled
        if isInHandshake { loop.handshakeBegan() }
    }

    var credentialID: String? { credential?.id }

    /// The TLS handshake is done, or the connection is.
    func handshakeEnded() {
        guard isInHandshake else { return }
        isInHandshake = false
        loop.handshakeEnded()
    }

    /// The first thing after accept. A connection that is not let in is told so at once, without reading its request:
    /// those beyond a limit must not hold anything for long. Behind TLS that would cost a handshake, so it just ends.
    func start(refusal: Refusal?) {
        reader.maximumMessageBytes = loop.limits.messageBytes
        isAdmin = listener.isAdmin
        // Without a session (no memory for one) a connection to a TLS listener must not be taken for a plain one.
        guard listener.isSecure == (secure != nil) else { return disconnect(code: .tryAgainLater, reason: "") }
        guard let refusal else { return updateTimer() }
        guard secure == nil else { return disconnect(code: .tryAgainLater, reason: refusal.reason) }
        // Health checks are answered by what they ask for, to the end.
        if case .draining = refusal { return updateTimer() }
        refuse(refusal)
    }

    // MARK: Moving between loops

    /// On the way to another loop: nothing of the old one stays behind.
    func leave() {
        if let timer { loop.cancel(timer) }
        timer = nil
        isDirty = false
        releaseWaiters()
        isResuming = false
    }

    /// The new loop has it.
    func arrived(on loop: EventLoop) {
        self.loop = loop
        isMoving = false
        destination = nil
        guard loop.backend.add(&handle) else {
            loop.shared.logger.error("cannot watch a connection", metadata: ["connection": "\(id)"])
            return disconnect(code: .tryAgainLater, reason: "")
        }
        // The new backend has armed its receive.
        isReceiving = true
        if queuedBytes > 0 { setDirty() }
        pauseReceiving()
        updateTimer()
        if app != nil { settleDown() }
        if let credential, !loop.shared.credentials.isCurrent(credential.id) {
            // Revoked while it was between the loops, where neither could see it.
            return close(.credentialRevoked, reason: "the credential was revoked")
        }
        if app == nil { pendingRequest == nil ? admit() : serve() }
    }

    /// Where its channels are.
    private func settleDown() {
        loop.channelConnections[id] = self
        // What it waited for is the app's to remember from now on (`AwayConnection`), but for its channel's beginning.
        waitsFor = cleanEnd?.phase == .opening && lifecycle.isOpen ? 1 : 0
        suspendedCalls = 0
        if lifecycle.isOpen { continueNextTurn() }
    }

    /// It will move, unless it is closed first.
    var isDeparting: Bool { isMoving && (lifecycle.isAdmitting || lifecycle.isOpen) }

    /// The app wants it on another loop, where its channels are.
    func move(to index: Int) {
        isPlaced = true
        guard index != loop.index else { return }
        isMoving = true
        destination = index
        pauseReceiving()
        loop.move(self, to: loop.shared.loops[index])
    }

    // MARK: Closing

    /// Starts the close handshake; before the 101 the request is refused, and before that the connection just ends.
    func close(_ code: CloseCode, reason: String) {
        if lifecycle.isAdmitting || lifecycle.isAnswering {
            leaveChannels(code, reason)
            return refuse(code == .credentialRevoked ? .unauthorized : .serviceUnavailable, reason)
        }
        if lifecycle.isBeforeOpen { return disconnect(code: code, reason: reason) }
        guard case .sendClose = lifecycle.closeRequested() else { return }
        remember(code, reason)
        queueClose(code, reason)
        deadlines.enter(.closing, at: loop.now)
        updateTimer()
        // Nothing fills this queue any more; and a peer that is not read cannot answer the close frame.
        releaseWaiters()
        stopBeingHeld()
        closeOtherEnd(code, reason)
        leaveChannels(code, reason)
    }

    /// Ends at once: the descriptor is closed, the app hears of it later in this turn.
    func disconnect(code: CloseCode, reason: String) {
        guard !isRemoved else { return }
        isRemoved = true
        lifecycle.died()
        remember(code, reason)
        if let timer { loop.cancel(timer) }
        timer = nil
        assembly.removeAll()
        unread = []
        leavePipe()
        leaveChannels(closeCode, closeReason)
        releaseWaiters()
        loop.remove(self)
        outbound.removeAll(to: loop.pool)
        secure?.ciphertext.removeAll(to: loop.pool)
    }

    /// The backend could not send: the peer is gone.
    var sendFailed = false
    private var isRemoved = false
    private var isRemembered = false

    /// The first cause is the one that counts.
    func remember(_ code: CloseCode, _ reason: String) {
        guard !isRemembered else { return }
        isRemembered = true
        closeCode = code
        closeReason = reason
    }

    func endOfStream() {
        // What came before the end comes first: it waits for this connection's turn.
        if lifecycle.isReadingProxyHeader { return failProxyHeader(.incomplete) }
        if lifecycle.isOpen, !unread.isEmpty || cleanEnd?.stalled != nil { return hasEnded = true }
        if lifecycle.isBeforeOpen, outlivesEnd() { return pauseReceiving() }
        switch lifecycle.endOfStream() {
        case .disconnect: disconnect(code: .abnormalClosure, reason: "")
        case .none: pauseReceiving()  // Level-triggered: the end would be reported for ever.
        }
    }

    // MARK: Receiving on and off

    func pauseReceiving() {
        guard isReceiving else { return }
        isReceiving = false
        loop.backend.pauseReceive(&handle)
    }

    func startReceiving() {
        guard !isReceiving, !lifecycle.isDead else { return }
        isReceiving = true
        deadlines.lastReceived = loop.now
        loop.backend.resumeReceive(&handle)
    }

    /// `target` has more output queued than it should: this connection, which fills it, is read no further until then.
    func wait(for target: Connection) {
        guard lifecycle.isOpen, !target.lifecycle.isDead, target.waiters.insert(id).inserted else { return }
        beginWaiting()
    }

    /// Reads no further until `stopWaiting`.
    func beginWaiting() {
        waitsFor += 1
        pauseReceiving()
    }

    /// Suspended calls that one connection may have: beyond it is read no further until some have ended. Each holds a
    /// coroutine and a timer of the app, which has to serve others, too.
    static let maximumSuspendedCalls: Int32 = 256

    /// Whether reading stops because a receiver is full, or because too many calls are under way. A connection that is
    /// being closed waits for nobody.
    var isHeld: Bool { (waitsFor > 0 || suspendedCalls >= Self.maximumSuspendedCalls) && lifecycle.isOpen }

    /// Whether silence says nothing about the peer: it is not read, or a ping cannot be sent before a frame has ended.
    var cannotBeAsked: Bool { isHeld || pipe?.owesPing == true }

    func callSuspended() {
        suspendedCalls += 1
        if isHeld { pauseReceiving() }
    }

    func suspendedCallEnded() {
        suspendedCalls -= 1
        if suspendedCalls == Self.maximumSuspendedCalls - 1, !isHeld { stopBeingHeld() }
    }

    /// Reads on in the next turn: others come first.
    func continueNextTurn() {
        pauseReceiving()
        stopBeingHeld()
    }

    /// Lets everybody who waits for this connection's output read again.
    func releaseWaiters() {
        guard !waiters.isEmpty else { return }
        let released = waiters
        waiters = []
        for id in released {
            if id == self.id {
                stopWaiting()
            } else if let connection = loop.channelConnections[id] {
                connection.stopWaiting()
            } else if !isAway {
                app?.stopWaiting(id)
            }
        }
    }

    func stopWaiting() {
        waitsFor -= 1
        if !isHeld { stopBeingHeld() }
    }

    /// Reads again, from the next turn on.
    private func stopBeingHeld() {
        guard !isReceiving, !isResuming else { return }
        isResuming = true
        loop.resume(self)
    }

    /// The loop's answer to `resume`, in a turn of its own: what was left unread comes first.
    func resumeReading() {
        isResuming = false
        guard !isHeld, !lifecycle.isDead else { return }
        if lifecycle.isBeforeOpen { return serve() }
        readUnread()
        guard !isHeld, unread.isEmpty else { return }
        hasEnded ? endOfStream() : startReceiving()
    }
}

/// A connection on its way from one loop's thread to another's.
///
/// `@unchecked Sendable`: the sender forgets the connection when it posts this, and the mailbox orders the two threads,
/// so that only one of them ever touches it.
struct ConnectionTransfer: @unchecked Sendable {
    let connection: Connection
    init(_ connection: Connection) { self.connection = connection }
}

/// The TLS session of a connection and the records that wait to be sent.
final class SecureLayer {
    let session: TLSSession
    var ciphertext = OutboundBuffer()
    var hasSaidGoodbye = false

    init(_ session: TLSSession) { self.session = session }
}

/// What only the answer to a handshake needs: kept while the app decides. A class, so that the connections which are
/// open have no room for it.
final class PendingUpgrade {
    let appName: String
    let purpose: Purpose
    /// The client's Sec-WebSocket-Key.
    let key: [UInt8]

    /// What the connection is to be, by its path.
    enum Purpose {
        case instruction
        case client(ServerID, port: UInt16)
        case server(ServerID, ServerOptions)
        case dedicated(ChannelTicket)
    }

    init(appName: String, purpose: Purpose, key: [UInt8]) {
        self.appName = appName
        self.purpose = purpose
        self.key = key
    }
}
