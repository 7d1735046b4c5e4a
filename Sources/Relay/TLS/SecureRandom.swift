import COpenSSL

/// Random bytes that nobody can predict, from OpenSSL's generator, which the kernel seeds.
package enum SecureRandom {
    /// Fills the buffer. Traps where the system has no randomness to give: nothing secret may be made then.
    package static func fill(_ buffer: UnsafeMutableRawBufferPointer) {
        guard let start = buffer.baseAddress, buffer.count > 0 else { return }
        guard RAND_bytes(start.assumingMemoryBound(to: UInt8.self), Int32(buffer.count)) == 1 else {
            // Going on with guessable secrets would be worse than ending.
            fatalError("no secure randomness: \(OpenSSLErrors.takeReason())")
        }
    }

    /// So many random bytes.
    package static func bytes(_ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            fill(UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<count]))
            initialized = count
        }
    }
}
