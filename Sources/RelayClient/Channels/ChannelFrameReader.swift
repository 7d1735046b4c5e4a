import Relay

/// Reads what a relay sends out of binary WebSocket messages that come in pieces, each message a frame of relay.v1.
/// Data is handed out as it comes, as ranges of the caller's piece; any other frame is gathered until it is whole.
struct ChannelFrameReader {
    enum Step {
        /// The piece is used up, and there is nothing to tell yet.
        case more
        /// Payload of a data frame: a range of the piece. Empty only where it ends a message.
        case data(ChannelNumber, isText: Bool, Range<Int>, endsMessage: Bool)
        case frame(ChannelNumber, ChannelFrame)
        /// JSON: `{"reconnectInMilliseconds": N}`.
        case drain([UInt8])
        /// Close the connection with 1002.
        case violation(StaticString)
    }

    private enum State {
        /// Before the last byte of a head.
        case head
        /// Inside a frame of data, or another one.
        case data, control
    }

    /// What a `drain` may have: it is one short object.
    static let maximumDrainBytes = 1024

    private var state = State.head
    private var type = ChannelFrameType.open
    private var number = ChannelNumber.connection
    /// The beginning of a head that lies across pieces, or a frame that is no data.
    private var gathered: [UInt8] = []

    /// Takes the next piece of the message.
    mutating func read(_ piece: UnsafeRawBufferPointer, isFirst: Bool, isLast: Bool) -> Step {
        if isFirst {
            state = .head
            gathered.removeAll(keepingCapacity: true)
        }
        var offset = 0
        if state == .head {
            guard takeHead(piece, &offset) else {
                return isLast ? .violation("a frame is shorter than its head") : .more
            }
            state = type.isData ? .data : .control
            // Only what concerns the connection as a whole has no channel.
            guard (number == .connection) == (type == .drain || type == .pong) else {
                return .violation("a frame has a number that its type must not have")
            }
        }
        if state == .data {
            let endsMessage = isLast && !type.hasMore
            guard offset < piece.count || endsMessage else { return .more }
            return .data(number, isText: type.isText, offset..<piece.count, endsMessage: endsMessage)
        }
        return gather(UnsafeRawBufferPointer(rebasing: piece[offset...]), isLast: isLast)
    }

    /// Takes the five bytes of the head; false where they are not all there.
    private mutating func takeHead(_ piece: UnsafeRawBufferPointer, _ offset: inout Int) -> Bool {
        if gathered.isEmpty, piece.count >= ChannelFrame.headLength {
            offset = ChannelFrame.headLength
            setHead(piece)
            return true
        }
        offset = min(piece.count, ChannelFrame.headLength - gathered.count)
        gathered.append(contentsOf: piece[..<offset])
        guard gathered.count == ChannelFrame.headLength else { return false }
        let head = gathered
        gathered.removeAll(keepingCapacity: true)
        head.withUnsafeBytes { setHead($0) }
        return true
    }

    private mutating func setHead(_ bytes: UnsafeRawBufferPointer) {
        type = ChannelFrameType(rawValue: bytes[0])
        number = ChannelNumber(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
    }

    /// The most that the payload of such a frame may have; nil for types that no relay sends.
    private var maximumPayload: Int? {
        switch type {
        case .ping: nil
        case .drain: Self.maximumDrainBytes
        case .pong: ChannelFrame.maximumPayload(of: .ping)
        default: ChannelFrame.maximumPayload(of: type)
        }
    }

    private mutating func gather(_ payload: UnsafeRawBufferPointer, isLast: Bool) -> Step {
        guard let maximumPayload else { return .violation("a frame has an unknown type") }
        guard gathered.count + payload.count <= maximumPayload else { return .violation("a frame is too long") }
        gathered.append(contentsOf: payload)
        guard isLast else { return .more }
        switch type {
        case .drain: return .drain(gathered)
        case .pong: return .more
        default:
            guard let frame = gathered.withUnsafeBytes({ ChannelFrame.parse(type, $0) }) else {
                return .violation("a frame has a malformed payload")
            }
            return .frame(number, frame)
        }
    }
}
