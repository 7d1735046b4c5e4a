internal import CBarrier

/// What happens to the bytes of frames. One operation is one frame. Buffers are made once and never freed.
///
/// Factories are not inlined, or the compiler would make loops for the very sizes that they are called with.
enum Frames {
    static var benchmarks: [Benchmark] {
        [
            decode("decode, 64 B text, 32 in a buffer", payloadBytes: 64, frames: 32, iterations: 320_000),
            decode("decode, 64 KiB text", payloadBytes: 65536, frames: 1, iterations: 800),
            forward("forward, 64 B, 32 in a buffer", payloadBytes: 64, frames: 32, iterations: 960_000),
            forward("forward, 4 KiB", payloadBytes: 4096, frames: 1, iterations: 80_000),
            forward("forward, 64 KiB", payloadBytes: 65536, frames: 1, iterations: 4_000),
            unmask("unmask, 64 B", payloadBytes: 64, iterations: 2_000_000),
            unmask("unmask, 4 KiB", payloadBytes: 4096, iterations: 80_000),
            unmask("unmask, 64 KiB", payloadBytes: 65536, iterations: 4_000),
            encodeHeader("encode a header", iterations: 4_000_000),
        ]
    }

    /// `reader.next`, as for messages to the app: unmasked where it lies, and checked to be UTF-8.
    @inline(never)
    private static func decode(_ name: String, payloadBytes: Int, frames: Int, iterations: Int) -> Benchmark {
        let wire = maskedFrames(.text, payloadBytes: payloadBytes, count: frames)
        return Benchmark(name, iterations: iterations) { count in
            var reader = WebSocketReader(role: .server, maximumMessageBytes: 1 << 20)
            for _ in 0..<(count / frames) {
                var offset = 0
                events: while true {
                    switch reader.next(wire, &offset) {
                    case .needsInput: break events
                    case .data(_, let piece, _, let isLast):
                        precondition(isLast, "a frame came in pieces")
                        barrier_value(Int64(piece.lowerBound))
                    case .ping, .pong, .close, .violation: preconditionFailure("a frame was not decoded")
                    }
                }
            }
        }
    }

    /// `reader.forward`, as through a pipe.
    @inline(never)
    private static func forward(_ name: String, payloadBytes: Int, frames: Int, iterations: Int) -> Benchmark {
        let wire = maskedFrames(.binary, payloadBytes: payloadBytes, count: frames)
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: wire.count, alignment: 64)
        return Benchmark(name, iterations: iterations) { count in
            var reader = WebSocketReader(role: .server)
            for _ in 0..<(count / frames) {
                var offset = 0
                var written = 0
                var messages = Int.max
                let outcome = reader.forward(
                    wire, &offset, into: room, &written, messages: &messages, stopsAtFrameEnd: false)
                guard case .needsInput = outcome else { preconditionFailure("a frame was not forwarded") }
                barrier_memory(room.baseAddress)
            }
        }
    }

    /// `Masking.copy`, as `forward` uses it.
    @inline(never)
    private static func unmask(_ name: String, payloadBytes: Int, iterations: Int) -> Benchmark {
        let source = maskedFrames(.binary, payloadBytes: payloadBytes, count: 1)
        let payload = UnsafeRawBufferPointer(rebasing: source[(source.count - payloadBytes)...])
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: payloadBytes, alignment: 64)
        return Benchmark(name, iterations: iterations) { count in
            for _ in 0..<count {
                Masking.copy(payload, to: room, key: maskingKey)
                barrier_memory(room.baseAddress)
            }
        }
    }

    /// Heads of all three lengths: two for 64 B, one for 4 KiB, one for 64 KiB.
    @inline(never)
    private static func encodeHeader(_ name: String, iterations: Int) -> Benchmark {
        let lengths = UnsafeMutableBufferPointer<Int>.allocate(capacity: 4)
        _ = lengths.initialize(from: [64, 4096, 64, 65536])
        let head = UnsafeMutableRawPointer.allocate(byteCount: FrameHeader.maximumLength, alignment: 1)
        return Benchmark(name, iterations: iterations) { count in
            for index in 0..<count {
                let length = FrameEncoder.writeHeader(
                    isFinal: true, opcode: .binary, payloadLength: lengths[index & 3], into: head)
                barrier_value(Int64(length))
                barrier_memory(head)
            }
        }
    }

    /// The bytes 1, 2, 3, 4. They leave ASCII ASCII: a text that is unmasked in place again and again stays valid UTF-8.
    private static let maskingKey = UInt32(littleEndian: 0x0403_0201)

    /// Frames as a client sends them, each a whole message.
    private static func maskedFrames(_ opcode: Opcode, payloadBytes: Int, count: Int) -> UnsafeMutableRawBufferPointer {
        let letters = (0..<payloadBytes).map { UInt8(ascii: "a") + UInt8($0 % 26) }
        return maskedFrames(opcode, letters, count: count)
    }

    static func maskedFrames(_ opcode: Opcode, _ payload: [UInt8], count: Int) -> UnsafeMutableRawBufferPointer {
        let headBytes = FrameEncoder.headerLength(payloadLength: payload.count, isMasked: true)
        let wire = UnsafeMutableRawBufferPointer.allocate(byteCount: (headBytes + payload.count) * count, alignment: 64)
        for start in stride(from: 0, to: wire.count, by: headBytes + payload.count) {
            // SAFETY: every frame has room for its head and its payload.
            let frame = wire.baseAddress! + start
            _ = FrameEncoder.writeHeader(
                isFinal: true, opcode: opcode, payloadLength: payload.count, maskingKey: maskingKey, into: frame)
            payload.withUnsafeBytes {
                Masking.copy(
                    $0, to: UnsafeMutableRawBufferPointer(start: frame + headBytes, count: payload.count),
                    key: maskingKey)
            }
        }
        return wire
    }
}
