import Relay
import Testing

@testable import Scripting

@Suite struct RelayTableTests {
    @Test func `after calls its function once, every again and again, and cancel ends both`() throws {
        let bench = try Bench()
        try bench.load(
            """
            n, m = 0, 0
            relay.instruction { 'start', function()
              once = relay.after(2.5, function() n = n + 1 end)
              again = relay.every(0.25, function() m = m + 1 end)
              return { once, again }
            end }
            relay.instruction { 'stop', function()
              return { relay.cancel(once), relay.cancel(again), relay.cancel(99) }
            end }
            """)
        #expect(bench.call("start") == .returned("[1,2]"))
        #expect(bench.host.timers.mapValues(\.delay) == [1: .milliseconds(2500), 2: .milliseconds(250)])
        #expect(bench.host.timers.mapValues(\.repeats) == [1: false, 2: true])
        for _ in 0..<3 { bench.fireAll() }
        #expect(bench.eval("{ n, m }") == .returned("[1,3]"))
        #expect(bench.call("stop") == .returned("[false,true,false]"))
        #expect(bench.host.timers.isEmpty)
        bench.fire(2)
        bench.fire(77)
        #expect(bench.eval("{ n, m }") == .returned("[1,3]"))
    }

    @Test func `a timer that fails is reported, sleeps, and goes on`() throws {
        let bench = try Bench { $0.burst = .milliseconds(10) }
        try bench.load(
            """
            relay.instruction { 'f', function(conn)
              relay.after(1, function() error('one') end)
              relay.after(1, function() while true do pcall(error) end end)
              relay.after(1, function() relay.sleep(1) conn:send('slept') error('two') end)
              relay.after(1, function() relay.after(1, function() conn:send('nested') end) end)
            end }
            """)
        bench.call("f")
        for _ in 0..<3 { bench.fireAll() }
        #expect(
            bench.host.failures.map(\.message).map { $0.prefix(15) } == [
                "test.lua:2: one", "test.lua:3: bud", "test.lua:4: two",
            ])
        #expect(bench.host.failures.map(\.instruction) == ["timer", "timer", "timer"])
        #expect(bench.host.sent.map(\.text) == ["slept", "nested"])
        #expect(bench.host.finished.isEmpty)
    }

    @Test func `a timer's function is kept as long as its timer, and not longer`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.instruction { 'f', function()
              local big = ('x'):rep(1000000)
              relay.after(1, function() n = #big end)
            end }
            """
        )
        bench.call("f")
        func collect() { for _ in 0..<200 { _ = bench.eval("#('y'):rep(100000)") } }
        collect()
        #expect(bench.engine.memoryBytes > 1_000_000)
        bench.fireAll()
        #expect(bench.eval("n") == .returned("1000000"))
        collect()
        #expect(bench.engine.memoryBytes < 1_000_000)
    }

    @Test func `too many timers are an error`() throws {
        let bench = try Bench()
        bench.host.maximumTimers = 3
        let failure = try #require(bench.eval("(function() while true do relay.after(1, print) end end)()").failure)
        #expect(failure.message.contains("too many timers"))
        #expect(bench.eval("relay.sleep(1)").failure?.message.contains("too many timers") == true)
        #expect(bench.host.timers.count == 3)
    }

    @Test func `sleep suspends the call and answers later, with the result`() throws {
        let bench = try Bench()
        try bench.add("f", "function(conn, a) local n = select('#', relay.sleep(1)) relay.sleep(0) return a + n end")
        let id = bench.nextCall()
        #expect(bench.call("f", "[41]", id: id) == .suspended)
        #expect(bench.call("f", "[1]") == .suspended)
        bench.fire(1)
        #expect(bench.host.finished.isEmpty)
        bench.fireAll()
        #expect(bench.host.finished[id] == .returned("41"))
        bench.fireAll()
        #expect(bench.host.finished.count == 2)
        let evalID = bench.nextCall()
        #expect(bench.eval("relay.sleep(1) or 5", id: evalID) == .suspended)
        bench.fireAll()
        #expect(bench.host.finished[evalID] == .returned("5"))
    }

    @Test func `sleep works through pcall, and a failure afterwards is the call's`() throws {
        let bench = try Bench()
        try bench.add(
            "f",
            """
            function(conn)
              pcall(function() relay.sleep(1) error('x') end)
              xpcall(relay.sleep, print, 1)
              error('y')
            end
            """
        )
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        bench.fireAll()
        bench.fireAll()
        #expect(bench.host.finished[id]?.failure?.message == "f:4: y")
        #expect(bench.host.finished[id]?.failure?.instruction == "f")
    }

    @Test func `case 22: what a script asks of the host is done in its order, and the engine is not entered again`()
        throws
    {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('close', function(conn) log = { conn:send('late'), conn:close(), conn:isOpen() } end)
            relay.on('message', function(conn) conn:close(1000) return conn:send('after close') == 'dropped' end)
            """)
        let connection = ConnectionID(rawValue: 1)
        let empty = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(
            bench.call(bench.chain(.message), .message(connection: connection, bytes: empty, isText: true))
                == .returned("true"))
        bench.call(bench.chain(.close), .close(connection: connection, code: 1000, reason: ""))
        #expect(bench.eval("log") == .returned(#"["dropped",false,false]"#))
    }

    @Test func `tokens and digests are lower-case hexadecimal`() throws {
        let bench = try Bench()
        #expect(bench.eval("relay.randomToken(3)") == .returned(#""01080f""#))
        #expect(bench.eval("#relay.randomToken() + #relay.randomToken(1024)") == .returned("2080"))
        #expect(bench.eval("relay.sha256('abc')") == .returned("\"" + String(repeating: "03", count: 32) + "\""))
        #expect(bench.eval("relay.hmac('ab', 'abc')") == .returned("\"" + String(repeating: "23", count: 32) + "\""))
        #expect(bench.eval("relay.sha256('')") == .returned("\"" + String(repeating: "00", count: 32) + "\""))
        #expect(
            bench.eval("{ relay.equal('a', 'a'), relay.equal('a', 'b'), relay.equal(nil, 'a'), relay.equal('a') }")
                == .returned("[true,false,false,false]"))
    }

    @Test func `log takes a level, a message and flat fields; print joins with tabs`() throws {
        let bench = try Bench()
        _ = bench.eval("relay.log('warning', 'hot', { degrees = 40, ['in'] = 'attic', [1] = nil })")
        _ = bench.eval("relay.log('debug', 12)")
        _ = bench.eval("print('a', 1, nil, true, 2.5) ")
        _ = bench.eval("print()")
        _ = bench.eval("relay.log('error', ('x'):rep(100000))")
        #expect(
            bench.host.logs.prefix(4) == [
                "warning: hot degrees=40 in=attic", "debug: 12", "info: a\t1\tnil\ttrue\t2.5", "info: ",
            ])
        #expect(bench.host.logs.last?.count == 8192 + "error: ".count)
        let tooMany = "(function() local f = {} for i = 1, 33 do f['k' .. i] = i end relay.log('info', 'x', f) end)()"
        #expect(bench.eval(tooMany).failure?.message.contains("at most 32 fields") == true)
    }

    @Test func `the pure functions work while a script loads`() throws {
        let bench = try Bench()
        try bench.load(
            "print(relay.now(), relay.monotonic(), relay.randomToken(1), relay.config.name) relay.log('info', 'x')")
        #expect(bench.host.logs == ["info: 1700000000.5\t12.25\t01\ttest", "info: x"])
    }

    @Test func `config is what the operator shows, deep read-only`() throws {
        let bench = try Bench()
        #expect(
            bench.eval("{ relay.config.name, relay.config.nested.list[2], #relay.config.nested.list }").json?.hasPrefix(
                #"["test",2"#) == true)
        #expect(bench.eval("relay.config == relay.config") == .returned("true"))
        bench.host.configJSON = "[]"
        #expect(bench.eval("relay.config.name") == .returned(#""test""#))
    }

    @Test func `a large state is freed in the background, calls asleep included`() throws {
        let bench = try Bench()
        _ = bench.eval("(function() t = {} for i = 1, 100000 do t[i] = { i } end end)()")
        try bench.add("f", "function(conn) relay.sleep(1) end")
        for _ in 0..<100 { #expect(bench.call("f") == .suspended) }
        #expect(bench.engine.memoryBytes > 4 << 20)
    }
}
