import Glibc
import Testing

@testable import Relay

@Suite struct SelfSignedTests {
    let directory = TemporaryDirectory()

    @Test func `the first use makes both files for their owner alone, later uses keep them`() throws {
        let state = directory.file("deep/state")
        let made = try SelfSigned.ensure(in: state, names: [])
        #expect(made.certificate == state + "/tls-certificate.pem")
        #expect(made.key == state + "/tls-key.pem")
        #expect(directory.permissions("deep/state") == 0o700)
        #expect(directory.permissions("deep/state/tls-key.pem") == 0o600)
        #expect(directory.permissions("deep/state/tls-certificate.pem") == 0o600)
        let before = [directory.text("deep/state/tls-key.pem"), directory.text("deep/state/tls-certificate.pem")]
        _ = try SelfSigned.ensure(in: state, names: ["other.test"])
        #expect(before == [directory.text("deep/state/tls-key.pem"), directory.text("deep/state/tls-certificate.pem")])
    }

    @Test func `openssl reads what it says`() throws {
        let files = try SelfSigned.ensure(
            in: directory.path, names: ["box.example.test", "192.0.2.7", "2001:db8::7", "bad,DNS:evil.test", ""])
        let run = try OpenSSLCommand.run(["x509", "-noout", "-text", "-in", files.certificate])
        try #require(run.status == 0, "\(run.output)")
        for line in [
            "Version: 3 (0x2)", "Signature Algorithm: ecdsa-with-SHA256", "NIST CURVE: P-256", "CA:FALSE",
            "TLS Web Server Authentication", "Digital Signature", "DNS:localhost", "IP Address:127.0.0.1",
            "IP Address:0:0:0:0:0:0:0:1", "DNS:box.example.test", "IP Address:192.0.2.7",
            "IP Address:2001:DB8:0:0:0:0:0:7",
        ] {
            #expect(run.output.contains(line), "\(line)")
        }
        #expect(!run.output.contains("evil"))
        let verify = try OpenSSLCommand.run([
            "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost", "-CAfile",
            files.certificate, files.certificate,
        ])
        #expect(verify.status == 0, "\(verify.output)")
        // Not after so many seconds from now: still good in 824 days, over in 826.
        for (days, status) in [(824, 0), (826, 1)] as [(Int, Int32)] {
            let check = try OpenSSLCommand.run([
                "x509", "-noout", "-checkend", "\(days * 86_400)", "-in", files.certificate,
            ])
            #expect(check.status == status, "\(days) days: \(check.output)")
        }
    }

    @Test func `serial numbers and keys differ`() throws {
        let one = try TestCertificate.write(in: directory, prefix: "1-")
        let two = try TestCertificate.write(in: directory, prefix: "2-")
        let serials = try [one, two].map {
            try OpenSSLCommand.run(["x509", "-noout", "-serial", "-in", $0.certificate]).output
        }
        #expect(serials[0].hasPrefix("serial=") && serials[0] != serials[1])
        #expect(directory.text("1-key.pem") != directory.text("2-key.pem"))
    }

    @Test(arguments: ["tls-key.pem", "tls-certificate.pem"])
    func `a missing half is made again together with the other`(name: String) throws {
        let files = try SelfSigned.ensure(in: directory.path, names: [])
        unlink(directory.file(name))
        _ = try SelfSigned.ensure(in: directory.path, names: [])
        _ = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
    }

    @Test func `a pair that does not match is made again`() throws {
        let files = try SelfSigned.ensure(in: directory.path, names: [])
        let certificate = try #require(directory.text("tls-certificate.pem"))
        unlink(files.certificate)
        _ = try SelfSigned.ensure(in: directory.path, names: [])
        // The new key with the old certificate: as if the process had died between the two.
        directory.write("tls-certificate.pem", certificate)
        _ = try SelfSigned.ensure(in: directory.path, names: [])
        _ = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
    }

    @Test func `an expired certificate is made again`() throws {
        let old = try SelfSigned.issue(for: ["localhost"], from: -7200, lifetimeSeconds: 3600)
        directory.write("tls-certificate.pem", old.certificate)
        directory.write("tls-key.pem", old.key)
        let files = try SelfSigned.ensure(in: directory.path, names: [])
        #expect(directory.text("tls-certificate.pem") != String(decoding: old.certificate, as: UTF8.self))
        _ = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
    }

    @Test func `a damaged file is left for its owner to look at`() throws {
        _ = try SelfSigned.ensure(in: directory.path, names: [])
        let damaged = directory.write("tls-certificate.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n")
        let error = #expect(throws: TLSError.self) { try SelfSigned.ensure(in: directory.path, names: []) }
        #expect(
            "\(try #require(error))".hasPrefix("the TLS certificate file \(damaged) cannot be used: it is damaged ("))
        #expect(directory.text("tls-certificate.pem") == "-----BEGIN CERTIFICATE-----\nAAAA\n")
    }

    @Test func `two starts at once agree on one pair`() async throws {
        let path = directory.path
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    let files = try SelfSigned.ensure(in: path, names: [])
                    _ = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
                }
            }
            try await group.waitForAll()
        }
        #expect(directory.names == ["lock", "tls-certificate.pem", "tls-key.pem"])
    }

    @Test func `a state directory that is a file`() throws {
        let file = directory.write("state", "")
        let error = #expect(throws: TLSError.self) { try SelfSigned.ensure(in: file, names: []) }
        #expect(try #require(error).description == "cannot use \(file): it is not a directory")
    }
}
