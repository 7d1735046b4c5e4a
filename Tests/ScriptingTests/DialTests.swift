import Relay
import Testing

@testable import Scripting

@Suite struct DialTests {
    private static let id = ConnectionID(rawValue: 1_000)

    /// Dials with what `arguments` say; what the host has been asked.
    private func dial(_ bench: Bench, _ arguments: String) throws -> [(callbacks: DialCallbacks, target: String)] {
        bench.host.open.insert(Self.id.rawValue)
        try bench.add("dial", "function(conn) channel, code = relay.dial(\(arguments)) return tostring(channel) end")
        #expect(bench.call("dial").failure == nil)
        return bench.host.dialled
    }

    @Test func `a channel is a connection object, and its callbacks get what hooks get`() throws {
        let bench = try Bench()
        let dialled = try dial(
            bench,
            """
            'box', 22, { open = function(c) a = c == channel end,
                message = function(c, data, kind) b = data .. kind c:send('re: ' .. data) end,
                close = function(c, code, reason) d = reason .. code end }, { why = 'x' }
            """)
        #expect(dialled.map(\.target) == [#"box 22 {"why":"x"}"#])
        let callbacks = dialled[0].callbacks
        let open = try #require(callbacks.open), message = try #require(callbacks.message)
        let close = try #require(callbacks.close)
        #expect(bench.call(open, .open(connection: Self.id)).failure == nil)
        Array("hi".utf8).withUnsafeBytes {
            #expect(bench.call(message, .message(connection: Self.id, bytes: $0, isText: true)).failure == nil)
        }
        #expect(bench.call(close, .close(connection: Self.id, code: 4000, reason: "why")).failure == nil)
        #expect(bench.eval("a and b .. d .. channel.id") == .returned(#""hitextwhy40001000""#))
        #expect(bench.host.sent == [.init(connection: Self.id.rawValue, text: "re: hi")])
        bench.engine.forget(Self.id)
        #expect(bench.eval("channel:send('late')") == .returned(#""dropped""#))
    }

    @Test func `callbacks that are left out are none`() throws {
        let bench = try Bench()
        let dialled = try dial(bench, "0, 0, { message = print }")
        #expect(dialled[0].callbacks.open == nil && dialled[0].callbacks.close == nil)
        #expect(dialled[0].callbacks.message != nil)
        #expect(dialled[0].target == "0 0 -")
    }

    @Test func `what is refused is nil and a code, and its callbacks are let go`() throws {
        let bench = try Bench { $0.memoryBytes = 4 << 20 }
        bench.host.dialResult = .refused(.notFound)
        try bench.add(
            "dial",
            """
            function(conn)
              local held = ('x'):rep(64 * 1024) .. relay.randomToken()
              local f = function() return held end
              local _, code = relay.dial('box', 1, { open = f, message = f, close = f })
              return { code, relay.dial('b', 1, {}) }
            end
            """)
        for _ in 0..<200 {
            try #require(bench.call("dial") == .returned(#"["not_found",null,"not_found"]"#))
        }
    }

    @Test(arguments: [
        "", "'box'", "'box', 1", "'box', 1, print", "'box', -1, {}", "'box', 65536, {}", "'box', 1.5, {}", "'', 1, {}",
        "1.5, 1, {}", "{}, 1, {}", "'box', 1, { open = 1 }", "'box', 1, { close = {} }", "'box', 1, {}, 'text'",
        "'box', 1, {}, { print }", "'box', 1, {}, { ('x'):rep(5000) }",
    ])
    func `anything else is an error, and the host is not asked`(arguments: String) throws {
        let bench = try Bench()
        try bench.add("dial", "function(conn) relay.dial(\(arguments)) end")
        #expect(bench.call("dial").failure != nil)
        #expect(bench.host.dialled.isEmpty)
    }

    @Test(arguments: ["relay.dial('box', 1, {})", "relay.on('reload', function() relay.dial('box', 1, {}) end)"])
    func `a script that loads cannot dial`(source: String) throws {
        let bench = try Bench()
        #expect(throws: ScriptFailure.self) { try bench.load(source) }
        #expect(bench.host.dialled.isEmpty)
    }
}
