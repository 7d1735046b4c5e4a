/// One channel as this end sees it: what may be sent, what may come, and what follows from each event
/// (docs/relay.v1.md). Pure: frames are read and written elsewhere.
struct ChannelState {
    /// The half-closed phases are named as RFC 9113 §5.1 names them.
    enum Phase: Equatable, CaseIterable {
        /// We asked for it: the relay's `accept` begins it, its `reject` ends it.
        case opening
        /// The relay asks: our `accept` begins it, our `reject` ends it.
        case offered
        /// Data may flow both ways.
        case open
        /// We have sent `end`; data may still come.
        case halfClosedLocal
        /// The relay has sent `end`; data may still be sent.
        case halfClosedRemote
        /// Nothing is sent any more, and what still comes is ignored.
        case over
    }

    /// What a frame from the relay leads to.
    enum Received: Equatable {
        /// It came too late, and means nothing any more.
        case ignore
        /// Go on: the channel is open, there is more credit, or the data is to be delivered.
        case proceed
        /// The channel is over: `end` was answered by `end`, or the relay has closed or rejected it.
        case over
        /// Close the channel with this.
        case violation(ChannelClose)
    }

    private(set) var phase: Phase
    /// Bytes that may be sent.
    private var credit: Int
    /// What we grant in the beginning, and never more than that at once.
    private let window: Int
    /// Bytes that may still come.
    private var receivable: Int
    /// Bytes that came, are done with, and are not granted anew yet.
    private var consumed = 0
    /// The kind of the message that has begun and not ended.
    private var messageIsText: Bool?

    /// What an `open` without `credit` grants (docs/relay.v1.md, "Credit").
    static let defaultCredit = 262_144

    /// A channel that we ask for; `window` is what our `open` grants.
    static func opening(window: Int) -> ChannelState {
        ChannelState(phase: .opening, credit: 0, window: window, receivable: window)
    }

    /// A channel that the relay asks for, whose `open` granted `credit`; `window` is what our `accept` will grant.
    static func offered(credit: Int, window: Int) -> ChannelState {
        ChannelState(phase: .offered, credit: credit, window: window, receivable: window)
    }

    private init(phase: Phase, credit: Int, window: Int, receivable: Int) {
        self.phase = phase
        self.credit = credit
        self.window = window
        self.receivable = receivable
    }

    /// How many bytes may be sent now.
    var sendable: Int {
        switch phase {
        case .open, .halfClosedRemote: credit
        case .opening, .offered, .halfClosedLocal, .over: 0
        }
    }

    /// Whether nothing may come before more is granted.
    var isExhausted: Bool { receivable == 0 }

    /// Whether messages may be sent at all, be it only empty ones for now.
    var maySend: Bool { phase == .open || phase == .halfClosedRemote }

    private static func broken(_ rule: String) -> Received { .violation(ChannelClose(1002, rule)) }
}

// What the relay sends.
extension ChannelState {
    mutating func acceptReceived(credit: Int) -> Received {
        switch phase {
        case .opening:
            self.credit = credit
            phase = .open
            return .proceed
        case .offered, .open, .halfClosedLocal, .halfClosedRemote: return Self.broken("accepted what is not asked for")
        case .over: return .ignore
        }
    }

    mutating func rejectReceived() -> Received {
        switch phase {
        case .opening:
            phase = .over
            return .over
        case .offered, .open, .halfClosedLocal, .halfClosedRemote: return Self.broken("rejected what is not asked for")
        case .over: return .ignore
        }
    }

    /// A piece of a message; `endsMessage` where it is the last one.
    mutating func dataReceived(_ count: Int, isText: Bool, endsMessage: Bool) -> Received {
        switch phase {
        case .open, .halfClosedLocal: break
        case .opening, .offered: return Self.broken("data before the channel is open")
        case .halfClosedRemote: return Self.broken("data after end")
        case .over: return .ignore
        }
        guard messageIsText == nil || messageIsText == isText else {
            return Self.broken("the type changed within a message")
        }
        guard count <= receivable else { return .violation(ChannelClose(4006, "more data than was granted")) }
        receivable -= count
        messageIsText = endsMessage ? nil : isText
        return .proceed
    }

    mutating func creditReceived(_ count: Int) -> Received {
        switch phase {
        case .offered, .open, .halfClosedRemote:
            // What would be more than anybody ever sends is taken for no limit.
            credit = min(credit + count, Int(UInt32.max) * 2)
            return .proceed
        case .opening: return Self.broken("credit before the channel is open")
        // It was under way when we sent `end`.
        case .halfClosedLocal, .over: return .ignore
        }
    }

    mutating func endReceived() -> Received {
        switch phase {
        case .open:
            phase = .halfClosedRemote
            return .proceed
        case .halfClosedLocal:
            phase = .over
            return .over
        case .opening, .offered: return Self.broken("end before the channel is open")
        case .halfClosedRemote: return Self.broken("end after end")
        case .over: return .ignore
        }
    }

    mutating func closeReceived() -> Received {
        guard phase != .over else { return .ignore }
        phase = .over
        return .over
    }
}

// What we do. Each of these may come too late, because the relay has closed the channel: then nothing is to be sent.
extension ChannelState {
    /// Whether `accept`, which grants what this returns, is to be sent.
    mutating func accept() -> Int? {
        guard phase == .offered else { return nil }
        phase = .open
        return window
    }

    /// Whether `reject` is to be sent.
    mutating func reject() -> Bool {
        guard phase == .offered else { return false }
        phase = .over
        return true
    }

    /// Counts payload that was put into data frames, at most `sendable`.
    @inline(__always)
    mutating func sent(_ count: Int) {
        precondition(count <= credit, "sending beyond the credit of the channel")
        credit -= count
    }

    /// Whether `end` is to be sent.
    mutating func end() -> Bool {
        switch phase {
        case .open:
            phase = .halfClosedLocal
            return true
        case .halfClosedRemote:
            phase = .over
            return true
        case .opening, .offered, .halfClosedLocal, .over: return false
        }
    }

    /// Whether `close` is to be sent.
    mutating func close() -> Bool {
        guard phase != .over else { return false }
        phase = .over
        return true
    }

    /// Counts bytes that came and are done with; returns how many to grant anew, once half of the window is used.
    @inline(__always)
    mutating func consume(_ count: Int) -> Int {
        consumed += count
        guard consumed >= window / 2, consumed > 0, phase == .open || phase == .halfClosedLocal else { return 0 }
        defer { consumed = 0 }
        receivable += consumed
        return consumed
    }
}
