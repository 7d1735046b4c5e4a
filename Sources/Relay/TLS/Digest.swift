import COpenSSL

/// Digests, in one call each. OpenSSL's own one-shot functions look their algorithm up by name on every call; these
/// look it up once per process.
package enum Digest {
    package static let sha1Bytes = 20
    package static let sha256Bytes = 32

    /// Writes the 20 bytes of SHA-1 into `output`. For the WebSocket accept key (RFC 6455 §4.2.2) only.
    package static func sha1(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) {
        digest(bytes, Algorithms.sha1, sha1Bytes, output)
    }

    /// SHA-1 as an array of 20 bytes.
    package static func sha1(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        array(of: sha1Bytes) { sha1(bytes, into: $0) }
    }

    /// Writes the 32 bytes of SHA-256 into `output`.
    package static func sha256(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) {
        digest(bytes, Algorithms.sha256, sha256Bytes, output)
    }

    /// SHA-256 as an array of 32 bytes.
    package static func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        array(of: sha256Bytes) { sha256(bytes, into: $0) }
    }

    /// HMAC with SHA-256 (RFC 2104) as an array of 32 bytes; the key may have any length.
    package static func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        array(of: sha256Bytes) { output in
            // A copy of a context that has its digest already: setting it anew would look it up by name.
            guard let context = EVP_MAC_CTX_dup(Algorithms.hmacSHA256) else { fatalError("out of memory") }
            defer { EVP_MAC_CTX_free(context) }
            var count = 0
            // A null key would mean "the key set before", so an empty one is passed as an address of nothing.
            let done = withNonNullBytes(key) { key, keyCount in
                withNonNullBytes(bytes) { bytes, byteCount in
                    EVP_MAC_init(context, key, keyCount, nil) == 1 && EVP_MAC_update(context, bytes, byteCount) == 1
                        && EVP_MAC_final(context, output.baseAddress, &count, output.count) == 1
                }
            }
            precondition(done && count == sha256Bytes, "HMAC-SHA256 cannot fail once its context exists")
        }
    }

    /// Compares without telling by its time where the difference is; the time tells the lengths.
    package static func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
        guard a.count == b.count else { return false }
        guard let left = a.baseAddress, let right = b.baseAddress else { return true }
        return CRYPTO_memcmp(left, right, a.count) == 0
    }

    private static func digest(
        _ bytes: UnsafeRawBufferPointer, _ algorithm: OpaquePointer, _ size: Int,
        _ output: UnsafeMutableRawBufferPointer
    ) {
        precondition(output.count >= size, "no room for the digest")
        let done = withNonNullBytes(bytes) { bytes, count in
            EVP_Digest(bytes, count, output.baseAddress?.assumingMemoryBound(to: UInt8.self), nil, algorithm, nil)
        }
        // It fails only where memory is out.
        guard done == 1 else { fatalError("out of memory") }
    }

    private static func array(of count: Int, _ write: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            write(UnsafeMutableRawBufferPointer(buffer))
            initialized = count
        }
    }

    private static func withNonNullBytes<Result>(
        _ bytes: UnsafeRawBufferPointer, _ body: (UnsafePointer<UInt8>, Int) -> Result
    ) -> Result {
        if let start = bytes.baseAddress { return body(start.assumingMemoryBound(to: UInt8.self), bytes.count) }
        var nothing: UInt8 = 0
        return withUnsafePointer(to: &nothing) { body($0, 0) }
    }

    /// Looked up on first use, kept for ever.
    private enum Algorithms {
        // SAFETY: fetched algorithms are immutable, and OpenSSL counts references to them atomically.
        nonisolated(unsafe) static let sha1 = fetch("SHA1")
        nonisolated(unsafe) static let sha256 = fetch("SHA256")
        // SAFETY: this context is only ever copied from, which does not change it.
        nonisolated(unsafe) static let hmacSHA256 = makeHMAC()

        private static func fetch(_ name: String) -> OpaquePointer {
            guard let algorithm = EVP_MD_fetch(nil, name, nil) else {
                // A build of OpenSSL without it cannot do TLS or WebSocket: found at the first use, whatever the input.
                fatalError("OpenSSL has no \(name): \(OpenSSLErrors.takeReason())")
            }
            return algorithm
        }

        private static func makeHMAC() -> OpaquePointer {
            var name = Array("SHA256".utf8CString)
            guard let context = copenssl_make_hmac_context(&name) else {
                // As above.
                fatalError("OpenSSL has no HMAC: \(OpenSSLErrors.takeReason())")
            }
            return context
        }
    }
}
