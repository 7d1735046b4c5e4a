/// When a connection has to have done what: a pure computation over milliseconds of the monotonic clock. One timer per
/// connection suffices: it is set to the next deadline and looks again when it fires, so that a frame costs no timer.
struct Deadlines {
    enum Phase {
        case handshake, open, closing, finishing, lingering
        /// A request that is not the first has begun, or its body is on its way.
        case request
        /// Scripts have a request: their own time is limited.
        case answering
        /// An answer is above the high watermark: nothing is read until it has left.
        case blocked
        /// Nothing of the next request has come.
        case keepAlive
    }

    /// How long we wait for the peer's close frame, and for its end of stream after ours. Browsers wait 2–3 s on their
    /// side; beyond 5 s only a peer that is gone keeps silent.
    static let closingMilliseconds: UInt64 = 5_000
    static let lingeringMilliseconds: UInt64 = 2_000

    var lastReceived: UInt64
    /// Since when the output has been above its high watermark; 0 while it is not.
    var slowSince: UInt64 = 0
    /// Since when a clean connection's messages have had no credit; 0 while they have.
    var stalledSince: UInt64 = 0
    /// When the oldest open that this connection has not answered is overdue.
    var opening = UInt64.max
    private(set) var phase = Phase.handshake
    private var phaseDeadline: UInt64
    var pingSent: UInt64 = 0
    /// When to leave, once the relay drains.
    var drain = UInt64.max
    /// When the credential that it was opened with expires.
    var credential = UInt64.max

    init(acceptedAt now: UInt64, limits: Limits) {
        lastReceived = now
        phaseDeadline = now + limits.handshakeTimeout.wholeMilliseconds
    }

    mutating func enter(_ phase: Phase, at now: UInt64, limits: Limits? = nil) {
        self.phase = phase
        switch phase {
        case .handshake, .open, .answering: phaseDeadline = .max
        case .closing: phaseDeadline = now + Self.closingMilliseconds
        case .finishing:
            phaseDeadline = now + (limits?.slowConsumerDeadline.wholeMilliseconds ?? Self.closingMilliseconds)
        case .lingering: phaseDeadline = now + Self.lingeringMilliseconds
        case .request: phaseDeadline = now + (limits?.handshakeTimeout.wholeMilliseconds ?? Self.closingMilliseconds)
        case .blocked:
            phaseDeadline = now + (limits?.slowConsumerDeadline.wholeMilliseconds ?? Self.closingMilliseconds)
        case .keepAlive: phaseDeadline = now + (limits?.idleTimeout.wholeMilliseconds ?? Self.closingMilliseconds)
        }
    }

    enum Due {
        case nothing
        /// The phase (handshake, closing, …) has taken too long.
        case phase
        case drain
        case credential
        case slowConsumer
        /// The other end of its channel has given no credit for too long.
        case stalled
        case opening
        case idle
        case ping
    }

    /// What is due now, the most serious first.
    func due(at now: UInt64, isPaused: Bool, _ limits: Limits) -> Due {
        guard phase == .open else { return now >= phaseDeadline ? .phase : .nothing }
        if now >= drain { return .drain }
        if now >= credential { return .credential }
        if slowSince > 0, now >= slowSince + limits.slowConsumerDeadline.wholeMilliseconds { return .slowConsumer }
        if stalledSince > 0, now >= stalledSince + limits.slowConsumerDeadline.wholeMilliseconds { return .stalled }
        if now >= opening { return .opening }
        // Who is not read cannot be blamed for silence.
        if isPaused { return .nothing }
        if now >= lastReceived + limits.idleTimeout.wholeMilliseconds { return .idle }
        if pingSent <= lastReceived, now >= lastReceived + limits.pingInterval.wholeMilliseconds { return .ping }
        return .nothing
    }

    /// When to look again.
    func next(after now: UInt64, isPaused: Bool, _ limits: Limits) -> UInt64 {
        guard phase == .open else { return phaseDeadline }
        var next = min(drain, credential)
        if slowSince > 0 { next = min(next, slowSince + limits.slowConsumerDeadline.wholeMilliseconds) }
        if stalledSince > 0 { next = min(next, stalledSince + limits.slowConsumerDeadline.wholeMilliseconds) }
        next = min(next, opening)
        let ping = limits.pingInterval.wholeMilliseconds
        if isPaused { return min(next, now + ping) }
        next = min(next, lastReceived + limits.idleTimeout.wholeMilliseconds)
        if pingSent <= lastReceived { next = min(next, lastReceived + ping) }
        return max(next, now + 1)
    }
}

extension Duration {
    /// Rounded up, so that a short duration is not none; a negative one is none, and none is longer than a century.
    var wholeMilliseconds: UInt64 {
        let (seconds, attoseconds) = min(max(self, .zero), .seconds(3_200_000_000)).components
        return UInt64(seconds) * 1000 + UInt64((attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    }
}

/// Counts the messages of one second against `messagesPerSecond`.
struct RateWindow {
    private var start: UInt64 = 0
    private var count = 0

    /// False where this message is one too many. `limit` 0 is no limit.
    mutating func allows(at now: UInt64, limit: Int) -> Bool {
        guard left(at: now, limit: limit) > 0 else { return false }
        take(1)
        return true
    }

    /// Messages that may still come in this second.
    mutating func left(at now: UInt64, limit: Int) -> Int {
        guard limit > 0 else { return .max }
        if now >= start + 1000 {
            start = now
            count = 0
        }
        return max(0, limit - count)
    }

    mutating func take(_ messages: Int) { count &+= messages }
}
