/// Masking keys, "derived from a strong source of entropy" (RFC 6455 §5.3), drawn 256 at a time: one by one they cost
/// more than the rest of a small frame.
package struct MaskingKeys {
    private var keys = [UInt32](repeating: 0, count: 256)
    private var next = 256

    package init() {}

    @inline(__always)
    package mutating func take() -> UInt32 {
        if next == keys.count {
            keys.withUnsafeMutableBytes { SecureRandom.fill($0) }
            next = 0
        }
        defer { next += 1 }
        return keys[next]
    }
}
