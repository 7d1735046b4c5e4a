import Testing

@testable import Relay

@Suite struct DeadlinesTests {
    /// Accepted at 1000 ms; handshake 10 s, ping after 30 s, idle after 90 s, slow after 5 s.
    private let limits: Limits = {
        var limits = Limits()
        limits.handshakeTimeout = .seconds(10)
        limits.pingInterval = .seconds(30)
        limits.idleTimeout = .seconds(90)
        limits.slowConsumerDeadline = .seconds(5)
        return limits
    }()

    private func accepted() -> Deadlines { Deadlines(acceptedAt: 1000, limits: limits) }

    private func opened(at now: UInt64 = 2000) -> Deadlines {
        var deadlines = accepted()
        deadlines.enter(.open, at: now)
        deadlines.lastReceived = now
        return deadlines
    }

    /// Compares what is due just before and at `deadline`, and that the timer is set to it.
    private func check(
        _ deadlines: Deadlines, _ due: Deadlines.Due, at deadline: UInt64, isPaused: Bool = false,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(deadlines.due(at: deadline - 1, isPaused: isPaused, limits) == .nothing, sourceLocation: sourceLocation)
        #expect(deadlines.due(at: deadline, isPaused: isPaused, limits) == due, sourceLocation: sourceLocation)
        let now = min(deadline - 1, deadlines.lastReceived)
        #expect(deadlines.next(after: now, isPaused: isPaused, limits) == deadline, sourceLocation: sourceLocation)
    }

    // MARK: Phases

    @Test func `a handshake has its timeout from accept on, whatever arrives meanwhile`() {
        var deadlines = accepted()
        check(deadlines, .phase, at: 11_000)
        deadlines.lastReceived = 10_500
        #expect(deadlines.due(at: 11_000, isPaused: false, limits) == .phase)
        #expect(deadlines.next(after: 10_500, isPaused: false, limits) == 11_000)
    }

    @Test func `a handshake that waits for a hook keeps its deadline while it is paused`() {
        check(accepted(), .phase, at: 11_000, isPaused: true)
    }

    @Test(arguments: [
        (Deadlines.Phase.closing, 2000 + Deadlines.closingMilliseconds), (.finishing, 7000),
        (.lingering, 2000 + Deadlines.lingeringMilliseconds), (.request, 12_000), (.blocked, 7000),
        (.keepAlive, 92_000),
    ])
    func `each phase of a request and of the end has its own time`(phase: Deadlines.Phase, deadline: UInt64) {
        var deadlines = opened()
        deadlines.enter(phase, at: 2000, limits: limits)
        check(deadlines, .phase, at: deadline)
    }

    @Test func `scripts that answer have no time but their own`() {
        var deadlines = accepted()
        deadlines.enter(.answering, at: 2000)
        #expect(deadlines.due(at: 1_000_000, isPaused: false, limits) == .nothing)
        #expect(deadlines.next(after: 2000, isPaused: false, limits) == .max)
    }

    @Test func `finishing without limits has the time of closing`() {
        var deadlines = opened()
        deadlines.enter(.finishing, at: 2000)
        check(deadlines, .phase, at: 2000 + Deadlines.closingMilliseconds)
    }

    @Test func `whoever is on the way out is not drained, pinged or called idle as well`() {
        var deadlines = opened()
        deadlines.drain = 2001
        deadlines.credential = 2001
        deadlines.slowSince = 1
        deadlines.enter(.closing, at: 2000)
        #expect(deadlines.due(at: 2001, isPaused: false, limits) == .nothing)
        #expect(deadlines.next(after: 2000, isPaused: false, limits) == 2000 + Deadlines.closingMilliseconds)
    }

    // MARK: Open

    @Test func `silence is answered with one ping, and then with the end`() {
        var deadlines = opened()
        check(deadlines, .ping, at: 32_000)
        deadlines.pingSent = 32_000
        // Until the peer answers, no second ping.
        #expect(deadlines.due(at: 91_999, isPaused: false, limits) == .nothing)
        #expect(deadlines.next(after: 32_000, isPaused: false, limits) == 92_000)
        #expect(deadlines.due(at: 92_000, isPaused: false, limits) == .idle)
    }

    @Test func `a peer that answered is pinged again`() {
        var deadlines = opened()
        deadlines.pingSent = 32_000
        deadlines.lastReceived = 32_005
        check(deadlines, .ping, at: 62_005)
    }

    @Test func `an answer within the same millisecond counts`() {
        var deadlines = opened()
        deadlines.pingSent = 32_000
        deadlines.lastReceived = 32_000
        check(deadlines, .ping, at: 62_000)
    }

    @Test func `an idle timeout below the ping interval comes first`() {
        var limits = limits
        limits.idleTimeout = .seconds(20)
        let deadlines = opened()
        #expect(deadlines.next(after: 2000, isPaused: false, limits) == 22_000)
        #expect(deadlines.due(at: 22_000, isPaused: false, limits) == .idle)
    }

    @Test func `who is not read is blamed neither for silence nor with a ping`() {
        let deadlines = opened()
        #expect(deadlines.due(at: 1_000_000, isPaused: true, limits) == .nothing)
        // It is looked at again all the same, since it may be read again by then.
        #expect(deadlines.next(after: 50_000, isPaused: true, limits) == 80_000)
    }

    @Test(arguments: [false, true])
    func `a slow consumer has its deadline, read or not`(isPaused: Bool) {
        var deadlines = opened()
        deadlines.slowSince = 3000
        check(deadlines, .slowConsumer, at: 8000, isPaused: isPaused)
        deadlines.slowSince = 0
        #expect(deadlines.due(at: 8000, isPaused: isPaused, limits) == .nothing)
    }

    @Test(arguments: [false, true])
    func `a drain and an expired credential end it, read or not`(isPaused: Bool) {
        var draining = opened()
        draining.drain = 4000
        check(draining, .drain, at: 4000, isPaused: isPaused)
        var expiring = opened()
        expiring.credential = 5000
        check(expiring, .credential, at: 5000, isPaused: isPaused)
    }

    @Test func `of several that are due the most serious comes first`() {
        var deadlines = opened(at: 1)
        deadlines.slowSince = 1
        let late: UInt64 = 1_000_000
        #expect(deadlines.due(at: late, isPaused: false, limits) == .slowConsumer)
        deadlines.credential = 2
        #expect(deadlines.due(at: late, isPaused: false, limits) == .credential)
        deadlines.drain = 2
        #expect(deadlines.due(at: late, isPaused: false, limits) == .drain)
    }

    @Test func `a deadline that is past is looked at in the next millisecond, not in this one for ever`() {
        var deadlines = opened()
        deadlines.drain = 2000
        #expect(deadlines.next(after: 9000, isPaused: false, limits) == 9001)
    }

    @Test func `the timer never comes after something is due`() {
        var random = SeededGenerator(seed: 0x5eed)
        for _ in 0..<2000 {
            var deadlines = opened(at: .random(in: 1...100_000, using: &random))
            let now = deadlines.lastReceived + .random(in: 0...95_000, using: &random)
            if .random(using: &random) { deadlines.pingSent = now - .random(in: 0...1000, using: &random) }
            if .random(using: &random) { deadlines.slowSince = now - .random(in: 0...900, using: &random) }
            if .random(using: &random) { deadlines.drain = now + .random(in: 0...5000, using: &random) }
            let isPaused = Bool.random(using: &random)
            guard deadlines.due(at: now, isPaused: isPaused, limits) == .nothing else { continue }
            let next = deadlines.next(after: now, isPaused: isPaused, limits)
            #expect(next > now)
            #expect(deadlines.due(at: next - 1, isPaused: isPaused, limits) == .nothing, "\(deadlines) at \(now)")
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): the same numbers every time.
private struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

@Suite struct `Durations in milliseconds` {
    @Test(
        arguments: [
            (Duration.zero, 0), (.nanoseconds(1), 1), (.microseconds(999), 1), (.milliseconds(1), 1),
            (.nanoseconds(1_000_001), 2), (.milliseconds(1500), 1500), (.seconds(90), 90_000), (.seconds(-1), 0),
            (.seconds(-90), 0),
        ] as [(Duration, UInt64)])
    func `they are rounded up, and a negative one is none`(duration: Duration, milliseconds: UInt64) {
        #expect(duration.wholeMilliseconds == milliseconds)
    }
}

@Suite struct RateWindowTests {
    private func allowed(_ window: inout RateWindow, at now: UInt64, limit: Int, of count: Int) -> Int {
        (0..<count).count { _ in window.allows(at: now, limit: limit) }
    }

    @Test func `a limit of zero is none`() {
        var window = RateWindow()
        #expect(allowed(&window, at: 5000, limit: 0, of: 10_000) == 10_000)
    }

    @Test func `so many messages of one second pass, and the next second begins anew`() {
        var window = RateWindow()
        #expect(allowed(&window, at: 5000, limit: 3, of: 5) == 3)
        #expect(allowed(&window, at: 5999, limit: 3, of: 5) == 0)
        #expect(allowed(&window, at: 6000, limit: 3, of: 5) == 3)
    }

    @Test func `a limit that is lowered holds within the second`() {
        var window = RateWindow()
        #expect(allowed(&window, at: 5000, limit: 10, of: 4) == 4)
        #expect(allowed(&window, at: 5001, limit: 4, of: 1) == 0)
        #expect(allowed(&window, at: 5002, limit: 100, of: 1) == 1)
    }
}
