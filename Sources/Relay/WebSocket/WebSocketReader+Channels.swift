// Reading for channels: data comes out as it lies, still masked, for whoever copies it anyway.
extension WebSocketReader {
    /// As `next`, but a piece of data is masked with `key`, whose first byte belongs to the piece's first; 0 where it
    /// is plain. Texts are unmasked in place and checked to be UTF-8 only where `checksText`.
    @inline(__always)
    package mutating func nextMasked(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, key: inout UInt32, checksText: Bool
    ) -> Event {
        guard flags.isDisjoint(with: [.isOver, .isLent]) else { return next(bytes, &offset) }
        while true {
            if isInsideDataFrame {
                let count = min(decoder.payloadLeft, bytes.count &- offset)
                guard count > 0 || decoder.payloadLeft == 0 else { return .needsInput }
                key = decoder.takeMasked(count)
                let range = offset..<(offset &+ count)
                offset &+= count
                if checksText, flags.contains(.isText) {
                    Masking.apply(key, to: UnsafeMutableRawBufferPointer(rebasing: bytes[range]))
                    key = 0
                    if let event = data(bytes, range, !decoder.isInsideFrame) { return event }
                } else if let event = pass(range, !decoder.isInsideFrame) {
                    return event
                }
                continue
            }
            switch decoder.next(bytes, &offset) {
            case .needsInput:
                if let violation = announcedViolation() { return fail(violation) }
                return .needsInput
            case .header(let header):
                if let violation = begin(header) ?? count(header) { return fail(violation) }
            case .payload(let range, let endsFrame):
                if let event = control(bytes, range, endsFrame) { return event }
            case .violation(let violation):
                return fail(violation)
            }
        }
    }

    /// What a pass over small frames has moved.
    package struct Moved {
        package var messages = 0
        package var payloadBytes = 0
    }

    /// Whether the next bytes begin a message.
    @inline(__always)
    package var isBetweenMessages: Bool {
        decoder.isBeforeMaskedHead && flags.isDisjoint(with: [.isOver, .isLent, .inMessage])
    }

    /// Whether a message in one small binary frame seems to begin here: worth a try of `moveSmallMessages`.
    @inline(__always)
    package static func beginsSmallBinary(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> Bool {
        bytes.count &- offset >= 6 && bytes[offset] == 0x82 && bytes[offset &+ 1] <= 0x80 &+ 125
    }

    /// The channel of the frame that begins here, if that much is there: see `moveSmallMessages`.
    @inline(__always)
    package static func channelNumber(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> UInt32? {
        guard bytes.count &- offset >= 11 else { return nil }
        let key = bytes.loadUnaligned(fromByteOffset: offset &+ 2, as: UInt32.self)
        let number = bytes.loadUnaligned(fromByteOffset: offset &+ 7, as: UInt32.self)
        return UInt32(bigEndian: number ^ Masking.rotated(key, by: 1))
    }

    /// The longest payload of a frame with the shortest head.
    private static var smallBytes: Int { 125 }

    /// The common case in one tight loop: messages in one binary frame each, small, all there. Moves them from `bytes`
    /// to `room`, as long as there is `credit` for them. On a multiplexed side a message has a channel frame's head:
    /// whole messages of channel `source` only, if it is one, become messages of channel `target`, if that is one.
    /// Stops at whatever is anything else, good or bad, and leaves it to `nextMasked`. Only `isBetweenMessages`.
    @inline(__always)
    package mutating func moveSmallMessages(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, from source: UInt32?,
        into room: UnsafeMutableRawBufferPointer, _ written: inout Int, as target: UInt32?, credit: Int
    ) -> Moved {
        var moved = Moved()
        guard let input = bytes.baseAddress, let output = room.baseAddress else { return moved }
        let inner = source == nil ? 0 : 5
        let outer = target == nil ? 0 : 5
        var from = offset
        var to = written
        // SAFETY: a frame is read and written only once it is known to lie within `bytes` and to fit into `room`.
        while bytes.count &- from >= 6 &+ inner {
            let length = Int(input.load(fromByteOffset: from &+ 1, as: UInt8.self)) &- 0x80
            let count = length &- inner
            // FIN and binary; masked and short, with the other side's head, too.
            guard input.load(fromByteOffset: from, as: UInt8.self) == 0x82, count >= 0,
                length <= Self.smallBytes, count &+ outer <= Self.smallBytes,
                bytes.count &- from &- 6 >= length, room.count &- to &- 2 &- outer >= count,
                moved.payloadBytes &+ count <= credit
            else { break }
            var key = input.loadUnaligned(fromByteOffset: from &+ 2, as: UInt32.self)
            var isText = false
            if let source {
                let type =
                    input.load(fromByteOffset: from &+ 6, as: UInt8.self)
                    ^ UInt8(truncatingIfNeeded: UInt32(littleEndian: key))
                key = Masking.rotated(key, by: 1)
                let number = input.loadUnaligned(fromByteOffset: from &+ 7, as: UInt32.self) ^ key
                guard type <= 1, number == source.bigEndian else { break }
                isText = type == 1
            }
            let isTextFrame = target == nil && isText
            (output + to).storeBytes(of: isTextFrame ? 0x81 : 0x82, as: UInt8.self)
            (output + to).storeBytes(
                of: UInt8(truncatingIfNeeded: count &+ outer), toByteOffset: 1, as: UInt8.self)
            if let target {
                (output + to).storeBytes(of: isText ? 1 : 0, toByteOffset: 2, as: UInt8.self)
                (output + to).storeBytes(of: target.bigEndian, toByteOffset: 3, as: UInt32.self)
            }
            Masking.copy(
                UnsafeRawBufferPointer(start: input + from + 6 + inner, count: count),
                to: UnsafeMutableRawBufferPointer(start: output + to + 2 + outer, count: count), key: key)
            from &+= 6 &+ length
            to &+= 2 &+ outer &+ count
            moved.messages &+= 1
            moved.payloadBytes &+= count
        }
        offset = from
        written = to
        return moved
    }

    /// A piece of a data frame that nobody looks into; nil where there is nothing to tell.
    @inline(__always)
    private mutating func pass(_ range: Range<Int>, _ endsFrame: Bool) -> Event? {
        let isLast = endsFrame && flags.contains(.isFinal)
        guard isLast || !range.isEmpty else { return nil }
        let isFirst = flags.contains(.isFirst)
        flags.remove(.isFirst)
        if isLast { flags.remove(.inMessage) }
        return .data(isText: flags.contains(.isText), range, isFirst: isFirst, isLast: isLast)
    }
}
