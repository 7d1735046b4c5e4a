import Relay
import Testing

@testable import Scripting

@Suite struct ConnectHookTests {
    private func connect(_ bench: Bench, to server: ServerID = .name("box"), port: UInt16 = 22) -> Ending {
        bench.call(
            bench.chain(.connect),
            .connect(connection: ConnectionID(rawValue: 9), server: server, port: port), wantsResult: false)
    }

    private static func allowed(
        _ server: ServerID? = nil, _ port: UInt16? = nil, _ metadata: String? = nil
    ) -> ConnectDecision { .allowed(server: server, port: port, metadata: metadata) }

    @Test(
        arguments: [
            ("", .undecided), ("nil", .undecided), ("nil, 500, 'not looked at'", .undecided),
            ("false", .refused(status: 403, reason: "Forbidden")),
            ("false, 404", .refused(status: 404, reason: "Forbidden")),
            ("false, 400, 'no'", .refused(status: 400, reason: "no")),
            ("false, 599", .refused(status: 599, reason: "Forbidden")),
            ("false, 399, 'a'", .refused(status: 403, reason: "a")),
            ("false, 600", .refused(status: 403, reason: "Forbidden")),
            ("false, math.mininteger", .refused(status: 403, reason: "Forbidden")),
            ("false, nil, 'é\\r\\nx'", .refused(status: 403, reason: "é  x")),
            ("false, nil, ('x'):rep(256)", .refused(status: 403, reason: String(repeating: "x", count: 256))),
            ("true", allowed()), ("true, 0", allowed(nil, 0)), ("true, 65535", allowed(nil, 65535)),
            ("true, nil, { a = 1 }", allowed(nil, nil, #"{"a":1}"#)), ("true, 80, {}", allowed(nil, 80, "{}")),
            ("'other'", allowed(.name("other"))), ("'0'", allowed(.name("0"))), ("0", allowed(.number(0))),
            ("math.mininteger, 80", allowed(.number(.min), 80)),
            ("'å\\0b', nil, { 'é' }", allowed(.name("å\0b"), nil, #"["é"]"#)),
            ("('n'):rep(255), 1, { 1 }, print", allowed(.name(String(repeating: "n", count: 255)), 1, "[1]")),
            ("true, 1, { ('x'):rep(4092) }", allowed(nil, 1, "[\"" + String(repeating: "x", count: 4092) + "\"]")),
        ] as [(String, ConnectDecision)])
    func `what a connect hook returns decides`(values: String, decision: ConnectDecision) throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('connect', function() end)
            relay.on('connect', function() return \(values) end)
            relay.on('connect', function() reached = true end)
            """)
        #expect(connect(bench) == .connect(decision))
        #expect(bench.eval("reached == true") == .returned(decision == .undecided ? "true" : "false"))
    }

    @Test(arguments: [
        "1.5", "2.0", "0/0", "''", "('x'):rep(256)", "'\\xff'", "{}", "print", "conn", "json.null",
        "true, -1", "true, 65536", "true, 1.0", "true, '22'", "true, {}", "'a', false", "true, 1, 'text'",
        "true, 1, true",
        "true, 1, json.null", "true, 1, { print }", "true, 1, { 0/0 }", "true, 1, { '\\xff' }", "true, 1, { conn }",
        "true, 1, { ('x'):rep(4093) }", "true, 1, (function() local t = {} t.t = t return t end)()",
        "false, 403.0", "false, '404'", "false, {}", "false, 403, {}", "false, 403, '\\xff'",
        "false, 403, ('x'):rep(257)",
    ])
    func `anything else is an error of the hook, in its place`(values: String) throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('connect', function() end)
            relay.on('connect', function(conn)
              return \(values)
            end)
            relay.on('connect', function() reached = true end)
            """)
        let failure = try #require(connect(bench).failure)
        #expect(failure.code == .scriptError)
        #expect(failure.file == "test.lua")
        #expect(failure.line == 2)
        #expect(failure.message.hasPrefix("test.lua:2: "), "\(failure.message)")
        #expect(bench.eval("reached") == .returned("null"))
    }

    @Test func `a hook that is no Lua function fails without a place`() throws {
        let bench = try Bench()
        try bench.load("relay.on('connect', coroutine.running)")
        let failure = try #require(connect(bench).failure)
        #expect(failure.code == .scriptError)
        #expect(failure.message.hasPrefix("a connect hook returns"), "\(failure.message)")
        #expect(failure.file == nil)
    }

    @Test func `the hook gets the client, whom it wants, and its request`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('open', function(conn) first = conn end)
            relay.on('connect', function(conn, server, port, request)
              return true, nil, { conn == first, math.type(server) or server, port, request.connection, request.query }
            end)
            """)
        bench.call(bench.chain(.open), .open(connection: ConnectionID(rawValue: 9)))
        #expect(connect(bench) == .connect(Self.allowed(nil, nil, #"[true,"box",22,9,"a=b"]"#)))
        #expect(
            connect(bench, to: .number(.max), port: .max)
                == .connect(Self.allowed(nil, nil, #"[true,"integer",65535,9,"a=b"]"#)))
    }

    @Test func `hooks are asked in order until one decides`() throws {
        let bench = try Bench()
        try bench.load("relay.on('connect', function(c, server) c:send('a') if server == 1 then return false end end)")
        try bench.load("relay.on('connect', function(c, server) c:send('b') if server == 2 then return 7, 8 end end)")
        try bench.load("relay.on('connect', function(c, server) c:send('c') end)")
        #expect(connect(bench, to: .number(1)) == .connect(.refused(status: 403, reason: "Forbidden")))
        #expect(connect(bench, to: .number(2)) == .connect(Self.allowed(.number(7), 8)))
        #expect(connect(bench, to: .number(3)) == .connect(.undecided))
        #expect(bench.host.sent.map(\.text).joined() == "aababc")
    }

    @Test func `a hook may sleep before it decides, and so may the next`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('connect', function() relay.sleep(1) end)
            relay.on('connect', function(conn, server, port)
              relay.sleep(1)
              if port == 1 then return server .. '!', port + 1, { server } end
              if port == 2 then return false, 503, 'later' end
              if port == 3 then return {} end
            end)
            """)
        for port in UInt16(1)...4 { #expect(connect(bench, port: port) == .suspended) }
        for _ in 1...2 {
            #expect(bench.host.finished.isEmpty)
            bench.fireAll()
        }
        let ended = bench.host.finished.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value)
        #expect(ended.count == 4)
        #expect(ended[0] == .connect(Self.allowed(.name("box!"), 2, #"["box"]"#)))
        #expect(ended[1] == .connect(.refused(status: 503, reason: "later")))
        #expect(ended[2].failure?.line == 2)
        #expect(ended[3] == .connect(.undecided))
    }

    @Test func `an error in a connect hook ends the round`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('connect', function(conn, server) error('not ' .. server) end)
            relay.on('connect', function() return true end)
            """)
        let failure = try #require(connect(bench).failure)
        #expect(failure.message == "test.lua:1: not box")
        #expect(failure.instruction == "hook")
    }

    @Test func `metadata that takes longer to write than a burst stops the call`() throws {
        let bench = try Bench { $0.burst = .milliseconds(1) }
        try bench.load(
            """
            local one, many = {}, {}
            for i = 1, 1000 do one[i] = 1 end
            for i = 1, 1000 do many[i] = one end
            relay.on('connect', function() return true, nil, many end)
            """)
        let failure = try #require(connect(bench).failure)
        #expect(failure.code == .budgetExceeded)
        #expect(failure.message.hasPrefix("budget exceeded"), "\(failure.message)")
        #expect(bench.eval("1") == .returned("1"))
    }
}
