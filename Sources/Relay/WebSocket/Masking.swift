/// Masking of payloads (RFC 6455 §5.3): byte i of the payload is XORed with byte i mod 4 of the key. Masking twice
/// gives the original, so the same function masks and unmasks.
///
/// A key is the four bytes in wire order, loaded as one word of this machine (as in `FrameHeader`). The phase of a
/// piece, its first byte's index in the payload mod 4, is folded into the key: see `rotated`.
package enum Masking {
    /// The key for the bytes that come `count` bytes later in the payload.
    @inline(__always)
    package static func rotated(_ key: UInt32, by count: Int) -> UInt32 {
        let bits = UInt32(truncatingIfNeeded: (count & 3) &* 8)
        let host = UInt32(littleEndian: key)
        return UInt32(littleEndian: (host &>> bits) | (host &<< ((32 &- bits) & 31)))
    }

    /// Masks `bytes`, which begin at index `phase` of their payload, where they are.
    @inline(__always)
    package static func apply(_ key: UInt32, phase: Int = 0, to bytes: UnsafeMutableRawBufferPointer) {
        // A key of zero changes nothing. Some clients use it, since only browsers have an attacker to mask against.
        guard key != 0, let base = bytes.baseAddress else { return }
        combine(UnsafeRawPointer(base), into: base, count: bytes.count, key: rotated(key, by: phase))
    }

    /// Writes `source`, masked, to `destination`. `source` begins at index `phase` of its payload. The two are of one
    /// length and do not overlap, unless they are the same memory.
    @inline(__always)
    package static func copy(
        _ source: UnsafeRawBufferPointer, to destination: UnsafeMutableRawBufferPointer, key: UInt32, phase: Int = 0
    ) {
        precondition(destination.count == source.count, "masking between buffers of different lengths")
        guard let from = source.baseAddress, let to = destination.baseAddress else { return }
        guard key != 0 else { return destination.copyMemory(from: source) }
        combine(from, into: to, count: source.count, key: rotated(key, by: phase))
    }

    /// 64 bytes a turn, then words, then bytes. The compiler makes four SSE2 (or two AVX2) operations of the wide turn.
    @inline(__always)
    private static func combine(
        _ source: UnsafeRawPointer, into destination: UnsafeMutableRawPointer, count: Int, key: UInt32
    ) {
        // SAFETY: both pointers are valid for `count` bytes (the callers' buffers) and every access below ends at or
        // before `count`; loads and stores are unaligned ones. Each byte is read before it is written.
        let word = UInt64(key) | UInt64(key) &<< 32
        var index = 0
        if count >= 64 {
            let wide = SIMD8<UInt64>(repeating: word)
            repeat {
                let value = source.loadUnaligned(fromByteOffset: index, as: SIMD8<UInt64>.self)
                destination.storeBytes(of: value ^ wide, toByteOffset: index, as: SIMD8<UInt64>.self)
                index &+= 64
            } while count &- index >= 64
        }
        while count &- index >= 8 {
            let value = source.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            destination.storeBytes(of: value ^ word, toByteOffset: index, as: UInt64.self)
            index &+= 8
        }
        // `index` is a multiple of 8 here, so the key begins with its first byte again.
        var rest = UInt32(littleEndian: key)
        while index < count {
            let value = source.load(fromByteOffset: index, as: UInt8.self)
            destination.storeBytes(of: value ^ UInt8(truncatingIfNeeded: rest), toByteOffset: index, as: UInt8.self)
            rest = (rest &>> 8) | (rest &<< 24)
            index &+= 1
        }
    }
}
