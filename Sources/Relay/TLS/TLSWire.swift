import COpenSSL
import Glibc

/// What one session's BIO reads from and writes to. Lives at a fixed address beside its `SSL`, because C holds a
/// pointer to it; the three lent things are set only while a call of `TLSSession` runs.
struct TLSWire {
    /// Ciphertext lent by the caller, not yet taken by OpenSSL.
    var input = UnsafeRawBufferPointer(start: nil, count: 0)
    /// Where ciphertext goes during a call; nil between calls.
    var output: UnsafeMutablePointer<OutboundBuffer>?
    /// Where `output` takes its chunks from; as long-lived as `output`.
    var pool: Unmanaged<ChunkPool>?
    /// Post-handshake handshake messages that the peer may still send.
    var handshakeAllowance = Self.initialHandshakeAllowance
    /// Plaintext bytes read since the allowance last grew.
    var plaintextBytes = 0
    /// The peer has overdrawn its allowance: the wire is cut, so that OpenSSL stops within the same call.
    var isFlooded = false

    /// KeyUpdates (TLS 1.3) and renegotiation attempts (TLS 1.2) cost us key derivations for 27 bytes each, and OpenSSL
    /// does not limit them. RFC 8446 §5.5 asks for one per 2^24.5 records at most; this allows any sane peer a
    /// start, and one more per MiB of data.
    static let initialHandshakeAllowance = 32
    static let plaintextBytesPerHandshakeMessage = 1 << 20

    /// Counts what was read, which earns allowance.
    @inline(__always)
    mutating func countPlaintext(_ count: Int) {
        plaintextBytes += count
        while plaintextBytes >= Self.plaintextBytesPerHandshakeMessage {
            plaintextBytes -= Self.plaintextBytesPerHandshakeMessage
            handshakeAllowance = min(handshakeAllowance + 1, Self.initialHandshakeAllowance)
        }
    }

    mutating func countHandshakeMessage() {
        handshakeAllowance -= 1
        if handshakeAllowance < 0 { isFlooded = true }
    }

    /// The one BIO method of the process: OpenSSL's face of a wire. Made on first use and never freed.
    // SAFETY: a BIO_METHOD is not changed after this initializer, and OpenSSL only reads it.
    nonisolated(unsafe) private static let method: OpaquePointer = {
        guard let method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "relayd wire"),
            BIO_meth_set_read_ex(method, { readBytes($0, $1, $2, $3) }) == 1,
            BIO_meth_set_write_ex(method, { writeBytes($0, $1, $2, $3) }) == 1,
            BIO_meth_set_ctrl(method, { _, command, _, _ in control(command) }) == 1
        else { fatalError("out of memory") }  // As Swift itself does when an object cannot be made.
        return method
    }()

    /// A BIO over `wire`, which must outlive it; nil where memory is out.
    static func makeBIO(over wire: UnsafeMutablePointer<TLSWire>) -> OpaquePointer? {
        guard let bio = BIO_new(method) else { return nil }
        BIO_set_data(bio, wire)
        BIO_set_init(bio, 1)
        return bio
    }

    /// The wire behind a BIO that `makeBIO` made.
    @inline(__always)
    static func behind(_ bio: OpaquePointer?) -> UnsafeMutablePointer<TLSWire>? {
        BIO_get_data(bio)?.assumingMemoryBound(to: TLSWire.self)
    }

    /// Hands lent ciphertext to OpenSSL, which copies it into its record buffer and decrypts it there.
    private static func readBytes(
        _ bio: OpaquePointer?, _ destination: UnsafeMutablePointer<CChar>?, _ capacity: Int,
        _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        guard let wire = behind(bio), let destination, let count else { return 0 }
        copenssl_BIO_clear_retry_flags(bio)
        count.pointee = 0
        if wire.pointee.isFlooded { return 0 }
        let input = wire.pointee.input
        let taken = min(capacity, input.count)
        guard taken > 0, let source = input.baseAddress else {
            copenssl_BIO_set_retry_read(bio)
            return 0
        }
        // SAFETY: OpenSSL gives `capacity` writable bytes; `input` is lent for the call and cannot overlap them.
        memcpy(destination, source, taken)
        wire.pointee.input = UnsafeRawBufferPointer(rebasing: input[taken...])
        count.pointee = taken
        return 1
    }

    /// Puts one encrypted record behind what already waits. It always takes everything, so OpenSSL never holds
    /// ciphertext back and never asks for a retry.
    private static func writeBytes(
        _ bio: OpaquePointer?, _ source: UnsafePointer<CChar>?, _ size: Int, _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        guard let wire = behind(bio), let source, let count else { return 0 }
        copenssl_BIO_clear_retry_flags(bio)
        guard let output = wire.pointee.output, let pool = wire.pointee.pool else { return 0 }
        // SAFETY: the buffer and the pool are lent for the call that led here, and nobody else uses them in it.
        output.pointee.append(
            UnsafeRawBufferPointer(start: source, count: size), from: pool._withUnsafeGuaranteedRef { $0 })
        count.pointee = size
        return 1
    }

    /// A wire has nothing to flush and no end of its own; everything else it does not know.
    private static func control(_ command: Int32) -> Int {
        command == BIO_CTRL_FLUSH ? 1 : 0
    }
}
