"""relay.dial: the relay itself is a client, from Lua."""

import json

import pytest

import wire
from channels import HOUR, MORE, TEXT, channels, no_channel_is_left, server
from conditions import eventually

# The callbacks keep what they are told in `heard`; the tests read that with eval.
SCRIPT = """
heard, held = heard or {}, held or {}
relay.instruction { "dial", function(conn, name, port, metadata)
  local function note(...) heard[#heard + 1] = {...} end
  local channel, code = relay.dial(name, port or 0, {
    open = function(channel) note("open", channel.id) end,
    message = function(channel, data, kind)
      note("message", kind, kind == "text" and #data <= 100 and data or #data)
    end,
    close = function(channel, code, reason) note("close", code, reason, channel:isOpen(), channel:send("late")) end
  }, metadata)
  if not channel then return { code = code } end
  held[channel.id] = channel
  return { channel = channel.id }
end }
relay.instruction { "say", function(conn, id, data, count)
  local result
  for _ = 1, count or 1 do result = held[id]:send(data) end
  return result
end }
relay.instruction { "hang up", function(conn, id, code, reason) return held[id]:close(code, reason) end }
"""


@pytest.fixture(params=[1, 2])
def relay(request, make_relay):
    relay = make_relay(loops=request.param, limits=HOUR)
    relay.load("dialler", SCRIPT)
    return relay


def heard(relay, count):
    """What the callbacks were told, as soon as it is so much."""
    eventually(lambda: relay.evaluate("#heard") >= count, f"the callbacks have run {count} times")
    notes = json.loads(relay.evaluate("json.encode({heard, 0})"))[0] or []
    assert len(notes) == count, notes
    return notes


def dial(client, *parameters):
    return client.request("dial", *parameters)


@pytest.fixture
def pair(relay):
    """A server, and a client that invokes the script."""
    with server(relay) as host, relay.connect() as client:
        yield relay, host, client


def test_a_script_and_a_server_talk(pair):
    relay, host, client = pair
    channel = dial(client, "box", 22, {"why": "a test"})["channel"]
    far = host.opened()
    assert {name: far.fields[name] for name in ["server", "port", "remoteAddress", "metadata"]} == {
        "server": "box", "port": 22, "remoteAddress": "relay", "metadata": {"why": "a test"}}
    assert client.request("say", channel, "early") == "queued"  # Before the server has accepted.
    far.accept()
    assert far.receive() == "early"
    far.send("hello")
    far.send(b"\x00\xff\x80")
    assert client.request("say", channel, "later") == "queued"
    assert far.receive() == "later"
    (entry,) = channels(relay)
    assert (entry["client"], entry["server"], entry["port"]) == (channel, "box", 22)
    assert entry["remoteAddress"] == "relay"
    notes = heard(relay, 3)
    assert notes[:2] == [["open", channel], ["message", "text", "hello"]] and notes[2] == ["message", "binary", 3]
    assert client.request("hang up", channel, 4321, "enough") is True
    assert far.closed() == (4321, "enough")
    assert heard(relay, 4)[3] == ["close", 4321, "enough", False, "dropped"]
    assert client.request("hang up", channel) is False
    no_channel_is_left(relay)


@pytest.mark.parametrize("code", [1000, 3999, 4004])
def test_the_server_s_close_reaches_the_script_behind_its_messages(pair, code):
    relay, host, client = pair
    dial(client, "box")
    far = host.opened().accept()
    far.send("last words")
    far.close(code, "done")
    assert heard(relay, 3)[1:] == [["message", "text", "last words"], ["close", code, "done", False, "dropped"]]
    no_channel_is_left(relay)


def test_an_end_closes_as_it_does_a_clean_client(pair):
    relay, host, client = pair
    dial(client, "box")
    far = host.opened().accept()
    far.send("all")
    far.end()
    assert far.closed() == (1000, "")
    assert heard(relay, 3)[2][:2] == ["close", 1000]


def test_a_server_that_rejects_or_leaves_is_heard_of_once(pair):
    relay, host, client = pair
    dial(client, "box")
    host.opened().reject(4100, "not today")
    assert heard(relay, 1) == [["close", 4100, "not today", False, "dropped"]]
    dial(client, "box")
    dial(client, "box")
    host.opened().accept()
    host.opened()
    heard(relay, 2)
    host.socket.close()
    notes = heard(relay, 4)[2:]
    assert sorted(note[:2] for note in notes) == [["close", 502], ["close", 4004]]
    no_channel_is_left(relay)


def test_who_cannot_be_dialled(relay):
    with relay.connect() as client, server(relay, "few?ports=1-2"), relay.operator() as plain:
        relay.add("install", "function(conn) return relay.install('plain', conn) end")
        plain.request("install")
        assert dial(client, "nobody") == {"code": "not_found"}
        assert dial(client, "few", 3) == {"code": "not_found"}
        assert dial(client, "plain") == {"code": "conflict"}
        for arguments in ["", "'box'", "'box', 0", "'box', 65536, {}", "{}, 0, {}", "'box', 0, {message = 1}",
                          "'box', 0, {}, 5", "'box', 0, {}, {f = print}"]:
            with pytest.raises(Exception, match="script_error|bad_parameters"):
                relay.evaluate(f"relay.dial({arguments})")
        with pytest.raises(Exception, match="while a script loads"):
            relay.load("eager", "relay.dial('few', 1, {})")
        with pytest.raises(Exception, match="while a script loads"):
            relay.load("eager", "relay.on('reload', function() relay.dial('few', 1, {}) end)")
    assert heard(relay, 0) == []


def test_a_server_answers_with_a_connection_of_its_own(pair):
    relay, host, client = pair
    channel = dial(client, "box")["channel"]
    far = host.opened()
    with relay.connect(f"/a/{far.fields['ticket']}") as own:
        own.send("from my own")
        assert client.request("say", channel, "to your own") == "queued"
        assert own.receive() == "to your own"
        heard(relay, 2)
        client.request("hang up", channel, 4000, "bye")
        assert own.closed() == (4000, "bye")


def test_credit_holds_both_ways(pair):
    relay, host, client = pair
    channel = dial(client, "box")["channel"]
    far = host.opened()
    far.grants = False
    far.accept(1000)
    assert client.request("say", channel, "x" * 2500) == "queued"
    first = far.frame()
    assert (first.kind, len(first.payload)) == (TEXT | MORE, 1000)
    far.grant(1000)
    assert len(far.frame().payload) == 1000
    far.grant(1000)
    last = far.frame()
    assert (last.kind, len(last.payload)) == (TEXT, 500)


def test_a_server_that_exceeds_the_credit_loses_the_channel(pair):
    relay, host, client = pair
    relay.load("sleepy", """relay.instruction { "dial asleep", function()
      relay.dial("box", 0, { message = function() relay.sleep(20) end, close = function(_, code) closed = code end })
    end }""")
    client.request("dial asleep")
    far = host.opened().accept()
    far.send("sleep")  # Nothing is granted meanwhile.
    while far.credit > 0:
        far.data(bytes(min(far.credit, 50_000)))
    far.data(b"!")
    assert far.closed()[0] == 4006
    host.settle()


def test_what_waits_for_credit_is_bounded_and_its_source_waits(make_relay):
    relay = make_relay(limits={
        **HOUR, "outboundHighBytes": "256KiB", "outboundLowBytes": "64KiB", "outputBytesPerCall": "1MiB",
        "burst": "5s"})
    relay.load("dialler", SCRIPT)
    with server(relay) as host, relay.connect() as client, relay.connect() as other, relay.connect() as third:
        channel = dial(client, "box")["channel"]
        far = host.opened()
        far.grants = False
        far.accept(0)
        piece = "x" * (64 << 10)
        assert [other.request("say", channel, piece) for _ in range(3)] == ["queued"] * 3
        assert other.request("say", channel, piece) == "backpressure"
        other.send_json({"instruction": "say", "parameters": [channel, "after"], "id": 1})  # It is not read.
        assert client.request("say", channel, "y" * (256 << 10)) == "backpressure"
        assert third.request("say", channel, "", 50_000) == "dropped"  # Empty ones are not free.
        far.grants = True
        far.grant(8 << 20)
        assert [len(far.receive()) for _ in range(5)] == [64 << 10] * 4 + [256 << 10]
        assert other.receive_json() == {"id": 1, "result": "queued"}


def test_a_server_that_takes_nothing_is_given_up(make_relay):
    relay = make_relay(limits={"slowConsumerDeadline": "100ms"})
    relay.load("dialler", SCRIPT)
    with server(relay) as host, relay.connect() as client:
        channel = dial(client, "box")["channel"]
        far = host.opened().accept(0)
        client.request("say", channel, "take this")
        client.request("hang up", channel, 1000)  # It waits behind the text.
        assert far.closed()[0] == 4003
        eventually(lambda: relay.evaluate("#heard > 0 and heard[#heard][2]") == 4003, "the script is told")


def test_callbacks_come_one_at_a_time_in_order(pair):
    relay, host, client = pair
    relay.load("slow", """
        order = {}
        relay.instruction { "dial slowly", function()
          relay.dial("box", 0, { message = function(_, data)
            order[#order + 1] = data
            relay.sleep(0.002)
            order[#order + 1] = data
          end, close = function() order[#order + 1] = "close" end })
        end }""")
    client.request("dial slowly")
    far = host.opened().accept()
    for count in range(50):
        far.send(str(count))
    far.close()
    expected = [str(count // 2) for count in range(100)] + ["close"]
    eventually(lambda: relay.evaluate("#order") == 101, "all have been called")
    assert json.loads(relay.evaluate("json.encode(order)")) == expected


def test_a_callback_that_cannot_send_on_makes_its_server_wait(make_relay):
    """The data of a server that is faster than a receiver stay with the server."""
    relay = make_relay(limits={**HOUR, "outboundHighBytes": "128KiB", "outboundLowBytes": "64KiB"}, loops=2)
    relay.load("forwarder", """
        relay.instruction { "forward", function(conn)
          relay.dial("box", 0, { message = function(_, data) last = conn:sendBinary(data) end })
        end }""")
    with server(relay) as host, relay.raw(upgraded=True) as reader:
        reader.send(wire.frame(wire.TEXT, json.dumps({"instruction": "forward"}).encode()))
        far = host.opened().accept()
        total = 64 << 20
        piece = bytes(32 << 10)
        relay.forget_peak()
        before = relay.peak_bytes
        sent = 0
        # As much as may be sent before nobody reads: the sockets hold a few megabytes.
        while sent < total and far.credit >= len(piece):
            far.data(piece)
            sent += len(piece)
            host.settle()
            eventually(lambda: far.credit >= len(piece) or relay.evaluate("last") == "backpressure", "room, or none")
            host.settle()
        assert sent < total, "nobody waited"
        assert relay.peak_bytes - before < 16 << 20
        received = 0
        while received < sent:
            received += len(reader.read_message())
        assert received == sent


@pytest.mark.parametrize("loops", [1, 2])
def test_tiny_messages_are_no_more_than_the_credit_and_empty_ones_are_counted(make_relay, loops):
    relay = make_relay(loops=loops, limits={**HOUR, "channelCreditBytes": "8KiB"})
    relay.load("sleepy", """relay.instruction { "dial asleep", function()
      relay.dial("box", 0, { message = function() relay.sleep(20) end })
    end }""")
    with server(relay, raw=True) as host, relay.connect() as client:
        client.request("dial asleep")
        far = host.opened().accept()
        head = bytes([TEXT]) + far.number.to_bytes(4, "big")
        host.raw.send(wire.frame(wire.BINARY, head + b"x") * far.credit)
        host.settle()
        assert not far.inbox
        host.raw.send(wire.frame(wire.BINARY, head) * 100_000)
        assert far.closed()[0] == 4006
        host.settle()


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_message_is_put_together_up_to_messagebytes(make_relay, pieces):
    relay = make_relay(limits={"messageBytes": "64KiB"})
    relay.load("dialler", SCRIPT)
    with server(relay) as host, relay.connect() as client:
        dial(client, "box")
        far = host.opened().accept()
        far.send("x" * (64 << 10), most=(64 << 10) // pieces + 1)
        assert heard(relay, 2)[1] == ["message", "text", 64 << 10]
        far.send("x" * ((64 << 10) + 1), most=(64 << 10) // pieces + 1)
        assert far.closed()[0] == 1009
        assert heard(relay, 3)[2][:2] == ["close", 1009]
        host.settle()


def test_a_text_must_be_utf8(pair):
    relay, host, client = pair
    dial(client, "box")
    far = host.opened().accept()
    far.data("ü".encode()[:1], kind=TEXT | MORE)
    far.data("ü".encode()[1:], kind=TEXT)
    far.data(b"\xff", kind=TEXT)
    assert far.closed()[0] == 1007
    assert [note[:3] for note in heard(relay, 3)[1:]] == [
        ["message", "text", "ü"], ["close", 1007, "a text is not valid UTF-8"]]


def test_callbacks_may_send_close_and_dial(pair):
    """CASES 22: what a callback asks for happens behind it."""
    relay, host, client = pair
    relay.load("eager", """
        order = {}
        local function note(text) order[#order + 1] = text end
        relay.instruction { "begin", function()
          local first = relay.dial("box", 1, {
            open = function(channel) channel:send("opened") note("open") end,
            message = function(channel, data)
              note(data)
              channel:send(data)
              if data == "enough" then
                note(tostring(channel:close(4000)) .. tostring(channel:close(4001)) .. channel:send("late"))
              end
            end,
            close = function(channel, code)
              note(tostring(code))
              relay.dial("box", 2, { open = function(channel) channel:close() end, close = function() note("end") end })
            end
          })
        end }""")
    client.request("begin")
    far = host.opened().accept()
    assert far.receive() == "opened"
    for text in ["a", "enough", "not heard"]:
        far.send(text)
    assert [far.receive(), far.receive()] == ["a", "enough"]
    assert far.closed() == (4000, "")
    second = host.opened().accept()
    assert second.closed() == (1000, "")
    eventually(lambda: relay.evaluate("order[#order]") == "end", "all has ended")
    assert json.loads(relay.evaluate("json.encode(order)")) == [
        "open", "a", "enough", "truefalsedropped", "4000", "end"]


def test_callbacks_that_fail_are_logged_and_the_channel_goes_on(pair):
    relay, host, client = pair
    relay.load("broken", """relay.instruction { "dial badly", function()
      relay.dial("box", 0, { message = function(channel, data)
        if data == "loop" then while true do end end
        if data == "fail" then error("no such thing") end
        channel:send(data)
      end, close = function() error("nor this") end })
    end }""")
    client.request("dial badly")
    far = host.opened().accept()
    for text in ["fail", "loop", "fine"]:
        far.send(text)
    assert far.receive() == "fine"
    far.close()
    relay.logs("no such thing")
    relay.logs("budget exceeded")
    relay.logs("nor this")
    relay.logs("dial message")
    relay.logs("dial close")


def test_channels_survive_changes_of_the_script_and_end_with_the_app(relay):
    relay.invoke("create app", named={"app": "other"})
    relay.load("dialler", SCRIPT, path="/app/other")
    with server(relay, path="/app/other") as host, relay.connect("/app/other") as client:
        channel = dial(client, "box")["channel"]
        far = host.opened().accept()
        relay.invoke("unload script", named={"name": "dialler"}, path="/app/other")
        far.send("still there?")
        eventually(lambda: relay.evaluate("#heard", path="/app/other") == 2, "the old callback runs")
        assert relay.evaluate(f"held[{channel}]:send('yes')", path="/app/other") == "queued"
        assert far.receive() == "yes"
        relay.invoke("remove app", named={"app": "other"})
        assert host.closed()[0] == 1001


def test_a_script_talks_to_servers_no_further_than_the_limit(make_relay):
    relay = make_relay(limits={"channelsPerConnection": 8})
    relay.load("dialler", SCRIPT)
    with server(relay) as host, server(relay, "second") as second, relay.connect() as client:
        for _ in range(8):
            assert "channel" in dial(client, "box")
        assert dial(client, "second") == {"code": "limit"}
        host.opened().reject(403)
        eventually(lambda: "channel" in dial(client, "second"), "there is room again")
        second.opened()


def test_dialling_and_hanging_up_over_and_over_leaves_nothing(relay):
    relay.load("churn", """relay.instruction { "churn", function(conn, count)
      for i = 1, count do
        local channel = relay.dial("box", 0, { close = function() closes = (closes or 0) + 1 end })
        if channel then made = (made or 0) + 1; channel:send("x"); channel:close() end
      end
    end }""")
    with server(relay) as host, relay.connect() as client:
        for round in range(40):
            client.request("churn", 50)
            while host.new or round == 0:
                host.opened().accept()
                if not host.new:
                    break
            host.settle()
        while True:
            host.settle()
            while host.new:
                host.new.popleft().accept()
            if relay.evaluate("closes == made"):
                break
        assert relay.evaluate("made") > 100
        no_channel_is_left(relay)


def test_what_callbacks_hold_is_given_back(make_relay):
    """A thousand times more than scriptMemory would hold."""
    relay = make_relay(limits={"scriptMemory": "8MiB"})
    relay.load("holder", """relay.instruction { "hold", function(conn, name)
      local memory = ("x"):rep(64 * 1024) .. relay.randomToken()
      return relay.dial(name, 0, { close = function() return #memory end }) ~= nil
    end }""")
    with server(relay) as host, relay.connect() as client:
        for _ in range(500):
            assert client.request("hold", "nobody") is False
            assert client.request("hold", "box") is True
            host.opened().reject(403)


def test_a_relay_that_drains_ends_what_scripts_have_dialled(make_relay):
    relay = make_relay()
    relay.load("dialler", SCRIPT)
    with server(relay) as host, relay.connect() as client:
        dial(client, "box")
        host.opened().accept()
        heard(relay, 1)
        relay.signal(15)
        assert host.closed()[0] == 1012
