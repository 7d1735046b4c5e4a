/// Cuts a byte stream into frames (RFC 6455 §5.2) and unmasks payloads where they lie.
///
/// Feed it each received buffer until it says `needsInput`. It keeps at most 14 bytes, those of an unfinished frame
/// head; payload is handed out as it arrives, so a frame of any length costs no memory. A length is checked as soon as
/// the byte that spoils it is there, not when the head is complete.
package struct FrameDecoder: Sendable {
    /// Which end of the connection is decoding. Clients mask every frame, servers none (§5.1).
    package enum Role: Sendable {
        case server, client
    }

    /// What came next in the stream.
    package enum Step: Sendable {
        /// Everything was consumed. Call again with the next buffer.
        case needsInput
        /// A frame begins; its payload follows in one or more `payload` steps.
        case header(FrameHeader)
        /// The next piece of the frame's payload: a range of the buffer, unmasked. Only the single piece of an empty
        /// frame is empty.
        case payload(Range<Int>, endsFrame: Bool)
        /// The stream cannot be understood any further. Whatever follows is consumed in silence.
        case violation(ProtocolViolation)
    }

    private enum State: UInt8 {
        /// Between frames, or inside a head: becomes `payload` with its last byte, `failed` with a bad one.
        case header
        /// Inside a frame: becomes `header` with its last byte.
        case payload
        /// For good.
        case failed
    }

    private var remaining = 0
    /// The beginning of an unfinished head: its first 8 bytes, then the others, as they lie on the wire.
    private var kept: (UInt64, UInt64) = (0, 0)
    /// The frame's key, rotated so that its first byte belongs to the next byte of payload.
    private var key: UInt32 = 0
    private var keptCount: UInt8 = 0
    private var state = State.header
    let expectsMask: Bool

    package init(role: Role) { expectsMask = role == .server }

    /// The next step in `bytes`, from `offset` on; moves `offset` behind what it consumed.
    @inline(__always)
    package mutating func next(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Step {
        switch state {
        case .payload:
            return nextPayload(bytes, &offset)
        case .header where keptCount == 0:
            let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
            switch parse(rest) {
            case .complete(let header, let length):
                offset &+= length
                return begin(header)
            case .incomplete: return keep(bytes, &offset)
            case .violation(let violation): return fail(violation, bytes, &offset)
            }
        case .header:
            return keep(bytes, &offset)
        case .failed:
            offset = bytes.count
            return .needsInput
        }
    }

    /// Whether a frame's head is complete and its payload is not.
    @inline(__always)
    var isInsideFrame: Bool { state == .payload }

    /// Bytes of the frame's payload that have not come yet.
    @inline(__always)
    var payloadLeft: Int { remaining }

    /// Whether the next byte is the first of a head.
    @inline(__always)
    var isBeforeHead: Bool { state == .header && keptCount == 0 }

    /// Whether that head must announce a mask.
    @inline(__always)
    var isBeforeMaskedHead: Bool { isBeforeHead && expectsMask }

    /// Takes the next `count` bytes of the payload, at most `payloadLeft`, as they are; answers the key that unmasks
    /// them. The frame ends with its last byte, an empty one with a call that takes none.
    @inline(__always)
    mutating func takeMasked(_ count: Int) -> UInt32 {
        precondition(state == .payload && count <= remaining, "taking more than the frame's payload")
        let first = key
        remaining &-= count
        key = Masking.rotated(key, by: count)
        if remaining == 0 { state = .header }
        return first
    }

    /// The payload length and opcode that an unfinished head has announced already: known before its masking key is.
    var announced: (opcode: Opcode, payloadLength: Int)? {
        guard state == .header, keptCount >= 2 else { return nil }
        return withUnsafeBytes(of: kept) { kept in
            guard let opcode = Opcode(rawValue: kept[0] & 0x0F),
                let length = Self.payloadLength(UnsafeRawBufferPointer(rebasing: kept[..<Int(keptCount)]))
            else { return nil }
            return (opcode, length)
        }
    }

    @inline(__always)
    private mutating func nextPayload(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Step {
        let count = min(remaining, bytes.count &- offset)
        guard count > 0 || remaining == 0 else { return .needsInput }
        let range = offset..<(offset &+ count)
        Masking.apply(takeMasked(count), to: UnsafeMutableRawBufferPointer(rebasing: bytes[range]))
        offset = range.upperBound
        return .payload(range, endsFrame: !isInsideFrame)
    }

    @inline(__always)
    private mutating func begin(_ header: FrameHeader) -> Step {
        remaining = header.payloadLength
        key = header.maskingKey
        state = .payload
        return .header(header)
    }

    @inline(never)
    private mutating func fail(
        _ violation: ProtocolViolation, _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int
    ) -> Step {
        state = .failed
        keptCount = 0
        offset = bytes.count
        return .violation(violation)
    }

    /// Moves bytes of a head that lies across buffers to `kept`, one by one, until it is complete or cannot become so.
    @inline(never)
    private mutating func keep(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Step {
        while offset < bytes.count {
            // A head is never longer than 14 bytes, and is complete at its last one: `keptCount` stays below 14.
            let index = Int(keptCount)
            let byte = bytes[offset]
            withUnsafeMutableBytes(of: &kept) { $0[index] = byte }
            keptCount += 1
            offset += 1
            let parsed = withUnsafeBytes(of: kept) { parse(UnsafeRawBufferPointer(rebasing: $0[...index])) }
            switch parsed {
            case .complete(let header, _):
                keptCount = 0
                return begin(header)
            case .violation(let violation): return fail(violation, bytes, &offset)
            case .incomplete: continue
            }
        }
        return .needsInput
    }
}

extension FrameDecoder {
    private enum Parsed {
        case incomplete
        case complete(FrameHeader, length: Int)
        case violation(ProtocolViolation)
    }

    /// Reads a head from the beginning of `bytes`, or says what is already wrong with it.
    @inline(__always)
    private func parse(_ bytes: UnsafeRawBufferPointer) -> Parsed {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return .incomplete }
        // SAFETY: every load is behind a check of `bytes.count`.
        let first = base.load(as: UInt8.self)
        guard first & 0x70 == 0 else {
            return .violation(ProtocolViolation(.protocolError, "a reserved bit is set and no extension is in use"))
        }
        guard let opcode = Opcode(rawValue: first & 0x0F) else {
            return .violation(ProtocolViolation(.protocolError, "a frame has a reserved opcode"))
        }
        let isFinal = first & 0x80 != 0
        guard isFinal || !opcode.isControl else {
            return .violation(ProtocolViolation(.protocolError, "a control frame is fragmented"))
        }
        guard bytes.count >= 2 else { return .incomplete }
        let second = base.load(fromByteOffset: 1, as: UInt8.self)
        guard (second & 0x80 != 0) == expectsMask else {
            return .violation(
                expectsMask
                    ? ProtocolViolation(.protocolError, "a frame from a client is not masked")
                    : ProtocolViolation(.protocolError, "a frame from a server is masked"))
        }
        let short = Int(second & 0x7F)
        guard short <= 125 || !opcode.isControl else {
            return .violation(ProtocolViolation(.protocolError, "a control frame is longer than 125 bytes"))
        }
        guard let payloadLength = Self.payloadLength(bytes) else { return .incomplete }
        guard payloadLength >= 0 else {
            return .violation(ProtocolViolation(.protocolError, "a 64-bit length has its most significant bit set"))
        }
        guard short < 126 || payloadLength > (short == 126 ? 125 : 0xFFFF) else {
            return .violation(ProtocolViolation(.protocolError, "a length is not in its shortest form"))
        }
        var length = short < 126 ? 2 : short == 126 ? 4 : 10
        var key: UInt32 = 0
        if expectsMask {
            guard bytes.count >= length &+ 4 else { return .incomplete }
            key = base.loadUnaligned(fromByteOffset: length, as: UInt32.self)
            length &+= 4
        }
        let header = FrameHeader(
            isFinal: isFinal, opcode: opcode, isMasked: expectsMask, maskingKey: key, payloadLength: payloadLength)
        return .complete(header, length: length)
    }

    /// The length that a head announces, negative where its most significant bit is set; nil where it is not all there.
    /// `bytes` has at least two.
    @inline(__always)
    private static func payloadLength(_ bytes: UnsafeRawBufferPointer) -> Int? {
        switch bytes[1] & 0x7F {
        case 127:
            guard bytes.count >= 10 else { return nil }
            return Int(truncatingIfNeeded: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt64.self)))
        case 126:
            guard bytes.count >= 4 else { return nil }
            return Int(UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
        case let short:
            return Int(short)
        }
    }
}
