/// Names a channel on one connection (docs/relay.v1.md): odd where the peer has opened it, even where the relay has.
package struct ChannelNumber: Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt32
    package init(_ rawValue: UInt32) { self.rawValue = rawValue }
    /// What concerns the connection as a whole: drain, ping, pong.
    package static var connection: ChannelNumber { ChannelNumber(0) }
    /// In an address: the end is a script's (`relay.dial`), and the address's connection is its own id. No peer may use
    /// an even number, and no connection gets this far.
    static var script: ChannelNumber { ChannelNumber(.max - 1) }
    var isPeers: Bool { rawValue & 1 == 1 }
    /// Given by the app, for `relay.connect`; those of the relay's other channels are divisible by four, so that two
    /// loops can give numbers to one connection.
    var isScripts: Bool { rawValue & 3 == 2 }
    package var description: String { String(rawValue) }
}

/// What a binary message on a multiplexed connection is, by its first byte (DESIGN §7):
///
///     +----------+--------------------+-------------
///     | type: u8 | channel: u32       | payload …
///     +----------+--------------------+-------------
package struct ChannelFrameType: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    private init(_ rawValue: UInt8) { self.rawValue = rawValue }

    package static var open: Self { Self(0x10) }
    package static var accept: Self { Self(0x11) }
    package static var reject: Self { Self(0x12) }
    package static var credit: Self { Self(0x13) }
    package static var end: Self { Self(0x14) }
    package static var close: Self { Self(0x15) }
    package static var drain: Self { Self(0x16) }
    package static var ping: Self { Self(0x17) }
    package static var pong: Self { Self(0x18) }

    /// A piece of a message.
    @inline(__always)
    package static func data(isText: Bool, more: Bool) -> Self { Self((isText ? 0x01 : 0x00) | (more ? 0x80 : 0x00)) }

    @inline(__always) package var isData: Bool { rawValue & 0x7E == 0 }
    @inline(__always) package var isText: Bool { rawValue & 0x01 != 0 }
    /// Of data: more of the message follows.
    @inline(__always) package var hasMore: Bool { rawValue & 0x80 != 0 }
}

/// The frames of channels that carry no data, as a peer sends them, and how every frame is written.
package enum ChannelFrame: Equatable {
    case open([UInt8])
    case accept(credit: Int)
    case reject(code: UInt16, reason: String)
    case credit(Int)
    case end
    case close(CloseCode, reason: String)
    case ping([UInt8])

    package static var headLength: Int { 5 }
    /// An `open` may be so long; the others are shorter.
    package static let maximumOpenBytes = 16 << 10
    /// Reasons are for people: what is longer is refused.
    static let maximumReasonBytes = 1024

    /// The most that the payload of a frame of this type may have; nil for types that no peer may send.
    package static func maximumPayload(of type: ChannelFrameType) -> Int? {
        switch type {
        case .open: maximumOpenBytes
        case .accept, .credit: 4
        case .reject, .close: 2 + maximumReasonBytes
        case .end: 0
        case .ping: 125
        default: nil
        }
    }

    /// Reads a whole frame that is no data; nil where it is malformed.
    package static func parse(_ type: ChannelFrameType, _ payload: UnsafeRawBufferPointer) -> ChannelFrame? {
        guard let maximum = maximumPayload(of: type), payload.count <= maximum else { return nil }
        switch type {
        case .open: return .open(Array(payload))
        case .ping: return .ping(Array(payload))
        case .end: return .end
        case .accept, .credit:
            guard payload.count == 4 else { return nil }
            let bytes = Int(UInt32(bigEndian: payload.loadUnaligned(as: UInt32.self)))
            return type == .accept ? .accept(credit: bytes) : .credit(bytes)
        case .reject, .close:
            guard payload.count >= 2, let reason = String(validating: payload.dropFirst(2), as: UTF8.self) else {
                return nil
            }
            let code = UInt16(bigEndian: payload.loadUnaligned(as: UInt16.self))
            return type == .reject
                ? .reject(code: code, reason: reason) : .close(CloseCode(rawValue: code), reason: reason)
        default: return nil
        }
    }

    /// Writes the head of a frame; `buffer` has room for its five bytes.
    @inline(__always)
    package static func writeHead(
        _ type: ChannelFrameType, _ number: ChannelNumber, into buffer: UnsafeMutableRawPointer
    ) {
        // SAFETY: five bytes, which the caller's buffer holds.
        buffer.storeBytes(of: type.rawValue, as: UInt8.self)
        buffer.storeBytes(of: number.rawValue.bigEndian, toByteOffset: 1, as: UInt32.self)
    }

    /// A whole frame.
    static func encode(_ type: ChannelFrameType, _ number: ChannelNumber, _ payload: [UInt8] = []) -> [UInt8] {
        var bytes = [type.rawValue]
        withUnsafeBytes(of: number.rawValue.bigEndian) { bytes.append(contentsOf: $0) }
        bytes.append(contentsOf: payload)
        return bytes
    }

    /// The payload of `accept` and `credit`.
    static func payload(credit: Int) -> [UInt8] {
        withUnsafeBytes(of: UInt32(clamping: credit).bigEndian) { Array($0) }
    }

    /// The payload of `reject` and `close`; a reason that is too long is cut between characters.
    package static func payload(code: UInt16, reason: String) -> [UInt8] {
        var payload: [UInt8] = [UInt8(code >> 8), UInt8(code & 0xFF)]
        for scalar in reason.unicodeScalars {
            guard let encoded = UTF8.encode(scalar), payload.count + encoded.count <= 2 + maximumReasonBytes else {
                break
            }
            payload.append(contentsOf: encoded)
        }
        return payload
    }
}

/// The codes of `reject` that are the relay's own: HTTP statuses, because a clean client gets them as such.
enum ChannelReject {
    static var unauthorized: UInt16 { 401 }
    static var forbidden: UInt16 { 403 }
    static var notFound: UInt16 { 404 }
    static var failed: UInt16 { 500 }
    static var badGateway: UInt16 { 502 }
    static var limit: UInt16 { 503 }
    static var timeout: UInt16 { 504 }

    /// What a clean client is answered: a server's own codes are an HTTP status, or mean a bad gateway.
    static func status(_ code: UInt16) -> HTTPStatus {
        (400...599).contains(code) ? HTTPStatus(code: Int(code)) : .badGateway
    }
}
