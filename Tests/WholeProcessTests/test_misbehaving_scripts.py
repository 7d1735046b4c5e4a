"""Scripts that loop, allocate, send or fail, through the real relay: CASES 1 to 22. What they hit is one call; the
connection that called, the other connections and the generation that serves go on."""

import signal
import threading
import time

import pytest

from conditions import eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import TEXT, frame


@pytest.fixture(scope="module")
def relay():
    limits = {"scriptMemory": "32MiB", "outputBytesPerCall": "1MiB", "burst": "50ms"}
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits=limits) as relay:
        yield relay


class Bystander(threading.Thread):
    """A connection that exchanges messages all the time and notes what goes wrong."""

    def __init__(self, relay):
        super().__init__()
        self.client = relay.connect()
        self.failure = None
        self.exchanged = 0
        self.ended = threading.Event()

    def run(self):
        try:
            while not self.ended.is_set():
                ping_pong(self.client, tag=f"round {self.exchanged}")
                self.exchanged += 1
        except BaseException as failure:
            self.failure = failure

    def __enter__(self):
        self.start()
        eventually(lambda: self.exchanged > 0 or self.failure, "the bystander exchanges messages")
        return self

    def __exit__(self, kind, *_):
        before = self.exchanged
        if kind is None:
            eventually(lambda: self.exchanged > before or self.failure, "the bystander still exchanges messages")
        self.ended.set()
        self.join()
        self.client.close()
        if kind is None:
            assert self.failure is None, self.failure


def fails(relay, body, *codes, line=None, calls=1):
    """Adds `body` as an instruction and calls it: it fails with one of `codes`, while a bystander notices nothing and
    the caller's connection and the other instructions work on. Returns the error."""
    with relay.operator() as admin, relay.connect() as client, Bystander(relay):
        added = admin.ask("add instruction", named={"instructionToAdd": "bad", "body": body})
        assert "result" in added, added
        for _ in range(calls):
            reply = client.ask("bad")
            assert "error" in reply, reply
            error = reply["error"]
            assert error["code"] in codes, error
            if line is not None:
                assert error["data"]["line"] == line, error
                assert "bad" in error["data"]["file"] and f":{line}:" in error["message"], error
        client.messages()  # What it has sent before it was stopped.
        ping_pong(client)
        assert admin.request("eval", named={"body": "return 6 * 7"}) == 42
    return error


def succeeds(relay, body):
    with relay.operator() as admin, relay.connect() as client, Bystander(relay):
        admin.request("add instruction", named={"instructionToAdd": "odd", "body": body})
        return client.request("odd")


# Cases 1 to 4, 12: time

LOOPS = {
    "a loop": ("function()\n  while true do end\nend", 2),
    "a loop that calls": ("function()\n  local f = function() end while true do f() end\nend", 2),
    "recursion that never ends": ("function()\n  local function f() return f() end\n  f()\nend", None),
    "pcall in a loop": ("function()\n  while true do\n    pcall(function() while true do end end)\n  end\nend", None),
    "xpcall whose handler loops":
        ("function()\n  xpcall(error, function() while true do end end)\n  while true do end\nend", None),
    "pcall of pcall": ("function()\n  local function f() pcall(f) while true do end end\n  while true do f() end\nend",
                       None),
    "a coroutine": ("function()\n  coroutine.wrap(function() while true do end end)()\nend", None),
    "coroutines without end":
        ("function()\n  while true do\n    local c = coroutine.create(function() while true do end end)\n"
         "    coroutine.resume(c)\n  end\nend", None),
    "a metamethod": ("function()\n  local t = setmetatable({}, {__index = function() while true do end end})\n"
                     "  return t.x\nend", None),
    "a comparison": ("function()\n  table.sort({3, 2, 1}, function() while true do end end)\nend", None),
    "a replacement": ("function()\n  return (('x'):gsub('x', function() while true do end end))\nend", None),
    "__tostring": ("function()\n  tostring(setmetatable({}, {__tostring = function() while true do end end}))\nend",
                   None),
    "__close": ("function()\n  local x <close> = setmetatable({}, {__close = function() while true do end end})\nend",
                None),
    "__eq": ("function()\n  local m = {__eq = function() while true do end end}\n"
             "  return setmetatable({}, m) == setmetatable({}, m)\nend", None),
    "error with a looping __tostring":
        ("function()\n  error(setmetatable({}, {__tostring = function() while true do end end}))\nend", None),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_without_end_is_stopped(relay, name):
    body, line = LOOPS[name]
    codes = ("budget_exceeded", "script_error") if "__tostring" in name and "error" in name else ("budget_exceeded",)
    fails(relay, body, *codes, line=line, calls=3)


def test_a_coroutine_made_at_load_time_is_stopped_too(relay):
    relay.load("loader.lua", """
      local c = coroutine.wrap(function() coroutine.yield() while true do end end)
      c()
      relay.instruction { "resume", function() c() end }
    """)
    with relay.connect() as client, Bystander(relay):
        assert client.ask("resume")["error"]["code"] in ("budget_exceeded", "script_error")
    relay.invoke("unload script", named={"name": "loader.lua"})


def test_a_loop_in_a_timer_or_a_hook_is_stopped_and_logged(relay):
    relay.load("hooks.lua", """
      relay.on("open", function(conn) if conn.query == "loop" then while true do end end end)
      relay.on("close", function(conn) if conn.query == "loop" then while true do end end end)
      relay.on("message", function(conn, data) if data == "loop" then while true do end end end)
      relay.instruction { "later", function() relay.after(0.01, function() while true do end end) end }
    """)
    with Bystander(relay):
        before = relay.log.count("budget_exceeded")
        with relay.connect("/?loop") as client:
            client.send("loop")
            client.request("later")
        eventually(lambda: relay.log.count("budget_exceeded") >= before + 4, "four calls were stopped and logged")
    relay.invoke("unload script", named={"name": "hooks.lua"})


def test_time_in_which_the_process_does_not_run_is_no_scripts_fault():
    """A busy machine takes the processor away in the middle of a call; that must not cost anybody a message."""
    calls, request = 300, frame(TEXT, '{"instruction": "work", "id": 1}')
    with Relay(limits={"burst": "100ms"}) as relay:
        relay.add("work", "function(conn) local s = 0 for i = 1, 500000 do s = s + i end return s end")
        with relay.raw(upgraded=True) as raw:
            raw.send(request * calls)
            for _ in range(10):  # While the calls are being made.
                relay.signal(signal.SIGSTOP)
                time.sleep(0.15)  # Longer than the burst.
                relay.signal(signal.SIGCONT)
                time.sleep(0.02)
            answers = [raw.read_message() for _ in range(calls)]
    assert set(answers) == {'{"id":1,"result":125000250000}'}


# Cases 6 and 9: single calls that take long

LONG_CALLS = [
    "('x'):rep(30):find(('x*'):rep(30) .. 'y')",
    "(('a'):rep(26)):match(('a?'):rep(26) .. ('a'):rep(26) .. 'b')",
    "(('a'):rep(5000)):find('.-.-.-.-b')",
    "(('a'):rep(5000)):gsub('.-.-.-.-b', '')",
    "(function() for _ in (('a'):rep(5000)):gmatch('.-.-.-.-b') do end end)()",
    "table.concat(setmetatable({}, {__len = function() return 1 << 60 end, __index = function() return 'x' end}))",
    "table.move({1}, 1, 1 << 60, 2)",
    "table.move({}, 1, 1e15, 1, {})",
    "table.insert(setmetatable({}, {__len = function() return 1 << 60 end}), 1, 'x')",
    "table.remove(setmetatable({}, {__len = function() return 1 << 60 end}), 1)",
    "table.unpack({}, 1, 1e8)",
    "table.sort(setmetatable({}, {__len = function() return 1 << 30 end}))",
    "(''):rep(1 << 31)",
    "(''):rep(1 << 60)",
    "string.pack('c' .. (1 << 30), 'x')",
]


@pytest.mark.parametrize("call", LONG_CALLS)
def test_no_single_call_takes_the_relay_with_it(relay, call):
    body = f"function()\n  return #tostring(({call}))\nend"
    with relay.operator() as admin, relay.connect() as client, Bystander(relay):
        admin.request("add instruction", named={"instructionToAdd": "long", "body": body})
        reply = client.ask("long")
        assert "result" in reply or reply["error"]["code"] in ("budget_exceeded", "script_error", "memory_exceeded")
        ping_pong(client)


# Cases 7, 8, 10: memory

HOGS = {
    "a table": "function()\n  local t = {} for i = 1, 1e9 do t[i] = {i} end\nend",
    "a global table": "function()\n  hog = {} for i = 1, 1e9 do hog[i] = i end\nend",
    "a doubling text": "function()\n  local s = 'xxxxxxxx' while true do s = s .. s end\nend",
    "string.rep": "function()\n  return #('x'):rep(1 << 40)\nend",
    "string.rep within bounds": "function()\n  return #('x'):rep(1 << 30)\nend",
    "coroutines": "function()\n  local t = {} while true do t[#t + 1] = coroutine.create(function() end) end\nend",
    "pcall around it": "function()\n  while true do pcall(string.rep, 'x', 1 << 30) end\nend",
    "concatenation":
        "function()\n  local t = {} for i = 1, 1e6 do t[i] = ('x'):rep(1e5) end return #table.concat(t)\nend",
    "string.format": "function()\n  local t = {} for i = 1, 1e7 do t[i] = ('%99.99f'):format(i) end\nend",
}


@pytest.mark.parametrize("name", HOGS)
def test_a_script_that_takes_all_memory_is_stopped(relay, name):
    before = relay.resident_bytes
    fails(relay, HOGS[name], "memory_exceeded", "budget_exceeded", "script_error", calls=3)
    relay.evaluate("hog = nil")
    assert relay.resident_bytes - before < 64 << 20


def test_memory_runs_out_by_its_own_code():
    with Relay(limits={"scriptMemory": "8MiB", "burst": "5s"}) as relay:
        relay.add("hog", "function()\n  local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end\nend")
        with relay.connect() as client:
            for _ in range(3):
                error = client.ask("hog")["error"]
                assert error["code"] == "memory_exceeded", error
        assert relay.evaluate("return 'alive'") == "alive"


# Case 16: depth

DEPTHS = {
    "recursion": "function()\n  local function f(n) return 1 + f(n + 1) end\n  return f(1)\nend",
    "nested pcall": "function()\n  local function f() return pcall(f) end\n  local function g() return 1 + g() end\n"
                    "  f() return g()\nend",
    "nested coroutines": "function()\n  local function f() return coroutine.wrap(f)() end\n  return f()\nend",
    "recursive __index": "function()\n  local t = {} setmetatable(t, {__index = function(t, k) return t[k .. k] end})\n"
                         "  return t.x\nend",
    "gsub within gsub": "function()\n  local function f() return (('x'):gsub('x', f)) end\n  return f()\nend",
}


@pytest.mark.parametrize("name", DEPTHS)
def test_depth_is_an_error_and_no_crash(relay, name):
    fails(relay, DEPTHS[name], "script_error", "budget_exceeded", "memory_exceeded")


@pytest.mark.parametrize(
    "source",
    [
        "return " + "(" * 100000 + "1" + ")" * 100000, "return " + "{" * 100000 + "}" * 100000,
        "return " + "-" * 100000 + "1", "return " + "not " * 100000 + "1",
        "\n".join(f"local a{number} = {number}" for number in range(300)),
        "do " * 50000 + "end " * 50000, "return " + "1 .. " * 50000 + "1", "x = 1\n" * 100000,
        "return function() " * 5000 + "end " * 5000, "local t = {" + "1," * 400000 + "}",
    ],
    ids=["parentheses", "tables", "minus", "not", "locals", "blocks", "concatenations", "lines", "functions", "items"],
)
def test_source_text_of_any_shape_compiles_or_is_refused(relay, source):
    with relay.operator() as admin, Bystander(relay):
        reply = admin.ask("load script", named={"name": "shape.lua", "source": source})
        if "error" in reply:
            assert reply["error"]["code"] in ("compile_error", "memory_exceeded", "budget_exceeded", "limit"), reply
        else:
            admin.request("unload script", named={"name": "shape.lua"})


# Case 17: error values


@pytest.mark.parametrize(
    "value", ["nil", "{}", "true", "7", "0/0", "function() end", "conn", "setmetatable({}, {__tostring = 7})",
              "setmetatable({}, {__tostring = function() return {} end})", "('x'):rep(1e6)", "'\\255\\0\\n'",
              "setmetatable({}, {__tostring = function() error('again') end})", "coroutine.create(print)"])
def test_any_value_may_be_raised(relay, value):
    error = fails(relay, f"function(conn)\n  error({value})\nend", "script_error")
    assert error["message"] and len(error["message"]) < 100_000


# Cases 13 to 15: reach


def test_only_what_is_documented_can_be_reached(relay):
    assert relay.evaluate("return {io == nil, debug == nil, package == nil, dofile == nil, loadfile == nil, "
                          "os.execute == nil, os.exit == nil, os.getenv == nil, os.remove == nil, "
                          "string.dump == nil}") == [True] * 10
    assert sorted(relay.evaluate("local t = {} for k in pairs(os) do t[#t + 1] = k end return t")) == \
        ["clock", "date", "time"]
    for body in ["collectgarbage('stop')", "collectgarbage('setpause', 1000000)", "setmetatable({}, {__gc = print})",
                 "require('io')", "getmetatable('').__index.upper = 7", "string.upper = 7 error('stayed')"]:
        with relay.operator() as admin:
            reply = admin.ask("eval", named={"body": body})
        assert reply.get("error", {}).get("code") == "script_error" or "collectgarbage" in body, (body, reply)
    assert relay.evaluate("return ('x'):upper()") == "X"


@pytest.mark.parametrize(
    "body", ["return load('\\27Lua')", "return load(function() return '\\27LuaS' end, 'x', 'b')",
             "return load('\\27Lua', 'x', 'bt')"])
def test_byte_code_is_never_loaded(relay, body):
    with relay.operator() as admin:
        reply = admin.ask("eval", named={"body": f"local f, e = (function() {body} end)() return f == nil"})
        assert reply.get("result") is True or reply["error"]["code"] == "script_error"


def test_a_poisoned_library_does_not_outlive_the_attempt(relay):
    with relay.operator() as admin:
        for body in ["string.upper = function() return 'poison' end", "json.encode = nil", "relay.install = nil",
                     "getmetatable('').__index = {}", "table.concat = nil", "rawset(string, 'upper', nil)"]:
            admin.ask("eval", named={"body": body})
    relay.invoke("create app", named={"app": "other"})
    assert relay.evaluate("return ('x'):upper() .. table.concat({1, 2}) .. json.encode({3})", path="/app/other") == \
        "X12[3]"
    relay.invoke("remove app", named={"app": "other"})


# Case 18: yields


@pytest.mark.parametrize(
    "body",
    [
        "coroutine.yield()", "coroutine.yield(1, 2, 3)",
        "table.sort({3, 2, 1}, function(a, b) relay.sleep(0.001) return a < b end)",
        "('x'):gsub('x', function() coroutine.yield() end)",
        "local t = setmetatable({}, {__index = function() return relay.sleep(0.001) end}) local y = t.x",
        "coroutine.wrap(function() relay.sleep(0.001) end)()", "pcall(relay.sleep, 0.001)", "relay.sleep(-1)",
        "relay.sleep(0/0)", "relay.sleep(1/0)", "relay.sleep('x')",
    ],
)
def test_yields_at_odd_places_are_answered(body):
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits={"callTime": "300ms"}) as relay:
        relay.add("odd", f"function(conn)\n  {body}\n  return 'done'\nend")
        with relay.connect() as client:
            reply = client.ask("odd")
            assert reply.get("result") == "done" or reply["error"]["code"] in (
                "script_error", "budget_exceeded", "timeout"), reply
            ping_pong(client)


def test_a_call_that_sleeps_too_long_is_ended():
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits={"callTime": "100ms"}) as relay:
        relay.add("forever", "function() while true do relay.sleep(0.01) end end")
        relay.add("long", "function() relay.sleep(3600) end")
        with relay.connect() as client:
            assert client.ask("forever")["error"]["code"] in ("budget_exceeded", "timeout")
            assert client.ask("long")["error"]["code"] in ("budget_exceeded", "timeout")
            ping_pong(client)


# Case 19: the relay's calls with anything


@pytest.mark.parametrize("value", ["nil", "7", "0/0", "1/0", "-1", "1e300", "math.mininteger", "{}", "true", "print",
                                   "conn", "''", "('x'):rep(1e6)", "'\\255\\0'"])
def test_the_relays_calls_take_or_refuse_any_value(relay, value):
    calls = [
        "conn:send(V)", "conn:sendBinary(V)", "conn:close(V)", "conn:close(1000, V)", "conn:isOpen(V)", "conn.send(V)",
        "conn.send(V, 'x')", "relay.install(V, conn)", "relay.install('x', V)", "relay.install('x', conn, V)",
        "relay.uninstall(V)", "relay.server(V)", "relay.randomToken(V)", "relay.equal(V, V)", "relay.sha256(V)",
        "relay.hmac(V, V)", "relay.after(V, print)", "relay.after(0.01, V)", "relay.every(V, print)",
        "relay.every(1000, V)", "relay.emit(V, V)", "relay.emit('x', V)", "relay.log(V, V, V)",
        "relay.log('info', V, V)", "relay.log('info', 'x', {a = V})", "relay.on(V, V)", "relay.instruction(V)",
        "relay.count(V, V)", "relay.gauge(V, V)", "json.encode(V)", "json.decode(V)", "conn.data[V] = V",
        "return conn[V]", "conn[V] = V", "conn.data = V", "print(V)", "setmetatable(conn, V)",
        "getmetatable(conn).x = V",
    ]
    with relay.operator() as admin, Bystander(relay):
        for call in calls:
            with relay.connect() as client:
                body = f"function(conn)\n  local V = {value}\n  {call}\nend"
                admin.request("add instruction", named={"instructionToAdd": "any", "body": body})
                client.send_json({"instruction": "any"})
                # The call may have closed the connection; the relay has to be there in any case.
                assert admin.request("eval", named={"body": "return 'alive'"}) == "alive", call
        # What was installed or scheduled meanwhile does not matter either.
        admin.request("eval", named={"body": "return relay.uninstall('x')"})


# Case 20: handles


def test_a_kept_handle_of_a_closed_connection_is_closed_and_nothing_else(relay):
    relay.add("keep", "function(conn) kept = kept or {} kept[#kept + 1] = conn conn.data.x = 1 return #kept end")
    for number in range(20):
        with relay.connect() as client:
            assert client.request("keep") == number + 1
    body = """
      for _, conn in ipairs(kept) do
        if conn:isOpen() then return "open" end
        if conn:send("x") ~= "dropped" or conn:sendBinary("x") ~= "dropped" then return "sent" end
        conn:close()
        conn:close(1000, "again")
        local ok = pcall(relay.install, "dead", conn)
        if relay.server("dead") ~= nil then return "installed" end
        tostring(conn)
        local _ = conn.id, conn.remoteAddress, conn.data
      end
      return #kept
    """
    assert eventually(lambda: relay.evaluate(body) != "open" and relay.evaluate(body), "all are closed") == 20
    relay.evaluate("kept = nil")


# Case 21: output


def test_a_call_that_sends_without_end_is_stopped(relay):
    fails(relay, "function(conn)\n  while true do conn:send(('x'):rep(1000)) end\nend",
          "output_exceeded", "budget_exceeded")


def test_output_runs_out_by_its_own_code():
    with Relay(limits={"outputBytesPerCall": "64KiB", "burst": "5s"}) as relay:
        relay.add("flood", "function(conn)\n  while true do conn:send(('x'):rep(1000)) end\nend")
        with relay.connect() as client:
            error = client.ask("flood")["error"]
            assert (error["code"], error["data"]["line"]) == ("output_exceeded", 2), error
            assert set(client.waiting) <= {"x" * 1000}
            assert len(client.waiting) <= 66


def test_a_million_sends_to_a_reader_that_sleeps_stay_bounded():
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits={"burst": "10s", "scriptMemory": "64MiB"}) as relay:
        relay.add("flood", """function(conn, target)
          local results = {}
          for i = 1, 1000000 do
            local r = stalled:send(("x"):rep(15))
            results[r] = (results[r] or 0) + 1
          end
          return results
        end""")
        relay.add("stall", "function(conn) stalled = conn end")
        before = relay.resident_bytes
        with relay.connect() as client, relay.raw(upgraded=True) as stalled:
            stalled.send(frame(TEXT, '{"instruction": "stall", "id": 1}'))
            stalled.read_message()
            reply = client.ask("flood")
            if "result" in reply:
                assert sum(reply["result"].values()) == 1000000
                assert reply["result"].get("backpressure", 0) + reply["result"].get("dropped", 0) > 0
            else:
                assert reply["error"]["code"] in ("output_exceeded", "budget_exceeded")
            assert relay.peak_bytes - before < 64 << 20


# Case 22: order


def test_sends_and_closes_within_hooks_have_a_defined_order(make_relay):
    relay = make_relay()
    relay.load("order.lua", """
      relay.on("close", function(conn, code, reason)
        conn:send("late") conn:close(1000, "late")
        if other and other:isOpen() then other:send("closed " .. code) end
      end)
      relay.on("message", function(conn, data)
        conn:send("before") conn:close(4000, "bye") conn:send("after")
      end)
      relay.instruction { "watch", function(conn) other = conn end }
    """)
    with relay.connect() as observer, relay.connect() as client:
        observer.request("watch")
        client.send("go")
        assert client.closed() == (4000, "bye")
        assert client.waiting == ["before"]
        assert observer.receive() == "closed 4000"


# Case 25: many changes


def test_five_hundred_reloads_leave_memory_and_descriptors_as_they_were(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "echo.lua"], log_level="warning")
    source = "data = {} for i = 1, 100 do data[i] = ('x'):rep(100) .. %d end " \
             "relay.on('close', function() end) relay.instruction { 'i', function() return %d end }"
    with relay.operator() as admin, Bystander(relay) as bystander:
        def reload(count, start):
            for number in range(start, start + count):
                admin.request("load script", named={"name": "r.lua", "source": source % (number, number)})
                assert admin.request("i") == number

        reload(200, 0)
        resident, descriptors = relay.resident_bytes, relay.descriptors
        reload(500, 200)
        assert relay.resident_bytes - resident < 8 << 20
        assert relay.descriptors == descriptors
        assert bystander.failure is None
