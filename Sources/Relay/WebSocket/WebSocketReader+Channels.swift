// Reading for channels: data comes out as it lies, still masked, for whoever copies it anyway.
extension WebSocketReader {
    /// As `next`, but a piece of data is masked with `key`, whose first byte belongs to the piece's first; 0 where it is
    /// plain. Texts are unmasked in place and checked to be UTF-8 only where `checksText`.
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
