package import Glibc

/// A block of outgoing bytes: a header, then `capacity` bytes. It never moves, so a send may own it until completion.
struct Chunk {
    var next: UnsafeMutablePointer<Chunk>?
    /// Offsets into the storage: bytes at start..<end wait to be sent.
    var start: Int32
    var end: Int32
    var capacity: Int32
}

extension UnsafeMutablePointer where Pointee == Chunk {
    /// The first byte of the chunk's storage, right behind its header.
    var storage: UnsafeMutableRawPointer { UnsafeMutableRawPointer(self + 1) }
}

/// How much a chunk holds.
package enum ChunkSize: Int {
    /// What one turn sends to one connection in the common case.
    case small
    /// What one channel sends at its turn: see `Multiplexer`.
    case medium
    /// Bulk.
    case large

    package var bytes: Int {
        switch self {
        case .small: 4 << 10
        case .medium: 16 << 10
        case .large: 64 << 10
        }
    }

    /// So many free ones are kept.
    fileprivate var kept: Int {
        switch self {
        case .small: 1024
        case .medium: 256
        case .large: 128
        }
    }

    fileprivate init(bytes: Int) { self = bytes == 4 << 10 ? .small : bytes == 16 << 10 ? .medium : .large }
}

/// The free chunks of one loop, by size. Not shared: a chunk that moved loops with its connection is returned to the
/// pool of the loop where it is emptied.
package final class ChunkPool {
    private struct FreeList {
        var first: UnsafeMutablePointer<Chunk>?
        var count = 0
    }
    package init() {}

    private var lists = (FreeList(), FreeList(), FreeList())

    deinit {
        for list in [lists.0, lists.1, lists.2] {
            var next = list.first
            while let chunk = next { next = chunk.pointee.next; free(chunk) }
        }
    }

    private func withList<R>(_ size: ChunkSize, _ body: (inout FreeList) -> R) -> R {
        switch size {
        case .small: body(&lists.0)
        case .medium: body(&lists.1)
        case .large: body(&lists.2)
        }
    }

    /// An empty chunk.
    func take(_ size: ChunkSize) -> UnsafeMutablePointer<Chunk> {
        withList(size) { list in
            guard let chunk = list.first else { return Self.make(capacity: size.bytes) }
            list.first = chunk.pointee.next
            list.count -= 1
            return Self.reset(chunk)
        }
    }

    /// Takes a chunk back, and frees it where enough of its size are kept.
    func give(_ chunk: UnsafeMutablePointer<Chunk>) {
        let size = ChunkSize(bytes: Int(chunk.pointee.capacity))
        withList(size) { list in
            guard list.count < size.kept else { return free(chunk) }
            chunk.pointee.next = list.first
            list.first = chunk
            list.count += 1
        }
    }

    private static func reset(_ chunk: UnsafeMutablePointer<Chunk>) -> UnsafeMutablePointer<Chunk> {
        chunk.pointee.next = nil
        chunk.pointee.start = 0
        chunk.pointee.end = 0
        return chunk
    }

    private static func make(capacity: Int) -> UnsafeMutablePointer<Chunk> {
        // Out of memory, Swift itself ends the process; how much may wait is bounded where it is queued.
        guard let memory = malloc(MemoryLayout<Chunk>.stride + capacity) else { fatalError("out of memory") }
        let chunk = memory.bindMemory(to: Chunk.self, capacity: 1)
        chunk.initialize(to: Chunk(next: nil, start: 0, end: 0, capacity: Int32(capacity)))
        return chunk
    }
}

/// Bytes on their way out of one connection, in order: a list of chunks, appended at the tail and consumed at the head.
/// The bytes between are never moved, so the head may be in the kernel's hands while the tail grows.
package struct OutboundBuffer: ~Copyable {
    private var head: UnsafeMutablePointer<Chunk>?
    private var tail: UnsafeMutablePointer<Chunk>?
    /// Bytes that wait.
    package private(set) var byteCount = 0

    package init() {}

    package var isEmpty: Bool { byteCount == 0 }

    deinit {
        var next = head
        while let chunk = next { next = chunk.pointee.next; free(chunk) }
    }

    /// Room for at least `least` (at most `wanted`, and a small chunk) and at most `wanted` bytes behind the last one.
    /// What was written there counts after `commit`; until then nothing else may be appended. Where a small chunk does
    /// not hold what is wanted, or the list has one already, it grows by a chunk of size `growth`.
    @inline(__always)
    package mutating func reserve(
        _ wanted: Int, atLeast least: Int = 1, growth: ChunkSize = .large, from pool: ChunkPool
    ) -> UnsafeMutableRawBufferPointer {
        // SAFETY: the tail belongs to this list, and end ≤ capacity always holds.
        if let tail, Int(tail.pointee.capacity - tail.pointee.end) >= least {
            let room = Int(tail.pointee.capacity - tail.pointee.end)
            return UnsafeMutableRawBufferPointer(
                start: tail.storage + Int(tail.pointee.end), count: min(room, wanted))
        }
        return reserveInNewChunk(wanted, growth, from: pool)
    }

    @inline(never)
    private mutating func reserveInNewChunk(
        _ wanted: Int, _ growth: ChunkSize, from pool: ChunkPool
    ) -> UnsafeMutableRawBufferPointer {
        let chunk = pool.take(wanted > ChunkSize.small.bytes || tail != nil ? growth : .small)
        if let tail { tail.pointee.next = chunk } else { head = chunk }
        tail = chunk
        return UnsafeMutableRawBufferPointer(start: chunk.storage, count: min(Int(chunk.pointee.capacity), wanted))
    }

    /// Counts `count` bytes that were written into the last reservation.
    @inline(__always)
    package mutating func commit(_ count: Int) {
        guard count > 0, let tail else { return }
        precondition(count <= Int(tail.pointee.capacity - tail.pointee.end), "commit beyond the reservation")
        tail.pointee.end += Int32(count)
        byteCount += count
    }

    /// Copies `bytes` behind the last one.
    @inline(__always)
    package mutating func append(_ bytes: UnsafeRawBufferPointer, from pool: ChunkPool) {
        var rest = bytes
        while let source = rest.baseAddress, rest.count > 0 {
            let room = reserve(rest.count, from: pool)
            // SAFETY: `room` is fresh storage of at least one byte, disjoint from the source.
            memcpy(room.baseAddress!, source, room.count)
            commit(room.count)
            rest = UnsafeRawBufferPointer(rebasing: rest[room.count...])
        }
    }

    /// Copies `bytes` behind the last one, masked with `key`.
    package mutating func append(_ bytes: UnsafeRawBufferPointer, key: UInt32, from pool: ChunkPool) {
        var rest = bytes
        var key = key
        while !rest.isEmpty {
            let room = reserve(rest.count, from: pool)
            Masking.copy(UnsafeRawBufferPointer(rebasing: rest[..<room.count]), to: room, key: key)
            commit(room.count)
            key = Masking.rotated(key, by: room.count)
            rest = UnsafeRawBufferPointer(rebasing: rest[room.count...])
        }
    }

    /// Describes up to `vectors.count` runs of waiting bytes, in order; returns how many it wrote.
    package func gather(into vectors: UnsafeMutableBufferPointer<iovec>) -> Int {
        var count = 0
        var next = head
        while let chunk = next, count < vectors.count {
            let waiting = Int(chunk.pointee.end - chunk.pointee.start)
            if waiting > 0 {
                vectors[count] = iovec(iov_base: chunk.storage + Int(chunk.pointee.start), iov_len: waiting)
                count += 1
            }
            next = chunk.pointee.next
        }
        return count
    }

    /// The first run of waiting bytes; empty where nothing waits.
    package var first: UnsafeRawBufferPointer {
        guard let head else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(
            start: head.storage + Int(head.pointee.start), count: Int(head.pointee.end - head.pointee.start))
    }

    /// Drops `count` bytes from the front: they are in the kernel's buffers, or encrypted.
    package mutating func consume(_ count: Int, to pool: ChunkPool) {
        precondition(count <= byteCount, "consuming more than waits")
        byteCount -= count
        var rest = count
        while let chunk = head {
            let waiting = Int(chunk.pointee.end - chunk.pointee.start)
            if rest < waiting {
                chunk.pointee.start += Int32(rest)
                return
            }
            rest -= waiting
            head = chunk.pointee.next
            if head == nil { tail = nil }
            pool.give(chunk)
        }
    }

    /// Appends the first chunk of `other`, with all that waits in it, without copying; `other` has one.
    mutating func takeFirst(of other: inout OutboundBuffer) {
        guard let chunk = other.head else { preconditionFailure("there is no chunk to take") }
        other.head = chunk.pointee.next
        if other.head == nil { other.tail = nil }
        let count = Int(chunk.pointee.end - chunk.pointee.start)
        other.byteCount -= count
        byteCount += count
        chunk.pointee.next = nil
        if let tail { tail.pointee.next = chunk } else { head = chunk }
        tail = chunk
    }

    /// Drops everything.
    package mutating func removeAll(to pool: ChunkPool) {
        consume(byteCount, to: pool)
        while let chunk = head { head = chunk.pointee.next; pool.give(chunk) }
        tail = nil
    }
}
