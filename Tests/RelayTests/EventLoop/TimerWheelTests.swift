import Testing

@testable import Relay

@Suite struct `Timer wheel` {
    private func advance(_ wheel: inout TimerWheel, to now: UInt64) -> [UInt64] {
        var expired: [UInt64] = []
        wheel.advance(to: now, &expired)
        return expired
    }

    private func cancel(_ wheel: inout TimerWheel, _ timer: TimerID) -> Bool { wheel.cancel(timer) }

    @Test func `a timer fires at its deadline, not a tick before`() {
        for deadline: UInt64 in [
            1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 1 << 24, (1 << 24) + 1, 1 << 32, (1 << 32) + 7,
            1 << 40,
        ] {
            for start: UInt64 in [0, 1, 200, 255, 256, 70_000, (1 << 32) - 5] where start < deadline {
                var wheel = TimerWheel()
                #expect(advance(&wheel, to: start).isEmpty)
                _ = wheel.schedule(at: deadline, payload: 7)
                #expect(advance(&wheel, to: deadline - 1).isEmpty, "\(deadline) from \(start)")
                #expect(advance(&wheel, to: deadline) == [7], "\(deadline) from \(start)")
                #expect(wheel.count == 0 && wheel.nextDeadline == nil)
            }
        }
    }

    @Test func `a deadline that is past fires at the next call, even at the same time`() {
        var wheel = TimerWheel()
        #expect(advance(&wheel, to: 1000).isEmpty)
        _ = wheel.schedule(at: 0, payload: 1)
        _ = wheel.schedule(at: 1000, payload: 2)
        #expect(wheel.nextDeadline == 1000)
        #expect(advance(&wheel, to: 1000) == [1, 2])
        #expect(advance(&wheel, to: 5).isEmpty)
    }

    @Test func `timers of one deadline fire as they were scheduled, from whatever level they come`() {
        var wheel = TimerWheel()
        _ = wheel.schedule(at: 70_000, payload: 1)
        _ = advance(&wheel, to: 60_000)
        _ = wheel.schedule(at: 70_000, payload: 2)
        _ = advance(&wheel, to: 69_900)
        _ = wheel.schedule(at: 70_000, payload: 3)
        _ = wheel.schedule(at: 69_999, payload: 0)
        #expect(advance(&wheel, to: 80_000) == [0, 1, 2, 3])
    }

    @Test func `cancelling what has fired, was cancelled or gave its place away is harmless`() {
        var wheel = TimerWheel()
        let fired = wheel.schedule(at: 5, payload: 1)
        #expect(advance(&wheel, to: 5) == [1])
        #expect(!cancel(&wheel, fired))
        let next = wheel.schedule(at: 6, payload: 2)
        #expect(!cancel(&wheel, fired))
        #expect(wheel.count == 1)
        #expect(cancel(&wheel, next))
        #expect(!cancel(&wheel, next))
        #expect(wheel.nextDeadline == nil && advance(&wheel, to: 100).isEmpty)
    }

    @Test func `the furthest deadline there is neither traps nor takes long`() {
        var wheel = TimerWheel()
        _ = wheel.schedule(at: .max, payload: 1)
        let earlier = wheel.schedule(at: 1 << 40, payload: 2)
        #expect(cancel(&wheel, earlier))
        #expect(advance(&wheel, to: 1 << 62).isEmpty)
        #expect(advance(&wheel, to: .max - 1).isEmpty)
        #expect(advance(&wheel, to: .max) == [1])
    }

    @Test func `waking at each next deadline finds every timer on its tick in few wake-ups`() {
        var wheel = TimerWheel()
        for deadline: UInt64 in [30_000, 90_000, 90_001, 5_000_000] {
            _ = wheel.schedule(at: deadline, payload: deadline)
        }
        var fired: [UInt64] = []
        var wakeUps = 0
        while let next = wheel.nextDeadline {
            wakeUps += 1
            for payload in advance(&wheel, to: next) {
                #expect(payload == next)
                fired.append(payload)
            }
        }
        #expect(fired == [30_000, 90_000, 90_001, 5_000_000])
        #expect(wakeUps <= 16)
    }

    /// The same timers in the simplest way: a list.
    private struct Model {
        var timers: [(deadline: UInt64, payload: UInt64)] = []
        var now: UInt64 = 0
        mutating func advance(to time: UInt64) -> [UInt64] {
            now = max(now, time)
            // Scheduling order breaks ties: payloads are numbered in that order.
            let due = timers.filter { $0.deadline <= now }.sorted {
                ($0.deadline, $0.payload) < ($1.deadline, $1.payload)
            }
            timers.removeAll { $0.deadline <= now }
            return due.map(\.payload)
        }
    }

    @Test func `seeded operations agree with a list`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("timer wheel: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for round in 0..<60 {
            var wheel = TimerWheel()
            var model = Model()
            var ids: [(UInt64, TimerID)] = []
            var serial: UInt64 = 0
            if round % 3 == 1 { model.now = (1 << 32) - 3000 }
            if round % 3 == 2 { model.now = UInt64.random(in: 0...(1 << 40), using: &random) }
            #expect(advance(&wheel, to: model.now).isEmpty)
            for _ in 0..<400 {
                switch Int.random(in: 0..<10, using: &random) {
                case 0..<5:
                    let reach =
                        UInt64(1)
                        << UInt64.random(in: 0...[9, 17, 25, 34].randomElement(using: &random)!, using: &random)
                    let deadline = model.now + UInt64.random(in: 0...reach, using: &random)
                    ids.append((serial, wheel.schedule(at: deadline, payload: serial)))
                    model.timers.append((deadline, serial))
                    serial += 1
                case 5..<7:
                    guard let (payload, id) = ids.randomElement(using: &random) else { continue }
                    let isPending = model.timers.contains { $0.payload == payload }
                    #expect(cancel(&wheel, id) == isPending, "seed \(seed)")
                    model.timers.removeAll { $0.payload == payload }
                default:
                    let step =
                        UInt64(1)
                        << UInt64.random(in: 0...[8, 12, 18, 33].randomElement(using: &random)!, using: &random)
                    let time = model.now + UInt64.random(in: 0...step, using: &random)
                    #expect(advance(&wheel, to: time) == model.advance(to: time), "seed \(seed)")
                }
                #expect(wheel.count == model.timers.count, "seed \(seed)")
                let earliest = model.timers.map(\.deadline).min()
                switch (wheel.nextDeadline, earliest) {
                case (nil, nil): break
                case (let bound?, let earliest?): #expect(bound <= earliest && bound >= model.now, "seed \(seed)")
                default: Issue.record("a timer is lost or invented; seed \(seed)")
                }
            }
        }
    }
}
