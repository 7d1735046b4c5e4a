import Testing

@testable import Relay

/// The whole table of the machine: every event in every state.
@Suite struct `Life of a connection` {
    enum Phase: CaseIterable {
        case readingProxyHeader, securing, readingHead, admitting, receivingBody, answering, open, closing
        /// Finishing, with more to throw away afterwards; and with nothing to come.
        case finishing, finishingLast
        case lingering, dead

        /// A lifecycle that has come here by events alone.
        func reached() -> Lifecycle {
            var lifecycle = Lifecycle(isSecure: true, isBehindProxy: true)
            if self == .readingProxyHeader { return lifecycle }
            lifecycle.proxied(isSecure: true)
            if self == .securing { return lifecycle }
            lifecycle.secured()
            if self == .readingHead { return lifecycle }
            lifecycle.headRead()
            if self == .admitting { return lifecycle }
            if self == .receivingBody || self == .answering {
                lifecycle.bodyBegan()
                if self == .answering { lifecycle.bodyReceived() }
                return lifecycle
            }
            _ = lifecycle.admitted()
            if self == .open { return lifecycle }
            switch self {
            case .finishing, .lingering: _ = lifecycle.violated()
            case .finishingLast: _ = lifecycle.closeReceived()
            case .dead: lifecycle.died()
            default: _ = lifecycle.closeRequested()
            }
            if self == .lingering { _ = lifecycle.outputDrained() }
            return lifecycle
        }

        /// Where a lifecycle is, by what can be seen of it. Where `finishing` leads shows when all has left.
        init(of lifecycle: Lifecycle) {
            if lifecycle.isReadingProxyHeader {
                self = .readingProxyHeader
            } else if lifecycle.isSecuring {
                self = .securing
            } else if lifecycle.isReadingHead {
                self = .readingHead
            } else if lifecycle.isAdmitting {
                self = .admitting
            } else if lifecycle.isReceivingBody {
                self = .receivingBody
            } else if lifecycle.isAnswering {
                self = .answering
            } else if lifecycle.isOpen {
                self = .open
            } else if lifecycle.isClosing {
                self = .closing
            } else if lifecycle.isFinishing {
                var drained = lifecycle
                self = drained.outputDrained() == .shutdownWrite ? .finishing : .finishingLast
            } else {
                self = lifecycle.isDead ? .dead : .lingering
            }
        }
    }

    /// Sends `event` to a lifecycle in every phase that `phases` has. What `changes` does not name stays as it was and
    /// answers `otherwise`.
    private func check<Action: Equatable>(
        _ event: (inout Lifecycle) -> Action, in phases: [Phase] = Phase.allCases, otherwise: Action,
        _ changes: [Phase: (Action, Phase)], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        for phase in phases {
            var lifecycle = phase.reached()
            #expect(Phase(of: lifecycle) == phase, sourceLocation: sourceLocation)
            let action = event(&lifecycle)
            let (expectedAction, next) = changes[phase] ?? (otherwise, phase)
            #expect(action == expectedAction, "in \(phase)", sourceLocation: sourceLocation)
            #expect(Phase(of: lifecycle) == next, "from \(phase)", sourceLocation: sourceLocation)
        }
    }

    private func happens(_ event: @escaping (inout Lifecycle) -> Void) -> (inout Lifecycle) -> Bool {
        { lifecycle in
            event(&lifecycle)
            return true
        }
    }

    @Test func `a plain connection begins with its head, a secure one with TLS, behind a proxy with its header`() {
        #expect(Phase(of: Lifecycle(isSecure: false)) == .readingHead)
        #expect(Phase(of: Lifecycle(isSecure: true)) == .securing)
        #expect(Phase(of: Lifecycle(isSecure: false, isBehindProxy: true)) == .readingProxyHeader)
    }

    @Test func `the way from TLS to frames`() {
        check(
            happens { $0.proxied(isSecure: true) }, in: [.readingProxyHeader], otherwise: true,
            [.readingProxyHeader: (true, .securing)])
        check(
            happens { $0.proxied(isSecure: false) }, in: [.readingProxyHeader], otherwise: true,
            [.readingProxyHeader: (true, .readingHead)])
        check(happens { $0.secured() }, in: [.securing], otherwise: true, [.securing: (true, .readingHead)])
        check(happens { $0.headRead() }, in: [.readingHead], otherwise: true, [.readingHead: (true, .admitting)])
    }

    @Test func `the way of a request that stays HTTP, and back to the next head`() {
        check(happens { $0.bodyBegan() }, in: [.admitting], otherwise: true, [.admitting: (true, .receivingBody)])
        check(
            happens { $0.bodyReceived() }, in: [.receivingBody], otherwise: true, [.receivingBody: (true, .answering)])
        check(happens { $0.answered() }, in: [.answering], otherwise: true, [.answering: (true, .readingHead)])
    }

    @Test func `an app's yes opens only who still waits for it`() {
        check({ $0.admitted() }, otherwise: false, [.admitting: (true, .open)])
    }

    @Test func `a refusal can be sent until the 101, but not within TLS's handshake`() {
        check(
            { $0.refused() }, otherwise: false,
            [
                .readingProxyHeader: (true, .finishing), .readingHead: (true, .finishing),
                .admitting: (true, .finishing), .receivingBody: (true, .finishing), .answering: (true, .finishing),
            ])
    }

    @Test func `our close frame is sent once, and only on an open connection`() {
        check({ $0.closeRequested() }, otherwise: .none, [.open: (.sendClose, .closing)])
    }

    @Test func `the peer's close frame is echoed unless it answers ours`() {
        check(
            { $0.closeReceived() }, otherwise: .none,
            [.open: (.sendClose, .finishingLast), .closing: (.none, .finishingLast)])
    }

    @Test func `a violation is answered once, and what still comes is thrown away`() {
        check(
            { $0.violated() }, otherwise: .none,
            [.open: (.sendClose, .finishing), .closing: (.none, .finishing)])
    }

    @Test func `when the last bytes have left, the connection lingers if its peer may still send`() {
        check(
            { $0.outputDrained() }, otherwise: .none,
            [.finishing: (.shutdownWrite, .lingering), .finishingLast: (.disconnect, .dead)])
    }

    @Test func `the peer's end of stream ends all but what is still to be sent`() {
        let ended = (Lifecycle.EndAction.disconnect, Phase.dead)
        check(
            { $0.endOfStream() }, otherwise: .none,
            [
                .readingProxyHeader: ended, .securing: ended, .readingHead: ended, .admitting: ended, .open: ended,
                .closing: ended, .receivingBody: ended, .answering: ended,
                .lingering: ended, .finishing: (.none, .finishingLast),
            ])
    }

    @Test func `a failure of TLS leaves only the alert to be sent, and does not begin an end anew`() {
        let alert = (true, Phase.finishing)
        check(
            { $0.silenced() }, otherwise: false,
            [
                .readingProxyHeader: alert, .securing: alert, .readingHead: alert, .admitting: alert,
                .receivingBody: alert, .answering: alert, .open: alert, .closing: alert,
            ])
    }

    @Test func `whatever it was doing, it can die`() {
        let changes = Dictionary(uniqueKeysWithValues: Phase.allCases.map { ($0, (true, Phase.dead)) })
        check(happens { $0.died() }, otherwise: true, changes)
    }

    @Test func `frames are read while it is open and until the peer's close frame has come`() {
        for phase in Phase.allCases {
            let lifecycle = phase.reached()
            #expect(lifecycle.readsFrames == [.open, .closing].contains(phase), "\(phase)")
            let before: [Phase] = [
                .readingProxyHeader, .securing, .readingHead, .admitting, .receivingBody, .answering,
            ]
            #expect(lifecycle.isBeforeOpen == before.contains(phase), "\(phase)")
            #expect(lifecycle.readsRequest == [.readingHead, .receivingBody].contains(phase), "\(phase)")
        }
    }

    @Test func `events that only our own code can get wrong trap`() async {
        await #expect(processExitsWith: .failure) {
            var lifecycle = Lifecycle(isSecure: false)
            lifecycle.secured()
        }
        await #expect(processExitsWith: .failure) {
            var lifecycle = Lifecycle(isSecure: false)
            lifecycle.proxied(isSecure: false)
        }
        await #expect(processExitsWith: .failure) {
            var lifecycle = Lifecycle(isSecure: true)
            lifecycle.headRead()
        }
    }
}
