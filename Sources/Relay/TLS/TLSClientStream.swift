import COpenSSL
import Glibc

/// A client's TLS over a connected socket, for the command line: as blocking as its descriptor is. Not for the relay's
/// loops, which use `TLSSession`. One thread at a time; the descriptor stays its owner's, who closes it afterwards.
///
/// The process must ignore SIGPIPE: a peer that went away is an error here, not a signal.
package final class TLSClientStream {
    /// What a read came to.
    package enum ReadResult: Sendable, Equatable {
        case bytes(Int)
        /// The descriptor does not block, or its SO_RCVTIMEO has passed, and nothing has come.
        case wouldBlock
        /// The peer said close_notify.
        case end
    }

    private let ssl: OpaquePointer

    /// Shakes hands. `serverName` is the host name or address that the certificate must be for, sent as SNI where it is
    /// a name. A handshake on a descriptor with SO_RCVTIMEO and SO_SNDTIMEO is bounded by them; a descriptor that does
    /// not block is not for this initializer.
    package init(fileDescriptor: Int32, context: TLSContext, serverName: String) throws(TLSError) {
        OpenSSLErrors.clear()
        guard let ssl = SSL_new(context.pointer) else {
            throw .library(operation: "start a session", reason: OpenSSLErrors.takeReason())
        }
        self.ssl = ssl
        guard SSL_set_fd(ssl, fileDescriptor) == 1 else {
            throw .library(operation: "use the socket", reason: OpenSSLErrors.takeReason())
        }
        SSL_set_connect_state(ssl)
        try TLSSession.expect(serverName, of: ssl)
        OpenSSLErrors.clear()
        errno = 0
        let result = SSL_do_handshake(ssl)
        guard result == 1 else { throw failure(result, "shake hands with \(serverName)") }
    }

    deinit { SSL_free(ssl) }

    /// The protocol version, `TLSv1.3` or `TLSv1.2`.
    package var version: String { String(cString: SSL_get_version(ssl)) }

    /// Bytes that are decrypted already: poll(2) on the descriptor says nothing about them.
    package var hasDecryptedBytes: Bool { SSL_pending(ssl) > 0 }

    /// Reads what is there, at least one byte, into a buffer that is not empty. Throws where the connection broke, an
    /// end without close_notify included: somebody may have cut it.
    package func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> ReadResult {
        OpenSSLErrors.clear()
        errno = 0
        var count = 0
        let result = SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count)
        if result == 1 { return .bytes(count) }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_ZERO_RETURN: return .end
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return .wouldBlock
        default: throw failure(result, "read")
        }
    }

    /// Writes all bytes; waits for a descriptor that does not block.
    package func write(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
        var rest = bytes
        while let start = rest.baseAddress, rest.count > 0 {
            OpenSSLErrors.clear()
            errno = 0
            var count = 0
            let result = SSL_write_ex(ssl, start, rest.count, &count)
            if result == 1 {
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                continue
            }
            switch SSL_get_error(ssl, result) {
            case SSL_ERROR_WANT_WRITE: try wait(for: Int16(POLLOUT))
            case SSL_ERROR_WANT_READ: try wait(for: Int16(POLLIN))
            default: throw failure(result, "write")
            }
        }
    }

    /// Says close_notify, best effort; does not wait for the peer's and leaves the descriptor open.
    package func close() {
        OpenSSLErrors.clear()
        SSL_shutdown(ssl)
        OpenSSLErrors.clear()
    }

    private func wait(for events: Int16) throws(TLSError) {
        var interest = pollfd(fd: SSL_get_fd(ssl), events: events, revents: 0)
        while poll(&interest, 1, -1) < 0 {
            guard errno == EINTR else {
                throw .library(operation: "wait for the socket", reason: String(cString: strerror(errno)))
            }
        }
    }

    /// The reason of a result other than 1: the certificate's, the system's or OpenSSL's.
    private func failure(_ result: Int32, _ operation: String) -> TLSError {
        let systemCode = errno
        let kind = SSL_get_error(ssl, result)
        let code = OpenSSLErrors.take()
        let verdict = SSL_get_verify_result(ssl)
        let reason =
            if verdict != Int(X509_V_OK), SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER != 0 {
                String(cString: X509_verify_cert_error_string(verdict))
            } else if kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE {
                "the peer did not answer in time"
            } else if code != 0 {
                OpenSSLErrors.reason(of: code)
            } else if systemCode != 0 {
                String(cString: strerror(systemCode))
            } else {
                "the connection was closed"
            }
        return .library(operation: operation, reason: reason)
    }
}
