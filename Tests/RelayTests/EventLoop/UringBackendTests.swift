import Glibc
import Testing

@testable import Relay

/// What is queued and not yet submitted, where the kernel has io_uring.
@Suite(.enabled(if: (try? UringBackend()) != nil))
struct UringBackendTests {
    private let backend: UringBackend
    private let pool = ChunkPool()
    /// Of the kernel's queue (UringBackend.submissions).
    private static let queueLength = 1024

    init() throws { backend = try UringBackend() }

    private final class Pair {
        var handle: IOHandle
        let peer: Int32

        init(slot: Int) throws {
            var descriptors: [Int32] = [-1, -1]
            let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
            try #require(socketpair(AF_UNIX, type, 0, &descriptors) == 0)
            handle = IOHandle(fileDescriptor: descriptors[0], token: IOToken(slot: slot, generation: 0))
            peer = descriptors[1]
            // A failure shows instead of a hang.
            var limit = timeval(tv_sec: 20, tv_usec: 0)
            setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        }

        deinit { Glibc.close(peer) }

        /// Everything up to `count` bytes or the end of the stream; nil where nothing is there yet.
        func receive(_ count: Int, flags: Int32 = Int32(MSG_WAITALL)) -> [UInt8]? {
            let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
                filled = max(0, recv(peer, buffer.baseAddress, count, flags))
            }
            return bytes.isEmpty && errno == EAGAIN ? nil : bytes
        }
    }

    /// Output that lies in more than one chunk, so that a send of it needs a description.
    private func output(of byte: UInt8) -> (buffer: Output, bytes: [UInt8]) {
        let bytes = [UInt8](repeating: byte, count: 2 * ChunkSize.small.bytes)
        let output = Output()
        bytes[..<1].withUnsafeBytes { output.buffer.append($0, from: pool) }
        bytes[1...].withUnsafeBytes { output.buffer.append($0, from: pool) }
        return (output, bytes)
    }

    private final class Output { var buffer = OutboundBuffer() }

    @Test func `a queue that is full in the middle of a turn mixes no output up`() throws {
        backend.start()
        let idle = try Pair(slot: 0)
        let pairs = try (1...3).map { try Pair(slot: $0) }
        let outputs = (1...3).map { output(of: $0) }
        for _ in 0..<Self.queueLength { _ = backend.add(&idle.handle) }
        for (pair, output) in zip(pairs, outputs) { _ = backend.send(&pair.handle, output.buffer.buffer) }
        backend.wait(timeoutMilliseconds: 0)
        for (pair, output) in zip(pairs, outputs) {
            #expect(pair.receive(output.bytes.count) == output.bytes)
            backend.close(&pair.handle, abandoning: nil)
        }
        backend.close(&idle.handle, abandoning: nil)
        backend.wait(timeoutMilliseconds: 0)
    }

    @Test func `a descriptor keeps its number until what names it has been submitted`() throws {
        backend.start()
        let pair = try Pair(slot: 0)
        let output = Output()
        let bytes = Array("farewell".utf8)
        bytes.withUnsafeBytes { output.buffer.append($0, from: pool) }
        _ = backend.add(&pair.handle)
        _ = backend.send(&pair.handle, output.buffer)
        backend.close(&pair.handle, abandoning: nil)
        errno = 0
        #expect(pair.receive(1, flags: Int32(MSG_DONTWAIT)) == nil)
        backend.wait(timeoutMilliseconds: 0)
        // The send went first; the end follows once the receive that was armed has been cancelled.
        #expect(pair.receive(bytes.count) == bytes)
        backend.wait(timeoutMilliseconds: 0)
        errno = 0
        #expect(pair.receive(1) == [])
    }
}
