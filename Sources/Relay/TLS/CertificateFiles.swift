import COpenSSL

/// A certificate, its chain and its key, read from PEM files once and checked to be servable. The files are read into
/// memory before anything is parsed, so that a file replaced meanwhile is seen whole, old or new.
struct CertificateFiles: ~Copyable {
    private let leaf: OpaquePointer
    private var chain: [OpaquePointer]
    private let key: OpaquePointer
    /// When the leaf expires, in seconds since 1970.
    let notAfterSeconds: Int64

    deinit {
        X509_free(leaf)
        for certificate in chain { X509_free(certificate) }
        EVP_PKEY_free(key)
    }

    /// Reads and checks both files. Throws one sentence for the first thing that is wrong.
    static func load(certificateFile: String, keyFile: String) throws(TLSError) -> CertificateFiles {
        var certificates = try readCertificates(certificateFile)
        let leaf = certificates.removeFirst()
        let key: OpaquePointer
        do {
            key = try readKey(keyFile)
        } catch {
            X509_free(leaf)
            for certificate in certificates { X509_free(certificate) }
            throw error
        }
        // From here on the value owns all three, and its deinit frees them whatever is thrown.
        let files = CertificateFiles(
            leaf: leaf, chain: certificates, key: key,
            notAfterSeconds: CertificateTime.seconds(X509_get0_notAfter(leaf)) ?? 0)
        try files.check(certificateFile: certificateFile, keyFile: keyFile)
        return files
    }

    /// Makes the context serve them. The context takes references of its own.
    func install(in context: OpaquePointer, certificateFile: String, keyFile: String) throws(TLSError) {
        OpenSSLErrors.clear()
        guard SSL_CTX_use_certificate(context, leaf) == 1 else {
            throw .certificate(path: certificateFile, reason: OpenSSLErrors.takeReason())
        }
        for certificate in chain {
            X509_up_ref(certificate)
            guard copenssl_SSL_CTX_add0_chain_cert(context, certificate) == 1 else {
                X509_free(certificate)
                throw .certificate(path: certificateFile, reason: OpenSSLErrors.takeReason())
            }
        }
        guard SSL_CTX_use_PrivateKey(context, key) == 1, SSL_CTX_check_private_key(context) == 1 else {
            throw .key(path: keyFile, reason: OpenSSLErrors.takeReason())
        }
    }

    private func check(certificateFile: String, keyFile: String) throws(TLSError) {
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        guard X509_check_private_key(leaf, key) == 1 else {
            throw .mismatch(certificate: certificateFile, key: keyFile)
        }
        // Only the end is checked: a clock that is behind must not keep a relay from starting with a new certificate.
        guard X509_cmp_current_time(X509_get0_notAfter(leaf)) > 0 else {
            throw .expired(path: certificateFile, day: CertificateTime.day(X509_get0_notAfter(leaf)))
        }
    }

    /// All certificates of a PEM file, in order; at least one.
    private static func readCertificates(_ path: String) throws(TLSError) -> [OpaquePointer] {
        let bytes = try read(path) { (reason) in .certificate(path: path, reason: reason) }
        var certificates: [OpaquePointer] = []
        var failure: UInt = 0
        var wantsPassword = false
        withMemoryBIO(bytes) { bio in
            OpenSSLErrors.clear()
            while let next = PEM_read_bio_X509(
                bio, nil, { CertificateFiles.refusePassword($3) }, &wantsPassword)
            {
                certificates.append(next)
            }
            failure = OpenSSLErrors.take()
        }
        // The reader always ends with an error: "no start line" where the text is simply over.
        let isOver = ERR_GET_LIB(failure) == ERR_LIB_PEM && ERR_GET_REASON(failure) == PEM_R_NO_START_LINE
        if isOver, !certificates.isEmpty { return certificates }
        for certificate in certificates { X509_free(certificate) }
        throw .certificate(
            path: path,
            reason: isOver ? "it holds no PEM certificate" : "it is damaged (\(OpenSSLErrors.reason(of: failure)))")
    }

    /// The private key of a PEM file.
    private static func readKey(_ path: String) throws(TLSError) -> OpaquePointer {
        var bytes = try read(path) { (reason) in .key(path: path, reason: reason) }
        defer { bytes.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) } }
        var key: OpaquePointer?
        var failure: UInt = 0
        var wantsPassword = false
        withMemoryBIO(bytes) { bio in
            OpenSSLErrors.clear()
            key = PEM_read_bio_PrivateKey(bio, nil, { CertificateFiles.refusePassword($3) }, &wantsPassword)
            failure = OpenSSLErrors.take()
        }
        if let key { return key }
        let reason =
            if wantsPassword {
                "it is encrypted, and relayd has nobody to ask for the password; store it without one, mode 0600"
            } else if !contains("-----BEGIN ", in: bytes) {
                "it holds no PEM key"
            } else if !contains("PRIVATE KEY-----", in: bytes) {
                "it holds PEM, but no private key"
            } else {
                "it is damaged (\(OpenSSLErrors.reason(of: failure)))"
            }
        throw .key(path: path, reason: reason)
    }

    /// Answers "no password" without asking the terminal, as OpenSSL would by itself, and remembers that it was asked.
    private static func refusePassword(_ asked: UnsafeMutableRawPointer?) -> Int32 {
        // SAFETY: both callers pass a Bool that outlives the read.
        asked?.assumingMemoryBound(to: Bool.self).pointee = true
        return -1
    }

    /// A whole file; `refusal` makes the error for one that is empty.
    private static func read(
        _ path: String, refusal: (String) -> TLSError
    ) throws(TLSError) -> [UInt8] {
        let contents: StateFile.Contents
        do throws(FileFailure) {
            contents = try StateFile.read(path)
        } catch {
            throw TLSError(error)
        }
        guard !contents.bytes.isEmpty else { throw refusal("it is empty") }
        return contents.bytes
    }

    /// Lends a read-only BIO over the bytes; nil is handed on where memory is out, and every reader refuses it.
    private static func withMemoryBIO(_ bytes: [UInt8], _ body: (OpaquePointer?) -> Void) {
        bytes.withUnsafeBytes { buffer in
            let bio = BIO_new_mem_buf(buffer.baseAddress, Int32(buffer.count))
            body(bio)
            BIO_free(bio)
        }
    }

    private static func contains(_ text: StaticString, in bytes: [UInt8]) -> Bool {
        text.withUTF8Buffer { needle in
            guard bytes.count >= needle.count else { return false }
            return (0...(bytes.count - needle.count)).contains { start in
                bytes[start..<(start + needle.count)].elementsEqual(needle)
            }
        }
    }
}

extension TLSError {
    /// The same failure, in this layer's words.
    init(_ failure: FileFailure) {
        self = .file(path: failure.path, action: failure.action, reason: failure.reason)
    }
}
