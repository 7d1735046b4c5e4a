import Relay

/// One connection to a relay: a WebSocket with the subprotocol relay.v1, and the channels that it carries.
final class Link: Watched {
    unowned let loop: ClientLoop
    let owner: Session
    let socket: SocketStream
    let session: TLSSession?
    var reader = WebSocketReader(role: .client)
    var frames = ChannelFrameReader()
    var text: [UInt8] = []
    var numbers = ChannelNumbers()
    var channels: [ChannelNumber: ChannelEnd] = [:]
    /// The channel whose data came last; its pieces are delivered together.
    var current: ChannelEnd?

    /// Frames that wait to be sent.
    var output = OutboundBuffer()
    /// With TLS: `output`, encrypted.
    var records = OutboundBuffer()
    /// Channels that want to send: those that have just begun to, and those that have gone on for longer.
    private var fresh = Queue<ChannelEnd>()
    private var steady = Queue<ChannelEnd>()
    /// Turns of the former since one of the latter had its.
    private var freshTurns = 0
    /// How much is taken from channels before it is sent.
    private var quantum = Link.smallestQuantum

    var mayRead = true
    var hasEnd = false
    private var isBlocked = false
    enum Phase { case open, closing, gone }
    var phase = Phase.open
    var lastReceived: UInt64
    var hasAsked = false
    let connectedAt: UInt64

    /// What one turn takes from channels: so little that a small message on a slow line need not wait long for its own
    /// turn (with what the kernel has not sent these are 32 KiB, 26 ms at 10 Mbit/s), and more each time that the
    /// socket takes it all, since large sends cost less.
    private static let smallestQuantum = 16 << 10
    private static let largestQuantum = 256 << 10
    private static let unsentBytesInKernel: Int32 = 16 << 10
    /// What a channel that has just begun to send gets while others send as well: an interactive one needs no more
    /// (RFC 8290 §3.3 has the same thought).
    private static let freshLimit = 4 << 10
    private static let freshTurnsInRow = 3
    /// After so long without a byte the relay is asked for a sign of life; after as long again it is taken for gone.
    private static let silence: UInt64 = 20_000

    init(_ socket: SocketStream, owner: Session, loop: ClientLoop) {
        self.socket = socket
        session = socket.session
        self.owner = owner
        self.loop = loop
        lastReceived = loop.now
        connectedAt = loop.now
    }

    /// Begins to serve; `received` is what came behind the handshake already.
    func start(received: [UInt8]) {
        loop.add(self)
        loop.time(self)
        System.setUnsentLimit(socket.fileDescriptor, bytes: Self.unsentBytesInKernel)
        _ = loop.watch(socket.fileDescriptor, for: self, writing: true)
        var received = received
        received.withUnsafeMutableBytes { take($0) }
    }

    /// Whether a turn would do something without the kernel having said so.
    var hasWork: Bool { mayRead && phase != .gone || phase == .open && !isBlocked && hasQueued }
    private var hasQueued: Bool { !fresh.isEmpty || !steady.isEmpty }

    override func ready(_ readiness: Readiness) {
        if readiness.mayRead { mayRead = true }
        if readiness.hasEnd { hasEnd = true }
        if readiness.mayWrite { isBlocked = false }
    }

    func turn() {
        guard phase != .gone else { return }
        if mayRead { receive() }
        fill()
        flush()
    }

    override var deadline: UInt64? { lastReceived + (hasAsked ? 2 : 1) * Self.silence }

    override func deadlinePassed(_ loop: ClientLoop) {
        guard phase == .open, !hasAsked else { return lose("it has not answered for \(2 * Self.silence / 1000) s") }
        hasAsked = true
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        sendMessage(.ping, nothing, nothing)
    }
}

// Channels.
extension Link {
    /// Opens a channel; `make` gets its number and makes its end. False where the connection has no number left.
    func open(_ request: [UInt8], _ make: (ChannelNumber) -> ChannelEnd) -> Bool {
        guard phase == .open, let number = numbers.take() else { return false }
        channels[number] = make(number)
        send(.open, number, bytes: request)
        return true
    }

    func remove(_ end: ChannelEnd) {
        channels[end.number] = nil
        if current === end { current = nil }
    }

    func enqueue(_ end: ChannelEnd) {
        end.isQueued = true
        fresh.append(end)
    }

    /// Lets channels send, in turns, until the quantum is full.
    private func fill() {
        guard phase == .open, !isBlocked else { return }
        while output.byteCount < quantum, let (end, isFresh) = nextInTurn() {
            let limit = isFresh && hasQueued ? Self.freshLimit : quantum
            end.isQueued = false
            if end.link === self, end.takeTurn(limit: limit) { requeue(end) }
        }
    }

    private func nextInTurn() -> (ChannelEnd, isFresh: Bool)? {
        if freshTurns < Self.freshTurnsInRow || steady.isEmpty, let end = fresh.popFirst() {
            freshTurns += 1
            return (end, true)
        }
        freshTurns = 0
        return steady.popFirst().map { ($0, false) }
    }

    private func requeue(_ end: ChannelEnd) {
        guard !end.isQueued else { return }
        end.isQueued = true
        steady.append(end)
    }

    /// Sends what waits, in one call where the socket takes it all.
    func flush() {
        // Only a send as large as it may be tells how much the socket takes.
        let isFull = output.byteCount >= quantum
        while phase != .gone, !isBlocked, !output.isEmpty || !records.isEmpty {
            if session != nil, records.isEmpty, !encrypt() { return lose("the TLS session failed") }
            switch session == nil ? send(&output) : send(&records) {
            case .sent: if isFull { quantum = min(quantum * 2, Self.largestQuantum) }
            case .blocked:
                isBlocked = true
                quantum = Self.smallestQuantum
            case .failed(let reason): lose(reason)
            }
        }
    }

    private func encrypt() -> Bool {
        while !output.isEmpty, let session {
            guard case .written(let count) = session.write(output.first, output: &records, pool: loop.pool) else {
                return false
            }
            output.consume(count, to: loop.pool)
        }
        return true
    }

    private enum SendOutcome {
        case sent, blocked
        case failed(String)
    }

    private func send(_ buffer: inout OutboundBuffer) -> SendOutcome {
        while !buffer.isEmpty {
            switch System.send(socket.fileDescriptor, buffer) {
            case .bytes(let count): buffer.consume(count, to: loop.pool)
            case .wouldBlock: return .blocked
            case .failed(let code): return .failed(System.describe(errno: code))
            }
        }
        return .sent
    }
}

// The end.
extension Link {
    /// Says goodbye; the link goes when the relay has answered.
    func close(_ code: CloseCode, _ reason: String = "") {
        guard phase == .open else { return }
        sendClose(code, reason)
        phase = .closing
        endChannels(ChannelClose(code.rawValue, reason))
    }

    /// The relay has sent its close frame.
    func closed(_ code: CloseCode?, _ reason: String) {
        sendClose(code ?? .noStatus)
        flush()
        finish(.closed(owner.url, with: code, saying: reason))
    }

    /// The relay broke the protocol.
    func violated(_ reason: StaticString, code: CloseCode = .protocolError) {
        sendClose(code, "\(reason)")
        flush()
        lose("it broke the protocol: \(reason)")
    }

    /// The connection is gone.
    func lose(_ reason: String) { finish(.broken(owner.url, reason)) }

    /// Ends without a word.
    func disconnect() { finish(.broken(owner.url, "it was given up")) }

    private func sendClose(_ code: CloseCode, _ reason: String = "") {
        FrameEncoder.closePayload(code, reason: reason).withUnsafeBytes {
            sendMessage(.close, UnsafeRawBufferPointer(start: nil, count: 0), $0)
        }
    }

    private func finish(_ failure: ClientFailure) {
        guard phase != .gone else { return }
        phase = .gone
        // Inside of a record nothing else can be said.
        if records.isEmpty { socket.sayGoodbye() }
        loop.stopTiming(self)
        loop.remove(self)
        loop.forget(self)
        owner.lost(self, failure)
        endChannels(ChannelClose(1006, "the connection to the relay broke"))
    }

    private func endChannels(_ close: ChannelClose) {
        let ends = channels.values
        channels = [:]
        current = nil
        for end in ends {
            end.link = nil
            _ = end.state.closeReceived()
            end.over(close)
        }
    }
}
