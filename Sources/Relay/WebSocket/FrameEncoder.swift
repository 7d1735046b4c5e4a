/// Writes the heads of frames (RFC 6455 §5.2) and the payload of close frames. Payloads are the caller's to copy, or to
/// mask with `Masking`.
package enum FrameEncoder {
    /// Bytes that the head of such a frame takes: 2 to 14.
    @inline(__always)
    package static func headerLength(payloadLength: Int, isMasked: Bool) -> Int {
        (isMasked ? 6 : 2) &+ (payloadLength <= 125 ? 0 : payloadLength <= 0xFFFF ? 2 : 8)
    }

    /// Writes a head in its shortest form and returns its length. `buffer` has room for `FrameHeader.maximumLength`
    /// bytes. `maskingKey` is nil for frames from a server; clients must mask, with a fresh unpredictable key (§5.3).
    @inline(__always)
    package static func writeHeader(
        isFinal: Bool, opcode: Opcode, payloadLength: Int, maskingKey: UInt32? = nil,
        into buffer: UnsafeMutableRawPointer
    ) -> Int {
        precondition(payloadLength >= 0, "a payload of negative length")
        let mask: UInt8 = maskingKey == nil ? 0 : 0x80
        // SAFETY: at most 2 + 8 + 4 bytes are written, which the caller's buffer holds.
        buffer.storeBytes(of: (isFinal ? 0x80 : 0) | opcode.rawValue, as: UInt8.self)
        var length = 2
        if payloadLength <= 125 {
            buffer.storeBytes(of: mask | UInt8(truncatingIfNeeded: payloadLength), toByteOffset: 1, as: UInt8.self)
        } else if payloadLength <= 0xFFFF {
            buffer.storeBytes(of: mask | 126, toByteOffset: 1, as: UInt8.self)
            let bigEndian = UInt16(truncatingIfNeeded: payloadLength).bigEndian
            buffer.storeBytes(of: bigEndian, toByteOffset: 2, as: UInt16.self)
            length = 4
        } else {
            buffer.storeBytes(of: mask | 127, toByteOffset: 1, as: UInt8.self)
            buffer.storeBytes(of: UInt64(payloadLength).bigEndian, toByteOffset: 2, as: UInt64.self)
            length = 10
        }
        if let maskingKey {
            buffer.storeBytes(of: maskingKey, toByteOffset: length, as: UInt32.self)
            length &+= 4
        }
        return length
    }

    /// The payload of a close frame: the code, then as much of the reason as 123 bytes hold, cut between characters
    /// (RFC 6455 §5.5.1). Empty for `noStatus`, which stands for a frame without code.
    package static func closePayload(_ code: CloseCode, reason: String = "") -> [UInt8] {
        guard code != .noStatus else { return [] }
        var payload: [UInt8] = [UInt8(code.rawValue >> 8), UInt8(code.rawValue & 0xFF)]
        for scalar in reason.unicodeScalars {
            guard let encoded = UTF8.encode(scalar), payload.count + encoded.count <= 125 else { break }
            payload.append(contentsOf: encoded)
        }
        return payload
    }
}
