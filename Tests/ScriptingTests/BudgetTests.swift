import Relay
import Testing

@testable import Scripting

/// Scripts that loop, swallow and hoard (cases 1 to 18). Budgets are short, so that a test takes no longer than they
/// say; that a script is stopped at all is what is tested, not when.
@Suite struct BudgetTests {
    private func bench(_ change: (inout ScriptBudgets) -> Void = { _ in }) throws -> Bench {
        try Bench {
            $0.burst = .milliseconds(10)
            $0.memoryBytes = 32 << 20
            change(&$0)
        }
    }

    /// Each must end by the burst, whatever it does to prevent that.
    @Test(arguments: [
        "while true do end",
        "repeat until false",
        "::a:: goto a",
        "for i = 1, math.huge do end",
        "local function f() return f() end f()",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(pcall, pcall, error) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "xpcall(function() error('x') end, function() while true do end end)",
        "xpcall(function() while true do end end, function() while true do end end)",
        "while true do xpcall(error, function(e) while true do end end) end",
        "table.sort({ 1, 2, 3 }, function() while true do end end)",
        "local f = function() while true do end end table.sort({ 1, 2 }, function() xpcall(f, f) f() end)",
        "while true do pcall(table.sort, { 1, 2, 3 }, function() while true do end end) end",
        "local _ = ('x'):gsub('x', function() while true do end end)",
        "while true do pcall(string.gsub, 'x', 'x', function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "local co = coroutine.create(function() while true do end end) while true do coroutine.resume(co) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do pcall(coroutine.wrap(function() while true do end end)) end",
        "while true do coroutine.wrap(function() pcall(function() while true do end end) end)() end",
        "coroutine.wrap(function() coroutine.wrap(function() while true do pcall(error) end end)() end)()",
        """
        local mt = { __close = function() while true do end end }
        local co = coroutine.create(function() local x <close> = setmetatable({}, mt) coroutine.yield() end)
        coroutine.resume(co) coroutine.close(co) while true do end
        """,
        "local x <close> = setmetatable({}, { __close = function() while true do end end })",
        "local t = setmetatable({}, { __index = function() while true do end end }) local _ = t.x",
        "local t = setmetatable({}, { __tostring = function() while true do end end }) tostring(t)",
        "local mt = { __eq = function() while true do end end } local _ = setmetatable({}, mt) == setmetatable({}, mt)",
        "local t = setmetatable({}, { __len = function() while true do end end }) while true do pcall(next, #t) end",
        "local t = setmetatable({}, { __pairs = function() while true do end end }) for _ in pairs(t) do end",
        "for _ in function() while true do end end do end",
        "for _ in pcall, error do end",
        "load(function() while true do end end)",
        "while true do load(('x = 1 '):rep(1000)) end",
        "print(setmetatable({}, { __tostring = function() while true do end end }))",
        "relay.log('info', 'x', { a = setmetatable({}, { __tostring = function() while true do end end }) })",
        "while true do ('x'):rep(100000):find(('a?'):rep(30) .. ('a'):rep(30)) end",
        "local s = ('x'):rep(4000000) while true do local _ = s .. 'a' end",
        "local a, b = ('x'):rep(8e6) .. 'a', ('x'):rep(8e6) .. 'b' while true do local _ = a == b end",
        "while true do relay.sha256(('x'):rep(10000)) end",
        "while true do relay.randomToken(1024) end",
        "while true do print('x') end",
        "while true do json.decode('[1,2,3]') end",
        "while true do json.encode({ 1, 2, 3 }) end",
        "while true do coroutine.create(print) end",
    ])
    func `cases 1 to 4, 6 and 12: an endless script ends at its burst`(body: String) throws {
        let bench = try bench()
        try bench.add("f", "function(conn)\n\(body)\nend")
        let failure = try #require(bench.call("f").failure)
        #expect(failure.code == .budgetExceeded, "\(failure)")
        #expect(failure.message.contains("ran for more than 10 ms without yielding (burst)"))
        #expect(failure.file == "f")
        #expect(failure.line == 2)
        try bench.add("g", "function() return 'fine' end")
        #expect(bench.call("g") == .returned(#""fine""#))
    }

    @Test func `case 12: a failed call's endless close variable is stopped, and the failure is the call's own`() throws
    {
        let bench = try bench()
        try bench.add(
            "f",
            """
            function()
              local x <close> = setmetatable({}, { __close = function()
                while true do pcall(function() while true do end end) end
              end })
              error('own')
            end
            """)
        #expect(bench.call("f").failure?.message == "f:5: own")
        #expect(bench.eval("1") == .returned("1"))
    }

    @Test func `case 4: a coroutine made while a script loads is stopped like any other`() throws {
        let bench = try bench()
        try bench.load(
            """
            local co = coroutine.create(function() coroutine.yield() while true do end end)
            local wrapped = coroutine.wrap(function() coroutine.yield() while true do end end)
            coroutine.resume(co) wrapped()
            relay.instruction { 'a', function() while true do coroutine.resume(co) end end }
            relay.instruction { 'b', function() wrapped() return 'ended' end }
            """)
        for name in ["a", "b", "a", "b"] {
            #expect(bench.call(name).failure?.code == .budgetExceeded)
        }
    }

    @Test(arguments: [
        "while true do end", "while true do pcall(function() while true do end end) end",
        "relay.on('open', setmetatable({}, { __index = print }) and print) for i = 1, 1e18 do end",
    ])
    func `case 5: an endless text ends at loadTime, and the old version stays`(source: String) throws {
        let bench = try bench { $0.loadTime = .milliseconds(20) }
        try bench.load("relay.instruction { 'f', function() return 'old' end }")
        let failure = try failure { try bench.load("\n" + source) }
        #expect(failure.code == .budgetExceeded)
        #expect(failure.line == 2)
        #expect(failure.message.contains("did not load within"))
        #expect(bench.call("f") == .returned(#""old""#))
        #expect(throws: ScriptFailure.self) { try bench.load("relay.on('reload', function() \(source) end)") }
        #expect(throws: ScriptFailure.self) { try bench.add("g", "(function() \(source) end)()") }
        #expect(bench.call("f") == .returned(#""old""#))
    }

    @Test func `the time of a load is not the burst`() throws {
        let bench = try bench { $0.burst = .microseconds(1) }
        try bench.load("for i = 1, 100000 do end")
        #expect(bench.eval("(function() for i = 1, 100000 do end end)()").failure?.code == .budgetExceeded)
    }

    @Test(arguments: [
        "local s = 'x' while true do s = s .. s end", "local t = {} for i = 1, math.huge do t[i] = i end",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
        "local function f() return 1 + f() end f()",
        "local t = {} for i = 1, math.huge do t[i] = ('x'):rep(100000) .. i end", "return ('x'):rep(2^40)",
    ])
    func `case 7: hoarding ends by memory, and the state serves on`(body: String) throws {
        let bench = try bench { $0.burst = .seconds(30) }
        try bench.add("f", "function()\n\(body)\nend")
        let failure = try #require(bench.call("f").failure)
        // A stack that is too deep and a string that is too long have errors of their own.
        #expect(failure.code == .memoryExceeded || failure.code == .scriptError, "\(failure)")
        #expect(failure.line == 2)
        #expect(bench.engine.memoryBytes <= 32 << 20)
        try bench.add("g", "function() return #('x'):rep(1000000) end")
        #expect(bench.call("g") == .returned("1000000"))
    }

    @Test func `an error of memory says its place and the limit`() throws {
        let bench = try bench { $0.burst = .seconds(30) }
        try bench.add("f", "function()\n local t = {}\n for i = 1, math.huge do\n t[i] = i end\nend")
        let failure = try #require(bench.call("f").failure)
        #expect(failure.code == .memoryExceeded)
        #expect(
            failure.message
                == "f:4: not enough memory: the app's state has reached its limit of 33554432 bytes (scriptMemory)")
        #expect(failure.traceback?.contains("f:4: in function") == true)
        try bench.add(
            "again",
            """
            function()
              local ok, e = pcall(function() local t = {} for i = 1, math.huge do t[i] = i end end)
              error(e, 0)
            end
            """
        )
        #expect(bench.call("again").failure?.code == .memoryExceeded)
    }

    @Test(arguments: [
        "while true do pcall(function() local s = 'x' while true do s = s .. s end end) end",
        """
        local keep = {}
        for i = 1, 100000 do keep[i] = {} end
        while true do
          pcall(string.rep, 'x', 2^24)
          pcall(function() local s = ('x'):rep(2^23) while true do s = s .. s end end)
        end
        """,
    ])
    func `case 8: a memory error that is swallowed for ever ends the call, as memory`(body: String) throws {
        let bench = try bench { $0.burst = .milliseconds(500) }
        try bench.add("f", "function() \(body) end")
        #expect(bench.call("f").failure?.code == .memoryExceeded)
        #expect(bench.eval("1") == .returned("1"))
    }

    @Test func `case 11: finalizers are refused`() throws {
        let bench = try bench()
        #expect(
            bench.eval("setmetatable({}, { __gc = function() while true do end end })").failure?.code == .scriptError)
    }

    @Test func `case 13: what one script breaks, another does not miss`() throws {
        let bench = try bench()
        for poison in [
            "string.upper = nil", "getmetatable('').__index = nil", "_G.string = nil", "string = nil",
            "rawset(string, 'upper', 1)",
            "rawset(_G, 'string', 1)", "table.insert(string, 1)", "coroutine.create = nil", "relay.on = nil",
            "rawset(relay, 'on', 1)", "setmetatable(_G, {})", "setmetatable(relay, {})", "debug.sethook()",
        ] {
            _ = bench.eval(poison)
        }
        #expect(
            bench.eval("('x'):upper() .. string.upper('y') .. type(relay.on) .. type(coroutine.create)")
                == .returned(#""XYfunctionfunction""#))
    }

    @Test func `case 14: binary chunks are refused`() throws {
        let bench = try bench()
        #expect(bench.eval("tostring(string.dump)") == .returned(#""nil""#))
        #expect(bench.eval("tostring(load('\\27Lua'))") == .returned(#""nil""#))
        #expect(bench.eval("\u{1B}Lua").failure?.code == .compileError)
        let failure = try failure { _ = try bench.stage("\u{1B}LuaS") }
        #expect(failure.message.contains("binary"))
    }

    @Test func `case 15: nothing is reachable but what is documented`() throws {
        let bench = try bench()
        let names = """
            (function()
              local seen, out = {}, {}
              local function walk(prefix, t)
                for k, v in pairs(t) do out[#out + 1] = prefix .. tostring(k) end
              end
              for _, name in ipairs { 'coroutine', 'relay', 'os' } do walk(name .. '.', _G[name]) end
              for _, name in ipairs { 'io', 'debug', 'package', 'dofile', 'loadfile' } do
                if _G[name] ~= nil or load('return ' .. name)() ~= nil then out[#out + 1] = name end
              end
              table.sort(out)
              return table.concat(out, ' ')
            end)()
            """
        #expect(
            bench.eval(names).json
                == #""coroutine.close coroutine.create coroutine.isyieldable coroutine.resume coroutine.running "#
                + "coroutine.status coroutine.wrap coroutine.yield os.clock os.date os.time relay.after relay.cancel "
                + "relay.connect relay.dial relay.emit relay.equal relay.every relay.generation relay.hmac relay.http "
                + "relay.install relay.instruction relay.log relay.monotonic relay.now relay.on relay.pipe relay.randomToken relay.server "
                + "relay.sha256 relay.sleep relay.uninstall\""
        )
    }

    @Test(arguments: [
        "local function f(n) return 1 + f(n + 1) end return f(1)",
        "local function f() return coroutine.wrap(f)() end return f()",
        "local function f() return pcall(f) end return f()",
        "local t = setmetatable({}, { __index = function(t, k) return t[k .. 'x'] end }) return t.x",
        "local t = {} for i = 1, 1e6 do t = { t } end return t",
        "local t = {} t.t = t return t",
        "local s = ('return {'):rep(1) .. ('{'):rep(100000) return load(s)()",
        "return load('return ' .. ('('):rep(100000))()",
        "local function f(n) local x <close> = setmetatable({}, { __close = function() f(n + 1) end }) end f(1)",
        "return ('x'):rep(300000):gsub('.', function(c) return c:gsub('.', error) end)",
    ])
    func `case 16: depth ends in an error, not in a crash`(body: String) throws {
        let bench = try bench { $0.burst = .seconds(30) }
        try bench.add("f", "function() \(body) end")
        _ = bench.call("f")
        #expect(bench.eval("1") == .returned("1"))
    }

    @Test(arguments: [
        ("error({})", "(the error object is a table)"), ("error(nil)", "(the error object is nil)"),
        ("error()", "(the error object is nil)"),
        ("error(print)", "(the error object is a function)"), ("error(true)", "(the error object is a boolean)"),
        ("error(5)", "5"),
        ("error(setmetatable({}, { __tostring = function() return 'mine' end }))", "mine"),
        ("error(setmetatable({}, { __tostring = function() while true do end end }))", "(the error object is a table)"),
        ("error(setmetatable({}, { __tostring = function() return {} end }))", "(the error object is a table)"),
        ("error(setmetatable({}, { __tostring = function() error({}) end }))", "(the error object is a table)"),
        ("error(setmetatable({}, { __tostring = function() relay.sleep(1) end }))", "(the error object is a table)"),
        ("error(setmetatable({}, { __tostring = function() coroutine.yield() end }))", "(the error object is a table)"),
        ("error(setmetatable({}, { __tostring = 1 }))", "(the error object is a table)"),
        (
            "local t = setmetatable({}, {}) getmetatable(t).__tostring = function() error(t) end error(t)",
            "(the error object is a table)"
        ),
        ("error(conn)", "connection 1"), ("error('\\xff', 0)", "\u{FFFD}"),
        ("error(('x'):rep(5000), 0)", String(repeating: "x", count: 1024)),
    ])
    func `case 17: an error object of any kind becomes a text`(statement: String, message: String) throws {
        let bench = try bench()
        try bench.add("f", "function(conn) \(statement) end")
        let failure = try #require(bench.call("f").failure)
        #expect(failure.code == .scriptError)
        #expect(failure.message == message)
    }

    @Test func `case 17: an error object that emits an event which fails with it does not go on for ever`() throws {
        let bench = try bench()
        try bench.load(
            """
            local e = setmetatable({}, { __tostring = function() relay.emit('x') return 'text' end })
            relay.on('event:x', function() error(e) end)
            relay.instruction { 'f', function() error(e) end }
            """)
        #expect(bench.call("f").failure?.message == "text")
        #expect(bench.host.failures.map(\.message) == ["(the error object is a table)"])
    }

    @Test func `callTime counts sleep, and ends a call that would sleep past it`() throws {
        let bench = try bench { $0.callTime = .seconds(30) }
        try bench.add("f", "function(conn) relay.sleep(60) return 'never' end")
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        let delay = try #require(bench.host.timers.values.first).delay
        #expect(delay <= .seconds(30))
        bench.fireAll()
        let failure = try #require(bench.host.finished[id]?.failure)
        #expect(failure.code == .budgetExceeded)
        #expect(failure.message == "f:1: budget exceeded: took more than 30 s in all (callTime)")
        #expect(failure.instruction == "f")
    }

    @Test func `each burst between sleeps is new, and what they send adds up`() throws {
        let bench = try bench { $0.outputBytesPerCall = 1000 }
        try bench.add("f", "function(conn) for i = 1, 20 do conn:send(('x'):rep(98)) relay.sleep(0) end end")
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        while bench.host.finished.isEmpty { bench.fireAll() }
        #expect(bench.host.finished[id]?.failure?.code == .outputExceeded)
        #expect(bench.host.sent.count == 10)
    }

    @Test func `budgets change while scripts run`() throws {
        let bench = try bench()
        try bench.add("f", "function() for i = 1, 30000000 do end return 'done' end")
        #expect(bench.call("f").failure?.code == .budgetExceeded)
        bench.engine.budgets.burst = .seconds(60)
        #expect(bench.call("f") == .returned(#""done""#))
        bench.engine.budgets.memoryBytes = bench.engine.memoryBytes
        bench.engine.budgets.burst = .seconds(1)
        #expect(bench.eval("#('x'):rep(1000000)").failure?.code == .memoryExceeded)
        bench.engine.budgets.memoryBytes = 32 << 20
        #expect(bench.eval("#('x'):rep(1000000)") == .returned("1000000"))
    }

    @Test func `a state too small for its libraries is refused`() throws {
        let failure = try failure { _ = try Bench { $0.memoryBytes = 10_000 } }
        #expect(failure.code == .memoryExceeded)
    }
}
