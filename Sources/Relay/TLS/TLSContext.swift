import COpenSSL

/// What all sessions of one certificate share: one `SSL_CTX`. Immutable once made, so any number of threads may start
/// sessions from it; a session keeps the `SSL_CTX` alive by itself, so a reload may drop the old context at any time.
///
/// Server policy (RFC 9325, Mozilla's "intermediate"): TLS 1.2 and 1.3, ECDHE with AEAD only, no compression, no
/// renegotiation, no early data, stateless tickets whose keys live exactly as long as the context.
// SAFETY: OpenSSL's SSL_CTX may be used by several threads as long as nobody changes it; nothing does after `server`
// and `client` have returned it.
package final class TLSContext: @unchecked Sendable {
    /// What a client trusts.
    package enum Verification: Sendable {
        /// The system's certificate store.
        case system
        /// The certificates in this PEM file only: a private authority's, or a self-signed one.
        case file(String)
        /// Anybody. For tests and for operators who say so.
        case none
    }

    /// The owned `SSL_CTX`.
    let pointer: OpaquePointer
    /// When the served certificate expires, in seconds since 1970; nil for a client.
    package let certificateExpires: Int64?

    private init(owning pointer: OpaquePointer, certificateExpires: Int64?) {
        self.pointer = pointer
        self.certificateExpires = certificateExpires
    }

    deinit { SSL_CTX_free(pointer) }

    /// A server's context. `certificateFile` is PEM, the leaf first and then its chain; `keyFile` is PEM, not
    /// encrypted. Reads both files once; later changes of theirs are seen by the next context made.
    /// Throws where either cannot be used: unreadable, empty, damaged, encrypted, expired, or not a pair.
    package static func server(certificateFile: String, keyFile: String) throws(TLSError) -> TLSContext {
        let material = try CertificateFiles.load(certificateFile: certificateFile, keyFile: keyFile)
        let context = TLSContext(
            owning: try makePointer(TLS_server_method()), certificateExpires: material.notAfterSeconds)
        try context.applySharedPolicy()
        try context.applyServerPolicy()
        try material.install(in: context.pointer, certificateFile: certificateFile, keyFile: keyFile)
        return context
    }

    /// A client's context.
    package static func client(verify: Verification) throws(TLSError) -> TLSContext {
        let context = TLSContext(owning: try makePointer(TLS_client_method()), certificateExpires: nil)
        try context.applySharedPolicy()
        let pointer = context.pointer
        // One protocol name, length first (RFC 7301 §3.1). Zero means done here, unlike everywhere else in OpenSSL.
        let protocols: [UInt8] = [UInt8(alpnName.utf8CodeUnitCount)] + alpnName.withUTF8Buffer(Array.init)
        guard SSL_CTX_set_alpn_protos(pointer, protocols, UInt32(protocols.count)) == 0 else {
            throw .library(operation: "set the protocol list", reason: OpenSSLErrors.takeReason())
        }
        OpenSSLErrors.clear()
        switch verify {
        case .system:
            SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER, nil)
            guard SSL_CTX_set_default_verify_paths(pointer) == 1 else {
                throw .library(operation: "read the system's certificate store", reason: OpenSSLErrors.takeReason())
            }
        case .file(let path):
            SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER, nil)
            guard SSL_CTX_load_verify_file(pointer, path) == 1 else {
                throw .file(path: path, action: "read trusted certificates from", reason: OpenSSLErrors.takeReason())
            }
        case .none:
            SSL_CTX_set_verify(pointer, SSL_VERIFY_NONE, nil)
        }
        return context
    }

    /// The only application protocol spoken: WebSocket starts as HTTP/1.1.
    static let alpnName: StaticString = "http/1.1"

    private static func makePointer(_ method: OpaquePointer?) throws(TLSError) -> OpaquePointer {
        OpenSSLErrors.clear()
        guard let pointer = SSL_CTX_new(method) else {
            throw .library(operation: "make a context", reason: OpenSSLErrors.takeReason())
        }
        return pointer
    }

    private func applySharedPolicy() throws(TLSError) {
        OpenSSLErrors.clear()
        guard copenssl_SSL_CTX_set_min_proto_version(pointer, TLS1_2_VERSION) == 1,
            copenssl_SSL_CTX_set_max_proto_version(pointer, TLS1_3_VERSION) == 1,
            SSL_CTX_set_cipher_list(pointer, Self.cipherList) == 1,
            copenssl_SSL_CTX_set1_groups_list(pointer, "X25519:P-256:P-384") == 1
        else { throw .library(operation: "set versions and ciphers", reason: OpenSSLErrors.takeReason()) }
        SSL_CTX_set_options(pointer, COPENSSL_OP_NO_RENEGOTIATION | COPENSSL_OP_NO_COMPRESSION)
        // RELEASE_BUFFERS: an idle session gives back its two record buffers, 17 KiB each.
        copenssl_SSL_CTX_set_mode(
            pointer,
            COPENSSL_MODE_RELEASE_BUFFERS | COPENSSL_MODE_ENABLE_PARTIAL_WRITE
                | COPENSSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        copenssl_SSL_CTX_set_session_cache_mode(pointer, Int(SSL_SESS_CACHE_OFF))
    }

    /// TLS 1.2 only; the suites of TLS 1.3 are all AEAD and stay OpenSSL's default.
    private static let cipherList =
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
        + "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

    private func applyServerPolicy() throws(TLSError) {
        // One ticket per handshake instead of two: a WebSocket client reconnects with one connection, and each
        // resumption brings the next ticket.
        guard SSL_CTX_set_num_tickets(pointer, 1) == 1,
            SSL_CTX_set_max_early_data(pointer, 0) == 1,
            SSL_CTX_set_session_id_context(pointer, "relayd", 6) == 1
        else { throw .library(operation: "set the ticket policy", reason: OpenSSLErrors.takeReason()) }
        SSL_CTX_set_alpn_select_cb(
            pointer,
            { _, selected, selectedCount, offered, count, _ in
                TLSContext.selectProtocol(selected, selectedCount, offered, count)
            }, nil)
    }

    /// Picks `http/1.1` from the client's list; a list without it ends the handshake with no_application_protocol
    /// (RFC 7301 §3.2), because such a client would speak HTTP/2 to us.
    private static func selectProtocol(
        _ selected: UnsafeMutablePointer<UnsafePointer<UInt8>?>?, _ selectedCount: UnsafeMutablePointer<UInt8>?,
        _ offered: UnsafePointer<UInt8>?, _ count: UInt32
    ) -> Int32 {
        guard let offered, let selected, let selectedCount else { return SSL_TLSEXT_ERR_ALERT_FATAL }
        // SAFETY: OpenSSL hands over `count` readable bytes; the list is [length][name] items, each checked below.
        let list = UnsafeBufferPointer(start: offered, count: Int(count))
        var index = 0
        while index < list.count {
            let length = Int(list[index])
            let start = index + 1
            guard length > 0, start + length <= list.count else { break }
            if alpnName.withUTF8Buffer({ $0.elementsEqual(list[start..<(start + length)]) }) {
                // The answer may point into the client's own list, which outlives the callback.
                selected.pointee = offered + start
                selectedCount.pointee = UInt8(length)
                return SSL_TLSEXT_ERR_OK
            }
            index = start + length
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }
}
