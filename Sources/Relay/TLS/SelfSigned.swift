import COpenSSL
import Glibc

/// A certificate that relayd signs itself, for `--tls-self-signed`: made once, kept in the state directory, served
/// until it expires. Clients trust it by its file.
package enum SelfSigned {
    static let certificateName = "tls-certificate.pem"
    static let keyName = "tls-key.pem"
    /// As long as browsers let a server's certificate live.
    static let lifetimeSeconds = 825 * 86_400

    /// The paths of a certificate and its key in `stateDirectory`, which are made (EC P-256, mode 0600) where there is
    /// none yet, one of the two is missing, they are no pair, or the certificate has expired. The certificate is for
    /// `localhost`, `127.0.0.1`, `::1`, the host's name, and `names` (host names or addresses).
    /// Throws where a file is there and cannot be read: it is the operator's to look at, not ours to replace.
    package static func ensure(
        in stateDirectory: String, names: [String]
    ) throws(TLSError) -> (certificate: String, key: String) {
        let certificate = stateDirectory + "/" + certificateName
        let key = stateDirectory + "/" + keyName
        // The first look needs no lock, so a state directory that cannot be written to will do.
        if try isServable(certificate: certificate, key: key) { return (certificate, key) }
        // The second look is under the lock: of two relays that start at once, one finds what the other made.
        let lock: Int32
        do throws(FileFailure) {
            try StateFile.makeDirectory(stateDirectory)
            lock = try StateFile.lock(stateDirectory)
        } catch {
            throw TLSError(error)
        }
        defer { StateFile.unlock(lock) }
        if try isServable(certificate: certificate, key: key) { return (certificate, key) }
        let made = try issue(for: ["localhost", "127.0.0.1", "::1", hostName()] + names, from: -3600)
        // The key first: whatever stops us between the two leaves no pair, which the next start mends.
        try replace(key, with: made.key)
        try replace(certificate, with: made.certificate)
        return (certificate, key)
    }

    /// False where a new pair has to be made; throws where the files need a person.
    private static func isServable(certificate: String, key: String) throws(TLSError) -> Bool {
        guard access(certificate, F_OK) == 0, access(key, F_OK) == 0 else { return false }
        do throws(TLSError) {
            _ = try CertificateFiles.load(certificateFile: certificate, keyFile: key)
            return true
        } catch {
            switch error {
            case .mismatch, .expired: return false
            default: throw error
            }
        }
    }

    /// A new pair in PEM, valid from `start` seconds after now for the whole lifetime.
    /// The caller writes the key where only the owner can read it.
    static func issue(
        for names: [String], from start: Int, lifetimeSeconds: Int = lifetimeSeconds
    ) throws(TLSError) -> (certificate: [UInt8], key: [UInt8]) {
        OpenSSLErrors.clear()
        guard let key = copenssl_EVP_EC_gen("P-256") else { throw failure("make a key") }
        defer { EVP_PKEY_free(key) }
        guard let certificate = X509_new() else { throw failure("make a certificate") }
        defer { X509_free(certificate) }
        guard X509_set_version(certificate, Int(X509_VERSION_3)) == 1,
            setRandomSerial(certificate),
            X509_gmtime_adj(X509_getm_notBefore(certificate), start) != nil,
            X509_gmtime_adj(X509_getm_notAfter(certificate), start + lifetimeSeconds) != nil,
            X509_set_pubkey(certificate, key) == 1,
            setNames(certificate),
            addExtensions(to: certificate, names: names),
            X509_sign(certificate, key, EVP_sha256()) > 0
        else { throw failure("make a certificate") }
        let certificateText = text { PEM_write_bio_X509($0, certificate) }
        let keyText = text { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) }
        guard let certificateText, let keyText else { throw failure("write a certificate") }
        return (certificateText, keyText)
    }

    /// 127 random bits: positive, never guessed, never zero in practice (RFC 5280 §4.1.2.2 allows 20 bytes).
    private static func setRandomSerial(_ certificate: OpaquePointer) -> Bool {
        var bytes = SecureRandom.bytes(16)
        bytes[0] = bytes[0] & 0x7f | 0x40
        guard let number = BN_bin2bn(bytes, Int32(bytes.count), nil) else { return false }
        defer { BN_free(number) }
        return BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nil
    }

    /// Subject and issuer are the same name: that is what makes it self-signed.
    private static func setNames(_ certificate: OpaquePointer) -> Bool {
        guard let name = X509_get_subject_name(certificate) else { return false }
        let text = Array("relayd self-signed".utf8)
        return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, text, Int32(text.count), -1, 0) == 1
            && X509_set_issuer_name(certificate, name) == 1
    }

    private static func addExtensions(to certificate: OpaquePointer, names: [String]) -> Bool {
        var context = X509V3_CTX()
        X509V3_set_ctx(&context, certificate, certificate, nil, nil, 0)
        let extensions: [(Int32, String)] = [
            (NID_basic_constraints, "critical,CA:FALSE"),
            (NID_key_usage, "critical,digitalSignature"),
            (NID_ext_key_usage, "serverAuth"),
            (NID_subject_key_identifier, "hash"),
            (NID_authority_key_identifier, "keyid"),
            (NID_subject_alt_name, subjectAlternativeNames(names)),
        ]
        for (nid, value) in extensions {
            guard let made = X509V3_EXT_conf_nid(nil, &context, nid, value) else { return false }
            defer { X509_EXTENSION_free(made) }
            guard X509_add_ext(certificate, made, -1) == 1 else { return false }
        }
        return true
    }

    /// OpenSSL's notation: `DNS:localhost,IP:127.0.0.1`. A name with characters that no host name has is left out: a
    /// comma in it would start a new item.
    private static func subjectAlternativeNames(_ names: [String]) -> String {
        var items: [String] = []
        for name in names {
            let item: String
            if IPAddress(name) != nil {
                item = "IP:" + name
            } else if !name.isEmpty, name.utf8.count <= 253, name.utf8.allSatisfy(isHostNameByte) {
                item = "DNS:" + name
            } else {
                continue
            }
            if !items.contains(item) { items.append(item) }
        }
        return items.joined(separator: ",")
    }

    private static func isHostNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "*"):
            true
        default: false
        }
    }

    /// What `write` puts into a memory BIO; nil where it fails.
    private static func text(_ write: (OpaquePointer) -> Int32) -> [UInt8]? {
        guard let bio = BIO_new(BIO_s_mem()) else { return nil }
        defer { BIO_free(bio) }
        guard write(bio) == 1 else { return nil }
        var start: UnsafePointer<CChar>?
        let count = copenssl_BIO_get_mem_data(bio, &start)
        return Array(UnsafeRawBufferPointer(start: start, count: count))
    }

    private static func hostName() -> String {
        var name = [CChar](repeating: 0, count: 257)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return name.withUnsafeBufferPointer { buffer in
            // SAFETY: the last byte was left 0, so the text ends inside the array, which is not empty.
            String(cString: buffer.baseAddress!)
        }
    }

    private static func failure(_ operation: String) -> TLSError {
        .library(operation: operation, reason: OpenSSLErrors.takeReason())
    }

    private static func replace(_ path: String, with bytes: [UInt8]) throws(TLSError) {
        do throws(FileFailure) {
            try StateFile.replace(path, with: bytes)
        } catch {
            throw TLSError(error)
        }
    }
}
