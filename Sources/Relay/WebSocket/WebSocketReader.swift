/// Turns a byte stream into what a WebSocket end point acts on: pieces of messages and whole control frames
/// (RFC 6455 §5.4, §5.5, §7.1, §8.1).
///
/// Feed it each received buffer until it says `needsInput`. Nothing is gathered: data comes out as ranges of the
/// caller's buffer, unmasked there, and only a control frame that lies across buffers is copied, to at most 125 bytes
/// of heap that go with the next call. After a close frame or a violation the stream is over: what follows is consumed
/// in silence.
package struct WebSocketReader: ~Copyable {
    /// What came next. Ranges and buffers are good until the next call, or until the caller's buffer changes.
    package enum Event {
        /// Everything was consumed. Call again with the next buffer.
        case needsInput
        /// A piece of a message: a range of the buffer. A piece may be empty only if it is the last.
        case data(isText: Bool, Range<Int>, isFirst: Bool, isLast: Bool)
        case ping(UnsafeRawBufferPointer)
        case pong(UnsafeRawBufferPointer)
        /// The peer's close frame. No code where it was empty; `reason` is valid UTF-8.
        case close(CloseCode?, reason: UnsafeRawBufferPointer)
        /// Close the connection with this code and reason.
        case violation(ProtocolViolation)
    }

    /// Bytes that a message may have in all; 0 is no limit. Can change at any time, and holds from the next frame on.
    ///
    /// Fragments have a limit of their own, since empty ones would never reach the first: each counts
    /// `fragmentOverheadBytes`, and these sums may reach the limit too, or 1 KiB where the limit is smaller.
    package var maximumMessageBytes: Int

    /// What a fragment costs beyond its payload. At 16, a limit of 1 MiB allows 65 536 fragments in one message.
    package static var fragmentOverheadBytes: Int { 16 }

    /// Whether `maximumMessageBytes` is for binary messages, too.
    package var limitsBinary = true

    /// Payload announced by the frames of the message so far.
    private var messageBytes = 0
    /// Where a split control frame is gathered: `FrameDecoder` bounds its payload by 125 bytes.
    private var scratch: UnsafeMutableRawPointer?
    var decoder: FrameDecoder
    private var fragments: UInt32 = 0
    private var validator = UTF8Validator()
    private var scratchCount: UInt8 = 0
    /// The opcode of the frame whose payload comes next.
    var opcode = Opcode.continuation
    var flags = Flags()

    struct Flags: OptionSet {
        let rawValue: UInt8
        /// A message has begun and its final frame has not ended.
        static var inMessage: Flags { Flags(rawValue: 1) }
        static var isText: Flags { Flags(rawValue: 2) }
        /// The data frame being read is the last of its message.
        static var isFinal: Flags { Flags(rawValue: 4) }
        /// No piece of the message has been handed out.
        static var isFirst: Flags { Flags(rawValue: 8) }
        /// A close frame or a violation has ended the stream.
        static var isOver: Flags { Flags(rawValue: 16) }
        /// `scratch` is lent to the caller until the next call.
        static var isLent: Flags { Flags(rawValue: 32) }
    }

    package init(role: FrameDecoder.Role, maximumMessageBytes: Int = 0) {
        decoder = FrameDecoder(role: role)
        self.maximumMessageBytes = maximumMessageBytes
    }

    deinit { scratch?.deallocate() }

    /// Whether a message has begun and not ended.
    package var isInsideMessage: Bool { flags.contains(.inMessage) }

    /// The next event in `bytes`, from `offset` on; moves `offset` behind what it consumed.
    @inline(__always)
    package mutating func next(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Event {
        guard flags.isDisjoint(with: [.isOver, .isLent]) else { return nextAside(bytes, &offset) }
        return advance(bytes, &offset)
    }

    @inline(never)
    private mutating func nextAside(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Event {
        if flags.contains(.isLent) { dropScratch() }
        guard flags.contains(.isOver) else { return advance(bytes, &offset) }
        offset = bytes.count
        return .needsInput
    }

    @inline(__always)
    private mutating func advance(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) -> Event {
        while true {
            switch decoder.next(bytes, &offset) {
            case .needsInput:
                if let violation = announcedViolation() { return fail(violation) }
                return .needsInput
            case .header(let header):
                if let violation = begin(header) ?? count(header) { return fail(violation) }
            case .payload(let range, let endsFrame):
                if opcode.isControl {
                    if let event = control(bytes, range, endsFrame) { return event }
                } else if let event = data(bytes, range, endsFrame) {
                    return event
                }
            case .violation(let violation):
                return fail(violation)
            }
        }
    }

    @inline(never)
    mutating func fail(_ violation: ProtocolViolation) -> Event {
        flags.insert(.isOver)
        return .violation(violation)
    }
}

// Data frames.
extension WebSocketReader {
    /// Takes the head of a frame: fragments must be in order (RFC 6455 §5.4).
    @inline(__always)
    mutating func begin(_ header: FrameHeader) -> ProtocolViolation? {
        opcode = header.opcode
        switch header.opcode {
        case .text, .binary:
            guard !flags.contains(.inMessage) else {
                return ProtocolViolation(.protocolError, "a message begins inside another one")
            }
            flags = [.inMessage, .isFirst]
            if header.opcode == .text { flags.insert(.isText) }
            messageBytes = 0
            fragments = 0
            validator = UTF8Validator()
        case .continuation:
            guard flags.contains(.inMessage) else {
                return ProtocolViolation(.protocolError, "a continuation frame continues no message")
            }
        case .close, .ping, .pong:
            return nil
        }
        if header.isFinal { flags.insert(.isFinal) } else { flags.remove(.isFinal) }
        return nil
    }

    /// Counts the frame against the limits.
    @inline(__always)
    mutating func count(_ header: FrameHeader) -> ProtocolViolation? {
        guard !header.opcode.isControl else { return nil }
        let (sum, overflow) = messageBytes.addingReportingOverflow(header.payloadLength)
        messageBytes = overflow ? .max : sum
        fragments = fragments &+ (fragments == .max ? 0 : 1)
        guard maximumMessageBytes > 0, limitsBinary || flags.contains(.isText) else { return nil }
        guard !overflow, messageBytes <= maximumMessageBytes else { return Self.tooBig }
        guard Int(fragments) &* Self.fragmentOverheadBytes <= max(maximumMessageBytes, 1024) else {
            return ProtocolViolation(.messageTooBig, "a message has more fragments than its limit allows")
        }
        return nil
    }

    /// A head whose masking key is still on its way may have announced too much.
    @inline(__always)
    func announcedViolation() -> ProtocolViolation? {
        guard maximumMessageBytes > 0, let (opcode, length) = decoder.announced, !opcode.isControl else { return nil }
        let isText = opcode == .text || opcode == .continuation && flags.contains(.isText)
        guard limitsBinary || isText else { return nil }
        let before = opcode == .continuation ? messageBytes : 0
        return length > maximumMessageBytes &- before ? Self.tooBig : nil
    }

    private static var tooBig: ProtocolViolation {
        ProtocolViolation(.messageTooBig, "a message is larger than the limit")
    }

    /// Takes a piece of a data frame; nil where there is nothing to tell, as of an empty frame inside a message.
    @inline(__always)
    mutating func data(
        _ bytes: UnsafeMutableRawBufferPointer, _ range: Range<Int>, _ endsFrame: Bool
    ) -> Event? {
        let isText = flags.contains(.isText)
        let isLast = endsFrame && flags.contains(.isFinal)
        if isText {
            guard validator.accept(UnsafeRawBufferPointer(rebasing: bytes[range])), !isLast || validator.isComplete
            else { return fail(ProtocolViolation(.invalidPayload, "a text message is not valid UTF-8")) }
        }
        guard isLast || !range.isEmpty else { return nil }
        let isFirst = flags.contains(.isFirst)
        flags.remove(.isFirst)
        if isLast { flags.remove(.inMessage) }
        return .data(isText: isText, range, isFirst: isFirst, isLast: isLast)
    }
}

// Control frames.
extension WebSocketReader {
    /// Takes a piece of a control frame; nil until it is whole.
    @inline(never)
    mutating func control(
        _ bytes: UnsafeMutableRawBufferPointer, _ range: Range<Int>, _ endsFrame: Bool
    ) -> Event? {
        let piece = UnsafeRawBufferPointer(rebasing: bytes[range])
        if endsFrame, scratch == nil { return finish(piece) }
        let buffer = scratch ?? UnsafeMutableRawPointer.allocate(byteCount: 125, alignment: 1)
        scratch = buffer
        // SAFETY: the pieces of one control frame are 125 bytes in all, which `FrameDecoder` has checked.
        UnsafeMutableRawBufferPointer(start: buffer + Int(scratchCount), count: piece.count).copyMemory(from: piece)
        scratchCount += UInt8(piece.count)
        guard endsFrame else { return nil }
        flags.insert(.isLent)
        return finish(UnsafeRawBufferPointer(start: buffer, count: Int(scratchCount)))
    }

    mutating func dropScratch() {
        scratch?.deallocate()
        scratch = nil
        scratchCount = 0
        flags.remove(.isLent)
    }

    private mutating func finish(_ payload: UnsafeRawBufferPointer) -> Event {
        switch opcode {
        case .ping: .ping(payload)
        case .pong: .pong(payload)
        default: close(payload)
        }
    }

    /// RFC 6455 §5.5.1: nothing, or a code of two bytes and a reason.
    private mutating func close(_ payload: UnsafeRawBufferPointer) -> Event {
        guard !payload.isEmpty else {
            flags.insert(.isOver)
            return .close(nil, reason: payload)
        }
        guard payload.count >= 2 else {
            return fail(ProtocolViolation(.protocolError, "a close frame has half a code"))
        }
        let code = CloseCode(UInt16(payload[0]) << 8 | UInt16(payload[1]))
        guard code.isValidOnWire else {
            return fail(ProtocolViolation(.protocolError, "a close frame has a code that may not be sent"))
        }
        let reason = UnsafeRawBufferPointer(rebasing: payload[2...])
        guard UTF8Validator.isValid(reason) else {
            return fail(ProtocolViolation(.invalidPayload, "a close reason is not valid UTF-8"))
        }
        flags.insert(.isOver)
        return .close(code, reason: reason)
    }
}
