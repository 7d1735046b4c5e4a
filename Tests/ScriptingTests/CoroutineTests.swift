import Relay
import Testing

@testable import Scripting

/// The coroutine library, and who may yield and sleep where.
@Suite struct CoroutineTests {
    private func bench(_ change: (inout ScriptBudgets) -> Void = { _ in }) throws -> Bench {
        try Bench {
            $0.burst = .milliseconds(10)
            $0.memoryBytes = 32 << 20
            change(&$0)
        }
    }

    @Test func `coroutines that close each other in a row end in an error, not in a crash`() throws {
        let bench = try bench { $0.burst = .seconds(30) }
        try bench.add(
            "f",
            """
            function(conn)
              local cos, closed = {}, 0
              local n = 20000
              for i = 1, n do
                cos[i] = coroutine.create(function()
                  local x <close> = setmetatable({}, { __close = function()
                    closed = closed + 1
                    if cos[i + 1] then assert(coroutine.close(cos[i + 1])) end
                  end })
                  coroutine.yield()
                end)
                coroutine.resume(cos[i])
              end
              local ok, e = coroutine.close(cos[1])
              return { ok, tostring(e):match('too many nested calls of coroutine.close'), closed }
            end
            """)
        #expect(bench.call("f") == .returned(#"[false,"too many nested calls of coroutine.close",8]"#))
    }

    @Test(arguments: [
        ("coroutine.yield()", "attempt to yield from outside a coroutine"),
        ("table.sort({ 1, 2 }, function() coroutine.yield() end)", "attempt to yield from outside a coroutine"),
        ("table.sort({ 1, 2 }, function() relay.sleep(1) end)", "relay.sleep is not possible inside"),
        ("coroutine.wrap(function() relay.sleep(1) end)()", "relay.sleep is not possible inside"),
        (
            "coroutine.wrap(function() table.sort({ 1, 2 }, function() coroutine.yield() end) end)()",
            "attempt to yield across a C-call boundary"
        ),
        ("assert(coroutine.resume(coroutine.running()))", "cannot resume"),
        ("coroutine.close(coroutine.running())", "cannot close"),
        ("coroutine.resume(1)", "coroutine expected"), ("coroutine.create(1)", "function expected"),
        ("coroutine.wrap(error)('mine')", "mine"),
    ])
    func `case 18: yielding in odd places is a clear error`(statement: String, message: String) throws {
        let bench = try bench()
        try bench.add("f", "function(conn) \(statement) end")
        let failure = try #require(bench.call("f").failure)
        #expect(failure.message.contains(message), "\(failure.message)")
        #expect(bench.host.timers.isEmpty)
    }

    @Test func `case 18: a handler that sleeps cannot be resumed or closed by another`() throws {
        let bench = try bench()
        try bench.load(
            """
            relay.instruction { 'f', function() co = coroutine.running() relay.sleep(1) return 'whole' end }
            relay.instruction { 'g', function() return { coroutine.resume(co), pcall(coroutine.close, co) } end }
            """)
        let id = bench.nextCall()
        #expect(bench.call("f", id: id) == .suspended)
        #expect(bench.call("g") == .returned(#"[false,false,"cannot close a handler's own coroutine"]"#))
        bench.fireAll()
        #expect(bench.host.finished[id] == .returned(#""whole""#))
    }

    @Test func `coroutines work as in Lua`() throws {
        let bench = try bench { $0.burst = .seconds(30) }
        try bench.load(
            """
            local gen = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end)
            assert(gen(1) == 2 and gen(10) == 20)
            local ok, e = pcall(gen)
            assert(not ok and e:find('cannot resume dead coroutine'))
            local co co = coroutine.create(function(...)
              assert(coroutine.status(co) == 'running' and select('#', ...) == 3)
              local inner = coroutine.create(function() assert(coroutine.status(co) == 'normal') end)
              assert(coroutine.resume(inner))
              assert(coroutine.isyieldable())
              local t, isMain = coroutine.running()
              assert(t == co and not isMain)
              local ok, v = pcall(coroutine.yield, 'y')
              error({ v })
            end)
            assert(coroutine.status(co) == 'suspended')
            assert(select(2, coroutine.resume(co, 1, nil, nil)) == 'y')
            local ok, e = coroutine.resume(co, 'back')
            assert(not ok and e[1] == 'back' and coroutine.status(co) == 'dead')
            assert(select(2, coroutine.resume(co)) == 'cannot resume dead coroutine')
            local closed
            local function closing(f) return setmetatable({}, { __close = f }) end
            co = coroutine.create(function()
              local x <close> = closing(function() closed = true end)
              coroutine.yield()
            end)
            coroutine.resume(co)
            assert(coroutine.close(co) == true and closed and coroutine.status(co) == 'dead')
            assert(coroutine.close(co) == true)
            co = coroutine.create(function()
              local x <close> = closing(function() error('c', 0) end)
              coroutine.yield()
            end)
            coroutine.resume(co)
            ok, e = coroutine.close(co)
            assert(ok == false and e == 'c')
            assert(not coroutine.isyieldable())
            local main, isMain = coroutine.running()
            assert(isMain and type(main) == 'thread')
            ok, e = xpcall(function(a) error(a) end, function(m) return m .. '!' end, 'x')
            assert(not ok and e == 'x!' or e:find('x!$'))
            assert(select('#', xpcall(function(...) return ... end, print, 1, nil, nil)) == 4)
            assert(coroutine.wrap(function() return xpcall(coroutine.yield, print) end)() == nil)
            ok, e = pcall(coroutine.wrap(function()
              local x <close> = closing(function(_, m) closed = m end)
              error('why', 0)
            end))
            assert(not ok and closed == 'why' and e:find('why$'))
            """)
    }

    @Test func `a coroutine that is closed inside of an xpcall calls no handler from where its stack was`() throws {
        let bench = try bench { $0.burst = .seconds(30) }
        let ending = bench.eval(
            """
            local function deep(n)
              if n > 0 then local r = deep(n - 1) return r end
              return xpcall(function() coroutine.yield() end, function(m) return m end)
            end
            local co = coroutine.create(function()
              local x <close> = setmetatable({}, { __close = function()
                local t = {}
                for i = 1, 200000 do t[i % 50] = { i } end  -- a collection shrinks the stack
                error("boom", 0)
              end })
              deep(50000)
            end)
            coroutine.resume(co)
            return { coroutine.close(co) }
            """)
        #expect(ending == .returned(#"[false,"boom"]"#))
    }

    @Test func `a coroutine that was stopped where it could not yield is never run again`() throws {
        let bench = try bench()
        try bench.add(
            "stopped",
            """
            function()
              co = coroutine.create(function()
                local x <close> = setmetatable({}, { __close = function() while true do end end })
                table.sort({ 1, 2, 3 }, function() while true do end end)
              end)
              coroutine.resume(co)
            end
            """)
        #expect(bench.call("stopped").failure?.code == .budgetExceeded)
        try bench.add("close", "function() return { pcall(coroutine.close, co) } end")
        #expect(bench.call("close") == .returned(#"[false,"cannot close a coroutine that was stopped"]"#))
        #expect(bench.eval("'alive'") == .returned(#""alive""#))
    }

    @Test func `hooks that are stopped one after the other do not get a burst each without end`() throws {
        let bench = try bench()
        try bench.load(
            """
            for i = 1, 50 do
              relay.on("open", function() runs = (runs or 0) + 1 while true do end end)
            end
            """)
        let chain = bench.chain(.open)
        _ = bench.call(chain, .open(connection: ConnectionID(rawValue: 1)), wantsResult: false)
        #expect(bench.eval("runs") == .returned("4"))
    }
}
