// Forwarding: frames go on as they come, unmasked on the way, and no message is looked into.
extension WebSocketReader {
    /// Why forwarding has paused.
    package enum Forwarded {
        /// Everything was consumed. Call again with the next buffer.
        case needsInput
        /// The room is used up: at least `leastRoom` bytes are needed to go on.
        case needsRoom
        /// A data frame has ended, and the caller wanted to know.
        case frameEnd
        /// One message more than allowed has begun. Nothing of it was forwarded.
        case tooManyMessages
        /// A ping, pong, close or violation, as `next` would tell it. None falls inside a forwarded frame.
        case event(Event)
    }

    /// What the head of a forwarded frame can take: no mask, so four bytes less than on its way in.
    package static var leastRoom: Int { FrameHeader.maximumLength - 4 }

    /// Whether a data frame's head is complete and its payload is not.
    package var isInsideDataFrame: Bool { decoder.isInsideFrame && !opcode.isControl }

    /// Reads on in `bytes` from `offset` and writes the data frames there, unmasked, to `room` from `written` on; moves
    /// both. Each frame keeps its opcode, its FIN bit and its length. A head is written as soon as it is complete, and
    /// payload as it comes, so a frame of any length costs no memory. `messages` may still begin; it is counted down.
    ///
    /// Framing is checked as `next` checks it; limits of size and UTF-8 are the receiver's to check, who has the whole
    /// message (RFC 6455 §8.1 speaks of end points). Not to be called inside a message that `next` has begun. After the
    /// first call, `next` is not to be called any more: it would find half of what it has to know.
    package mutating func forward(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, into room: UnsafeMutableRawBufferPointer,
        _ written: inout Int, messages: inout Int, stopsAtFrameEnd: Bool
    ) -> Forwarded {
        if flags.contains(.isLent) { dropScratch() }
        if flags.contains(.isOver) {
            offset = bytes.count
            return .needsInput
        }
        while true {
            if isInsideDataFrame {
                forwardPayload(bytes, &offset, into: room, &written)
                guard !decoder.isInsideFrame else { return offset == bytes.count ? .needsInput : .needsRoom }
                if flags.contains(.isFinal) { flags.remove(.inMessage) }
                if stopsAtFrameEnd { return .frameEnd }
            }
            if decoder.isBeforeMaskedHead, !stopsAtFrameEnd {
                forwardSmallFrames(bytes, &offset, into: room, &written, &messages)
            }
            guard room.count &- written >= Self.leastRoom else {
                return offset == bytes.count && !decoder.isInsideFrame ? .needsInput : .needsRoom
            }
            switch decoder.next(bytes, &offset) {
            case .needsInput:
                return .needsInput
            case .header(let header):
                if let violation = begin(header) { return .event(fail(violation)) }
                guard !header.opcode.isControl else { continue }
                if header.opcode != .continuation {
                    guard messages > 0 else { return .tooManyMessages }
                    messages &-= 1
                }
                // SAFETY: `room` has been found to hold the longest head behind `written`.
                written &+= FrameEncoder.writeHeader(
                    isFinal: header.isFinal, opcode: header.opcode, payloadLength: header.payloadLength,
                    into: room.baseAddress! + written)
            case .payload(let range, let endsFrame):
                if let event = control(bytes, range, endsFrame) { return .event(event) }
            case .violation(let violation):
                return .event(fail(violation))
            }
        }
    }

    /// Moves as much of the frame's payload as there is, and as there is room for.
    @inline(__always)
    private mutating func forwardPayload(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, into room: UnsafeMutableRawBufferPointer,
        _ written: inout Int
    ) {
        let count = min(decoder.payloadLeft, bytes.count &- offset, room.count &- written)
        let key = decoder.takeMasked(count)
        Masking.copy(
            UnsafeRawBufferPointer(rebasing: bytes[offset..<(offset &+ count)]),
            to: UnsafeMutableRawBufferPointer(rebasing: room[written..<(written &+ count)]), key: key)
        offset &+= count
        written &+= count
    }

    /// The common case in one tight loop: data frames of up to 125 bytes that are all there and fit. Stops at whatever
    /// is anything else, good or bad, and leaves it to the decoder.
    @inline(__always)
    private mutating func forwardSmallFrames(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, into room: UnsafeMutableRawBufferPointer,
        _ written: inout Int, _ messages: inout Int
    ) {
        guard let source = bytes.baseAddress, let destination = room.baseAddress else { return }
        var from = offset
        var to = written
        var left = messages
        var inMessage = flags.contains(.inMessage)
        // SAFETY: a frame is read and written only once it is known to lie within `bytes` and to fit into `room`.
        while bytes.count &- from >= 6 {
            let first = source.load(fromByteOffset: from, as: UInt8.self)
            let length = Int(source.load(fromByteOffset: from &+ 1, as: UInt8.self)) &- 0x80
            let opcode = first & 0x7F
            // Masked and short; no reserved bit and a data opcode; a continuation exactly inside a message.
            guard length >= 0, length <= 125, opcode <= 2, (opcode == 0) == inMessage,
                bytes.count &- from &- 6 >= length, room.count &- to &- 2 >= length
            else { break }
            if opcode != 0 {
                guard left > 0 else { break }
                left &-= 1
            }
            inMessage = first < 0x80
            (destination + to).storeBytes(of: first, as: UInt8.self)
            (destination + to).storeBytes(of: UInt8(truncatingIfNeeded: length), toByteOffset: 1, as: UInt8.self)
            Masking.copy(
                UnsafeRawBufferPointer(start: source + from + 6, count: length),
                to: UnsafeMutableRawBufferPointer(start: destination + to + 2, count: length),
                key: source.loadUnaligned(fromByteOffset: from &+ 2, as: UInt32.self))
            from &+= 6 &+ length
            to &+= 2 &+ length
        }
        if inMessage { flags.insert(.inMessage) } else { flags.remove(.inMessage) }
        offset = from
        written = to
        messages = left
    }
}
