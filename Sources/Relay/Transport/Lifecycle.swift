/// The life of one connection, from accept to gone, as a pure machine: events in, small actions out. It knows nothing
/// of sockets, TLS or frames; `Connection` carries its actions out.
struct Lifecycle {
    private enum State {
        /// A proxy has to say first whose connection it is. Next: securing, readingHead, finishing, dead.
        case readingProxyHeader
        /// The TLS handshake is under way. Next: readingHead, finishing, dead.
        case securing
        /// The request head has not arrived whole. Next: admitting, finishing, dead.
        case readingHead
        /// The head is read; the app decides. Nothing is received meanwhile. Next: open, receivingBody, finishing,
        /// dead.
        case admitting
        /// An app's scripts will answer the request once its body is whole. Next: answering, finishing, dead.
        case receivingBody
        /// The scripts have the request. Next: readingHead, finishing, dead.
        case answering
        /// The 101 is sent: frames go both ways. Next: closing, finishing, dead.
        case open
        /// Our close frame is queued, the peer's has not come: its data is read and ignored. Next: finishing, dead.
        case closing
        /// All that will ever be sent is queued. Next: lingering or dead, when it has left.
        case finishing(mayReceiveMore: Bool)
        /// Our end of stream is sent; what still comes is thrown away, so that no reset overtakes our last bytes
        /// (RFC 9112 §9.6). Next: dead.
        case lingering
        case dead
    }

    private var state: State

    init(isSecure: Bool, isBehindProxy: Bool = false) {
        state = isBehindProxy ? .readingProxyHeader : isSecure ? .securing : .readingHead
    }

    private init(_ state: State) { self.state = state }

    /// A connection that this relay has made: its handshakes are done.
    static var dialled: Lifecycle { Lifecycle(.open) }

    // MARK: What may happen now

    var isReadingProxyHeader: Bool { if case .readingProxyHeader = state { true } else { false } }
    var isSecuring: Bool { if case .securing = state { true } else { false } }
    var isReadingHead: Bool { if case .readingHead = state { true } else { false } }
    var isAdmitting: Bool { if case .admitting = state { true } else { false } }
    var isReceivingBody: Bool { if case .receivingBody = state { true } else { false } }
    var isAnswering: Bool { if case .answering = state { true } else { false } }
    /// Incoming bytes are those of a request.
    var readsRequest: Bool { isReadingHead || isReceivingBody }
    /// Messages may be sent and are delivered.
    var isOpen: Bool { if case .open = state { true } else { false } }
    var isClosing: Bool { if case .closing = state { true } else { false } }
    var isFinishing: Bool { if case .finishing = state { true } else { false } }
    var isDead: Bool { if case .dead = state { true } else { false } }
    /// Still to be answered with a 101 or a refusal.
    var isBeforeOpen: Bool {
        switch state {
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering: true
        case .open, .closing, .finishing, .lingering, .dead: false
        }
    }
    /// Whatever still comes is thrown away.
    var ignoresInput: Bool {
        switch state {
        case .finishing, .lingering, .dead: true
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering, .open,
            .closing:
            false
        }
    }
    /// Incoming bytes are frames.
    var readsFrames: Bool { isOpen || isClosing }

    // MARK: Events

    mutating func proxied(isSecure: Bool) {
        guard case .readingProxyHeader = state else { preconditionFailure("proxied in \(state)") }
        state = isSecure ? .securing : .readingHead
    }

    mutating func secured() {
        guard case .securing = state else { preconditionFailure("secured in \(state)") }
        state = .readingHead
    }

    mutating func headRead() {
        guard case .readingHead = state else { preconditionFailure("head read in \(state)") }
        state = .admitting
    }

    /// False where the peer left while the app was deciding.
    mutating func admitted() -> Bool {
        guard case .admitting = state else { return false }
        state = .open
        return true
    }

    /// The app's scripts will be asked for an answer.
    mutating func bodyBegan() {
        guard case .admitting = state else { preconditionFailure("body began in \(state)") }
        state = .receivingBody
    }

    mutating func bodyReceived() {
        guard case .receivingBody = state else { preconditionFailure("body received in \(state)") }
        state = .answering
    }

    /// The answer is queued, and another request may come.
    mutating func answered() {
        guard case .answering = state else { preconditionFailure("answered in \(state)") }
        state = .readingHead
    }

    /// A response that is no 101 is to be sent; false where it is too late for one.
    mutating func refused() -> Bool {
        switch state {
        case .readingProxyHeader, .readingHead, .admitting, .receivingBody, .answering:
            state = .finishing(mayReceiveMore: true)
            return true
        case .securing, .open, .closing, .finishing, .lingering, .dead:
            return false
        }
    }

    enum CloseAction {
        case sendClose
        case none
    }

    /// The relay, a script or an operator wants the connection closed, orderly.
    mutating func closeRequested() -> CloseAction {
        guard case .open = state else { return .none }
        state = .closing
        return .sendClose
    }

    /// The peer's close frame is here.
    mutating func closeReceived() -> CloseAction {
        switch state {
        case .open:
            // The handshake of RFC 6455 §7.1.2 is complete once our echo has left; the server closes first.
            state = .finishing(mayReceiveMore: false)
            return .sendClose
        case .closing:
            state = .finishing(mayReceiveMore: false)
            return .none
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering, .finishing,
            .lingering, .dead:
            return .none
        }
    }

    /// The peer broke the protocol: say why and end, without waiting for its close frame (RFC 6455 §7.1.7).
    mutating func violated() -> CloseAction {
        switch state {
        case .open:
            state = .finishing(mayReceiveMore: true)
            return .sendClose
        case .closing:
            state = .finishing(mayReceiveMore: true)
            return .none
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering, .finishing,
            .lingering, .dead:
            return .none
        }
    }

    enum DrainAction {
        case none
        /// Send end of stream, and throw away what comes until the peer's.
        case shutdownWrite
        case disconnect
    }

    /// Everything that was queued has left.
    mutating func outputDrained() -> DrainAction {
        guard case .finishing(let mayReceiveMore) = state else { return .none }
        state = mayReceiveMore ? .lingering : .dead
        return mayReceiveMore ? .shutdownWrite : .disconnect
    }

    enum EndAction {
        case none
        case disconnect
    }

    /// The peer sent end of stream.
    mutating func endOfStream() -> EndAction {
        switch state {
        case .finishing:
            // Nothing more can come, so there is nothing to linger for; what is queued may still leave.
            state = .finishing(mayReceiveMore: false)
            return .none
        case .dead:
            return .none
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering, .open,
            .closing, .lingering:
            state = .dead
            return .disconnect
        }
    }

    /// Nothing can be said any more but what is queued: the TLS layer failed, or a frame broke off on its way. False
    /// where the end has begun already, which must not begin anew.
    mutating func silenced() -> Bool {
        switch state {
        case .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering, .open, .closing:
            state = .finishing(mayReceiveMore: true)
            return true
        case .finishing, .lingering, .dead:
            return false
        }
    }

    /// The connection is torn down, whatever it was doing.
    mutating func died() {
        state = .dead
    }
}
