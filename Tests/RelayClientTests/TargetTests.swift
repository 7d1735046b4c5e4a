import Relay
import Testing

@testable import RelayClient

@Suite struct TargetTests {
    @Test(arguments: [
        ("127.0.0.1:22", "box", "127.0.0.1:22", "box", 22), ("127.0.0.1:22", "box:2022", "127.0.0.1:22", "box", 2022),
        ("tcp://localhost:5432", "db", "localhost:5432", "db", 5432), ("[::1]:80", "x:1", "[::1]:80", "x", 1),
        ("http://127.0.0.1:3000", "app", "127.0.0.1:3000", "app", 80),
        ("http://127.0.0.1:3000/", "app:8080", "127.0.0.1:3000", "app", 8080),
        ("http://localhost", "app", "localhost:80", "app", 80), ("unix:/run/x", "a:5", "unix:/run/x", "a", 5),
        ("ws://127.0.0.1:9000/p?q=1", "studio", "127.0.0.1:9000", "studio", 9000),
        ("wss://example.com", "studio", "example.com:443", "studio", 443),
        ("unix:relative", "a:b:5", "unix:relative", "a:b", 5), ("127.0.0.1:1", "0:0", "127.0.0.1:1", "0", 0),
    ])
    func `a target and its name say what becomes what`(
        target: String, name: String, endPoint: String, server: String, port: UInt16
    ) throws {
        let exposed = try ExposedTarget(target, as: name)
        #expect("\(exposed.endPoint)" == endPoint)
        #expect("\(exposed.server)" == server)
        #expect(exposed.port == port)
    }

    @Test(arguments: [
        ("", "a:1"), ("127.0.0.1", "a:1"), ("127.0.0.1:", "a:1"), (":22", "a:1"), ("a:65536", "a:1"), ("a:+1", "a:1"),
        ("unix:", "a:1"), ("http://", "a:1"), ("http://u@h", "a:1"), ("http://h/path", "a:1"), ("ws://h:0", "a:1"),
        ("wss://", "a:1"), ("https://h:1", "a:1"), ("gopher://h:1", "a:1"), ("127.0.0.1:1", ""),
        ("127.0.0.1:1", ":1"), ("127.0.0.1:1", "a:"), ("127.0.0.1:1", "a:65536"), ("127.0.0.1:1", "a:x"),
        ("unix:/x", "a"), (String(repeating: "x", count: 3) + "\n:1", "a:\u{1b}"),
    ])
    func `what cannot be exposed is refused in one sentence`(target: String, name: String) {
        let failure = #expect(throws: ClientFailure.self) { try ExposedTarget(target, as: name) }
        #expect(failure?.kind == .refused)
        #expect(failure?.description.contains("\n") == false)
    }

    @Test func `a unix path has at most 107 bytes`() {
        #expect(EndPoint("unix:" + Substring(repeating: "x", count: 107)) != nil)
        #expect(EndPoint("unix:" + Substring(repeating: "x", count: 108)) == nil)
    }
}

@Suite struct BackoffTests {
    @Test func `pauses grow up to half a minute, with half of each left to chance`() {
        var backoff = Backoff()
        for expected in [0.5, 1, 2, 4, 8, 16, 30, 30] {
            let pause = backoff.pause(chance: 1)
            #expect(pause == expected)
        }
        let shortest = backoff.pause(chance: 0)
        #expect(shortest == 15)
    }

    @Test func `only a connection that has lived begins anew`() {
        var backoff = Backoff()
        _ = backoff.pause(chance: 1)
        backoff.ended(after: 9.9)
        let second = backoff.pause(chance: 1)
        #expect(second == 1)
        backoff.ended(after: 10)
        let first = backoff.pause(chance: 1)
        #expect(first == 0.5)
    }
}

@Suite struct QueueTests {
    @Test func `what goes in first comes out first, however they mix`() {
        var queue = Queue<Int>()
        var expected: [Int] = []
        var random: UInt32 = 1
        for number in 0..<10_000 {
            // Numerical Recipes' generator, whose upper bits are good enough to mix.
            random = random &* 1_664_525 &+ 1_013_904_223
            if random >> 24 < 140 {
                queue.append(number)
                expected.append(number)
            } else {
                let taken = queue.popFirst()
                #expect(taken == (expected.isEmpty ? nil : expected.removeFirst()))
            }
            #expect(queue.isEmpty == expected.isEmpty)
        }
    }
}
