"""What scripts can do besides answering instructions: hooks, the registry of servers, timers, digests (DESIGN §8)."""

import re

import pytest
from websockets.exceptions import InvalidStatus

from conditions import eventually
from relay import TEST_SCRIPTS, ping_pong
from wire import TEXT, frame

HOOKS = """
log = log or {}
local function note(text) log[#log + 1] = text end  -- What becomes of connections that give a query.
relay.on("handshake", function(request)
  if request.query == "refuse" then return false end
  if request.query == "teapot" then return false, 418, "short and stout" end
  if request.query == "raise" then error("no") end
  if request.query == "wait" then relay.sleep(0.05) note("waited") end
  if request.query == "waitrefuse" then relay.sleep(0.05) return false, 429, "too many" end
end)
relay.on("open", function(conn, request)
  conn.data.query = request.query
  if request.query == "welcome" then conn:send("welcome " .. request.path) end
end)
relay.on("message", function(conn, data, kind)
  if data == "stop" then conn:send("stopped") return true end
  conn:send("first " .. kind .. " " .. #data)
end)
relay.on("message", function(conn, data, kind) conn:send("second") end)
relay.on("close", function(conn, code, reason)
  if conn.query == "" then return end
  local isOpen, sent = tostring(conn:isOpen()), conn:send("late")
  note(table.concat({ "closed", tostring(conn.data.query), code, reason, isOpen, sent }, " "))
end)
relay.instruction { "log", function() return log end }
"""


def test_handshake_hooks_decide_who_is_let_in(make_relay):
    relay = make_relay()
    relay.load("hooks.lua", HOOKS)
    for query, status, text in [
        ("refuse", 403, ""), ("teapot", 418, "short and stout"), ("raise", 500, ""), ("waitrefuse", 429, "too many"),
    ]:
        with pytest.raises(InvalidStatus) as refused:
            relay.connect(f"/?{query}")
        response = refused.value.response
        assert response.status_code == status
        assert text in (response.body or b"").decode()
    with relay.connect("/?wait") as client:
        assert client.request("log") == ["waited"]


def test_open_message_and_close_hooks_see_the_whole_life_of_a_connection(make_relay):
    relay = make_relay()
    relay.load("hooks.lua", HOOKS)
    with relay.connect() as observer:
        with relay.connect("/?welcome") as client:
            assert client.receive() == "welcome /"
            client.send("hello")
            assert [client.receive(), client.receive()] == ["first text 5", "second"]
            client.send(b"\x00\xff")
            assert [client.receive(), client.receive()] == ["first binary 2", "second"]
            client.send("stop")
            assert client.receive() == "stopped"
            assert client.request("log") == {}  # An empty table is an object.
            client.connection.close(4321, "tschüs")
        eventually(lambda: observer.request("log") == ["closed welcome 4321 tschüs false dropped"], "the hook has run")
        client = relay.raw(upgraded=True, path="/?gone")
        client.reset()
        eventually(lambda: len(observer.request("log")) == 2, "the hook of the reset connection has run")
        assert observer.request("log")[1].startswith("closed gone 1006 ")


def test_hooks_of_several_scripts_run_in_the_order_of_their_first_load(make_relay):
    relay = make_relay()
    source = "relay.on('message', function(conn, data) conn:send('%s') end)"
    for name in ["c", "a", "b"]:
        relay.load(f"{name}.lua", source % name)
    relay.load("c.lua", source % "c again")
    with relay.connect() as client:
        client.send("go")
        assert [client.receive() for _ in range(3)] == ["c again", "a", "b"]


def test_installing_servers_emits_events_and_fills_the_registry(make_relay):
    relay = make_relay()
    relay.load("registry.lua", """
      events = events or {}
      relay.on("event:server.created", function(data) events[#events + 1] = "created " .. tostring(data.server) end)
      relay.on("event:server.destroyed", function(data) events[#events + 1] = "destroyed " .. tostring(data.server) end)
      relay.instruction { "install", function(conn, id, replace)
        return relay.install(id, conn, { replace = replace }) and true or false end }
      relay.instruction { "uninstall", function(conn, id) return relay.uninstall(id) and true or false end }
      relay.instruction { "holds", function(conn, id) return relay.server(id) == conn end }
      relay.instruction { "events", function() return events end }
    """)
    with relay.operator() as admin, relay.connect() as server:
        assert server.request("install", "box") is True
        assert server.request("install", 0) is True
        assert server.request("holds", "box") is True and admin.request("holds", "box") is False
        assert sorted(str(entry["server"]) for entry in admin.request("servers")) == ["0", "box"]
        with relay.connect() as newer:
            reply = newer.ask("install", "box")
            assert reply.get("result") is False or reply["error"]["code"] in ("script_error", "conflict"), reply
            assert newer.request("install", "box", True) is True
            assert server.closed()[0] == 4005
            assert newer.request("holds", "box") is True
            assert newer.request("uninstall", "box") is True
            assert newer.request("uninstall", "box") is False
            assert newer.request("install", "last") is True
        eventually(lambda: admin.request("servers") == [], "nothing is installed")
        events = admin.request("events")
        assert events[:2] == ["created box", "created 0"]
        assert events.count("created box") == 2 and events.count("destroyed box") == 2
        assert "destroyed 0" in events and events[-1] == "destroyed last"


def test_timers_and_sleep_do_not_hold_anybody_up(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "echo.lua"])
    relay.add("sleep", "function(conn, s) relay.sleep(s) return 'slept' end")
    relay.add("later", "function(conn) relay.after(0.02, function() conn:send('later') end) return 'now' end")
    relay.add("ticks", """function(conn)
      local n = 0
      relay.every(0.01, function() n = n + 1 if n <= 3 then conn:send('tick ' .. n) end end)
    end""")
    with relay.connect() as client:
        client.send_json({"instruction": "sleep", "parameters": [0.3], "id": "slow"})
        client.send_json({"instruction": "sleep", "parameters": [0.01], "id": "fast"})
        ping_pong(client, 3)
        assert client.receive_json() == {"id": "fast", "result": "slept"}
        assert client.receive_json() == {"id": "slow", "result": "slept"}
        assert client.request("later") == "now"
        assert client.receive() == "later"
        client.send_json({"instruction": "ticks"})
        assert [client.receive() for _ in range(3)] == ["tick 1", "tick 2", "tick 3"]


def test_a_call_in_flight_finishes_on_the_generation_that_it_started_with(make_relay):
    relay = make_relay()
    relay.add("wait", "function(conn) while not go do relay.sleep(0.01) end return 'old' end")
    with relay.connect() as client:
        client.send_json({"instruction": "wait", "id": 1})
        client.messages()
        relay.add("wait", "function(conn) return 'new' end")
        assert client.request("wait") == "new"
        relay.evaluate("go = true")
        assert client.receive_json() == {"id": 1, "result": "old"}


def test_a_connection_that_goes_while_its_call_sleeps_does_no_harm(make_relay):
    relay = make_relay()
    relay.add("sleep", "function(conn) relay.sleep(0.05) finished = (finished or 0) + 1 return conn:send('x') end")
    for number in range(20):
        with relay.raw(upgraded=True) as raw:
            raw.send(frame(TEXT, '{"instruction": "sleep", "id": 1}'))
            raw.reset() if number % 2 else raw.socket.close()
    assert relay.evaluate("return 'alive'") == "alive"


def test_tokens_digests_and_facts_are_what_they_say(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "hooks.lua"])
    assert relay.evaluate("return relay.sha256('abc')") == \
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    # RFC 4231, test case 2.
    assert relay.evaluate("return relay.hmac('Jefe', 'what do ya want for nothing?')") == \
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert relay.evaluate("return {relay.equal('a', 'a'), relay.equal('a', 'b'), relay.equal('a', 'ab')}") == \
        [True, False, False]
    tokens = relay.evaluate("local t = {} for i = 1, 100 do t[i] = relay.randomToken(16) end return t")
    assert len(set(tokens)) == 100 and all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)
    with relay.connect("/?a=b%20c", user_agent_header="tester/1", subprotocols=["livecode.v0"]) as client:
        client.send_json({"instruction": "facts", "id": 1})
        client.connection.recv()  # Two livecode lines come before the answer, and one after.
        facts = client.reply(1)["result"]
        assert facts["app"] == "default" and facts["path"] == "/" and facts["query"] == "a=b%20c"
        assert facts["port"] == relay.port and facts["isAdmin"] is False and facts["agent"] == "tester/1"
        assert facts["subprotocol"] == "livecode.v0" and facts.get("tls") is None
        assert facts["remoteAddress"] == "127.0.0.1"
