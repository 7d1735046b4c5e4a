"""Orders of events that ends of channels meet seldom: answers within answers, connections that move while they speak,
and others that are gone when their turn comes."""

import contextlib
import json
import os
import signal
import socket
import threading

import pytest

import wire
from channels import (
    ACCEPT, BINARY, CLOSE, CREDIT, END, HOUR, MORE, OPEN, REJECT, TEXT, WINDOW, Closed, Peer, RawWebSocket, Rejected,
    apart, bearer, begun, channels, clean, code_and_reason, coded, decode, encode, joined, knock, let_in, no_channel_is_left,
    number, peer, raw_clean, server)
from conditions import DEADLINE, eventually
from relay import Relay
from test_pressure import narrow

MEBI = 1 << 20


def narrow_peer(relay, path="/"):
    """A multiplexed connection for which the kernel keeps little."""
    fields = ["Sec-WebSocket-Protocol: relay.v1", f"Authorization: Bearer {relay.admin}"]
    return Peer(RawWebSocket(narrow(relay, path=path, extra=fields)))


# Credit


def test_a_message_that_waits_for_credit_arrives_once_and_whole(make_relay):
    relay = make_relay(limits={"channelCreditBytes": "1KiB", **HOUR})
    message = os.urandom(64 << 10)
    with server(relay) as host, raw_clean(relay, host, credit=0) as (client, channel):
        channel.grants = False
        client.send(wire.frame(wire.BINARY, message))
        channel.grant(MEBI)
        assert channel.receive() == message
        client.send(wire.frame(wire.BINARY, message) * 4)
        assert [channel.receive() for _ in range(4)] == [message] * 4


def test_credit_that_is_granted_before_the_answer_is_not_lost(make_relay):
    relay = make_relay(loops=2)
    with server(relay) as host, peer(relay) as client:
        near = client.open("box", credit=0)
        near.grant(1000)
        client.settle()
        far = host.opened()
        assert far.credit == 0
        far.grant(500)
        far.accept(100)
        near.accepted().wait_for_credit(600)
        far.wait_for_credit(1000)
        near.data(b"x" * 600)
        far.data(b"y" * 1000)
        assert (far.receive(), near.receive()) == (b"x" * 600, b"y" * 1000)


def test_a_connection_that_is_both_ends_of_a_channel_reads_slowly(make_relay):
    relay = make_relay(limits=HOUR)
    total = 2 * MEBI
    with narrow_peer(relay, "/s/self") as both:
        near = both.open("self", credit=total)
        far = both.opened().accept(total)
        near.accepted()
        near.grants = far.grants = False
        sent, received = 0, 0
        message = os.urandom(60_000)
        for _ in range(30):
            while near.credit < len(message):
                both.pump()
            near.data(message)
        for _ in range(30):
            assert far.receive() == message


def test_what_waits_for_credit_goes_on_while_the_server_is_being_sent_to(make_relay):
    relay = make_relay(limits=HOUR)
    message = os.urandom(3 * MEBI)
    with narrow_peer(relay, "/s/box") as host, raw_clean(relay, host, credit=4 * MEBI) as (client, channel):
        channel.grants = False
        sending = begun(client.send, wire.frame(wire.BINARY, message))
        assert channel.receive() == message
        sending.result(DEADLINE)


def test_a_limit_that_shrinks_stops_no_channel(make_relay, tmp_path):
    config = tmp_path / "relayd.yaml"
    config.write_text("limits:\n  channelCreditBytes: 256KiB\n")
    relay = make_relay("--config", config, limits=HOUR)
    with server(relay) as host, peer(relay) as client, clean(relay, host) as (plain, far):
        near, other = joined(client, host)
        config.write_text("limits:\n  channelCreditBytes: 1KiB\n")
        relay.signal(signal.SIGHUP)
        relay.logs("reloaded configuration")
        message = os.urandom(MEBI)
        begun(plain.send, message)
        assert far.receive() == message
        received = begun(plain.receive)
        far.send(message)
        assert received.result(DEADLINE) == message
        begun(near.send, message)
        assert other.receive() == message


# Moving


def home_and_away(relay, stack):
    """A server that stays on the first loop, and one that has moved to the other."""
    hosts = []
    for name in ("home", "away"):
        host = stack.enter_context(narrow_peer(relay, f"/s/{name}"))
        client = stack.enter_context(peer(relay))
        joined(client, host, name)
        hosts.append(host)
    return hosts


SPEAKING = """
  relay.instruction { "fill", function(conn, server, count)
    local target = relay.server(server)
    local text = ("x"):rep(1 << 16)
    for _ = 1, count do target:send(text) end
  end }
  relay.instruction { "spin", function(conn, seconds)
    local until_ = relay.monotonic() + seconds
    while relay.monotonic() < until_ do end
    return true
  end }
"""


@pytest.mark.parametrize("way", ["vanishes", "reads"])
def test_who_waits_for_a_connection_elsewhere_goes_on_when_it(make_relay, way):
    relay = make_relay(loops=2, limits=HOUR, scripts=[])
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack, relay.connect() as caller:
        _, away = home_and_away(relay, stack)
        caller.send_json({"instruction": "fill", "parameters": ["away", 128]})
        caller.send_json({"instruction": "spin", "parameters": [0], "id": 1})
        if way == "vanishes":
            away.raw.reset()
        else:
            for _ in range(128):
                away.raw.read_fragment()
        assert caller.receive_json() == {"id": 1, "result": True}


def test_a_connection_that_is_about_to_read_on_moves(make_relay):
    relay = make_relay(loops=2, limits={**HOUR, "burst": "1s"})
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack:
        home_and_away(relay, stack)
        for _ in range(20):
            client = stack.enter_context(peer(relay, raw=True))
            spin = json.dumps({"instruction": "spin", "parameters": [0.02], "id": "s"}).encode()
            ask = encode(OPEN, 1, json.dumps({"server": "away", "port": 1}).encode())
            client.raw.send(
                wire.frame(wire.TEXT, spin) + wire.frame(wire.BINARY, ask) + wire.frame(wire.TEXT, spin)
                + wire.frame(wire.TEXT, spin) * 3)
            for _ in range(5):
                while not client.texts:
                    client.pump()
                assert json.loads(client.texts.popleft()) == {"id": "s", "result": True}
            client.settle()


# Backlogs


def test_a_backlog_of_channels_is_in_nobodys_way(make_relay):
    """More waits in the queues of channels than outboundHighBytes: pings are answered, instructions run, whoever sends
    texts goes on."""
    relay = make_relay(limits={**HOUR, "outboundHighBytes": "512KiB", "outboundLowBytes": "128KiB"})
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack, narrow_peer(relay, "/s/slow") as slow, relay.connect() as caller:
        near = [joined(stack.enter_context(peer(relay)), slow, "slow")[0] for _ in range(8)]
        for channel in near:
            channel.data(b"x" * WINDOW)
            channel.peer.settle()
        slow.raw.send(wire.frame(wire.PING, "are you there?"))
        caller.request("fill", "slow", 1)
        assert caller.request("spin", 0) is True
        kinds = []
        while "text" not in kinds or wire.PONG not in kinds:
            opcode, payload, _ = slow.raw.read_fragment()
            kinds.append("text" if opcode == wire.TEXT else opcode)
        assert kinds.count(wire.BINARY) < 64  # Most of what waits comes behind them, in frames of up to 16 KiB.
        assert slow.request("spin", 0)["result"] is True


# Clients that a script connects


CONNECTING = """
  relay.instruction { "wait", function(conn) waiting = conn return true end }
  relay.instruction { "count", function(conn) counted = (counted or 0) + 1 end }
  relay.instruction { "connect", function(conn, server) return relay.connect(waiting, server, 1) end }
"""


@pytest.mark.parametrize("loops", [1, 2])
def test_a_ticket_is_an_answer_for_a_client_that_a_script_has_connected(make_relay, loops):
    relay = make_relay(loops=loops)
    relay.load("connecting.lua", CONNECTING)
    with contextlib.ExitStack() as stack, relay.connect() as client, relay.connect() as operator:
        host = home_and_away(relay, stack)[-1]
        assert client.request("wait") is True
        assert operator.request("connect", "away") is True
        client.send("sent before the answer")
        with relay.connect(f"/a/{host.opened().fields['ticket']}") as dedicated:
            assert dedicated.receive() == "sent before the answer"
            dedicated.send("welcome")
            assert client.receive() == "welcome"
            client.send("thanks")
            assert dedicated.receive() == "thanks"


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("answer", ["accepts", "uses the ticket"])
def test_a_message_that_began_before_its_channel_is_the_apps_to_its_end(make_relay, loops, answer):
    relay = make_relay(loops=loops)
    relay.load("connecting.lua", CONNECTING)
    count = json.dumps({"instruction": "count"}).encode()
    with contextlib.ExitStack() as stack, relay.raw(upgraded=True) as client, relay.connect() as operator:
        host = home_and_away(relay, stack)[-1]
        client.send(wire.frame(wire.TEXT, json.dumps({"instruction": "wait", "id": 1})))
        client.read_message()
        client.send(wire.frame(wire.TEXT, count[:10], fin=False) + wire.frame(wire.PING))
        assert client.read_frame()[0] == wire.PONG  # So the first part has been read.
        assert operator.request("connect", "away") is True
        client.send(wire.frame(wire.CONTINUATION, count[10:]) + wire.frame(wire.TEXT, "hello"))
        channel = host.opened()
        if answer == "accepts":
            assert channel.accept().receive() == "hello"
        else:
            with relay.connect(f"/a/{channel.fields['ticket']}") as dedicated:
                assert dedicated.receive() == "hello"
        eventually(lambda: relay.evaluate("return counted") == 1, "the app has it")


# Clients that are gone


@pytest.mark.parametrize("loops", [1, 2])
def test_a_client_that_goes_while_a_script_decides_is_no_end_of_a_channel(make_relay, loops):
    relay = make_relay(loops=loops, limits={**HOUR, "burst": "1s"}, log_level="info")
    relay.load("speaking.lua", SPEAKING)
    relay.load("deciding.lua", """
      asked = 0
      relay.on("connect", function(conn, server)
        if server ~= "slow" then return end
        asked = asked + 1
        relay.sleep(0.2)
        decided = asked
        return true
      end)
    """)
    with contextlib.ExitStack() as stack, relay.connect() as operator:
        host = home_and_away(relay, stack)[-1]
        slow = stack.enter_context(server(relay, "slow"))
        before = relay.descriptors
        for count in range(1, 4):
            client = knock(relay, "slow")
            eventually(lambda: relay.evaluate("return asked") == count, "the script was asked")
            # Both come in the turn that follows: that the client is gone, and that its time is over.
            operator.send_json({"instruction": "spin", "parameters": [0.4], "id": 1})
            client.reset()
            operator.receive()
            eventually(lambda: relay.evaluate("return decided") == count, "the script has decided")
        slow.settle()
        host.settle()
        for channel in slow.new:  # It was asked only where the client was still there.
            channel.closed()
        assert len(channels(relay)) == 2  # Those that keep `home` and `away` where they are.
        eventually(lambda: relay.descriptors <= before, "they are gone")


# Connections away from their app


def moved(relay, stack, **options):
    """A client that lives on the other loop than its app."""
    home_and_away(relay, stack)
    client = stack.enter_context(peer(relay, **options))
    client.open("away")  # It need not be answered: the client joins the loop of its server to ask.
    client.settle()
    return client


def test_who_sends_much_from_elsewhere_takes_turns_with_others(make_relay):
    relay = make_relay(loops=2, limits=HOUR)
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack, relay.connect() as other:
        client = moved(relay, stack, raw=True)
        spin = json.dumps({"instruction": "spin", "parameters": [0.009], "id": "s"})
        count = 150
        client.raw.send(wire.frame(wire.TEXT, spin) * count)
        while not client.texts:
            client.pump()
        assert other.request("spin", 0) is True
        # What was answered before that is in the socket, or soon will be; what is behind this is not.
        client.raw.send(wire.frame(wire.PING))
        answered = 1
        while True:
            opcode, _, _ = client.raw.read_fragment()
            if opcode == wire.PONG:
                break
            answered += opcode == wire.TEXT
        assert answered < count


@pytest.mark.parametrize("what", ["instructions", "opens"])
def test_calls_that_one_connection_has_suspended_are_as_few_from_elsewhere(make_relay, what):
    relay = make_relay(loops=2, limits=HOUR)
    relay.load("holding.lua", """
      running, most = 0, 0
      local function hold()
        running = running + 1
        most = math.max(most, running)
        while not free do relay.sleep(0.05) end
        running = running - 1
      end
      relay.instruction { "hold", hold }
      relay.on("connect", function(_, server) if server == "nobody" then hold() return false end end)
    """)
    with contextlib.ExitStack() as stack:
        client = moved(relay, stack, raw=True)
        hold = wire.frame(wire.TEXT, json.dumps({"instruction": "hold"}))
        if what == "opens":
            ask = json.dumps({"server": "nobody", "port": 1}).encode()
            frames = b"".join(
                wire.frame(wire.BINARY, encode(OPEN, channel, ask))
                + wire.frame(wire.BINARY, encode(CLOSE, channel, coded(1000)))
                for channel in range(3, 10_003, 2))
        else:
            frames = hold * 5_000
        sending = begun(client.raw.send, frames + wire.frame(wire.PING))
        eventually(lambda: relay.evaluate("return most") >= 256, "many are held")
        held = eventually(
            lambda: (now := relay.evaluate("return most")) == relay.evaluate("return most") and now, "no more come")
        assert held <= 2 * 256 + 1
        relay.evaluate("free = true")
        while client.raw.read_fragment()[0] != wire.PONG:
            pass
        sending.result(DEADLINE)


# Who opens and closes, over and over


def churn(relay, client, server_name, count):
    """Opens and closes so many channels, one after the other; returns when the relay has seen all of it."""
    ask = json.dumps({"server": server_name, "port": 1}).encode()
    reading = begun(lambda: [None for _ in iter(lambda: client.raw.read_fragment()[0], wire.PONG)])
    for start in range(3, 2 * count, 2000):
        client.raw.send(b"".join(
            wire.frame(wire.BINARY, encode(OPEN, channel, ask))
            + wire.frame(wire.BINARY, encode(CLOSE, channel, coded(1000))) for channel in range(start, start + 2000, 2)))
    client.raw.send(wire.frame(wire.PING))
    reading.result(4 * DEADLINE)


@pytest.mark.parametrize("loops", [1, 2])
def test_a_server_that_reads_slowly_is_not_flooded_with_opens(make_relay, loops):
    relay = make_relay(loops=loops, limits=HOUR, log_level="info")
    with narrow_peer(relay, "/s/box") as host, peer(relay, raw=True) as client:
        client.open("box")
        host.opened()
        before = relay.resident_bytes
        churn(relay, client, "box", 100_000)
        assert relay.resident_bytes - before < 12 * MEBI
        (listed,) = [entry for entry in relay.listed("connections") if entry["path"] == "/s/box"]
        assert listed["queuedBytes"] < 2 * MEBI
        host.settle()
        assert host.new and all(channel.closed()[0] == 1000 for channel in host.new)
        host.new.clear()
        client.send(OPEN, 1_000_001, json.dumps({"server": "box", "port": 2}).encode())
        assert host.opened().fields["port"] == 2


def test_what_waits_for_a_server_to_move_is_bounded(make_relay):
    relay = make_relay(loops=2, limits={**HOUR, "channelsPerConnection": "100"}, log_level="info")
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack, peer(relay, raw=True) as client:
        home, _ = home_and_away(relay, stack)
        joined(stack.enter_context(peer(relay)), home, "home")  # The next server goes to the other loop.
        stuck = stack.enter_context(narrow_peer(relay, "/s/stuck"))
        relay.evaluate('for _ = 1, 12 do relay.server("stuck"):send(("x"):rep(1 << 16)) end')
        joined(client, home, "home")
        before = relay.resident_bytes
        churn(relay, client, "stuck", 200_000)
        assert relay.resident_bytes - before < 12 * MEBI
        while isinstance(stuck.message(), str):
            pass  # What it was sent before; then it is asked.


def test_mail_from_loop_to_loop_is_bounded(make_relay):
    relay = make_relay(loops=2, limits={**HOUR, "burst": "2s"}, log_level="info")
    relay.load("speaking.lua", SPEAKING)
    with contextlib.ExitStack() as stack, relay.connect() as operator:
        home, away = home_and_away(relay, stack)
        client = stack.enter_context(peer(relay, raw=True))
        joined(client, away, "away")
        channels_ = [joined(client, home, "home") for _ in range(8)]
        for near, far in channels_:
            far.grants = False
        relay.forget_peak()
        before = relay.peak_bytes
        small = [wire.frame(wire.BINARY, encode(BINARY, near.number, b"x")) for near, _ in channels_]
        operator.send_json({"instruction": "spin", "parameters": [1.5], "id": 1})
        sending = begun(client.raw.send, b"".join(frame * 100_000 for frame in small))
        operator.receive()
        assert relay.peak_bytes - before < 48 * MEBI
        for _, far in channels_:
            for _ in range(100_000):
                assert far.frame().payload == b"x"
        sending.result(DEADLINE)


def test_a_server_that_is_always_being_sent_to_moves_all_the_same(make_relay):
    relay = make_relay(loops=2, limits=HOUR, log_level="info")
    relay.load("saying.lua", 'relay.instruction { "say", function(_, text) relay.server("busy"):send(text) end }')
    say = wire.frame(wire.TEXT, json.dumps({"instruction": "say", "parameters": ["x" * 1000]}))
    with contextlib.ExitStack() as stack:
        home, _ = home_and_away(relay, stack)
        joined(stack.enter_context(peer(relay)), home, "home")  # The next server goes to the other loop.
        busy = stack.enter_context(narrow_peer(relay, "/s/busy"))
        talkers = [stack.enter_context(relay.raw(upgraded=True)) for _ in range(4)]
        is_asked = threading.Event()

        def talk(raw):
            while not is_asked.is_set():
                raw.send(say * 10)
        talking = [begun(talk, raw) for raw in talkers]
        for _ in range(1000):
            assert isinstance(busy.message(), str)
        client = stack.enter_context(peer(relay))
        near = client.open("busy")
        reading = begun(lambda: busy.opened().accept())
        try:
            reading.result(DEADLINE)
        finally:
            is_asked.set()
        near.accepted()
        begun(busy.closed)  # Reads whatever is left.
        for talker in talking:
            talker.result(DEADLINE)
