import Testing

@testable import Relay

@Suite struct TLSSessionTests {
    @Test func `a handshake and data both ways`() throws {
        let pair = try TLSPair.connected()
        #expect(pair.server.failure == nil && pair.client.failure == nil)
        #expect(pair.server.session.version == "TLSv1.3")
        #expect(pair.server.session.negotiatedALPN == "http/1.1")
        #expect(pair.server.send(Array("from the server".utf8)) == .written(15))
        #expect(pair.client.send(Array("from the client".utf8)) == .written(15))
        pair.settle()
        #expect(pair.client.received == Array("from the server".utf8))
        #expect(pair.server.received == Array("from the client".utf8))
    }

    @Test func `everything arrives byte by byte`() throws {
        let directory = TemporaryDirectory()
        let pair = try TLSPair(
            server: TestCertificate.serverContext(in: directory), client: .client(verify: .none))
        pair.settle(pieceSize: 1)
        let bytes = SecureRandom.bytes(40_000)
        pair.client.send(bytes)
        pair.settle(pieceSize: 1)
        #expect(pair.server.received == bytes)
        pair.server.send(bytes)
        pair.settle(pieceSize: 1)
        #expect(pair.client.received == bytes)
    }

    @Test(arguments: [1, 2, 3, 5, 16, 1000, 16_383, 16_384, 16_385, 100_000])
    func `one megabyte survives any size of piece and of read`(size: Int) throws {
        let pair = try TLSPair.connected()
        pair.server.readSize = size
        let bytes = SecureRandom.bytes(size < 16 ? 20_000 : 1 << 20)
        #expect(pair.client.send(bytes) == .written(bytes.count))
        pair.settle(pieceSize: size)
        #expect(pair.server.received == bytes)
    }

    @Test func `one read gathers several records, and several reads share one record`() throws {
        let pair = try TLSPair.connected()
        for text in ["one", "two", "three"] { pair.client.send(Array(text.utf8)) }
        let ciphertext = pair.client.takeOutput()
        var block = [UInt8](repeating: 0, count: 64)
        try ciphertext.withUnsafeBytes { bytes in
            let server = pair.server
            server.session.receive(bytes)
            let step = block.withUnsafeMutableBytes {
                server.session.read(into: .init(rebasing: $0[..<4]), output: &server.output, pool: server.pool)
            }
            #expect(step == .bytes(4))
            #expect(server.session.hasDecryptedBytes)
            #expect(!server.session.unconsumed.isEmpty)
            let rest = block.withUnsafeMutableBytes {
                server.session.read(into: .init(rebasing: $0[4...]), output: &server.output, pool: server.pool)
            }
            #expect(rest == .bytes(7))
            #expect(server.session.unconsumed.isEmpty)
            let end = block.withUnsafeMutableBytes {
                server.session.read(into: $0, output: &server.output, pool: server.pool)
            }
            try #require(end == .needsInput)
        }
        #expect(block.starts(with: Array("onetwothree".utf8)))
    }

    @Test func `large output is cut into records of at most 16 KiB`() throws {
        let pair = try TLSPair.connected()
        pair.server.send([UInt8](repeating: 7, count: 50_000))
        var records = TLSRecord.split(pair.server.takeOutput())
        // The header counts an inner type byte and a tag of 16 bytes (RFC 8446 §5.2).
        #expect(records.map(\.body.count) == [16_401, 16_401, 16_401, 50_000 - 3 * 16_384 + 17])
        records.removeAll { $0.type == 23 }
        #expect(records.isEmpty)
    }

    @Test func `close_notify is told once and writing goes on`() throws {
        let pair = try TLSPair.connected()
        pair.client.send(Array("last words".utf8))
        pair.client.shutdown()
        pair.client.shutdown()
        pair.settle()
        #expect(pair.server.received == Array("last words".utf8))
        #expect(pair.server.isClosed)
        pair.server.advance()
        #expect(pair.server.failure == nil)
        #expect(pair.server.send(Array("still here".utf8)) == .written(10))
        pair.server.shutdown()
        pair.settle()
        #expect(pair.client.received == Array("still here".utf8))
        #expect(pair.client.isClosed)
    }

    @Test func `data before the handshake is refused on both sides of the interface`() throws {
        let directory = TemporaryDirectory()
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        #expect(end.send([1]) == .failed(.notReady))
        var block = [UInt8](repeating: 0, count: 8)
        let step = block.withUnsafeMutableBytes { end.session.read(into: $0, output: &end.output, pool: end.pool) }
        #expect(step == .failed(.notReady))
        end.shutdown()
        #expect(end.takeOutput() == [])
    }

    @Test func `a changed byte ends the session with bad_record_mac, and the end stays`() throws {
        let pair = try TLSPair.connected()
        pair.client.send(Array("good".utf8))
        let good = pair.client.takeOutput()
        pair.client.send(Array("evil".utf8))
        var evil = pair.client.takeOutput()
        evil[evil.count - 1] ^= 1
        pair.server.accept(good + evil)
        #expect(pair.server.received == Array("good".utf8))
        let failure = try #require(pair.server.failure)
        #expect(failure.description == "decryption failed or bad record mac")
        pair.server.failure = nil
        pair.server.advance()
        #expect(pair.server.failure == failure)
        #expect(pair.server.send([1]) == .failed(failure))
        pair.client.accept(pair.server.takeOutput())
        #expect(pair.client.failure?.description == "sslv3 alert bad record mac")
    }

    @Test func `KeyUpdates are answered, and a flood of them is cut off`() throws {
        let pair = try TLSPair.connected()
        for round in 0..<8 {
            #expect(pair.client.session.requestKeyUpdate())
            pair.client.send([UInt8(round)])
            pair.settle()
            pair.server.send([UInt8(round)])
            pair.settle()
        }
        #expect(pair.server.received == Array(0..<8) && pair.client.received == Array(0..<8))
        #expect(pair.server.failure == nil)
        var sent: [UInt8] = []
        for _ in 0..<2000 {
            try #require(pair.client.session.requestKeyUpdate())
            pair.client.send([9])
            sent += pair.client.takeOutput()
        }
        pair.server.accept(sent)
        #expect(pair.server.failure == .handshakeFlood)
        #expect(pair.server.received.count < 64)
    }

    @Test func `data earns KeyUpdates back`() throws {
        let pair = try TLSPair.connected()
        let block = [UInt8](repeating: 1, count: 1 << 20)
        for _ in 0..<(2 * TLSWire.initialHandshakeAllowance) {
            try #require(pair.client.session.requestKeyUpdate())
            pair.client.send(block)
            pair.settle()
            // The client has an allowance too, which the server's answers draw on.
            pair.server.send(pair.server.takeReceived())
            pair.settle()
            try #require(pair.client.takeReceived().count == block.count)
        }
        #expect(pair.server.failure == nil)
    }

    @Test func `a record that was not encrypted is refused after the handshake`() throws {
        let pair = try TLSPair.connected()
        pair.server.accept([23, 3, 3, 0, 1, 65])
        #expect(pair.server.failure != nil)
        #expect(pair.server.received.isEmpty)
        #expect(pair.server.takeOutput() != [])
    }

    @Test func `plain HTTP is named as such`() throws {
        let directory = TemporaryDirectory()
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        end.accept(Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
        #expect(end.failure?.description == "http request")
    }

    @Test func `random bytes never do more than fail`() throws {
        let directory = TemporaryDirectory()
        let context = try TestCertificate.serverContext(in: directory)
        for length in 0..<300 {
            let end = TLSEnd(try TLSSession(server: context))
            // A plausible record header, so that more than the first check is reached.
            end.accept([22, 3, 1, UInt8(length >> 8), UInt8(length & 255)] + SecureRandom.bytes(length))
            #expect(end.received.isEmpty)
            #expect(!end.session.isHandshakeDone)
        }
    }

    @Test(arguments: [[UInt8](), [1], [22, 3], [22, 3, 1, 2, 0, 1]])
    func `half a hello waits for more`(bytes: [UInt8]) throws {
        let directory = TemporaryDirectory()
        let end = TLSEnd(try TLSSession(server: TestCertificate.serverContext(in: directory)))
        end.accept(bytes)
        #expect(end.failure == nil)
        #expect(end.session.unconsumed.isEmpty)
    }
}

/// TLS records, for tests that look at the wire (RFC 8446 §5.1).
struct TLSRecord: Equatable {
    var type: UInt8
    var body: [UInt8]

    static func split(_ bytes: [UInt8]) -> [TLSRecord] {
        var records: [TLSRecord] = []
        var start = 0
        while start + 5 <= bytes.count {
            let length = Int(bytes[start + 3]) << 8 | Int(bytes[start + 4])
            let end = min(start + 5 + length, bytes.count)
            records.append(TLSRecord(type: bytes[start], body: Array(bytes[(start + 5)..<end])))
            start = end
        }
        return records
    }
}
