import Glibc
import Testing

@testable import Relay

/// Our server's end against `openssl s_client`, over a real socket.
@Suite struct OpenSSLClientTests {
    let directory = TemporaryDirectory()

    @Test(arguments: [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")])
    func `s_client verifies, agrees on http 1_1 and echoes`(option: String, version: String) throws {
        let server = try EchoServer(directory)
        let client = try server.connect([option, "-alpn", "http/1.1", "-verify_return_error"])
        let echo = try server.accept()
        client.write("a line there and back\n")
        #expect(try echo.serveLine() == "a line there and back\n")
        #expect(client.read(until: "there and back\n").contains("a line there and back\n"))
        #expect(echo.end.session.version == version)
        #expect(echo.end.session.negotiatedALPN == "http/1.1")
        echo.hangUp()
        let outcome = client.finish()
        #expect(outcome.status == 0, "\(outcome.output)")
    }

    @Test func `a ticket resumes with the same context, and not with the next one`() throws {
        let server = try EchoServer(directory)
        let ticket = directory.file("ticket.pem")
        let first = try server.connect(["-tls1_3", "-sess_out", ticket])
        let one = try server.accept()
        first.write("1\n")
        #expect(try one.serveLine() == "1\n")
        // s_client writes the ticket when it reads on; the echo comes behind it.
        _ = first.read(until: "1\n")
        one.hangUp()
        _ = first.finish()
        #expect(!one.end.session.isResumed)
        #expect(directory.text("ticket.pem")?.contains("BEGIN SSL SESSION") == true)
        for expected in [true, false] {
            if !expected { try server.renewContext() }
            let next = try server.connect(["-tls1_3", "-sess_in", ticket])
            let two = try server.accept()
            next.write("2\n")
            #expect(try two.serveLine() == "2\n")
            #expect(two.end.session.isResumed == expected)
            two.hangUp()
            _ = next.finish()
        }
    }

    @Test func `renegotiation is refused, and the attempt is counted`() throws {
        let server = try EchoServer(directory)
        let client = try server.connect(["-tls1_2"], quiet: false)
        let echo = try server.accept()
        let allowance = echo.end.session.wire.pointee.handshakeAllowance
        // A line that is one R asks s_client to renegotiate.
        client.write("R\n")
        #expect(try echo.serveToEnd() == [])
        #expect(echo.end.session.wire.pointee.handshakeAllowance == allowance - 1)
        echo.hangUp()
        let outcome = client.finish()
        #expect(outcome.output.contains("RENEGOTIATING"))
        #expect(outcome.output.contains("no renegotiation"), "\(outcome.output)")
    }

    @Test(arguments: ["-tls1", "-tls1_1"])
    func `old versions are refused`(option: String) throws {
        let server = try EchoServer(directory)
        let client = try server.connect([option, "-cipher", "DEFAULT@SECLEVEL=0"])
        let echo = try server.accept(shakesHands: false)
        _ = try echo.serveToEnd()
        echo.hangUp()
        #expect(echo.end.failure?.description == "unsupported protocol")
        #expect(client.finish().status == 1)
    }
}

/// A listening socket on the loopback address and what its clients need to know.
private final class EchoServer {
    private let listener: Int32
    private let port: UInt16
    private let files: (certificate: String, key: String)
    private var context: TLSContext

    init(_ directory: TemporaryDirectory) throws {
        files = try TestCertificate.write(in: directory)
        context = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = listener
        let isBound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) == 0 && listen(listener, 8) == 0 && getsockname(listener, $0, &length) == 0
            }
        }
        try #require(isBound)
        port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(listener) }

    func renewContext() throws {
        context = try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
    }

    func connect(_ options: [String], quiet: Bool = true) throws -> OpenSSLCommand.Running {
        try OpenSSLCommand.start(
            ["s_client", "-connect", "127.0.0.1:\(port)", "-servername", "localhost", "-CAfile", files.certificate]
                + (quiet ? ["-quiet"] : []) + options)
    }

    func accept(shakesHands: Bool = true) throws -> EchoConnection {
        let descriptor = Glibc.accept(listener, nil, nil)
        try #require(descriptor >= 0)
        let connection = EchoConnection(descriptor, try TLSSession(server: context))
        if shakesHands { try connection.serve(until: { $0.session.isHandshakeDone }) }
        return connection
    }
}

private final class EchoConnection {
    let end: TLSEnd
    private let descriptor: Int32

    init(_ descriptor: Int32, _ session: TLSSession) {
        self.descriptor = descriptor
        end = TLSEnd(session)
        // A peer that never answers fails the test instead of holding it up.
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// Ends the session, then the connection, even where another test's command has inherited the descriptor.
    func hangUp() {
        end.shutdown()
        flush()
        shutdown(descriptor, Int32(SHUT_RDWR))
    }

    struct Silence: Error {}

    /// Carries ciphertext until `isEnough`, or the session or the connection ends.
    func serve(until isEnough: (TLSEnd) -> Bool) throws {
        var block = [UInt8](repeating: 0, count: 4096)
        while true {
            flush()
            if isEnough(end) || end.failure != nil || end.isClosed { return }
            let count = recv(descriptor, &block, block.count, 0)
            if count < 0 { throw Silence() }
            if count == 0 { return }
            end.accept(Array(block[..<count]))
        }
    }

    /// Reads one line and sends it back.
    func serveLine() throws -> String {
        try serve(until: { $0.received.last == UInt8(ascii: "\n") })
        let line = end.takeReceived()
        end.send(line)
        flush()
        return String(decoding: line, as: UTF8.self)
    }

    /// What comes until the end.
    func serveToEnd() throws -> [UInt8] {
        try serve(until: { _ in false })
        return end.takeReceived()
    }

    private func flush() {
        let bytes = end.takeOutput()
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return }
            sent += count
        }
    }
}
