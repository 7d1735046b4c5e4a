import Testing

@testable import RelayClient

@Suite struct ChannelStateTests {
    private typealias Phase = ChannelState.Phase
    private typealias Received = ChannelState.Received

    /// A channel in a phase, with 100 bytes of credit where it may send, and a window of 100.
    private func channel(_ phase: ChannelState.Phase) -> ChannelState {
        var state = ChannelState.offered(credit: 100, window: 100)
        switch phase {
        case .opening: return .opening(window: 100)
        case .offered: return state
        case .open, .halfClosedLocal, .halfClosedRemote, .over: #expect(state.accept() == 100)
        }
        switch phase {
        case .halfClosedLocal: _ = state.end()
        case .halfClosedRemote: _ = state.endReceived()
        case .over: _ = state.close()
        case .opening, .offered, .open: break
        }
        #expect(state.phase == phase)
        return state
    }

    /// What an event leads to in each phase, and the phase after it.
    private func check<Result: Equatable>(
        _ event: (inout ChannelState) -> Result, _ expected: [ChannelState.Phase: (Result, ChannelState.Phase)],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for phase in Phase.allCases {
            var state = channel(phase)
            let result = event(&state)
            let (wanted, next) = expected[phase]!  // A case that is missing has been forgotten: the test is wrong.
            #expect(result == wanted, "in \(phase)", sourceLocation: sourceLocation)
            #expect(state.phase == next, "from \(phase)", sourceLocation: sourceLocation)
        }
    }

    private func broken(_ rule: String) -> ChannelState.Received { .violation(ChannelClose(1002, rule)) }

    // MARK: What the relay sends, in every phase

    @Test func `accept opens what was asked for`() {
        let wrong = broken("accepted what is not asked for")
        check(
            { $0.acceptReceived(credit: 7) },
            [
                .opening: (.proceed, .open), .offered: (wrong, .offered), .open: (wrong, .open),
                .halfClosedLocal: (wrong, .halfClosedLocal), .halfClosedRemote: (wrong, .halfClosedRemote),
                .over: (.ignore, .over),
            ])
        var state = channel(.opening)
        #expect(state.sendable == 0)
        _ = state.acceptReceived(credit: 7)
        #expect(state.sendable == 7)
    }

    @Test func `reject ends what was asked for`() {
        let wrong = broken("rejected what is not asked for")
        check(
            { $0.rejectReceived() },
            [
                .opening: (.over, .over), .offered: (wrong, .offered), .open: (wrong, .open),
                .halfClosedLocal: (wrong, .halfClosedLocal), .halfClosedRemote: (wrong, .halfClosedRemote),
                .over: (.ignore, .over),
            ])
    }

    @Test func `data comes until the other end has ended`() {
        let early = broken("data before the channel is open")
        check(
            { $0.dataReceived(1, isText: false, endsMessage: true) },
            [
                .opening: (early, .opening), .offered: (early, .offered), .open: (.proceed, .open),
                .halfClosedLocal: (.proceed, .halfClosedLocal),
                .halfClosedRemote: (broken("data after end"), .halfClosedRemote), .over: (.ignore, .over),
            ])
    }

    @Test func `credit counts as long as there is something to send`() {
        check(
            { $0.creditReceived(5) },
            [
                .opening: (broken("credit before the channel is open"), .opening), .offered: (.proceed, .offered),
                .open: (.proceed, .open), .halfClosedLocal: (.ignore, .halfClosedLocal),
                .halfClosedRemote: (.proceed, .halfClosedRemote), .over: (.ignore, .over),
            ])
        var state = channel(.open)
        _ = state.creditReceived(5)
        #expect(state.sendable == 105)
    }

    @Test func `end closes one half, or what is left`() {
        let early = broken("end before the channel is open")
        check(
            { $0.endReceived() },
            [
                .opening: (early, .opening), .offered: (early, .offered), .open: (.proceed, .halfClosedRemote),
                .halfClosedLocal: (.over, .over), .halfClosedRemote: (broken("end after end"), .halfClosedRemote),
                .over: (.ignore, .over),
            ])
    }

    @Test func `close ends everything`() {
        check(
            { $0.closeReceived() },
            [
                .opening: (.over, .over), .offered: (.over, .over), .open: (.over, .over),
                .halfClosedLocal: (.over, .over), .halfClosedRemote: (.over, .over), .over: (.ignore, .over),
            ])
    }

    // MARK: What we do, in every phase

    @Test func `only what is offered is accepted or rejected`() {
        check(
            { $0.accept() },
            [
                .opening: (nil, .opening), .offered: (100, .open), .open: (nil, .open),
                .halfClosedLocal: (nil, .halfClosedLocal), .halfClosedRemote: (nil, .halfClosedRemote),
                .over: (nil, .over),
            ])
        check(
            { $0.reject() },
            [
                .opening: (false, .opening), .offered: (true, .over), .open: (false, .open),
                .halfClosedLocal: (false, .halfClosedLocal), .halfClosedRemote: (false, .halfClosedRemote),
                .over: (false, .over),
            ])
    }

    @Test func `our end is sent once, and only where data could be`() {
        check(
            { $0.end() },
            [
                .opening: (false, .opening), .offered: (false, .offered), .open: (true, .halfClosedLocal),
                .halfClosedLocal: (false, .halfClosedLocal), .halfClosedRemote: (true, .over), .over: (false, .over),
            ])
    }

    @Test func `our close is sent once`() {
        check(
            { $0.close() },
            [
                .opening: (true, .over), .offered: (true, .over), .open: (true, .over),
                .halfClosedLocal: (true, .over), .halfClosedRemote: (true, .over), .over: (false, .over),
            ])
    }

    @Test func `data may be sent while our half is open`() {
        for phase in Phase.allCases {
            let state = channel(phase)
            #expect(state.maySend == (phase == .open || phase == .halfClosedRemote), "in \(phase)")
            #expect(state.sendable == (state.maySend ? 100 : 0), "in \(phase)")
        }
    }

    // MARK: Counting

    @Test func `more than was granted closes the channel`() {
        var state = channel(.open)
        #expect(state.dataReceived(100, isText: false, endsMessage: true) == .proceed)
        #expect(state.isExhausted)
        #expect(state.dataReceived(0, isText: false, endsMessage: true) == .proceed)
        #expect(
            state.dataReceived(1, isText: false, endsMessage: true)
                == .violation(ChannelClose(4006, "more data than was granted")))
    }

    @Test func `half of the window is granted anew when it is used, in one piece`() {
        var state = channel(.open)
        _ = state.dataReceived(90, isText: false, endsMessage: true)
        #expect(state.consume(49) == 0)
        #expect(state.consume(1) == 50)
        #expect(state.consume(40) == 0)
        // 100 − 90 + 50.
        #expect(state.dataReceived(60, isText: false, endsMessage: true) == .proceed)
        #expect(state.isExhausted)
        #expect(state.consume(10) == 50)
    }

    @Test func `nothing is granted to somebody who has ended`() {
        for phase in [Phase.halfClosedRemote, .over] {
            var state = channel(phase)
            #expect(state.consume(100) == 0, "in \(phase)")
        }
    }

    @Test func `sending uses credit up`() {
        var state = channel(.open)
        state.sent(100)
        #expect(state.sendable == 0)
        #expect(state.maySend)
        _ = state.creditReceived(Int(UInt32.max))
        _ = state.creditReceived(Int(UInt32.max))
        _ = state.creditReceived(Int(UInt32.max))
        #expect(state.sendable == Int(UInt32.max) * 2)
    }

    @Test func `the type of a message stays the same to its end`() {
        var state = channel(.open)
        #expect(state.dataReceived(1, isText: true, endsMessage: false) == .proceed)
        #expect(state.dataReceived(1, isText: true, endsMessage: true) == .proceed)
        #expect(state.dataReceived(1, isText: false, endsMessage: false) == .proceed)
        #expect(
            state.dataReceived(1, isText: true, endsMessage: true) == broken("the type changed within a message"))
    }
}
