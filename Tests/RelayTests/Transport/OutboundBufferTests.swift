import Glibc
import Testing

@testable import Relay

@Suite struct OutboundBufferTests {
    private let pool = ChunkPool()

    /// Everything that waits, as `gather` describes it to the kernel.
    private func gathered(_ buffer: borrowing OutboundBuffer, at most: Int = 64) -> [UInt8] {
        var vectors = [iovec](repeating: iovec(), count: most)
        let count = vectors.withUnsafeMutableBufferPointer { buffer.gather(into: $0) }
        return vectors[..<count].flatMap { Array(UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)) }
    }

    private func append(_ bytes: [UInt8], to buffer: inout OutboundBuffer) {
        bytes.withUnsafeBytes { buffer.append($0, from: pool) }
    }

    @Test func `an empty buffer has nothing to send`() {
        let buffer = OutboundBuffer()
        #expect(buffer.isEmpty == true)
        #expect(buffer.first.isEmpty)
        #expect(gathered(buffer) == [])
    }

    @Test(arguments: [1, 4095, 4096, 4097, 8192, 65_536, 69_632, 69_633, 300_000])
    func `what is appended comes out in order, whatever its size`(size: Int) {
        var buffer = OutboundBuffer()
        let bytes = SecureRandom.bytes(size)
        append(bytes, to: &buffer)
        let waiting = buffer.byteCount
        #expect(waiting == size)
        #expect(gathered(buffer) == bytes)
        buffer.consume(size, to: pool)
        #expect(gathered(buffer) == [])
        let isEmpty = buffer.isEmpty
        #expect(isEmpty)
    }

    @Test func `gather stops at the vectors it was given`() {
        var buffer = OutboundBuffer()
        let bytes = SecureRandom.bytes(200_000)
        append([1], to: &buffer)
        append(bytes, to: &buffer)
        let one = gathered(buffer, at: 1)
        #expect(one == [1] + bytes[..<(ChunkSize.small.bytes - 1)])
        #expect(gathered(buffer, at: 0) == [])
        #expect(one == Array(buffer.first))
    }

    @Test func `a reservation counts only what was committed`() {
        var buffer = OutboundBuffer()
        append([1, 2], to: &buffer)
        let room = buffer.reserve(100, from: pool)
        #expect(room.count == 100)
        room[0] = 3
        room[1] = 4
        buffer.commit(1)
        #expect(gathered(buffer) == [1, 2, 3])
        let next = buffer.reserve(1, from: pool)
        #expect(next.baseAddress == room.baseAddress.map { $0 + 1 })
        buffer.commit(0)
        #expect(gathered(buffer) == [1, 2, 3])
    }

    @Test func `a reservation never reaches beyond its chunk and always has room`() {
        var buffer = OutboundBuffer()
        var counts: Set<Int> = []
        for _ in 0..<10_000 {
            let room = buffer.reserve(100, from: pool)
            counts.insert(room.count)
            buffer.commit(room.count)
        }
        // 4096 and 65 536 bytes leave these rests.
        #expect(counts == [100, 96, 36])
    }

    @Test func `who needs room in one piece gets it, and what waits is whole`() {
        var buffer = OutboundBuffer()
        append([UInt8](repeating: 1, count: ChunkSize.small.bytes - 5), to: &buffer)
        let last = buffer.reserve(100, atLeast: 5, from: pool)
        #expect(last.count == 5)
        let room = buffer.reserve(100, atLeast: 6, from: pool)
        #expect(room.count == 100)
        room[0] = 2
        buffer.commit(1)
        #expect(gathered(buffer) == [UInt8](repeating: 1, count: ChunkSize.small.bytes - 5) + [2])
        buffer.consume(ChunkSize.small.bytes - 4, to: pool)
        let isEmpty = buffer.isEmpty
        #expect(isEmpty)
    }

    @Test func `waiting bytes do not move while the tail grows`() {
        var buffer = OutboundBuffer()
        append([7, 8, 9], to: &buffer)
        let before = buffer.first.baseAddress
        for _ in 0..<1000 { append([UInt8](repeating: 1, count: 777), to: &buffer) }
        #expect(buffer.first.baseAddress == before)
        #expect(buffer.first.starts(with: [7, 8, 9]))
    }

    @Test func `an untouched reservation survives being emptied`() {
        var buffer = OutboundBuffer()
        _ = buffer.reserve(10, from: pool)
        buffer.consume(0, to: pool)
        append([1], to: &buffer)
        #expect(gathered(buffer) == [1])
        buffer.removeAll(to: pool)
        _ = buffer.reserve(10, from: pool)
        buffer.removeAll(to: pool)
        append([2], to: &buffer)
        #expect(gathered(buffer) == [2])
    }

    @Test(arguments: [UInt64(1), 2, 3, 4, 5])
    func `a model of plain arrays agrees after any sequence`(seed: UInt64) {
        var random = SplitMix(state: seed)
        var buffer = OutboundBuffer()
        var model: [UInt8] = []
        var next: UInt8 = 0
        for _ in 0..<800 {
            switch random.next() % 8 {
            case 0...3:
                let count = Int(random.next() % (random.next() % 8 == 0 ? 20_000 : 300))
                var bytes: [UInt8] = []
                for _ in 0..<count { bytes.append(next); next &+= 1 }
                append(bytes, to: &buffer)
                model += bytes
            case 4:
                let room = buffer.reserve(Int(random.next() % 500) + 1, from: pool)
                let count = Int(random.next() % UInt64(room.count + 1))
                for index in 0..<count { room[index] = next; model.append(next); next &+= 1 }
                buffer.commit(count)
            case 5, 6:
                let count = Int(random.next() % UInt64(model.count + 1))
                buffer.consume(count, to: pool)
                model.removeFirst(count)
            default:
                if random.next() % 40 == 0 {
                    buffer.removeAll(to: pool)
                    model = []
                }
            }
            let waiting = buffer.byteCount
            let first = Array(buffer.first)
            guard waiting == model.count, model.starts(with: first), first.isEmpty == model.isEmpty else {
                Issue.record("seed \(seed): \(waiting) bytes wait, the model has \(model.count)")
                return
            }
        }
        #expect(gathered(buffer, at: 10_000) == model, "seed \(seed)")
    }

    @Test func `chunks come back from the pool empty`() {
        let chunk = pool.take(.small)
        chunk.pointee.start = 5
        chunk.pointee.end = 9
        pool.give(chunk)
        let again = pool.take(.small)
        #expect(again == chunk)
        #expect(again.pointee.start == 0 && again.pointee.end == 0 && again.pointee.next == nil)
        #expect(Int(again.pointee.capacity) == ChunkSize.small.bytes)
        let large = pool.take(.large)
        #expect(Int(large.pointee.capacity) == ChunkSize.large.bytes)
        pool.give(large)
        pool.give(again)
    }
}

/// A small seeded generator (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
private struct SplitMix {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
