import Relay
import Testing

@testable import Scripting

@Suite struct HookTests {
    private let connection = ConnectionID(rawValue: 9)

    private func message(_ bench: Bench, _ chain: FunctionReference, _ text: String = "hi") -> Ending {
        Array(text.utf8).withUnsafeBytes {
            bench.call(chain, .message(connection: connection, bytes: $0, isText: true))
        }
    }

    @Test func `message hooks run in order until one returns true`() throws {
        let bench = try Bench()
        try bench.load("relay.on('message', function(conn, data) conn:send('a') return 'yes' end)")
        try bench.load("relay.on('message', function(conn, data) conn:send('b') return data == 'stop' end)")
        try bench.load("relay.on('message', function(conn, data) conn:send('c') end)")
        let chain = bench.chain(.message)
        #expect(message(bench, chain, "go") == .returned("false"))
        #expect(message(bench, chain, "stop") == .returned("true"))
        #expect(bench.host.sent.map(\.text).joined() == "abcab")
    }

    @Test func `an error in a message hook ends the round`() throws {
        let bench = try Bench()
        try bench.load(
            "relay.on('message', function(conn) error('x') end) relay.on('message', function(c) c:send('no') end)")
        let failure = try #require(message(bench, bench.chain(.message)).failure)
        #expect(failure.message == "test.lua:1: x")
        #expect(bench.host.sent.isEmpty)
    }

    @Test func `a handshake goes on unless a hook says false`() throws {
        let bench = try Bench()
        try bench.load("relay.on('handshake', function(r) if r.query ~= 'a=b' then return false end end)")
        let chain = bench.chain(.handshake)
        #expect(bench.call(chain, .handshake(connection: connection), wantsResult: false) == .returned(nil))
    }

    @Test(arguments: [
        ("false", Ending.refused(403, "Forbidden")), ("false, 401", .refused(401, "Forbidden")),
        ("false, 404, 'no such app'", .refused(404, "no such app")), ("false, nil, 'x\\r\\ny'", .refused(403, "x  y")),
        ("nil", .returned(nil)), ("true", .returned(nil)), ("0", .returned(nil)), ("", .returned(nil)),
    ])
    func `what a handshake hook returns decides`(values: String, ending: Ending) throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('handshake', function() end)
            relay.on('handshake', function() return \(values) end)
            relay.on('handshake', function(r) reached = true end)
            """)
        #expect(bench.call(bench.chain(.handshake), .handshake(connection: connection), wantsResult: false) == ending)
        #expect(bench.eval("reached == true") == .returned(ending == .returned(nil) ? "true" : "false"))
    }

    @Test(arguments: [
        "false, 200", "false, 399", "false, 600", "false, 'x'", "false, 403.5", "false, 403, {}", "false, 403, '\\xff'",
        "false, 403, ('x'):rep(257)",
    ])
    func `a refusal that HTTP cannot say is an error`(values: String) throws {
        let bench = try Bench()
        try bench.load("relay.on('handshake', function() return \(values) end)")
        let ending = bench.call(bench.chain(.handshake), .handshake(connection: connection), wantsResult: false)
        #expect(ending.failure?.code == .scriptError)
    }

    @Test func `handshake and open hooks get the request`() throws {
        let bench = try Bench()
        try bench.load(
            """
            local function show(r)
              return table.concat({ r.connection, r.app, r.path, r.query, r.remoteAddress, r.remotePort, r.port,
                tostring(r.tls), r.headers.host }, ' ')
            end
            relay.on('handshake', function(r) seen = show(r) end)
            relay.on('open', function(conn, r) conn:send(seen) conn:send(show(r)) end)
            """)
        bench.call(bench.chain(.handshake), .handshake(connection: connection))
        bench.call(bench.chain(.open), .open(connection: connection))
        #expect(
            bench.host.sent.map(\.text)
                == Array(repeating: "9 default /here a=b 192.0.2.9 4711 8087 nil example.org", count: 2))
    }

    @Test func `open, close and event hooks all run, and failures are reported by hook`() throws {
        let bench = try Bench { $0.burst = .milliseconds(20) }
        try bench.load(
            """
            relay.on('close', function(conn, code, reason) log = code .. reason end)
            relay.on('close', function() error('first') end)
            relay.on('close', function() while true do pcall(function() while true do end end) end end)
            relay.on('close', function() error({}) end)
            relay.on('close', function() log = log .. ' done' end)
            """)
        let ending = bench.call(
            bench.chain(.close), .close(connection: connection, code: 1001, reason: "é"), wantsResult: false)
        #expect(ending == .returned(nil))
        #expect(bench.eval("log") == .returned(#""1001é done""#))
        #expect(bench.host.failures.map(\.code) == [.scriptError, .budgetExceeded, .scriptError])
        #expect(bench.host.failures.map(\.instruction) == ["close", "close", "close"])
        #expect(bench.host.failures.map(\.line) == [2, 3, nil])
    }

    @Test func `hooks may sleep, and the next one waits for it`() throws {
        let bench = try Bench()
        for point in ["handshake", "open", "message", "close"] {
            try bench.load(
                """
                relay.on('\(point)', function() relay.sleep(1) order = (order or '') .. '\(point) 1 ' end)
                relay.on('\(point)', function() relay.sleep(1) relay.sleep(1) order = order .. '\(point) 2 ' end)
                """)
        }
        let bytes = UnsafeRawBufferPointer(start: nil, count: 0)
        let calls: [(HookPoint, CallArguments)] = [
            (.handshake, .handshake(connection: connection)), (.open, .open(connection: connection)),
            (.message, .message(connection: connection, bytes: bytes, isText: true)),
            (.close, .close(connection: connection, code: 1000, reason: "")),
        ]
        for (index, (point, arguments)) in calls.enumerated() {
            #expect(bench.call(bench.chain(point), arguments, wantsResult: false) == .suspended)
            for _ in 0..<3 {
                #expect(bench.host.finished.count == index)
                #expect(bench.host.timers.count == 1)
                bench.fireAll()
            }
            #expect(bench.host.finished.count == index + 1)
        }
        #expect(
            bench.eval("order")
                == .returned(#""handshake 1 handshake 2 open 1 open 2 message 1 message 2 close 1 close 2 ""#))
        #expect(Set(bench.host.finished.values.map { "\($0)" }) == ["returned(nil)"])
    }

    @Test func `a sleeping hook that then fails does not hurt the next`() throws {
        let bench = try Bench { $0.burst = .milliseconds(20) }
        try bench.load(
            """
            relay.on('open', function() relay.sleep(1) while true do end end)
            relay.on('open', function(conn) conn:send('second') end)
            """)
        #expect(bench.call(bench.chain(.open), .open(connection: connection), wantsResult: false) == .suspended)
        bench.fireAll()
        #expect(bench.host.failures.map(\.code) == [.budgetExceeded])
        #expect(bench.host.sent.map(\.text) == ["second"])
        #expect(Array(bench.host.finished.values) == [.returned(nil)])
    }

    @Test func `emit runs an event's hooks at once, in the caller's call`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('event:joined', function(data) log = 'one ' .. data.name end)
            relay.on('event:joined', function() error('two') end)
            relay.on('event:joined', function(data) relay.sleep(1) log = log .. ' three ' .. data.name end)
            relay.instruction { 'f', function()
              relay.emit('nothing')
              relay.emit('joined', { name = 'Ada' })
              return log
            end }
            """)
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        #expect(bench.host.failures.map(\.instruction) == ["event:joined"])
        bench.fireAll()
        #expect(bench.host.finished[id] == .returned(#""one Ada three Ada""#))
    }

    @Test func `an endless hook ends the call that emits, every time`() throws {
        let bench = try Bench { $0.burst = .milliseconds(10) }
        try bench.load(
            """
            relay.on('event:x', function() while true do end end)
            relay.instruction { 'f', function() while true do pcall(relay.emit, 'x') end end }
            """)
        #expect(bench.call("f").failure?.code == .budgetExceeded)
        #expect(bench.host.failures.isEmpty)
    }

    @Test func `an event that emits itself ends in an error`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('event:x', function() relay.emit('x') end)
            relay.instruction { 'f', function() relay.emit('x') end }
            """
        )
        #expect(bench.call("f") == .returned("null"))
        #expect(bench.host.failures.first?.message.contains("stack overflow") == true, "\(bench.host.failures)")
    }

    @Test func `an emitting coroutine of a script cannot sleep in a hook`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('event:x', function() relay.sleep(1) end)
            relay.instruction { 'f', function() coroutine.wrap(function() relay.emit('x') end)() return 'done' end }
            relay.instruction { 'g', function() table.sort({ 1, 2 }, function() relay.emit('x') end) return 'done' end }
            """)
        #expect(bench.call("f") == .returned(#""done""#))
        #expect(bench.call("g") == .returned(#""done""#))
        #expect(bench.host.failures.allSatisfy { $0.message.contains("relay.sleep is not possible inside") })
        #expect(bench.host.failures.count == 2)
        #expect(bench.host.timers.isEmpty)
    }

    @Test func `the relay's own events bring their data`() throws {
        let bench = try Bench()
        try bench.load("relay.on('event:server.created', function(e) seen = e.server end)")
        let chain = bench.chain(.event("server.created"))
        #expect(bench.call(chain, .event(json: #"{"server":"box"}"#), wantsResult: false) == .returned(nil))
        #expect(bench.eval("seen") == .returned(#""box""#))
    }

    @Test func `a new set's events replace the old ones`() throws {
        let bench = try Bench()
        try bench.load("relay.on('event:x', function() n = (n or 0) + 1 end)")
        _ = bench.eval("relay.emit('x')")
        bench.engine.activate(generation: 7, eventChains: [:])
        _ = bench.eval("relay.emit('x')")
        #expect(bench.eval("{ n, relay.generation }") == .returned("[1,7]"))
    }

    @Test func `case 22: a chain of more than 255 hooks runs them all`() throws {
        let bench = try Bench()
        try bench.load("for i = 1, 300 do relay.on('open', function() n = (n or 0) + 1 end) end")
        #expect(bench.call(bench.chain(.open), .open(connection: connection)) == .returned("null"))
        #expect(bench.eval("n") == .returned("300"))
    }
}
