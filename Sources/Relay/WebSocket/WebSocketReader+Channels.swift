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
        decoder.isBeforeHead && flags.isDisjoint(with: [.isOver, .isLent, .inMessage])
    }

    /// Whether a message in one small binary frame seems to begin here: worth a try of `moveSmallMessages`.
    @inline(__always)
    package static func beginsSmallBinary(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> Bool {
        bytes.count &- offset >= 6 && bytes[offset] == 0x82 && bytes[offset &+ 1] <= 0x80 &+ 125
    }

    /// The channel of the frame that begins here, if that much is there: see `moveSmallMessages`.
    @inline(__always)
    package func channelNumber(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> UInt32? {
        guard bytes.count &- offset >= 11 else { return nil }
        guard decoder.expectsMask else {
            return UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset &+ 3, as: UInt32.self))
        }
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
    ///
    /// A client's side reads what is not masked (`isMasked`), and masks with `keys`, one for each message.
    @inline(__always)
    package mutating func moveSmallMessages(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, from source: UInt32?,
        into room: UnsafeMutableRawBufferPointer, _ written: inout Int, as target: UInt32?, credit: Int,
        isMasked: Bool = true, masking keys: UnsafeMutablePointer<MaskingKeys>? = nil
    ) -> Moved {
        var moved = Moved()
        guard let input = bytes.baseAddress, let output = room.baseAddress else { return moved }
        let inner = source == nil ? 0 : 5
        let outer = target == nil ? 0 : 5
        let inputHead = isMasked ? 6 : 2
        let outputHead = keys == nil ? 2 : 6
        var from = offset
        var to = written
        // SAFETY: a frame is read and written only once it is known to lie within `bytes` and to fit into `room`.
        while bytes.count &- from >= inputHead &+ inner {
            let length = Int(input.load(fromByteOffset: from &+ 1, as: UInt8.self)) &- (isMasked ? 0x80 : 0)
            let count = length &- inner
            // FIN and binary; masked or not, and short, with the other side's head, too.
            guard input.load(fromByteOffset: from, as: UInt8.self) == 0x82, count >= 0,
                length <= Self.smallBytes, count &+ outer <= Self.smallBytes,
                bytes.count &- from &- inputHead >= length, room.count &- to &- outputHead &- outer >= count,
                moved.payloadBytes &+ count <= credit
            else { break }
            var key = isMasked ? input.loadUnaligned(fromByteOffset: from &+ 2, as: UInt32.self) : 0
            var isText = false
            if let source {
                let type =
                    input.load(fromByteOffset: from &+ inputHead, as: UInt8.self)
                    ^ UInt8(truncatingIfNeeded: UInt32(littleEndian: key))
                key = Masking.rotated(key, by: 1)
                let number = input.loadUnaligned(fromByteOffset: from &+ inputHead &+ 1, as: UInt32.self) ^ key
                isText = type == 1
                guard type == 0 || isText && keys == nil, number == source.bigEndian else { break }
            }
            let isTextFrame = target == nil && isText
            (output + to).storeBytes(of: isTextFrame ? 0x81 : 0x82, as: UInt8.self)
            var mask: UInt32 = 0
            if let keys {
                mask = keys.pointee.take()
                (output + to).storeBytes(of: mask, toByteOffset: 2, as: UInt32.self)
            }
            (output + to).storeBytes(
                of: UInt8(truncatingIfNeeded: count &+ outer) | (keys == nil ? 0 : 0x80), toByteOffset: 1,
                as: UInt8.self)
            if let target {
                (output + to).storeBytes(
                    of: (isText ? 1 : 0) ^ UInt8(truncatingIfNeeded: UInt32(littleEndian: mask)),
                    toByteOffset: outputHead, as: UInt8.self)
                // What follows begins at the second byte of the mask, and so does the payload, four bytes later.
                mask = Masking.rotated(mask, by: 1)
                (output + to).storeBytes(of: target.bigEndian ^ mask, toByteOffset: outputHead &+ 1, as: UInt32.self)
            }
            Masking.copy(
                UnsafeRawBufferPointer(start: input + from + inputHead + inner, count: count),
                to: UnsafeMutableRawBufferPointer(start: output + to + outputHead + outer, count: count),
                key: key ^ mask)
            if isText,
                !UTF8Validator.isValid(UnsafeRawBufferPointer(start: output + to + outputHead + outer, count: count))
            {
                break
            }
            from &+= inputHead &+ length
            to &+= outputHead &+ outer &+ count
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
