import Testing

@testable import Relay

/// A window that expectations can call.
private final class Window {
    private var window = ReceiveWindow()

    /// Of 1000 bytes, that was granted `granted` and has passed on what it may.
    convenience init(granted: Int) {
        self.init()
        #expect(grant(granted))
        _ = passOn(queued: 0, limit: 1000)
    }

    var promised: Int { window.promised }
    var held: Int { window.held }
    func grant(_ bytes: Int) -> Bool { window.grant(bytes) }
    func take(_ bytes: Int) { window.take(bytes) }
    func passOn(queued: Int, limit: Int) -> Int { window.passOn(queued: queued, limit: limit) }
}

@Suite struct `Receive window` {
    @Test func `a grant within the limit is passed on whole`() {
        let window = Window()
        #expect(window.passOn(queued: 0, limit: 1000) == 0)
        #expect(window.grant(1000))
        #expect(window.passOn(queued: 0, limit: 1000) == 1000)
        #expect(window.promised == 1000 && window.held == 0)
        #expect(window.passOn(queued: 0, limit: 1000) == 0)
    }

    @Test func `what is beyond the limit is held, and none of it lost`() {
        let window = Window(granted: 2500)
        #expect(window.promised == 1000 && window.held == 1500)
        var sent = 1000
        while window.promised > 0 {
            window.take(window.promised)
            sent += window.passOn(queued: 0, limit: 1000)
        }
        #expect(sent == 2500 && window.held == 0)
    }

    @Test func `what waits for the receiver counts as if it were still to come`() {
        let window = Window(granted: 3000)
        window.take(1000)
        #expect(window.passOn(queued: 1000, limit: 1000) == 0)
        #expect(window.passOn(queued: 400, limit: 1000) == 600)
        #expect(window.promised == 600)
    }

    @Test func `credit does not come in driblets, but as half of the limit or all there is`() {
        let half = Window(granted: 3000)
        half.take(499)
        #expect(half.passOn(queued: 0, limit: 1000) == 0)
        half.take(1)
        #expect(half.passOn(queued: 0, limit: 1000) == 500)
        let rest = Window(granted: 1010)
        rest.take(9)
        #expect(rest.passOn(queued: 0, limit: 1000) == 0)
        rest.take(1)
        #expect(rest.passOn(queued: 0, limit: 1000) == 10)
    }

    @Test func `a limit of one byte lets bytes through one by one`() {
        let window = Window()
        #expect(window.grant(3))
        for _ in 0..<3 {
            #expect(window.passOn(queued: 0, limit: 1) == 1)
            #expect(window.passOn(queued: 0, limit: 1) == 0)
            window.take(1)
        }
        #expect(window.passOn(queued: 0, limit: 1) == 0)
    }

    @Test func `a receiver that grants without end is broken`() {
        let window = Window()
        #expect(window.grant(ReceiveWindow.maximumBytes))
        #expect(!window.grant(1))
        #expect(window.held == ReceiveWindow.maximumBytes)
        #expect(window.grant(0))
        // No more than a frame can say.
        #expect(window.passOn(queued: 0, limit: .max) == Int(UInt32.max))
    }

    @Test func `promised and queued are never more than the limit, whatever happens`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("receive windows: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for limit in [1, 2, 7, 1000] {
            let window = Window()
            var (granted, passed, queued, taken) = (0, 0, 0, 0)
            for _ in 0..<3000 {
                switch Int.random(in: 0..<4, using: &random) {
                case 0:
                    let bytes = Int.random(in: 0...(2 * limit), using: &random)
                    #expect(window.grant(bytes))
                    granted += bytes
                case 1:
                    let bytes = Int.random(in: 0...window.promised, using: &random)
                    window.take(bytes)
                    queued += bytes
                case 2:
                    let bytes = Int.random(in: 0...queued, using: &random)
                    queued -= bytes
                    taken += bytes
                default:
                    passed += window.passOn(queued: queued, limit: limit)
                }
                #expect(window.promised + queued <= limit, "seed \(seed)")
                #expect(passed == window.promised + queued + taken && granted == passed + window.held, "seed \(seed)")
            }
            // With a receiver that takes all of it, all that was granted comes.
            while window.held > 0 || window.promised > 0 {
                window.take(window.promised)
                passed += window.passOn(queued: 0, limit: limit)
            }
            #expect(passed == granted, "seed \(seed)")
        }
    }
}
