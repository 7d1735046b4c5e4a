import CLuaShims
import Relay
import Testing

@testable import Scripting

/// Fails the N-th allocation for N = 1, 2, … until a run passes. Whatever fails, the outcome is a failure with a code,
/// and the engine serves on.
@Suite struct AllocationTests {
    /// Runs `step` with failing allocations, and `then` after each, when none fails any more.
    private func failEach(_ bench: Bench, then: () -> Void = {}, _ step: () throws -> Void) rethrows {
        var nth = 1
        while true {
            rl_engine_fail_allocation(bench.engine.engine, nth)
            try step()
            let failed = rl_engine_allocation_failed(bench.engine.engine)
            rl_engine_fail_allocation(bench.engine.engine, 0)
            then()
            #expect(bench.eval("#('x'):rep(100)") == .returned("100"))
            if !failed { return }
            nth += 1
        }
    }

    private func check(_ ending: Ending, _ bench: Bench) {
        guard let failure = ending.failure else { return }
        #expect(failure.code == .memoryExceeded || rl_engine_allocation_failed(bench.engine.engine), "\(failure)")
        #expect(!failure.message.isEmpty)
    }

    @Test func `every allocation of a call may fail`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('event:x', function(data) relay.sleep(0) end)
            relay.instruction { 'f', function(conn, a, b, t)
              conn.data.list = { a, b, t }
              conn:send(a .. b)
              local path = conn.path .. conn.headers.host
              relay.after(1, function() return a end)
              relay.install(a, conn, { replace = true, ports = { 22, 80 } })
              relay.connect(conn, a, 22, { b })
              relay.pipe(conn, conn)
              relay.log('info', path, { t = relay.randomToken() })
              local co = coroutine.wrap(function() coroutine.yield(('x'):rep(100)) end)
              relay.emit('x', co())
              pcall(error, {})
              return { conn.data.list, relay.config.name }
            end }
            """)
        var connection: UInt64 = 0
        failEach(bench) {
            connection += 1
            let id = bench.nextCall()
            let ending = bench.call(
                "f", #"["a\n", "é", {"k": [1, {"n": null}]}]"#, connection: connection % 100 + 1, id: id)
            check(ending, bench)
            while !bench.host.timers.isEmpty { bench.fireAll() }
            bench.engine.forget(ConnectionID(rawValue: connection % 100 + 1))
        }
        #expect(bench.host.finished.values.contains { $0.json != nil })
    }

    @Test func `every allocation of a failure's description may fail`() throws {
        let bench = try Bench()
        try bench.add(
            "f",
            "function(conn) error(setmetatable({}, { __tostring = function() return ('x'):rep(50) .. '!' end })) end")
        failEach(bench) {
            #expect(bench.call("f").failure != nil)
        }
    }

    @Test func `every allocation of a load may fail, and the old version stays`() throws {
        let bench = try Bench()
        let source = """
            state = { n = (state and state.n or 0) + 1 }
            local helper = require 'util'
            relay.instruction { 'f', summary = 's', function() return helper end }
            relay.on('reload', function(n) state = { n = n } relay.after(1, print) end)
            relay.on('open', function() end)
            """
        bench.accept(try bench.engine.stage(module: "util", source: "return 'old'"))
        try bench.load("relay.instruction { 'f', function() return 'old' end }")
        var loads = 0, failures = 0
        let check = {
            #expect(bench.call("f") == .returned(#""old""#))
            #expect(bench.host.timers.count == loads)
            #expect(bench.eval("state and state.n") == .returned(loads == 0 ? "null" : "2"))
        }
        failEach(bench, then: check) {
            if (try? bench.load(source)) != nil { loads += 1 } else { failures += 1 }
        }
        #expect(loads == 1)
        #expect(failures > 20)
    }

    @Test func `every allocation of hooks may fail`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('handshake', function(r) return r.path ~= nil end)
            relay.on('open', function(conn, r) conn.data.r = r end)
            relay.on('message', function(conn, data, kind) conn:send(data .. kind) end)
            relay.on('connect', function(conn, server, port, r) return server .. r.path, port + 1, { server } end)
            relay.on('request', function(r)
              return 200, { A = { r.method, r.path } }, r.body .. tostring(r.may('a'))
            end)
            relay.on('close', function(conn, code, reason) error(reason .. code) end)
            relay.on('event:x', function(d) seen = d.a .. 'y' end)
            """)
        let points: [HookPoint] = [.handshake, .open, .message, .close, .event("x"), .connect, .request]
        let chains = points.map { bench.chain($0) }
        var id: UInt64 = 0
        var connected = Ending.suspended
        var answered = Ending.suspended
        failEach(bench) {
            id = id % 100 + 1
            let connection = ConnectionID(rawValue: id)
            check(bench.call(chains[0], .handshake(connection: connection)), bench)
            check(bench.call(chains[1], .open(connection: connection)), bench)
            Array("hi".utf8).withUnsafeBytes {
                check(bench.call(chains[2], .message(connection: connection, bytes: $0, isText: true)), bench)
            }
            check(bench.call(chains[3], .close(connection: connection, code: 1000, reason: "why")), bench)
            check(bench.call(chains[4], .event(json: #"{"a":"b"}"#)), bench)
            connected = bench.call(chains[5], .connect(connection: connection, server: .name("box"), port: 22))
            check(connected, bench)
            Array("hi".utf8).withUnsafeBytes {
                answered = bench.call(
                    chains[6],
                    .request(connection: connection, serial: CallID(rawValue: 7), method: "PUT", body: $0))
            }
            check(answered, bench)
            bench.engine.forget(connection)
        }
        #expect(
            connected == .connect(.allowed(server: .name("box/here"), port: 23, metadata: #"["box"]"#)))
        let fields = "A: PUT\r\nA: /here\r\nContent-Type: text/plain; charset=utf-8\r\n"
        #expect(answered == .response(200, fields: fields, body: "hifalse"))
    }

    @Test func `every allocation of a dial may fail, and the host has the callbacks or is not asked`() throws {
        let bench = try Bench()
        try bench.add(
            "dial",
            """
            function(conn)
              local f = function() return conn end
              return tostring(relay.dial('box', 1, { open = f, message = f, close = f }, { a = 'b' }))
            end
            """)
        var called = 0, dialled = 0
        failEach(bench) {
            let ending = bench.call("dial")
            check(ending, bench)
            called += 1
            dialled = bench.host.dialled.count
            for (callbacks, _) in bench.host.dialled {
                for function in [callbacks.open, callbacks.message, callbacks.close] {
                    if let function { bench.engine.release(function) }
                }
            }
            bench.host.dialled = []
            bench.engine.forget(ConnectionID(rawValue: 1_000))
        }
        #expect(called > 5 && dialled == 1)
    }

    @Test func `making a chain may fail`() throws {
        let bench = try Bench()
        let unit = try bench.stage("relay.on('open', print) relay.on('open', print)")
        bench.engine.commit(unit)
        var chain: FunctionReference?
        failEach(bench) {
            chain = bench.engine.makeChain(.open, unit.hooks.map(\.function))
        }
        #expect(chain != nil)
    }

    @Test func `every allocation of resuming what cannot be resumed may fail`() throws {
        // Lua makes these messages outside of every protected call, where a failure would end the process.
        let bench = try Bench()
        try bench.load(
            """
            relay.instruction { 'f', function()
              local dead = coroutine.create(function() end)
              coroutine.resume(dead)
              collected = nil
              return { select('#', coroutine.resume(dead)), (coroutine.resume(coroutine.running())) }
            end }
            """)
        failEach(bench) { check(bench.call("f"), bench) }
        #expect(bench.call("f") == .returned("[2,false]"))
    }
}
