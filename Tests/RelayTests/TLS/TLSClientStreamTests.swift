import Glibc
import Testing

@testable import Relay

/// The command line's TLS against `openssl s_server -rev`, which answers each line reversed.
@Suite struct TLSClientStreamTests {
    let directory = TemporaryDirectory()

    /// A server that says where it listens, and serves one connection.
    private func withServer(
        _ options: [String] = [], _ body: (_ connect: () throws -> Int32, _ certificate: String) throws -> Void
    ) throws {
        let files = try TestCertificate.write(in: directory)
        let server = try OpenSSLCommand.start(
            [
                "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-rev", "-cert", files.certificate, "-key",
                files.key,
            ]
                + options)
        defer {
            kill(server.process, SIGTERM)
            _ = server.finish()
        }
        // "ACCEPT 127.0.0.1:PORT"
        var text = server.read(until: "ACCEPT 127.0.0.1:")
        while !text.hasSuffix("\n") { text += server.read(until: "\n") }
        let digits = try #require(text.split(separator: "ACCEPT 127.0.0.1:").last).prefix { $0.isNumber }
        let port = try #require(UInt16(digits))
        try body({ try Self.connect(port) }, files.certificate)
    }

    private static func connect(_ port: UInt16) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0, "\(String(cString: strerror(errno)))")
        // A server that never answers fails the test instead of holding it up.
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        return descriptor
    }

    @Test(arguments: [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")])
    func `lines come back reversed`(option: String, version: String) throws {
        try withServer([option]) { connect, certificate in
            let socket = try connect()
            defer { close(socket) }
            let stream = try TLSClientStream(
                fileDescriptor: socket, context: .client(verify: .file(certificate)), serverName: "localhost")
            #expect(stream.version == version)
            try Array("stressed\n".utf8).withUnsafeBytes { try stream.write($0) }
            var answer: [UInt8] = []
            var block = [UInt8](repeating: 0, count: 3)
            while answer.count < 9 {
                let result = try block.withUnsafeMutableBytes { try stream.read(into: $0) }
                guard case .bytes(let count) = result else { break }
                answer += block[..<count]
            }
            #expect(String(decoding: answer, as: UTF8.self) == "desserts\n")
            // The server ends the session when it reads CLOSE.
            try Array("CLOSE\n".utf8).withUnsafeBytes { try stream.write($0) }
            #expect(try block.withUnsafeMutableBytes { try stream.read(into: $0) } == .end)
            stream.close()
        }
    }

    @Test func `a descriptor that does not block says so`() throws {
        try withServer { connect, certificate in
            let socket = try connect()
            defer { close(socket) }
            let stream = try TLSClientStream(
                fileDescriptor: socket, context: .client(verify: .file(certificate)), serverName: "127.0.0.1")
            try #require(fcntl(socket, F_SETFL, O_NONBLOCK) == 0)
            var block = [UInt8](repeating: 0, count: 10)
            #expect(try block.withUnsafeMutableBytes { try stream.read(into: $0) } == .wouldBlock)
            #expect(!stream.hasDecryptedBytes)
        }
    }

    @Test func `a server of another name is refused`() throws {
        try withServer { connect, certificate in
            let socket = try connect()
            defer { close(socket) }
            let error = #expect(throws: TLSError.self) {
                try TLSClientStream(
                    fileDescriptor: socket, context: .client(verify: .file(certificate)), serverName: "other.test")
            }
            #expect(
                try #require(error).description == "OpenSSL could not shake hands with other.test: hostname mismatch")
        }
    }

    @Test func `a peer that is gone is an error`() throws {
        var pair: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0)
        shutdown(pair[1], Int32(SHUT_WR))
        defer { for descriptor in pair { close(descriptor) } }
        let error = #expect(throws: TLSError.self) {
            try TLSClientStream(fileDescriptor: pair[0], context: .client(verify: .none), serverName: "localhost")
        }
        #expect(
            try #require(error).description
                == "OpenSSL could not shake hands with localhost: unexpected eof while reading")
    }
}
