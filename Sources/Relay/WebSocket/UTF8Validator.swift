/// Checks that bytes which arrive in pieces are UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above
/// U+10FFFF. It says no at the first byte that cannot be right, not at the end of the message.
///
/// The state is what the next byte may be. Only the second byte of a sequence has bounds of its own:
///
///     first byte   second byte   then        excludes
///     00…7F        —
///     C2…DF        80…BF
///     E0           A0…BF         80…BF       overlong forms
///     E1…EC EE EF  80…BF         80…BF
///     ED           80…9F         80…BF       surrogates
///     F0           90…BF         2 × 80…BF   overlong forms
///     F1…F3        80…BF         2 × 80…BF
///     F4           80…8F         2 × 80…BF   above U+10FFFF
package struct UTF8Validator: Sendable {
    /// Continuation bytes that the sequence still lacks; 0 between characters.
    private var missing: UInt8 = 0
    private var lowest: UInt8 = 0x80
    private var highest: UInt8 = 0xBF

    package init() {}

    /// Whether the bytes so far end between two characters.
    @inline(__always)
    package var isComplete: Bool { missing == 0 }

    /// Whether `bytes` are valid UTF-8 as a whole.
    package static func isValid(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var validator = UTF8Validator()
        return validator.accept(bytes) && validator.isComplete
    }

    /// Takes the next piece; false where a byte of it cannot be part of valid UTF-8 after what came before.
    package mutating func accept(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress else { return true }
        let count = bytes.count
        var index = 0
        // SAFETY: every load below ends at or before `count`.
        while index < count {
            let byte = base.load(fromByteOffset: index, as: UInt8.self)
            if missing == 0 {
                if byte < 0x80 {
                    index = Self.endOfASCII(base, from: index &+ 1, count: count)
                    continue
                }
                guard begin(byte) else { return false }
            } else {
                guard byte >= lowest, byte <= highest else { return false }
                missing &-= 1
                lowest = 0x80
                highest = 0xBF
            }
            index &+= 1
        }
        return true
    }

    /// The index of the first byte at or after `start` that is not ASCII; `count` where there is none.
    @inline(__always)
    private static func endOfASCII(_ base: UnsafeRawPointer, from start: Int, count: Int) -> Int {
        let highBits: UInt64 = 0x8080_8080_8080_8080
        var index = start
        while count &- index >= 32 {
            let a = base.loadUnaligned(fromByteOffset: index, as: SIMD4<UInt64>.self)
            let b = a.lowHalf | a.highHalf
            guard (b.x | b.y) & highBits == 0 else { break }
            index &+= 32
        }
        while count &- index >= 8 {
            guard base.loadUnaligned(fromByteOffset: index, as: UInt64.self) & highBits == 0 else { break }
            index &+= 8
        }
        while index < count, base.load(fromByteOffset: index, as: UInt8.self) < 0x80 { index &+= 1 }
        return index
    }

    /// Takes the first byte of a sequence of two to four.
    @inline(__always)
    private mutating func begin(_ byte: UInt8) -> Bool {
        switch byte {
        case 0xC2...0xDF: missing = 1
        case 0xE0: (missing, lowest) = (2, 0xA0)
        case 0xED: (missing, highest) = (2, 0x9F)
        case 0xE1...0xEF: missing = 2
        case 0xF0: (missing, lowest) = (3, 0x90)
        case 0xF4: (missing, highest) = (3, 0x8F)
        case 0xF1...0xF3: missing = 3
        default: return false
        }
        return true
    }
}
