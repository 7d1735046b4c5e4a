internal import CUring
internal import Glibc

/// Where the kernel puts what it receives: buffers that belong to nobody until bytes arrive, so that an idle connection
/// holds none. They are lent one completion at a time and given back at once.
final class ReceiveBuffers {
    private let ring: OpaquePointer
    private let storage: UnsafeMutableRawPointer
    private let count: Int
    private let bufferBytes: Int
    /// How much of each buffer has been lent since it was given back.
    private let offsets: UnsafeMutablePointer<Int>

    /// Where buffers can be used up piece by piece, few large ones serve any mix of sizes. All of them fit into the
    /// second-level cache; and they are large, because the end of each cuts a receive in two. Kernels before 6.12 use
    /// up a whole one per receive: more of them, and smaller.
    static let incremental = (count: 4, bytes: 256 << 10)
    static let whole = (count: 256, bytes: 8 << 10)

    init(_ ring: OpaquePointer, allowIncremental: Bool) throws(StartError) {
        self.ring = ring
        let most = max(Self.incremental.count * Self.incremental.bytes, Self.whole.count * Self.whole.bytes)
        storage = .allocate(byteCount: most, alignment: 4096)
        var (shape, code) = (Self.incremental, Int32(-EINVAL))
        if allowIncremental {
            code = curing_register_buffers(ring, storage, UInt32(shape.count), UInt32(shape.bytes), true)
        }
        if code != 0 {
            shape = Self.whole
            code = curing_register_buffers(ring, storage, UInt32(shape.count), UInt32(shape.bytes), false)
        }
        (count, bufferBytes) = shape
        offsets = .allocate(capacity: count)
        offsets.initialize(repeating: 0, count: count)
        guard code == 0 else {
            throw StartError("cannot register receive buffers: \(System.describe(errno: -code))")
        }
    }

    deinit {
        offsets.deallocate()
        storage.deallocate()
    }

    /// The next `count` bytes of a buffer: those that the completion at hand is about. Completions come in the order in
    /// which the kernel used the buffer.
    @inline(__always)
    func piece(of buffer: UInt16, count: Int) -> UnsafeMutableRawBufferPointer {
        let index = Int(buffer)
        precondition(
            index < self.count && offsets[index] + count <= bufferBytes, "a completion is outside of its buffer")
        // SAFETY: within the storage, as just checked; the kernel is done with these bytes.
        let start = storage + (index * bufferBytes + offsets[index])
        offsets[index] += count
        return UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    /// The kernel may use the buffer anew.
    @inline(__always)
    func giveBack(_ buffer: UInt16) {
        offsets[Int(buffer)] = 0
        curing_give_back(ring, buffer)
    }
}

/// Descriptions of output that lies in several chunks, until the kernel has read them.
struct SendVectors: ~Copyable {
    private static let slots = 64
    /// 16 large chunks are 1 MiB: about what a socket buffer takes at once.
    private static let vectorsPerSlot = 16

    private let messages = UnsafeMutablePointer<msghdr>.allocate(capacity: slots)
    private let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: slots * vectorsPerSlot)
    private var used = 0

    deinit {
        messages.deallocate()
        vectors.deallocate()
    }

    var isFull: Bool { used == Self.slots }

    mutating func removeAll() { used = 0 }

    /// A message header over what waits in `output`, or as much of it as one send takes.
    mutating func describe(_ output: borrowing OutboundBuffer) -> UnsafeMutablePointer<msghdr> {
        precondition(!isFull, "more descriptions than slots")
        let room = UnsafeMutableBufferPointer(
            start: vectors + used * Self.vectorsPerSlot, count: Self.vectorsPerSlot)
        let message = messages + used
        message.initialize(to: msghdr())
        message.pointee.msg_iov = room.baseAddress
        message.pointee.msg_iovlen = output.gather(into: room)
        used += 1
        return message
    }
}

/// Output of a connection that is gone, kept for the kernel.
final class AbandonedOutput {
    private let output: OutboundBuffer?
    init(_ output: consuming OutboundBuffer?) { self.output = output }
}
