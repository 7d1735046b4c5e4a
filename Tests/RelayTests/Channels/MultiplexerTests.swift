import Testing

@testable import Relay

/// A multiplexed connection's channels, on a loop that does not run.
private final class ChannelBench {
    private let fixture: AppFixture
    private let connection: Connection
    let channels = Multiplexer(isDialled: false, isLink: false)
    private(set) var output = OutboundBuffer()
    private var ends: [UInt32: ChannelEnd] = [:]

    init() throws {
        fixture = try AppFixture()
        let listener = ListenerSettings(
            try ListenerURL(parsing: "ws://127.0.0.1:0"), boundPort: 1, isAdmin: false, tls: nil)
        connection = Connection(
            fileDescriptor: -1, address: .unix, listener: listener, loop: fixture.loop, isCounted: false,
            isAddressCounted: false)
    }

    func end(_ number: UInt32) -> ChannelEnd {
        if let end = ends[number] { return end }
        let end = ChannelEnd(connection, ChannelNumber(number), isServer: false)
        ends[number] = end
        channels.insert(end)
        return end
    }

    /// Queues chunks of so many bytes, at most 4096 each.
    func queue(_ number: UInt32, _ chunks: Int...) {
        let end = end(number)
        for chunk in chunks {
            let room = end.queue.reserve(
                chunk, atLeast: ChunkSize.small.bytes, growth: .small, from: fixture.loop.pool)
            for index in 0..<chunk { room[index] = UInt8(truncatingIfNeeded: number) }
            end.queue.commit(chunk)
        }
        channels.queued(chunks.reduce(0, +), of: end)
    }

    /// Whose turn it is, each time that the socket has taken all; until nothing waits, or `most` have had theirs.
    func turns(_ most: Int = .max) -> [UInt32] {
        var turns: [UInt32] = []
        while turns.count < most, let end = channels.giveTurn(&output, encrypted: 0) {
            turns.append(end.number.rawValue)
            take()
        }
        return turns
    }

    /// One turn into an output that nobody takes.
    func turn(encrypted: Int = 0) -> UInt32? {
        channels.giveTurn(&output, encrypted: encrypted)?.number.rawValue
    }

    func take() { output.consume(output.byteCount, to: fixture.loop.pool) }

    /// The channel is over; what it has queued still leaves.
    func close(_ number: UInt32) {
        let end = end(number)
        end.dissolve()
        channels.remove(end)
    }

    func clear() { channels.removeAll(to: fixture.loop.pool) }
}

@Suite struct `Turns of channels` {
    @Test func `channels take turns of one chunk, those with little first`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 4096, 4096, 4096)
        bench.queue(3, 4096, 4096, 100)
        bench.queue(5, 1024)
        bench.queue(7, 1025)
        #expect(bench.turns() == [5, 1, 3, 1, 7, 3, 1, 3])
        #expect(!bench.channels.hasBacklog && bench.channels.backlogBytes == 0)
    }

    @Test func `those that come with little go first three times in a row, then who waited`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 4096, 4096, 4096, 4096, 4096)
        #expect(bench.turns(1) == [1])
        for number in stride(from: UInt32(3), through: 13, by: 2) { bench.queue(number, 10) }
        #expect(bench.turns() == [3, 5, 1, 7, 9, 11, 1, 13, 1, 1])
    }

    @Test func `three in a row holds for those that come with much as well`() throws {
        let bench = try ChannelBench()
        for number in stride(from: UInt32(1), through: 11, by: 2) { bench.queue(number, 4096, 1) }
        #expect(bench.turns() == [1, 3, 5, 1, 7, 9, 11, 3, 5, 7, 9, 11])
    }

    @Test func `a channel that is in turn keeps its place when more comes`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 2000)
        bench.queue(3, 2000)
        bench.queue(1, 10)
        #expect(bench.turns() == [1, 3, 1])
        bench.queue(3, 10)
        #expect(bench.turns() == [3])
    }

    @Test func `no more than a burst is put in front of the socket`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 4096, 4096, 4096, 4096)
        #expect(bench.turn() == 1 && bench.turn() == 1)
        #expect(bench.output.byteCount == Multiplexer.leastBurst && bench.turn() == nil)
        #expect(bench.channels.hasBacklog && bench.channels.backlogBytes == 8192)
        bench.take()
        #expect(bench.turn(encrypted: Multiplexer.leastBurst) == nil)
        #expect(bench.turn(encrypted: Multiplexer.leastBurst - 1) == 1)
        #expect(bench.turn(encrypted: 4096) == nil)
        #expect(bench.turn(encrypted: 4095) == 1)
        #expect(!bench.channels.hasBacklog)
    }

    @Test func `a channel that is over counts until its last bytes have left`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 4096, 4096)
        _ = bench.end(3)
        #expect(bench.channels.count == 2)
        bench.close(1)
        bench.close(3)
        #expect(bench.channels.end(ChannelNumber(1)) == nil && bench.channels.count == 1)
        #expect(bench.turns(1) == [1] && bench.channels.count == 1)
        #expect(bench.turns(1) == [1] && bench.channels.count == 0)
    }

    @Test func `when the connection ends nothing is left`() throws {
        let bench = try ChannelBench()
        bench.queue(1, 4096, 4096)
        bench.queue(3, 10)
        bench.close(3)
        bench.clear()
        #expect(!bench.channels.hasBacklog && bench.channels.backlogBytes == 0 && bench.channels.count == 0)
        #expect(bench.turn() == nil)
    }

    // MARK: The burst

    private static let least = Multiplexer.leastBurst

    @Test func `a burst grows with what the socket takes at once, as far as its rate bears it`() {
        let channels = Multiplexer(isDialled: false, isLink: false)
        var bursts: [Int] = []
        for now in UInt64(1000)..<1013 {
            _ = channels.took(channels.burst, all: true, more: false, at: now)
            bursts.append(channels.burst)
        }
        let expected = [1, 1, 2, 3, 5, 8, 13, 13, 21, 34, 55, 89, 128].map { $0 * Self.least }
        #expect(bursts == expected && bursts.last == Multiplexer.mostBurst)
        // 32 KiB in 12 ms are 16 KiB in 6 ms.
        let slower = Multiplexer(isDialled: false, isLink: false)
        for now in stride(from: UInt64(1000), through: 1060, by: 12) {
            _ = slower.took(4 * Self.least, all: true, more: false, at: now)
        }
        #expect(slower.burst == 2 * Self.least)
    }

    @Test func `a socket that does not take all of it is given no more than was measured`() {
        let channels = Multiplexer(isDialled: false, isLink: false)
        for now in UInt64(1000)..<1004 { _ = channels.took(channels.burst, all: true, more: false, at: now) }
        #expect(channels.burst > Self.least)
        _ = channels.took(1, all: false, more: true, at: 1004)
        #expect(channels.burst == Self.least)
    }

    @Test func `what a socket takes is measured while something waits, and large changes are for the kernel`() {
        let channels = Multiplexer(isDialled: false, isLink: false)
        let steps: [(now: UInt64, count: Int, burst: Int, limit: Int)] = [
            (1000, 1, Self.least, Self.least), (1010, 100_000, Self.least, Self.least),
            (1020, 200_000, 90_000, 90_000),  // 300 000 bytes in 20 ms.
            (1040, 100_000, 30_000, 30_000), (1060, 150_000, 45_000, 30_000),
            (1080, 1 << 30, Multiplexer.mostBurst, Multiplexer.mostBurst), (1100, 1, Self.least, Self.least),
        ]
        for step in steps {
            let before = channels.unsentLimit
            let changed = channels.took(step.count, all: false, more: true, at: step.now)
            #expect(channels.burst == step.burst && channels.unsentLimit == step.limit, "at \(step.now)")
            #expect(changed == (before != step.limit), "at \(step.now)")
        }
    }

    @Test func `a pause ends the measurement`() {
        let channels = Multiplexer(isDialled: false, isLink: false)
        _ = channels.took(1, all: false, more: true, at: 1000)
        _ = channels.took(1 << 20, all: true, more: false, at: 1010)
        _ = channels.took(1 << 20, all: false, more: true, at: 1020)
        #expect(channels.burst == Self.least)
        _ = channels.took(1 << 22, all: false, more: true, at: 1040)
        #expect(channels.burst == Multiplexer.mostBurst)
    }

    // MARK: Numbers

    @Test func `on the wire the dialler has the odd numbers, and here the relay the even ones`() {
        let accepted = Multiplexer(isDialled: false, isLink: true), dialled = Multiplexer(isDialled: true, isLink: true)
        for number in [UInt32(0), 1, 2, 3, 4, 5, .max - 1, .max] {
            #expect(accepted.translated(number).rawValue == number)
            #expect(dialled.translated(number).rawValue == (number > 1 ? number ^ 1 : number))
            #expect(dialled.translated(dialled.translated(number).rawValue).rawValue == number)
        }
    }

    @Test func `a peer's numbers are odd and ascend`() {
        let channels = Multiplexer(isDialled: false, isLink: false)
        let taken = [1, 1, 3, 2, 0, 9, 7, .max, .max].map { channels.takePeerNumber(ChannelNumber($0)) }
        #expect(taken == [true, false, true, false, false, true, false, true, false])
        let fresh = Multiplexer(isDialled: false, isLink: false)
        #expect(fresh.takePeerNumber(ChannelNumber(5)))
        #expect([1, 3, 5].allSatisfy { fresh.isPast(ChannelNumber($0)) } && !fresh.isPast(ChannelNumber(7)))
    }

    @Test func `the relay's own numbers are divisible by four, those of scripts are the other even ones`() throws {
        let bench = try ChannelBench()
        #expect((0..<3).map { _ in bench.channels.takeOwnNumber()?.rawValue } == [4, 8, 12])
        #expect((0..<3).map { _ in bench.channels.scriptNumbers.take()?.rawValue } == [2, 6, 10])
        #expect([4, 12].allSatisfy { bench.channels.isPast(ChannelNumber($0)) })
        #expect(!bench.channels.isPast(ChannelNumber(16)) && !bench.channels.isPast(ChannelNumber(2)))
        _ = bench.end(6)
        #expect(bench.channels.isPast(ChannelNumber(2)) && !bench.channels.isPast(ChannelNumber(10)))
    }
}
