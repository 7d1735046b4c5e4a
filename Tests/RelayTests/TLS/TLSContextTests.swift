import Testing

@testable import Relay

@Suite struct TLSContextTests {
    let directory = TemporaryDirectory()

    /// The sentence with which a pair of files is refused; nil where it is accepted.
    private func refusal(_ certificate: String, _ key: String) -> String? {
        do {
            _ = try TLSContext.server(certificateFile: certificate, keyFile: key)
            return nil
        } catch {
            return "\(error)"
        }
    }

    @Test func `a good pair is accepted and tells when it ends`() throws {
        let files = try TestCertificate.write(in: directory, from: 0, lifetimeSeconds: 1000)
        let context = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
        let later = try TestCertificate.write(in: directory, from: 0, lifetimeSeconds: 100_000, prefix: "later-")
        let laterContext = try TLSContext.server(certificateFile: later.certificate, keyFile: later.key)
        let end = try #require(context.certificateExpires)
        let laterEnd = try #require(laterContext.certificateExpires)
        #expect((98_990...99_010).contains(laterEnd - end))
    }

    @Test func `files that are not there, not files or not readable as such`() throws {
        let files = try TestCertificate.write(in: directory)
        let absent = directory.file("absent.pem")
        #expect(refusal(absent, files.key) == "cannot read \(absent): No such file or directory")
        #expect(refusal(files.certificate, absent) == "cannot read \(absent): No such file or directory")
        #expect(refusal(directory.path, files.key) == "cannot read \(directory.path): it is not a regular file")
        #expect(refusal("/dev/zero", files.key) == "cannot read /dev/zero: it is not a regular file")
    }

    @Test func `an empty file`() throws {
        let files = try TestCertificate.write(in: directory)
        let empty = directory.write("empty.pem", "")
        #expect(refusal(empty, files.key) == "the TLS certificate file \(empty) cannot be used: it is empty")
        #expect(refusal(files.certificate, empty) == "the TLS key file \(empty) cannot be used: it is empty")
    }

    @Test func `text that is no PEM, and PEM of the wrong kind`() throws {
        let files = try TestCertificate.write(in: directory)
        let text = directory.write("text.pem", "hello\n")
        #expect(
            refusal(text, files.key) == "the TLS certificate file \(text) cannot be used: it holds no PEM certificate")
        #expect(refusal(files.certificate, text) == "the TLS key file \(text) cannot be used: it holds no PEM key")
        #expect(
            refusal(files.key, files.key)
                == "the TLS certificate file \(files.key) cannot be used: it holds no PEM certificate")
        #expect(
            refusal(files.certificate, files.certificate)
                == "the TLS key file \(files.certificate) cannot be used: it holds PEM, but no private key")
    }

    @Test func `a truncated certificate and a truncated key, wherever they are cut`() throws {
        let files = try TestCertificate.write(in: directory)
        let certificate = Array(try #require(directory.text("certificate.pem")).utf8)
        let key = Array(try #require(directory.text("key.pem")).utf8)
        // The last byte is a line feed, which PEM can do without.
        for count in 1..<(certificate.count - 1) {
            let cut = directory.write("cut.pem", certificate[..<count])
            let sentence = try #require(refusal(cut, files.key), "accepted \(count) of \(certificate.count) bytes")
            #expect(sentence.hasPrefix("the TLS certificate file \(cut) cannot be used: it "))
        }
        for count in 1..<(key.count - 1) {
            let cut = directory.write("cut.pem", key[..<count])
            let sentence = try #require(refusal(files.certificate, cut), "accepted \(count) of \(key.count) bytes")
            #expect(sentence.hasPrefix("the TLS key file \(cut) cannot be used: it "))
        }
    }

    @Test func `a chain whose second certificate is damaged`() throws {
        let files = try TestCertificate.write(in: directory)
        let certificate = try #require(directory.text("certificate.pem"))
        let good = directory.write("good.pem", certificate + certificate)
        #expect(refusal(good, files.key) == nil)
        let bad = directory.write("bad.pem", certificate + certificate.dropLast(40))
        #expect(
            try #require(refusal(bad, files.key)).hasPrefix("the TLS certificate file \(bad) cannot be used: it is"))
    }

    @Test func `certificate and key in one file`() throws {
        _ = try TestCertificate.write(in: directory)
        let certificate = try #require(directory.text("certificate.pem"))
        let key = try #require(directory.text("key.pem"))
        let both = directory.write("both.pem", certificate + key)
        let other = directory.write("other.pem", key + certificate)
        #expect(refusal(both, both) == nil)
        #expect(refusal(other, other) == nil)
    }

    @Test func `a key of another certificate`() throws {
        let one = try TestCertificate.write(in: directory, prefix: "one-")
        let two = try TestCertificate.write(in: directory, prefix: "two-")
        #expect(
            refusal(one.certificate, two.key)
                == "the TLS key in \(two.key) does not belong to the certificate in \(one.certificate)")
    }

    @Test func `an expired certificate is refused, one that starts tomorrow is not`() throws {
        let expired = try TestCertificate.write(in: directory, from: -7200, lifetimeSeconds: 3600)
        let sentence = try #require(refusal(expired.certificate, expired.key))
        #expect(sentence.hasPrefix("the TLS certificate in \(expired.certificate) expired on 20"))
        let future = try TestCertificate.write(in: directory, from: 86_400, lifetimeSeconds: 86_400)
        #expect(refusal(future.certificate, future.key) == nil)
    }

    /// PKCS #8, as `openssl` writes it today, and the older form with its headers inside the PEM.
    @Test(arguments: [["pkcs8", "-topk8"], ["ec", "-aes256"]])
    func `an encrypted key is refused without asking anybody`(command: [String]) throws {
        let files = try TestCertificate.write(in: directory)
        let encrypted = directory.file("encrypted.pem")
        let run = try OpenSSLCommand.run(command + ["-in", files.key, "-out", encrypted, "-passout", "pass:example"])
        try #require(run.status == 0, "\(run.output)")
        #expect(
            refusal(files.certificate, encrypted)
                == "the TLS key file \(encrypted) cannot be used: it is encrypted, and relayd has nobody to ask for "
                + "the password; store it without one, mode 0600")
    }

    @Test func `a short RSA key is refused, a usual one is not`() throws {
        for (bits, isFine) in [(1024, false), (2048, true)] {
            let certificate = directory.file("rsa\(bits).pem")
            let key = directory.file("rsa\(bits)-key.pem")
            let run = try OpenSSLCommand.run([
                "req", "-x509", "-newkey", "rsa:\(bits)", "-nodes", "-subj", "/CN=localhost", "-days", "1", "-keyout",
                key, "-out", certificate,
            ])
            try #require(run.status == 0, "\(run.output)")
            let expected = isFine ? nil : "the TLS certificate file \(certificate) cannot be used: ee key too small"
            #expect(refusal(certificate, key) == expected)
        }
    }

    @Test func `sessions outlive their context, and a new context serves the new certificate`() throws {
        let files = try TestCertificate.write(in: directory)
        let client = try TLSContext.client(verify: .file(files.certificate))
        var context: TLSContext? = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
        let pair = try TLSPair(server: #require(context), client: client)
        pair.settle()
        let replacement = try TestCertificate.write(in: directory)
        context = try TLSContext.server(certificateFile: replacement.certificate, keyFile: replacement.key)
        pair.client.send(Array("still".utf8))
        pair.settle()
        #expect(pair.server.received == Array("still".utf8))
        // The old client trusts the old certificate only.
        let other = try TLSPair(server: #require(context), client: client)
        other.settle()
        #expect(other.client.failure?.description == "self-signed certificate")
        context = nil
        pair.client.send(Array(" here".utf8))
        pair.settle()
        #expect(pair.server.received == Array("still here".utf8))
    }

    @Test func `the client checks the name, as name and as address`() throws {
        let files = try TestCertificate.write(in: directory, names: ["localhost", "127.0.0.1", "*.example.test"])
        let server = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
        let client = try TLSContext.client(verify: .file(files.certificate))
        let outcomes: [(String?, String?)] = [
            ("localhost", nil), ("127.0.0.1", nil), ("box.example.test", nil), (nil, nil),
            ("other.test", "hostname mismatch"), ("127.0.0.2", "IP address mismatch"),
        ]
        for (name, failure) in outcomes {
            let pair = try TLSPair(server: server, client: client, serverName: name)
            pair.settle()
            #expect(pair.client.failure?.description == failure, "\(name ?? "no name")")
            #expect(pair.server.session.isHandshakeDone == (failure == nil))
        }
    }

    @Test func `a client trusts nobody it was not told to`() throws {
        let server = try TestCertificate.serverContext(in: directory)
        let pair = try TLSPair(server: server, client: .client(verify: .system))
        pair.settle()
        #expect(pair.client.failure?.description == "self-signed certificate")
        #expect(pair.server.failure?.description == "tlsv1 alert unknown ca")
        #expect(throws: TLSError.self) { try TLSContext.client(verify: .file(directory.file("absent.pem"))) }
    }

    @Test func `TLS 1_1 is refused with protocol_version`() throws {
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        end.accept(ClientHello.bytes(version: 0x0302))
        #expect(end.failure?.description == "unsupported protocol")
        #expect(TLSRecord.split(end.takeOutput()) == [TLSRecord(type: 21, body: [2, 70])])
    }

    @Test func `TLS 1_2 without an AEAD suite is refused, with one it goes on`() throws {
        let context = try TestCertificate.serverContext(in: directory)
        let cbc = TLSEnd(try TLSSession(server: context))
        // ECDHE-ECDSA-AES256-SHA and AES128-SHA.
        cbc.accept(ClientHello.bytes(version: 0x0303, suites: [0xc00a, 0x002f]))
        #expect(cbc.failure?.description == "no shared cipher")
        let aead = TLSEnd(try TLSSession(server: context))
        // ECDHE-ECDSA-AES128-GCM-SHA256.
        aead.accept(ClientHello.bytes(version: 0x0303, suites: [0xc02b]))
        #expect(aead.failure == nil)
        #expect(TLSRecord.split(aead.takeOutput()).first?.type == 22)
    }

    @Test(arguments: [
        (["http/1.1"], nil),
        (["h2", "http/1.1"], nil),
        (["h2"], "no application protocol"),
        (["http/1.1x", "ttp/1.1", "http/1."], "no application protocol"),
    ])
    func `ALPN picks http 1_1 or nothing`(offers: [String], failure: String?) throws {
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        end.accept(ClientHello.bytes(version: 0x0303, suites: [0xc02b], protocols: offers))
        #expect(end.failure?.description == failure)
        let first = try #require(TLSRecord.split(end.takeOutput()).first)
        if failure != nil {
            // no_application_protocol (RFC 7301 §3.2)
            #expect(first == TLSRecord(type: 21, body: [2, 120]))
        } else {
            #expect(first.type == 22)
            let text = Array("http/1.1".utf8)
            #expect((0...(first.body.count - text.count)).contains { first.body[$0...].starts(with: text) })
        }
    }

    @Test func `without ALPN the handshake goes on`() throws {
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        end.accept(ClientHello.bytes(version: 0x0303, suites: [0xc02b]))
        #expect(end.failure == nil)
        #expect(end.session.negotiatedALPN == nil)
    }
}

/// A ClientHello of TLS 1.2 or older, written by hand (RFC 5246 §7.4.1.2).
enum ClientHello {
    static func bytes(version: UInt16, suites: [UInt16] = [0xc02b], protocols: [String] = []) -> [UInt8] {
        func two(_ number: Int) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 255)] }
        func sized(_ bytes: [UInt8]) -> [UInt8] { two(bytes.count) + bytes }
        var extensions: [UInt8] = []
        extensions += two(10) + sized(sized(two(29) + two(23)))  // supported_groups: X25519, P-256
        extensions += two(11) + sized([1, 0])  // ec_point_formats: uncompressed
        extensions += two(13) + sized(sized(two(0x0403) + two(0x0804)))  // signature_algorithms
        if !protocols.isEmpty {
            let list = protocols.flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
            extensions += two(16) + sized(sized(list))
        }
        let body =
            two(Int(version)) + [UInt8](repeating: 7, count: 32) + [0] + sized(suites.flatMap { two(Int($0)) })
            + [1, 0] + sized(extensions)
        return [22, 3, 1] + sized([1, 0] + two(body.count) + body)
    }
}
