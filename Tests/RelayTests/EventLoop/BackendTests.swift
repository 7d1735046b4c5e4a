import Glibc
import Testing

@testable import Relay

/// The contract of Completion.swift, on every backend that the kernel has.
@Suite(.serialized, .timeLimit(.minutes(2))) struct BackendTests {
    init() { _ = System.raiseOpenFileLimit() }

    /// Bytes that say where they belong.
    private func noise(_ count: Int, seed: Int = 0) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: ($0 + seed) &* 0x9E37_79B9 >> 13) }
    }

    /// What was asked of the kernel before is done, and what it had to tell was heard: another connection's bytes, sent
    /// later, are there.
    private func settle(_ fixture: BackendFixture) throws {
        let (connection, peer) = try fixture.connect()
        fixture.turn()
        peer.send([1])
        try fixture.turn(until: "the last byte") { fixture[connection].receives == 1 }
        fixture.disconnect(connection)
    }

    @Test(.enabled(if: BackendKind.isUringAllowed, "the kernel has or allows no io_uring: only epoll is tested"))
    func `the tests below run on io_uring, too`() {
        #expect(BackendKind.available == [.epoll, .uring, .uringWholeBuffers])
    }

    // MARK: Receiving

    @Test(arguments: BackendKind.available)
    func `bytes arrive in order and whole, then the end of the stream`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        for size in [0, 1, 2, 4095, 8191, 8192, 8193, 65_535, 65_536, 65_537, 300_000, 3 << 20] {
            let (connection, peer) = try fixture.connect()
            let sent = noise(size, seed: size)
            var rest = sent[...]
            try fixture.turn(until: "\(size) bytes") {
                rest = peer.send(rest)
                return fixture[connection].bytes.count >= size
            }
            peer.endOutput()
            try fixture.turn(until: "the end of the stream") { fixture[connection].end != nil }
            expectSame(fixture[connection].bytes, sent)
            #expect(fixture[connection].end == size)
            fixture.disconnect(connection)
        }
    }

    /// 16 times 64 KiB, or 256 times 8 KiB, are what a turn can receive; this is more, both in bytes and in receives.
    @Test(arguments: BackendKind.available)
    func `more than the buffers hold in one turn comes in later ones`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let sent = noise(32 << 10)
        let all = try (0..<300).map { _ in try fixture.connect() }
        for (_, peer) in all { #expect(peer.send(sent[...]).isEmpty) }
        try fixture.turn(until: "everything") { all.allSatisfy { fixture[$0.connection].bytes.count >= sent.count } }
        for (connection, _) in all { expectSame(fixture[connection].bytes, sent) }
    }

    @Test(arguments: BackendKind.available)
    func `bytes may be changed where they lie`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect()
        peer.send(noise(1000)[...])
        fixture.backend.wait(timeoutMilliseconds: -1)
        guard case .received(let token, let bytes) = fixture.backend.next(fixture.table) else {
            Issue.record("nothing was received")
            return
        }
        #expect(fixture.table[token] === connection)
        bytes.initializeMemory(as: UInt8.self, repeating: 7)
        peer.send(noise(1000, seed: 1)[...])
        try fixture.turn(until: "what came later") { fixture[connection].bytes.count == 1000 }
        expectSame(fixture[connection].bytes, noise(1000, seed: 1))
    }

    @Test(arguments: BackendKind.available)
    func `a connection that pauses as it receives hears nothing until it resumes, and misses nothing`(
        kind: BackendKind
    ) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect()
        fixture.onReceive = { if $0 === connection { fixture.backend.pauseReceive(&connection.handle) } }
        let sent = noise(200_000)
        var rest = peer.send(sent[...])
        for round in 1...3 {
            try fixture.turn(until: "a receive") { fixture[connection].receives == round }
            rest = peer.send(rest)
            try settle(fixture)
            #expect(fixture[connection].receives == round)
            fixture.backend.resumeReceive(&connection.handle)
        }
        fixture.onReceive = { _ in }
        fixture.backend.resumeReceive(&connection.handle)
        try fixture.turn(until: "everything") {
            rest = peer.send(rest)
            return fixture[connection].bytes.count >= sent.count
        }
        expectSame(fixture[connection].bytes, sent)
    }

    @Test(arguments: BackendKind.available)
    func `at most one more completion comes after a pause`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect()
        fixture.turn()  // A receive is with the kernel.
        fixture.backend.pauseReceive(&connection.handle)
        let sent = noise(30_000)
        for part in 0..<3 {
            #expect(peer.send(sent[(part * 10_000)..<((part + 1) * 10_000)]).isEmpty)
            try settle(fixture)
            #expect(fixture[connection].receives <= 1)
        }
        peer.endOutput()
        try settle(fixture)
        #expect(fixture[connection].end == nil)
        fixture.backend.resumeReceive(&connection.handle)
        try fixture.turn(until: "the end of the stream") { fixture[connection].end != nil }
        expectSame(fixture[connection].bytes, sent)
        #expect(fixture[connection].end == sent.count)
    }

    // MARK: Peers that go away

    /// A multishot receive of io_uring takes the bytes and never hears of the reset.
    @Test(arguments: BackendKind.available, [true, false])
    func `a reset is reported, whatever came before it`(kind: BackendKind, isArmed: Bool) throws {
        let fixture = try BackendFixture(kind)
        for size in [0, 1, 1000, 8192, 16_384, 30_000] {
            let all = try (0..<20).map { _ in try fixture.connect() }
            if isArmed { fixture.turn() }
            for (_, peer) in all {
                peer.send(noise(size)[...])
                peer.reset()
            }
            try fixture.turn(until: "\(size) bytes, and resets") {
                all.allSatisfy { fixture[$0.connection].failure != nil }
            }
            #expect(all.allSatisfy { fixture[$0.connection].failure == ECONNRESET })
            #expect(all.allSatisfy { fixture[$0.connection].end == nil })
        }
        #expect(fixture.table.count == 0)
    }

    @Test(arguments: BackendKind.available)
    func `a reset of a connection that paused as it received is reported`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        for resumes in 0..<3 {
            let (connection, peer) = try fixture.connect()
            fixture.onReceive = { if $0 === connection { fixture.backend.pauseReceive(&connection.handle) } }
            for count in 0...resumes {
                peer.send([1])
                try fixture.turn(until: "a byte") { fixture[connection].receives == count + 1 }
                try settle(fixture)
                if count < resumes { fixture.backend.resumeReceive(&connection.handle) }
            }
            peer.send([1])
            peer.reset()
            try fixture.turn(until: "the reset") { fixture[connection].failure != nil }
            #expect(fixture[connection].bytes.count == resumes + 1)
        }
    }

    @Test(arguments: BackendKind.available)
    func `a reset is reported to those that were paused when all buffers were in use`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let all = try (0..<300).map { _ in try fixture.connect() }
        fixture.turn()
        for (connection, peer) in all {
            peer.send(noise(32 << 10)[...])
            fixture.backend.pauseReceive(&connection.handle)
        }
        try settle(fixture)
        #expect(all.allSatisfy { fixture[$0.connection].receives <= 1 })
        for (_, peer) in all { peer.reset() }
        try fixture.turn(until: "every reset") { all.allSatisfy { fixture[$0.connection].failure != nil } }
    }

    @Test(arguments: BackendKind.available)
    func `what was under way for a connection that is gone is nobody's`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        for round in 0..<200 {
            let (gone, stranger) = try fixture.connect()
            if round % 2 == 0 { fixture.turn() }
            stranger.send(noise(round)[...])
            fixture.disconnect(gone)
            let (connection, peer) = try fixture.connect()
            #expect(connection.handle.token.index == 0)
            peer.send([UInt8(round)])
            try fixture.turn(until: "a byte") { fixture[connection].receives == 1 }
            expectSame(fixture[connection].bytes, [UInt8(round)])
            fixture.disconnect(connection)
            fixture.turn()
        }
    }

    // MARK: Sending

    @Test(arguments: BackendKind.available, [false, true])
    func `what is sent arrives in order and whole, though the socket takes it in parts`(
        kind: BackendKind, isNarrow: Bool
    ) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect(isNarrow: isNarrow)
        let sent = noise(1 << 20)
        var received: [UInt8] = []
        var next = 0
        try fixture.turn(until: "everything") {
            // More is queued while a send is pending, in pieces of all sizes.
            let piece = sent[next..<min(next + 1 + next / 3, sent.count)]
            next = piece.endIndex
            fixture.send(Array(piece), on: connection)
            while case .bytes(let bytes) = peer.receive() { received += bytes }
            return received.count >= sent.count
        }
        expectSame(received, sent)
        try fixture.turn(until: "the last completion") { !connection.isSending }
        #expect(connection.queuedBytes == 0)
    }

    @Test(arguments: BackendKind.available)
    func `a send to a peer that has reset fails`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect(isNarrow: true)
        fixture.send(noise(1 << 20), on: connection)
        try settle(fixture)
        #expect(connection.isSending)
        fixture.backend.pauseReceive(&connection.handle)
        peer.reset()
        try fixture.turn(until: "the failure") { fixture[connection].failure != nil }
    }

    @Test(arguments: BackendKind.available)
    func `a connection may be closed while a send is pending: its bytes are not given to others`(
        kind: BackendKind
    ) throws {
        let fixture = try BackendFixture(kind)
        for turns in 0..<3 {
            let (connection, peer) = try fixture.connect(isNarrow: true)
            let sent = noise(1 << 20)
            fixture.send(sent, on: connection)
            for _ in 0..<turns { fixture.turn() }
            #expect(connection.isSending)
            fixture.disconnect(connection)
            // Whoever gets the chunks next writes to them at once.
            var others = OutboundBuffer()
            [UInt8](repeating: 0, count: sent.count).withUnsafeBytes { others.append($0, from: fixture.loop.pool) }
            var received: [UInt8] = []
            var last = Peer.Reading.nothing
            try fixture.turn(until: "the descriptor is released") {
                last = peer.receive()
                if case .bytes(let bytes) = last { received += bytes }
                return last == .end || last == .reset
            }
            expectSame(received, sent.prefix(received.count))
            #expect(0 < received.count && received.count < sent.count)
            others.removeAll(to: fixture.loop.pool)
        }
    }

    /// A ring's queue takes 1024 submissions, and 64 messages in several chunks.
    @Test(arguments: BackendKind.available)
    func `a turn may ask for more than the queue holds`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let all = try (0..<700).map { _ in try fixture.connect() }
        for (index, (connection, _)) in all.enumerated() {
            noise(100, seed: index).withUnsafeBytes { connection.outbound.append($0, from: fixture.loop.pool) }
            fixture.send(noise(5000, seed: index), on: connection)
        }
        for (index, (_, peer)) in all.enumerated() {
            var received: [UInt8] = []
            try fixture.turn(until: "what \(index) was sent") {
                if case .bytes(let bytes) = peer.receive() { received += bytes }
                return received.count >= 5100
            }
            expectSame(received, noise(100, seed: index) + noise(5000, seed: index))
        }
        for (connection, _) in all { fixture.disconnect(connection) }
        for (_, peer) in all {
            try fixture.turn(until: "the end") { [.end, .reset].contains(peer.receive()) }
        }
    }

    // MARK: Moving

    @Test(arguments: BackendKind.available, [false, true])
    func `another backend takes a socket over once nothing is under way`(kind: BackendKind, isSending: Bool) throws {
        let fixture = try BackendFixture(kind)
        let target = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect(isNarrow: true)
        let (sent, answer) = (noise(1 << 20), noise(20_000))
        if isSending { fixture.send(sent, on: connection) }
        fixture.turn()
        connection.isMoving = true
        peer.send(answer[..<10_000])
        if isSending {
            #expect(!fixture.backend.release(&connection.handle))
            try settle(fixture)
            #expect(!fixture.backend.release(&connection.handle))
        }
        var received: [UInt8] = []
        try fixture.turn(until: "the release") {
            while case .bytes(let bytes) = peer.receive() { received += bytes }
            return fixture.backend.release(&connection.handle)
        }
        #expect(!connection.isSending)
        fixture.table.remove(connection)
        let before = fixture[connection].bytes
        connection.isMoving = false
        peer.send(answer[10_000...])
        target.adopt(connection)
        try target.turn(until: "the rest") { before.count + target[connection].bytes.count >= answer.count }
        expectSame(before + target[connection].bytes, answer)
        try settle(fixture)
        expectSame(fixture[connection].bytes, before)
        target.send(noise(10), on: connection)
        let expected = (isSending ? sent : []) + noise(10)
        try target.turn(until: "what was sent") {
            while case .bytes(let bytes) = peer.receive() { received += bytes }
            return received.count >= expected.count
        }
        expectSame(received, expected)
    }

    // MARK: Accepting and waiting

    @Test(arguments: BackendKind.available)
    func `everybody is accepted, with an address, until the listener closes`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect()
        let listener = try fixture.listen()
        var peers: [Peer] = []
        for count in [200, 1, 50] {
            peers += try (0..<count).map { _ in try Peer(connectedTo: fixture.port) }
            try fixture.turn(until: "\(count) connections") { fixture.accepted.count >= peers.count }
        }
        #expect(fixture.accepted.count == 251)
        #expect(Set(fixture.accepted.map { "\($0.address)" }).count == 251)
        #expect(fixture.accepted.allSatisfy { fcntl($0.fileDescriptor, F_GETFD) & FD_CLOEXEC != 0 })
        fixture.backend.close(&listener.handle, abandoning: nil)
        fixture.turn()
        peers.append(try Peer(connectedTo: fixture.port))
        peer.send([1])
        try fixture.turn(until: "a byte") { fixture[connection].receives == 1 }
        #expect(fixture.accepted.count == 251)
    }

    @Test(arguments: BackendKind.available)
    func `waiting ends with the time or with the first completion`(kind: BackendKind) throws {
        let fixture = try BackendFixture(kind)
        let (connection, peer) = try fixture.connect()
        for timeout: Int32 in [0, 1, 20] {
            fixture.turn(timeoutMilliseconds: timeout)
            #expect(fixture[connection].receives == 0)
        }
        for (index, timeout) in [10_001, Int32.max, -1].enumerated() {
            let descriptor = peer.fileDescriptor
            let sender = System.startThread(name: "sender") { _ = Glibc.send(descriptor, "x", 1, 0) }
            fixture.turn(timeoutMilliseconds: timeout)
            pthread_join(sender, nil)
            #expect(fixture[connection].receives == index + 1)
        }
    }
}
