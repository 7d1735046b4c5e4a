import COpenSSL
import Glibc

/// One TLS connection's state: one `SSL`, no socket. Ciphertext comes in as a lent buffer and goes out into the
/// connection's `OutboundBuffer`; each byte is copied once on either way. Belongs to one loop at a time.
///
/// A turn with input: `receive`, then `handshake` until it is done, then `read` until it says `.needsInput`, which is
/// also the moment from which the lent buffer is no longer looked at.
package final class TLSSession {
    package enum HandshakeStep: Equatable {
        /// Everything lent is consumed, and more is needed; an answer may wait in `output`.
        case needsInput
        /// Data may flow. What is left of the lent bytes is for `read`.
        case done
        /// The session is over; an alert may wait in `output`.
        case failed(TLSFailure)
    }

    package enum ReadStep: Equatable {
        /// So many bytes of plaintext were written; there may be more, call again.
        case bytes(Int)
        /// Everything lent is consumed and all of its plaintext was handed out.
        case needsInput
        /// The peer sent close_notify: no data will follow. Writing is still allowed.
        case closed
        /// The session is over; an alert may wait in `output`.
        case failed(TLSFailure)
    }

    package enum WriteStep: Equatable {
        /// So many bytes were encrypted into `output`: all of them.
        case written(Int)
        case failed(TLSFailure)
    }

    /// The owned `SSL`, and the other end of its BIO; for this type and its tests.
    let ssl: OpaquePointer
    let wire: UnsafeMutablePointer<TLSWire>
    /// How reading ended; every later read and handshake repeats it, every write after a failure as well.
    private var end: ReadStep?

    /// A server's end of a new session. Throws only where memory is out.
    convenience init(server context: TLSContext) throws(TLSError) {
        try self.init(context)
        SSL_set_accept_state(ssl)
    }

    /// A client's end. `serverName` is sent as SNI where it is a name, and the certificate must be for it, name or
    /// address; nil checks only that the certificate is trusted.
    package convenience init(client context: TLSContext, serverName: String?) throws(TLSError) {
        try self.init(context)
        SSL_set_connect_state(ssl)
        if let serverName { try Self.expect(serverName, of: ssl) }
    }

    private init(_ context: TLSContext) throws(TLSError) {
        OpenSSLErrors.clear()
        let wire = UnsafeMutablePointer<TLSWire>.allocate(capacity: 1)
        wire.initialize(to: TLSWire())
        guard let ssl = SSL_new(context.pointer) else {
            wire.deallocate()
            throw .library(operation: "start a session", reason: OpenSSLErrors.takeReason())
        }
        guard let bio = TLSWire.makeBIO(over: wire) else {
            SSL_free(ssl)
            wire.deallocate()
            throw .library(operation: "start a session", reason: OpenSSLErrors.takeReason())
        }
        // The same BIO both ways: SSL_set_bio then takes over its one reference.
        SSL_set_bio(ssl, bio, bio)
        SSL_set_info_callback(ssl) { ssl, event, _ in TLSSession.countHandshakeMessage(ssl, event) }
        self.ssl = ssl
        self.wire = wire
    }

    deinit {
        // Frees the BIO as well, which is the last to look at the wire.
        SSL_free(ssl)
        wire.deinitialize(count: 1)
        wire.deallocate()
    }

    /// Makes a client's `SSL` ask for `serverName` and insist on it.
    static func expect(_ serverName: String, of ssl: OpaquePointer) throws(TLSError) {
        OpenSSLErrors.clear()
        // An address goes into the check but never into SNI (RFC 6066 §3).
        if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), serverName) == 1 { return }
        OpenSSLErrors.clear()
        guard SSL_set1_host(ssl, serverName) == 1, copenssl_SSL_set_tlsext_host_name(ssl, serverName) == 1 else {
            throw .library(operation: "use the server name \(serverName)", reason: OpenSSLErrors.takeReason())
        }
    }

    /// Lends ciphertext. It must stay valid until `handshake` or `read` says `.needsInput` or how the session ended, or
    /// until the caller has copied `unconsumed`. Replaces what is left of an earlier loan.
    package func receive(_ ciphertext: UnsafeRawBufferPointer) {
        wire.pointee.input = end == nil ? ciphertext : UnsafeRawBufferPointer(start: nil, count: 0)
    }

    /// What is left of the lent ciphertext: not empty only where the caller stopped before `.needsInput`. Who wants to
    /// go on later copies it, and lends the copy before anything that arrived after it.
    package var unconsumed: UnsafeRawBufferPointer { wire.pointee.input }

    /// Plaintext that is decrypted and can be read without further input.
    package var hasDecryptedBytes: Bool { SSL_pending(ssl) > 0 }

    /// The first handshake is done; stays true. (OpenSSL's own answer turns false again during a KeyUpdate.)
    private(set) var isHandshakeDone = false

    /// Goes on with the handshake as far as the lent ciphertext carries.
    package func handshake(output: inout OutboundBuffer, pool: ChunkPool) -> HandshakeStep {
        if case .failed(let failure) = end { return .failed(failure) }
        if isHandshakeDone { return .done }
        OpenSSLErrors.clear()
        let result = lending(&output, pool) { SSL_do_handshake(ssl) }
        if result == 1 {
            isHandshakeDone = true
            return .done
        }
        switch outcome(of: result) {
        case .needsInput: return .needsInput
        case .failed(let failure): return .failed(failure)
        case .closed, .bytes: return .failed(fail(.protocolError(0)))
        }
    }

    /// Decrypts into `destination` as much as fits, from as many records as are there.
    package func read(
        into destination: UnsafeMutableRawBufferPointer, output: inout OutboundBuffer, pool: ChunkPool
    ) -> ReadStep {
        if let end { return end }
        guard isHandshakeDone else { return .failed(.notReady) }
        guard let start = destination.baseAddress, destination.count > 0 else { return .bytes(0) }
        OpenSSLErrors.clear()
        var total = 0
        var result: Int32 = 1
        lending(&output, pool) {
            while total < destination.count {
                var count = 0
                // SAFETY: `total` stays below destination.count, which OpenSSL is told what remains of.
                result = SSL_read_ex(ssl, start + total, destination.count - total, &count)
                guard result == 1 else { return }
                total += count
                wire.pointee.countPlaintext(count)
            }
        }
        // What was decrypted before the end is handed out first; the next call repeats the end.
        if result != 1 {
            let step = outcome(of: result)
            if total == 0 { return step }
        }
        return .bytes(total)
    }

    /// Encrypts all of `plaintext` into `output`, in records of at most 16 KiB.
    package func write(
        _ plaintext: UnsafeRawBufferPointer, output: inout OutboundBuffer, pool: ChunkPool
    ) -> WriteStep {
        if case .failed(let failure) = end { return .failed(failure) }
        guard isHandshakeDone else { return .failed(.notReady) }
        guard let start = plaintext.baseAddress, plaintext.count > 0 else { return .written(0) }
        OpenSSLErrors.clear()
        var total = 0
        var result: Int32 = 1
        lending(&output, pool) {
            while total < plaintext.count {
                var count = 0
                // SAFETY: as in `read`.
                result = SSL_write_ex(ssl, start + total, plaintext.count - total, &count)
                guard result == 1 else { return }
                total += count
            }
        }
        if result == 1 { return .written(total) }
        // The wire takes everything, so the one thing to wait for is the rest of a KeyUpdate that the peer has cut in
        // two, which nobody does in good faith: it fits a record of 27 bytes.
        if case .failed(let failure) = outcome(of: result) { return .failed(failure) }
        return .failed(fail(.protocolError(0)))
    }

    /// Queues close_notify, once. The peer's own is not waited for; reading may go on.
    package func shutdown(output: inout OutboundBuffer, pool: ChunkPool) {
        if case .failed = end { return }
        guard isHandshakeDone, SSL_get_shutdown(ssl) & SSL_SENT_SHUTDOWN == 0 else { return }
        OpenSSLErrors.clear()
        _ = lending(&output, pool) { SSL_shutdown(ssl) }
        OpenSSLErrors.clear()
    }

    /// The protocol version, `TLSv1.3` or `TLSv1.2`. Meaningful once the handshake is done.
    var version: String { String(cString: SSL_get_version(ssl)) }

    /// The application protocol that was agreed on; nil where the client offered none.
    var negotiatedALPN: String? {
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &name, &count)
        // SAFETY: OpenSSL keeps `count` bytes there for as long as the session lives.
        return name.map { String(decoding: UnsafeBufferPointer(start: $0, count: Int(count)), as: UTF8.self) }
    }

    /// The handshake resumed an earlier session from a ticket.
    var isResumed: Bool { SSL_session_reused(ssl) == 1 }

    /// OpenSSL calls this as it leaves a state of its handshake machine, not for data. After the first handshake a peer
    /// can start it again only by KeyUpdate or, in TLS 1.2, by a ClientHello (the first counts too, which does no
    /// harm).
    private static func countHandshakeMessage(_ ssl: OpaquePointer?, _ event: Int32) {
        guard event & SSL_CB_LOOP != 0, let ssl else { return }
        switch SSL_get_state(ssl) {
        case TLS_ST_SR_KEY_UPDATE, TLS_ST_CR_KEY_UPDATE, TLS_ST_CR_SESSION_TICKET, TLS_ST_SR_CLNT_HELLO:
            TLSWire.behind(SSL_get_rbio(ssl))?.pointee.countHandshakeMessage()
        default: break
        }
    }

    /// Runs `body` with the output and pool within the BIO's reach.
    @inline(__always)
    private func lending<Result>(
        _ output: inout OutboundBuffer, _ pool: ChunkPool, _ body: () -> Result
    ) -> Result {
        withUnsafeMutablePointer(to: &output) { pointer in
            wire.pointee.output = pointer
            wire.pointee.pool = Unmanaged.passUnretained(pool)
            defer {
                wire.pointee.output = nil
                wire.pointee.pool = nil
            }
            return body()
        }
    }

    /// What a result other than 1 means, remembered where it is an end.
    private func outcome(of result: Int32) -> ReadStep {
        let reason = SSL_get_error(ssl, result)
        switch reason {
        case SSL_ERROR_WANT_READ where !wire.pointee.isFlooded:
            OpenSSLErrors.clear()
            return .needsInput
        case SSL_ERROR_ZERO_RETURN:
            OpenSSLErrors.clear()
            return finish(.closed)
        default:
            let code = OpenSSLErrors.take()
            if wire.pointee.isFlooded { return .failed(fail(.handshakeFlood)) }
            let verdict = SSL_get_verify_result(ssl)
            if verdict != Int(X509_V_OK), SSL_is_server(ssl) == 0, !isHandshakeDone {
                return .failed(fail(.certificateRejected(verdict)))
            }
            return .failed(fail(.protocolError(code)))
        }
    }

    private func fail(_ failure: TLSFailure) -> TLSFailure {
        finish(.failed(failure))
        return failure
    }

    /// Remembers the end, and lets go of the loan: nothing reads it any more.
    @discardableResult
    private func finish(_ step: ReadStep) -> ReadStep {
        end = step
        wire.pointee.input = UnsafeRawBufferPointer(start: nil, count: 0)
        return step
    }
}
