import COpenSSL

@testable import Relay

/// A self-signed certificate that tests share, and what goes with it.
enum TestCertificate {
    static func write(
        in directory: TemporaryDirectory, names: [String] = ["localhost", "127.0.0.1"], from: Int = -3600,
        lifetimeSeconds: Int = 86_400, prefix: String = ""
    ) throws -> (certificate: String, key: String) {
        let pair = try SelfSigned.issue(for: names, from: from, lifetimeSeconds: lifetimeSeconds)
        return (
            directory.write(prefix + "certificate.pem", pair.certificate),
            directory.write(prefix + "key.pem", pair.key)
        )
    }

    static func serverContext(in directory: TemporaryDirectory) throws -> TLSContext {
        let files = try write(in: directory)
        return try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
    }
}

/// One end of a session in memory: what it would send waits in `output`, what it has decrypted is in `received`.
final class TLSEnd {
    let session: TLSSession
    let pool = ChunkPool()
    var output = OutboundBuffer()
    var received: [UInt8] = []
    var failure: TLSFailure?
    var isClosed = false
    /// How much `read` is offered at a time.
    var readSize = 16_384

    init(_ session: TLSSession) { self.session = session }

    /// Everything that waits to be sent, taken out.
    func takeOutput() -> [UInt8] {
        var bytes: [UInt8] = []
        while !output.isEmpty {
            let first = output.first
            bytes += first
            output.consume(first.count, to: pool)
        }
        return bytes
    }

    /// Hands ciphertext to the session and carries it as far as it goes.
    func accept(_ ciphertext: [UInt8]) {
        ciphertext.withUnsafeBytes { bytes in
            session.receive(bytes)
            advance()
        }
    }

    func advance() {
        if !session.isHandshakeDone {
            switch session.handshake(output: &output, pool: pool) {
            case .needsInput: return
            case .failed(let why): return failure = why
            case .done: break
            }
        }
        var block = [UInt8](repeating: 0, count: readSize)
        while true {
            let step = block.withUnsafeMutableBytes { session.read(into: $0, output: &output, pool: pool) }
            switch step {
            case .bytes(let count): received += block[..<count]
            case .needsInput: return
            case .closed: return isClosed = true
            case .failed(let why): return failure = why
            }
        }
    }

    @discardableResult
    func send(_ bytes: [UInt8]) -> TLSSession.WriteStep {
        bytes.withUnsafeBytes { session.write($0, output: &output, pool: pool) }
    }

    func shutdown() { session.shutdown(output: &output, pool: pool) }

    func takeReceived() -> [UInt8] {
        defer { received = [] }
        return received
    }
}

/// A server and a client that are connected by memory alone.
final class TLSPair {
    let server: TLSEnd
    let client: TLSEnd

    init(server: TLSContext, client: TLSContext, serverName: String? = "localhost") throws {
        self.server = TLSEnd(try TLSSession(server: server))
        self.client = TLSEnd(try TLSSession(client: client, serverName: serverName))
    }

    /// A pair whose handshake is done.
    static func connected() throws -> TLSPair {
        let directory = TemporaryDirectory()
        let files = try TestCertificate.write(in: directory)
        let pair = try TLSPair(
            server: .server(certificateFile: files.certificate, keyFile: files.key),
            client: .client(verify: .file(files.certificate)))
        pair.settle()
        return pair
    }

    /// Carries bytes both ways, in pieces of `pieceSize`, until nobody has anything to say.
    func settle(pieceSize: Int = .max) {
        client.advance()
        while true {
            let up = client.takeOutput()
            let down = server.takeOutput()
            if up.isEmpty, down.isEmpty { return }
            Self.carry(up, to: server, pieceSize)
            Self.carry(down, to: client, pieceSize)
        }
    }

    private static func carry(_ bytes: [UInt8], to end: TLSEnd, _ pieceSize: Int) {
        var start = 0
        while start < bytes.count {
            let next = start + min(pieceSize, bytes.count - start)
            end.accept(Array(bytes[start..<next]))
            start = next
        }
    }
}

extension TLSSession {
    /// Asks for new keys both ways, from the next write on (RFC 8446 §4.6.3); false where the version has none.
    func requestKeyUpdate() -> Bool { SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) == 1 }
}
