import Relay
import Testing

@testable import Scripting

@Suite struct StagingTests {
    @Test func `a script's globals are seen by others only after the commit`() throws {
        let bench = try Bench()
        _ = bench.eval("shared = 'old'")
        let unit = try bench.stage("shared = 'new' own = shared .. '!'")
        #expect(bench.eval("shared") == .returned(#""old""#))
        #expect(bench.eval("own") == .returned("null"))
        bench.engine.commit(unit)
        #expect(bench.eval("shared .. own") == .returned(#""newnew!""#))
    }

    @Test func `a discarded script leaves no trace`() throws {
        let bench = try Bench()
        _ = bench.eval("shared = 'old'")
        let unit = try bench.stage("shared = 'new' relay.instruction { 'f', function() end }")
        bench.engine.discard(unit)
        #expect(bench.eval("shared") == .returned(#""old""#))
        bench.engine.discard(unit)
        #expect(bench.eval("shared") == .returned(#""old""#))
    }

    @Test func `after the commit all functions of a script share the app's globals`() throws {
        let bench = try Bench()
        try bench.load(
            """
            count = 0
            relay.instruction { 'up', function() count = count + 1 return count end }
            local chunk = load('count = count + 10')
            relay.instruction { 'ten', function() chunk() return count end }
            local env = _ENV
            relay.instruction { 'env', function() env.count = env.count + 100 return env.count end }
            relay.instruction { 'g', function() _G.count = _G.count + 1000 return rawequal(_G, _G._G) and _G.count end }
            """)
        #expect(bench.call("up") == .returned("1"))
        #expect(bench.eval("count") == .returned("1"))
        #expect(bench.call("ten") == .returned("11"))
        #expect(bench.call("env") == .returned("111"))
        #expect(bench.call("g") == .returned("1111"))
        _ = bench.eval("count = 5")
        #expect(bench.call("up") == .returned("6"))
    }

    @Test func `assigning nil removes a global, at the commit and not before`() throws {
        let bench = try Bench()
        _ = bench.eval("a, b, c = 1, 2, 3")
        let unit = try bench.stage(
            """
            a = nil
            b = nil assert(b == nil and _G.b == nil) b = 20
            assert(a == nil and rawget(_G, 'a') == nil)
            assert(not pcall(load('string = nil')))
            relay.instruction { 'f', function() c = nil end }
            """)
        #expect(bench.eval("{ a, b, c }") == .returned("[1,2,3]"))
        bench.accept(unit)
        #expect(bench.eval("{ a == nil, b, c }") == .returned("[true,20,3]"))
        bench.call("f")
        #expect(bench.eval("c == nil") == .returned("true"))
    }

    @Test func `a chunk that load made while a script was staged writes to its environment, not to the globals`() throws
    {
        let bench = try Bench()
        _ = bench.eval("x = 1")
        let unit = try bench.stage("load('x = 2')() assert(x == 2)")
        #expect(bench.eval("x") == .returned("1"))
        bench.engine.discard(unit)
        #expect(bench.eval("load('x = 3')()") == .returned("null"))
        #expect(bench.eval("x") == .returned("3"))
    }

    @Test func `registrations come back in order with what they say`() throws {
        let bench = try Bench()
        let unit = try bench.stage(
            """
            relay.instruction { "forward to server", public = false, summary = "sends", function() end }
            relay.instruction { function() end, "b" }
            relay.instruction { name = "c", function() end }
            relay.on("handshake", function() end)
            relay.on("event:server.created", function() end)
            """)
        #expect(unit.instructions.map(\.name) == ["forward to server", "b", "c"])
        #expect(unit.instructions.map(\.isPublic) == [false, true, true])
        #expect(unit.instructions.map(\.summary) == ["sends", "", ""])
        #expect(unit.hooks.map(\.point) == [.handshake, .event("server.created")])
        #expect(Set(unit.instructions.map(\.function) + unit.hooks.map(\.function)).count == 5)
    }

    @Test(arguments: [
        "relay.instruction { function() end }", "relay.instruction { 'x' }", "relay.instruction 'x'",
        "relay.instruction { '', function() end }", "relay.instruction { 'x', public = 1, function() end }",
        "relay.instruction { 'x', summary = {}, function() end }", "relay.instruction { '\\xff', function() end }",
        "relay.on('nothing', function() end)", "relay.on('event:', function() end)", "relay.on('open')",
        "relay.on(1, function() end)", "error('x')", "error({})", "local x = nil + 1", "coroutine.yield()",
        "relay.sleep(0)", "relay.after(1, print)", "relay.every(1, print)", "relay.install('a', nil)",
        "relay.uninstall('a')", "relay.pipe(nil, nil)", "relay.connect(nil, 0, 0)", "relay.emit('a')",
        "require 'nothing'", "relay.cancel(1)",
    ])
    func `a script that goes wrong while it loads is refused with file and line`(source: String) throws {
        let bench = try Bench()
        let failure = try failure { _ = try bench.stage("\n" + source) }
        #expect(failure.code == .scriptError)
        if source != "error({})" {
            #expect(failure.file == "test.lua")
            #expect(failure.line == 2)
        }
        #expect(bench.eval("1") == .returned("1"))
        #expect(bench.host.timers.isEmpty)
    }

    @Test(arguments: [
        ("x =", "test.lua:1:"), ("\n\nx = = 1", "test.lua:3:"), ("\u{1B}Lua", "test.lua:1: this is a binary chunk"),
        ("", "test.lua:1: the text is empty"), (" \r\n\t", "test.lua:1: the text is empty"),
        ("x = 1\nx\0 = 2", "test.lua:2: the text has a byte 0x00"), ("\u{FEFF}x = ", "test.lua:1:"),
        ("goto nowhere", "test.lua:1:"),
        (String(repeating: "(", count: 100_000), "test.lua: the text is nested too deeply"),
        ((1...300).map { "local a\($0)" }.joined(separator: "\n"), "test.lua:202:"),
    ])
    func `a text that does not compile is refused`(source: String, message: String) throws {
        let bench = try Bench()
        let failure = try failure { _ = try bench.stage(source) }
        #expect(failure.code == .compileError)
        #expect(failure.message.hasPrefix(message), "\(failure.message)")
        #expect(failure.file == "test.lua")
    }

    @Test(arguments: [0, 1, 40, 4000]) func `a text that is not UTF-8 is refused with its line`(before: Int) throws {
        let bench = try Bench()
        let bytes =
            Array(String(repeating: "-- é\n", count: before).utf8) + Array("x = '".utf8) + [0xC3]
            + Array("'\n-- é".utf8)
        let failure = try failure {
            _ = try bytes.withUnsafeBytes { try bench.engine.stage(script: "test.lua", source: $0) }
        }
        #expect(failure.code == .compileError)
        #expect(failure.message == "test.lua:\(before + 1): the text is not valid UTF-8")
    }

    @Test func `a byte order mark and CR LF line ends are fine`() throws {
        let bench = try Bench()
        try bench.load("\u{FEFF}relay.instruction { 'f', function() return 1 end }\r\n-- end\r\n")
        #expect(bench.call("f") == .returned("1"))
    }

    @Test func `the old function serves on while bad versions are refused`() throws {
        let bench = try Bench()
        try bench.load("relay.instruction { 'f', function() return 'good' end }")
        let bad = [
            "relay.instruction { 'f', function() return 'bad' end } error('late')", "f = ", "while true do end",
            "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end",
        ]
        bench.engine.budgets.loadTime = .milliseconds(30)
        for source in bad {
            #expect(throws: ScriptFailure.self) { try bench.load(source) }
            #expect(bench.call("f") == .returned(#""good""#))
        }
        #expect(bench.generation == 1)
    }

    // MARK: add instruction

    @Test func `an instruction's body is a function expression, its lines count from 1`() throws {
        let bench = try Bench()
        let unit = try bench.engine.stage(
            instruction: "f", body: "function(conn)\n  error 'x'\nend -- done", isPublic: false)
        #expect(unit.instructions.map(\.isPublic) == [false])
        #expect(unit.hooks.isEmpty)
        bench.accept(unit)
        #expect(bench.call("f").failure?.message == "f:2: x")
    }

    @Test(arguments: [
        "1", "nil", "'text'", "", "function(conn)", "function(conn) end end", "return function() end", "x = 1",
    ])
    func `a body that is no function is a compile error`(body: String) throws {
        let bench = try Bench()
        let failure = try failure { try bench.add("f", body) }
        #expect(failure.code == .compileError)
        #expect(failure.instruction == "f")
        #expect(failure.line == 1)
    }

    @Test(arguments: ["function (conn) { return 1 }", "(conn) => 1", "async function f(a)\n{\n}"])
    func `a body in JavaScript gets a hint`(body: String) throws {
        let bench = try Bench()
        let failure = try failure { try bench.add("f", body) }
        #expect(failure.code == .compileError)
        #expect(failure.message.contains("looks like JavaScript"))
    }

    @Test func `an ordinary syntax error gets no hint about JavaScript`() throws {
        let bench = try Bench()
        let failure = try failure { try bench.add("f", "function(conn) return end end") }
        #expect(!failure.message.contains("JavaScript"))
    }

    // MARK: Modules

    @Test func `a module is required by scripts once it is committed`() throws {
        let bench = try Bench()
        let unit = try bench.engine.stage(module: "util", source: "local M = {} function M.two() return 2 end return M")
        #expect(bench.eval("pcall(require, 'util')") == .returned("false"))
        bench.engine.commit(unit)
        try bench.load("local util = require 'util' relay.instruction { 'f', function() return util.two() end }")
        #expect(bench.call("f") == .returned("2"))
        let next = try bench.engine.stage(module: "util", source: "return { two = function() return 22 end }")
        bench.engine.commit(next)
        #expect(bench.call("f") == .returned("2"))
        #expect(bench.eval("require('util').two()") == .returned("22"))
        let failure = try #require(bench.eval("require 'other'").failure)
        #expect(failure.message.contains("module 'other' is not loaded: send it with the require instruction"))
    }

    // MARK: Reload hooks

    @Test func `reload hooks migrate state aside, and see what they will see`() throws {
        let bench = try Bench()
        try bench.load("state = { version = 1 }")
        let unit = try bench.stage(
            """
            relay.on('reload', function(previous) state = { version = state.version + previous } end)
            """)
        try bench.engine.runReload(of: unit, previousGeneration: 41)
        #expect(bench.eval("state.version") == .returned("1"))
        bench.engine.commit(unit)
        #expect(bench.eval("state.version") == .returned("42"))
    }

    @Test func `a reload hook that fails keeps the old state and takes its timers back`() throws {
        let bench = try Bench()
        try bench.load("state = 1")
        let unit = try bench.stage(
            """
            relay.on('reload', function()
              state = 2
              relay.after(1, function() state = 3 end)
              error('no')
            end)
            """)
        let failure = try failure { try bench.engine.runReload(of: unit, previousGeneration: 1) }
        #expect(failure.message == "test.lua:4: no")
        #expect(bench.host.timers.count == 1)
        bench.engine.discard(unit)
        #expect(bench.host.timers.isEmpty)
        #expect(bench.eval("state") == .returned("1"))
    }

    @Test func `a reload hook may send and keep timers, and may not register or sleep`() throws {
        let bench = try Bench()
        _ = bench.eval("someone = ...")
        try bench.load("relay.on('reload', function() someone:send('hi') relay.after(1, function() x = 1 end) end)")
        #expect(bench.host.sent.map(\.text) == ["hi"])
        bench.fireAll()
        #expect(bench.eval("x") == .returned("1"))
        for source in ["relay.on('open', print)", "relay.instruction { 'a', print }", "relay.sleep(1)"] {
            #expect(throws: ScriptFailure.self) { try bench.load("relay.on('reload', function() \(source) end)") }
        }
    }

    @Test func `registering is refused outside of loads`() throws {
        let bench = try Bench()
        let failure = try #require(bench.eval("relay.on('open', print)").failure)
        #expect(failure.message.contains("relay.on is only possible while a script loads"))
    }

    // MARK: Lifetimes

    @Test func `a call that sleeps across a reload finishes on the function it began with`() throws {
        let bench = try Bench()
        try bench.load("relay.instruction { 'f', function(conn) relay.sleep(1) return 'old' end }")
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        try bench.load("relay.instruction { 'f', function(conn) return 'new' end }")
        #expect(bench.call("f") == .returned(#""new""#))
        _ = bench.eval("collectgarbage('count')")
        bench.fireAll()
        #expect(bench.host.finished[id] == .returned(#""old""#))
    }

    @Test func `releasing a function twice does no harm`() throws {
        let bench = try Bench()
        let unit = try bench.stage(
            "relay.instruction { 'a', function() end } relay.instruction { 'b', function() end }")
        bench.engine.commit(unit)
        for _ in 0..<3 {
            for instruction in unit.instructions { bench.engine.release(instruction.function) }
        }
        try bench.load(
            "relay.instruction { 'c', function() return 'c' end } relay.instruction { 'd', function() return 'd' end }")
        #expect(bench.call("c") == .returned(#""c""#))
        #expect(bench.call("d") == .returned(#""d""#))
    }

    @Test func `case 25: memory stays where it is over 1000 reloads`() throws {
        let bench = try Bench()
        let source = """
            servers = servers or {}
            local cache = {}
            for i = 1, 50 do cache[i] = ('x'):rep(100) .. i end
            relay.instruction { 'f', function() return #cache end }
            relay.instruction { 'g', function() return cache end }
            """
        func reload(_ times: Int) throws {
            for round in 0..<times {
                try bench.load(source)
                #expect(bench.call("f") == .returned("50"))
                if round % 10 == 0 { #expect(throws: ScriptFailure.self) { try bench.load(source + " error('x')") } }
            }
        }
        try reload(200)
        let before = lowest(bench)
        try reload(1000)
        #expect(lowest(bench) < before + before / 20)
    }

    /// What the state holds at the low point of the collector's cycle.
    private func lowest(_ bench: Bench) -> Int {
        (0..<2000).map { _ in
            _ = bench.eval("('x'):rep(2000)")
            return bench.engine.memoryBytes
        }.min()!
    }
}
