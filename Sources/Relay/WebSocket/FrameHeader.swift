/// What a frame carries (RFC 6455 §5.2). Opcodes 3–7 and 11–15 are reserved: a frame with one of them is a violation,
/// so they have no case.
package enum Opcode: UInt8, Sendable {
    case continuation = 0x0
    case text = 0x1
    case binary = 0x2
    case close = 0x8
    case ping = 0x9
    case pong = 0xA

    /// Close, ping and pong: at most 125 bytes, never fragmented, allowed between the fragments of a message.
    @inline(__always)
    package var isControl: Bool { rawValue & 0x8 != 0 }
}

/// The head of one frame (RFC 6455 §5.2), 2 to 14 bytes on the wire:
///
///      byte 0          byte 1                       then                          then
///     +-+---+-------+ +-+--------------+ +----------------------------------+ +-----------------------+
///     |F|RSV|opcode | |M| length 0–125 | | 126: 2 bytes of length           | | masking key: 4 bytes, |
///     |1| 3 |   4   | |1| 126 or 127   | | 127: 8 bytes of length, MSB zero | | where M is set        |
///     +-+---+-------+ +-+--------------+ +----------------------------------+ +-----------------------+
package struct FrameHeader: Equatable, Sendable {
    /// The last (or only) frame of its message.
    package var isFinal: Bool
    package var opcode: Opcode
    package var isMasked: Bool
    /// The key's four bytes as they lie on the wire, loaded as one word of this machine. 0 where `isMasked` is false.
    package var maskingKey: UInt32
    /// Bytes of payload.
    package var payloadLength: Int

    /// The longest head: two bytes, eight of length, four of masking key.
    package static var maximumLength: Int { 14 }

    package init(isFinal: Bool, opcode: Opcode, isMasked: Bool, maskingKey: UInt32, payloadLength: Int) {
        self.isFinal = isFinal
        self.opcode = opcode
        self.isMasked = isMasked
        self.maskingKey = maskingKey
        self.payloadLength = payloadLength
    }
}

/// A peer broke the protocol: what to close the connection with.
package struct ProtocolViolation: Error, Sendable, Equatable {
    package let code: CloseCode
    /// One sentence, short enough for a close frame.
    package let reason: StaticString

    package init(_ code: CloseCode, _ reason: StaticString) {
        self.code = code
        self.reason = reason
    }

    package static func == (one: ProtocolViolation, other: ProtocolViolation) -> Bool {
        one.code == other.code && one.reason.description == other.reason.description
    }
}
