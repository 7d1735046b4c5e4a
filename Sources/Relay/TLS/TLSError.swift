import COpenSSL

/// Why a TLS context, certificate or client connection could not be made: the operator's fault or the system's, never
/// a peer's. `description` is one sentence that names the file and the reason.
package enum TLSError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A file could not be read or written; `reason` is the system's.
    case file(path: String, action: String, reason: String)
    /// The certificate file was read, but cannot be served.
    case certificate(path: String, reason: String)
    /// The certificate is past its end; `day` is that end's, in UTC.
    case expired(path: String, day: String)
    /// The key file was read, but cannot be used.
    case key(path: String, reason: String)
    /// Both files are fine by themselves and do not belong together.
    case mismatch(certificate: String, key: String)
    /// OpenSSL refused something that does not depend on any file.
    case library(operation: String, reason: String)

    package var description: String {
        switch self {
        case .file(let path, let action, let reason): "cannot \(action) \(path): \(reason)"
        case .certificate(let path, let reason): "the TLS certificate file \(path) cannot be used: \(reason)"
        case .expired(let path, let day): "the TLS certificate in \(path) expired on \(day)"
        case .key(let path, let reason): "the TLS key file \(path) cannot be used: \(reason)"
        case .mismatch(let certificate, let key):
            "the TLS key in \(key) does not belong to the certificate in \(certificate)"
        case .library(let operation, let reason): "OpenSSL could not \(operation): \(reason)"
        }
    }
}

/// Why one TLS session ended before its time: the peer's fault nearly always. Holds a code, not a text, so that a flood
/// of bad handshakes builds no strings unless somebody prints them.
package enum TLSFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// OpenSSL's packed error code; 0 where it left none.
    case protocolError(UInt)
    /// The peer's certificate did not verify; an `X509_V_ERR_` code.
    case certificateRejected(Int)
    /// More KeyUpdate or renegotiation messages than data calls for.
    case handshakeFlood
    /// Application data was read or written before the handshake was done.
    case notReady

    package var description: String {
        switch self {
        case .protocolError(0): "the TLS session failed"
        case .protocolError(let code): OpenSSLErrors.reason(of: code)
        case .certificateRejected(let code): String(cString: X509_verify_cert_error_string(code))
        case .handshakeFlood: "too many KeyUpdate or renegotiation messages"
        case .notReady: "the TLS handshake is not done"
        }
    }
}

/// OpenSSL's error queue of the calling thread.
package enum OpenSSLErrors {
    /// A thread may still use the library when the process exits, one that dials for example: nothing is freed then.
    /// Before any other use of it.
    package static func keepLibraryAtExit() { OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_ATEXIT), nil) }

    /// Empties the queue. Each operation starts with this: an old entry would be taken for its own.
    @inline(__always)
    static func clear() { ERR_clear_error() }

    /// Takes the earliest error, which names the cause rather than its consequences, and empties the queue; 0 where
    /// there is none.
    static func take() -> UInt {
        let code = ERR_get_error()
        ERR_clear_error()
        return code
    }

    /// The text of a packed error code: OpenSSL's own, or the system's where the code carries an errno.
    static func reason(of code: UInt) -> String {
        // SAFETY: both functions return static C strings or null.
        if let text = ERR_reason_error_string(code) { return String(cString: text) }
        guard code != 0 else { return "no reason given" }
        var text = [CChar](repeating: 0, count: 256)
        ERR_error_string_n(code, &text, text.count)
        return text.withUnsafeBufferPointer { buffer in
            // SAFETY: ERR_error_string_n always terminates what it writes; the array is not empty.
            String(cString: buffer.baseAddress!)
        }
    }

    /// The text of the earliest error; empties the queue.
    static func takeReason() -> String { reason(of: take()) }
}
