import RelayClient
import Testing

/// The public face, against a relay in a process of its own.
@Suite(.timeLimit(.minutes(1))) struct RelayTests {
    private func connected(_ process: RelayProcess) async throws -> Relay {
        try await Relay.connect(to: process.url, credential: process.credential)
    }

    @Test func `a server and a client meet, and messages go both ways`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let server = try await relay.listen(server: "box", ports: [7])
        let serving = Task {
            for try await channel in server {
                #expect(channel.server == "box")
                #expect(channel.port == 7)
                #expect(channel.remoteAddress == "127.0.0.1")
                for try await message in channel { try await channel.send(message) }
                try await channel.send("goodbye")
                channel.end()
                return
            }
        }
        let channel = try await relay.open(server: "box", port: 7)
        // Empty, small, larger than the window, and cut inside of a character.
        let messages: [Relay.Message] = [
            .text(""), .text("hello"), .binary([]), .binary([UInt8](repeating: 7, count: 1_000_003)),
            .text(String(repeating: "aé€😀", count: 60_000)),
        ]
        let sending = Task {
            for message in messages { try await channel.send(message) }
            channel.end()
        }
        var received: [Relay.Message] = []
        for try await message in channel { received.append(message) }
        #expect(received == messages + [.text("goodbye")])
        try await sending.value
        try await serving.value
        relay.close()
    }

    @Test func `a sender waits for a receiver that takes nothing`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let server = try await relay.listen(server: "box")
        async let opening = relay.open(server: "box", port: 1)
        var channels = server.makeAsyncIterator()
        let other = try #require(try await channels.next())
        let channel = try await opening
        let count = 40
        let sent = Counter()
        let sending = Task {
            for _ in 0..<count {
                try await channel.send([UInt8](repeating: 1, count: 100_000))
                sent.add()
            }
            channel.end()
        }
        var taken = 0
        for try await message in other {
            guard case .binary(let bytes) = message else { continue }
            #expect(bytes.count == 100_000)
            taken += 1
            // What is under way is a window on either side of the relay, and the message that waits for credit.
            #expect(sent.value <= taken + 8)
        }
        #expect(taken == count)
        try await sending.value
    }

    @Test func `what is not there, or not wanted, is a reason`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        await #expect(throws: ChannelClose.self) { try await relay.open(server: "nobody", port: 7) }
        let server = try await relay.listen(server: "box", ports: [7])
        let refused = await #expect(throws: ChannelClose.self) { try await relay.open(server: "box", port: 8) }
        #expect(refused?.code == 404)
        let serving = Task {
            for try await channel in server { channel.close(code: 3333, reason: "not now") }
        }
        let channel = try await relay.open(server: "box", port: 7)
        let closed = await #expect(throws: ChannelClose.self) { for try await _ in channel {} }
        #expect(closed == ChannelClose(3333, "not now"))
        await #expect(throws: ChannelClose.self) { try await channel.send("too late") }
        server.close()
        try await serving.value
        await #expect(throws: ChannelClose.self) { try await relay.open(server: "box", port: 7) }
    }

    @Test func `a channel that is let go is closed`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let server = try await relay.listen(server: "box")
        let opening = Task { _ = try await relay.open(server: "box", port: 1) }
        var channels = server.makeAsyncIterator()
        let other = try #require(try await channels.next())
        for try await _ in other {}
        try await opening.value
    }

    @Test func `an instruction is invoked, and its error told`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let sum = try await relay.invoke("eval", .object(["body": .string("return 6 * 7")]))
        #expect(sum == .integer(42))
        let failure = await #expect(throws: ClientFailure.self) { try await relay.invoke("no such instruction") }
        #expect(failure?.kind == .refused)
        #expect(failure?.description.contains("unknown_instruction") == true)
    }

    @Test func `a name that is taken over ends the server that held it`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let first = try await relay.listen(server: "box")
        let serving = Task { for try await _ in first {} }
        let second = try await relay.listen(server: "box")
        let failure = await #expect(throws: ClientFailure.self) { try await serving.value }
        #expect(failure?.description.contains("4005") == true)
        second.close()
    }

    @Test func `a relay that is not there, and one that does not want us, are told apart`() async throws {
        let absent = await #expect(throws: ClientFailure.self) { try await Relay.connect(to: "ws://127.0.0.1:1") }
        #expect(absent?.kind == .unreachable)
        let process = try RelayProcess()
        let refused = await #expect(throws: ClientFailure.self) {
            try await Relay.connect(to: process.url, credential: "wrong")
        }
        #expect(refused?.kind == .refused)
        await #expect(throws: ClientFailure.self) { try await Relay.connect(to: "http://127.0.0.1") }
    }

    @Test func `after close nothing goes on, and nobody waits for ever`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let server = try await relay.listen(server: "box")
        async let opening = relay.open(server: "box", port: 1)
        var channels = server.makeAsyncIterator()
        let other = try #require(try await channels.next())
        let channel = try await opening
        let reading = Task { for try await _ in channel {} }
        relay.close()
        // While both sides still say goodbye.
        await #expect(throws: (any Error).self) { try await relay.invoke("x") }
        await #expect(throws: (any Error).self) { try await reading.value }
        await #expect(throws: (any Error).self) { for try await _ in other {} }
        await #expect(throws: (any Error).self) { for try await _ in server {} }
        await #expect(throws: (any Error).self) { try await relay.open(server: "box", port: 1) }
        await #expect(throws: (any Error).self) { try await relay.invoke("x") }
        await #expect(throws: (any Error).self) { try await relay.listen(server: "box") }
    }

    @Test func `a task that is cancelled stops waiting`() async throws {
        let process = try RelayProcess()
        let relay = try await connected(process)
        let server = try await relay.listen(server: "box")
        let waiting = Task { for try await _ in server {} }
        waiting.cancel()
        try await waiting.value
    }
}
