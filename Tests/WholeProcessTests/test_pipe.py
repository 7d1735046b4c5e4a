"""relay.pipe: what one connection sends goes to another, frame by frame, and no script sees it."""

import contextlib
import itertools
import json
import random
import signal
import socket
import struct
import threading

import pytest

from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

PIPE = TEST_SCRIPTS / "pipe.lua"
GONE = (4004, "the other end of the pipe is gone")


@pytest.fixture(scope="module")
def pipes():
    with Relay(scripts=[PIPE], limits={"messageBytes": "64KiB"}) as relay:
        yield relay


def request(instruction, *positional, identifier="r"):
    return frame(TEXT, json.dumps({"instruction": instruction, "parameters": positional, "id": identifier}))


def ask(raw, instruction, *positional):
    raw.send(request(instruction, *positional))
    return json.loads(raw.read_message())["result"]


@contextlib.contextmanager
def raw_pair(relay, urls=(None, None), join=True, **options):
    """Two connections for bytes, piped to each other."""
    with relay.raw(url=urls[0], upgraded=True, path="/?one", **options) as one, \
            relay.raw(url=urls[1], upgraded=True, path="/?other", **options) as other:
        ask(other, "wait", "raw")
        if join:
            assert ask(one, "join", "raw") is True
        yield one, other


@contextlib.contextmanager
def pair(relay, urls=(None, None)):
    with relay.connect(url=urls[0]) as one, relay.connect(url=urls[1]) as other:
        other.request("wait", "clients")
        assert one.request("join", "clients", "welcome") is True
        assert other.receive() == "welcome"  # What was sent before the pipe comes first.
        yield one, other


def through(one, other, opcode, payload):
    one.send(frame(opcode, payload))
    expected = payload.encode() if isinstance(payload, str) else payload
    assert other.read_frame() == (opcode, expected)


# Messages


def test_text_and_binary_go_both_ways_and_instructions_are_messages_like_others(pipes):
    with pair(pipes) as (one, other):
        for message in ["", "text", "κόσμε 🦊", b"", b"\x00\xff", '{"instruction": "wait", "id": 1}', "x" * 125,
                        b"y" * 126, "z" * 65535, b"\x80" * 65536, b"larger than messageBytes" * 100_000]:
            for source, target in [(one, other), (other, one)]:
                source.send(message)
                assert target.receive() == message


@pytest.mark.parametrize("schemes", [("ws", "ws"), ("wss", "ws"), ("ws", "wss"), ("wss", "wss")])
def test_ten_thousand_messages_of_all_sizes_arrive_intact_and_in_order(schemes):
    listen = [f"{scheme}://127.0.0.1:0" for scheme in schemes]
    with Relay("--tls-self-signed", listen=listen, scripts=[PIPE]) as relay, pair(relay, relay.urls) as (one, other):
        choose = random.Random(4)
        sizes = [choose.choice([0, 1, 20, 64, 125, 126, 1000, 5000]) for _ in range(10_000)]
        sizes[::1000] = [300_000] * 10
        noise = choose.randbytes(400_000)

        def message(number):
            data = struct.pack("!I", number) + noise[number:number + sizes[number]]
            return data if number % 2 else data.hex()

        sender = threading.Thread(target=lambda: [one.send(message(number)) for number in range(len(sizes))])
        sender.start()
        for number in range(len(sizes)):
            assert other.receive() == message(number), number
        sender.join()
        other.send("done")
        assert one.receive() == "done"


def test_fragments_stay_fragments_and_control_frames_between_them_stay_here(pipes):
    with raw_pair(pipes) as (one, other):
        one.send(
            frame(TEXT, "frag", fin=False) + frame(PING, "1") + frame(CONTINUATION, "", fin=False)
            + frame(PONG, "?") + frame(CONTINUATION, b"x" * 70_000, fin=False) + frame(PING, "2")
            + frame(CONTINUATION, "ted") + frame(BINARY, b"\xff"))
        assert [one.read_frame(), one.read_frame()] == [(PONG, b"1"), (PONG, b"2")]
        assert [other.read_fragment() for _ in range(5)] == [
            (TEXT, b"frag", False), (CONTINUATION, b"", False), (CONTINUATION, b"x" * 70_000, False),
            (CONTINUATION, b"ted", True), (BINARY, b"\xff", True)]


def test_a_message_goes_on_before_it_is_whole(pipes):
    with raw_pair(pipes) as (one, other):
        data = frame(BINARY, b"z" * 200_000)
        one.send(data[:3])
        one.send(data[3:14])
        assert other.read(10) == b"\x82\x7f" + struct.pack("!Q", 200_000)
        for at in range(14, len(data), 50_000):
            piece = data[at:at + 50_000]
            one.send(piece)
            assert other.read(len(piece)) == b"z" * len(piece)


def test_text_is_the_receivers_to_validate(pipes):
    with raw_pair(pipes) as (one, other):
        through(one, other, TEXT, b"\xff\xfe")


# Where it begins


def test_what_follows_in_the_same_segment_is_forwarded(pipes):
    with raw_pair(pipes, join=False) as (one, other):
        one.send(frame(TEXT, "1") + request("join", "raw") + b"".join(frame(TEXT, str(n)) for n in range(2, 500)))
        assert one.read_message() == "for the app: 1"
        assert json.loads(one.read_message()) == {"id": "r", "result": True}
        assert [other.read_frame() for _ in range(2, 500)] == [(TEXT, str(n).encode()) for n in range(2, 500)]


def test_a_message_that_began_before_is_the_apps_to_its_end(pipes):
    with raw_pair(pipes, join=False) as (one, other):
        other.send(frame(TEXT, "be", fin=False) + frame(PING, "read"))
        assert other.read_frame() == (PONG, b"read")
        assert ask(one, "join", "raw") is True
        pipes.evaluate("counted = 0")
        other.send(frame(CONTINUATION, "fore", fin=False) + frame(CONTINUATION, "") + frame(TEXT, "forwarded"))
        assert one.read_frame() == (TEXT, b"forwarded")
        through(one, other, TEXT, "and back")  # What the app sends to it now is dropped.


def test_a_head_that_was_cut_by_the_beginning_is_forwarded(pipes):
    with raw_pair(pipes, join=False) as (one, other):
        data = frame(PING, "a ping that takes a while") + frame(BINARY, b"y" * 1000)
        other.send(frame(PING, "read") + data[:36])
        assert other.read_frame() == (PONG, b"read")
        assert other.read_frame() == (PONG, b"a ping that takes a while")
        assert ask(one, "join", "raw") is True
        other.send(data[36:])
        assert one.read_frame() == (BINARY, b"y" * 1000)


def test_a_replaced_instruction_or_script_changes_nothing(make_relay):
    relay = make_relay(scripts=[PIPE])
    with pair(relay) as (one, other):
        for number in range(5):
            relay.load("more.lua", f"relay.on('message', function(conn) conn:send('{number}') end)")
            relay.load("pipe.lua", f"relay.instruction {{ 'join', function(conn) return {number} end }}")
            one.send(f"{number}")
            assert other.receive() == f"{number}"
            other.send(f"back {number}")
            assert one.receive() == f"back {number}"
        assert relay.invoke("join") == 4


# What scripts may


def test_scripts_send_nothing_between_and_no_hook_sees_a_message(make_relay):
    relay = make_relay(scripts=[PIPE])
    with pair(relay) as (one, other):
        one.send("unseen")
        assert other.receive() == "unseen"
        sent = "return { waiting.clients:send('a'), waiting.clients:sendBinary('a'), waiting.clients:isOpen() }"
        assert relay.evaluate(sent) == ["dropped", "dropped", True]
        assert relay.evaluate("return waiting.clients:close(4321, 'enough')") is True
        assert other.closed() == (4321, "enough")
        assert one.closed() == GONE
        relay.logs("code=4321")
        relay.logs("code=4004")


def test_an_answer_that_comes_when_something_has_been_forwarded_is_dropped(make_relay):
    relay = make_relay(scripts=[PIPE])
    with raw_pair(relay, join=False) as (one, other):
        one.send(request("join, answer late", "raw"))
        eventually(lambda: relay.evaluate("return isLate") is False, "they are piped")
        other.send(frame(TEXT, "half of a message", fin=False))
        assert one.read_fragment() == (TEXT, b"half of a message", False)
        relay.evaluate("isLate = true")
        eventually(lambda: relay.evaluate("return isOver"), "the call has ended")
        other.send(frame(CONTINUATION, "the other half"))
        assert one.read_fragment() == (CONTINUATION, b"the other half", True)


def test_what_cannot_be_piped_is_refused_with_a_code(make_relay):
    relay = make_relay(scripts=[PIPE])
    with pair(relay) as (one, other), relay.connect() as third:
        assert third.request("join", "clients") == "conflict"
        assert third.request("join", "nobody") == "bad_parameters"
        third.request("wait", "third")
        assert third.request("join", "third") == "bad_parameters"
        code = "return { select(2, relay.pipe(waiting.%s, waiting.%s)) }"
        assert relay.evaluate(code % ("clients", "third")) == ["conflict"]
        third.close()
        eventually(lambda: relay.evaluate("return waiting.third:isOpen()") is False, "it is gone")
        assert relay.evaluate(code % ("third", "clients")) == ["not_found"]
        one.send("still")
        assert other.receive() == "still"


@pytest.mark.parametrize("body", [
    "relay.after(0.001, function() relay.pipe(a, b) b = nil end)",
    "relay.on('message', function(conn, data) if data == 'now' and b then relay.pipe(a, b) b = nil end end)",
])
def test_timers_and_hooks_make_pipes_too(make_relay, body):
    relay = make_relay()
    start = body if "after" in body else ""
    hook = "" if start else body
    relay.load("late.lua", f"""
      relay.on("open", function(conn) if conn.query == "a" then a = conn elseif conn.query == "b" then b = conn end end)
      {hook}
    """)
    with relay.raw(upgraded=True, path="/?a") as one, relay.raw(upgraded=True, path="/?b") as other:
        eventually(lambda: relay.evaluate("return a ~= nil and b ~= nil"), "both are there")
        if start:
            relay.evaluate(start)
        else:
            other.send(frame(TEXT, "now"))
        eventually(lambda: relay.evaluate("return b == nil"), "they are piped")
        through(one, other, TEXT, "hello")
        through(other, one, BINARY, b"hello")


# The end


@pytest.mark.parametrize("code, reason", [(1000, ""), (1000, "done"), (4321, "κόσμε"), (None, "")])
def test_a_close_is_answered_and_passed_on_behind_all_that_was_sent(pipes, code, reason):
    with raw_pair(pipes) as (one, other):
        one.send(b"".join(frame(BINARY, bytes([n]) * 1000) for n in range(100)) + close_frame(code, reason))
        assert [other.read_frame() for n in range(100)] == [(BINARY, bytes([n]) * 1000) for n in range(100)]
        assert other.read_close() == (code, reason)
        other.send(frame(TEXT, "too late") + close_frame(code, reason))
        assert one.expect_close(code)[0] == code
        other.expect_end()


@pytest.mark.parametrize("end", ["reset", "end of stream", "violation", "kick"])
def test_who_vanishes_takes_the_other_end_along_with_4004(pipes, end):
    with raw_pair(pipes) as (one, other):
        through(one, other, TEXT, "before")
        one.send(frame(TEXT, "last"))
        assert other.read_frame() == (TEXT, b"last")
        if end == "reset":
            one.reset()
        elif end == "end of stream":
            one.socket.shutdown(socket.SHUT_WR)
        elif end == "violation":
            one.send(frame(BINARY, b"behind", rsv=4))
            assert one.read_close()[0] == 1002
        else:
            with pipes.operator() as admin:
                connections = sorted(entry["connection"] for entry in admin.request("connections"))
                admin.request("close connection", named={"connection": connections[-3]})  # one, other, admin.
                assert one.read_close()[0] == 4007
        assert other.read_close() == GONE
        other.send(close_frame(4004))
        other.expect_end()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_who_vanishes_within_a_frame_leaves_no_way_to_say_so(scheme):
    with Relay("--tls-self-signed", listen=[f"{scheme}://127.0.0.1:0"], scripts=[PIPE]) as relay:
        with raw_pair(relay) as (one, other):
            data = frame(BINARY, b"x" * 100_000)
            one.send(frame(TEXT, "whole") + data[:50_000])
            assert other.read_frame() == (TEXT, b"whole")
            assert other.read(10) == b"\x82\x7f" + struct.pack("!Q", 100_000)
            assert other.read(50_000 - 14) == b"x" * (50_000 - 14)
            other.send(frame(PING, "owed") + frame(TEXT, "seen"))
            assert one.read_frame() == (TEXT, b"seen")
            one.reset() if scheme == "ws" else one.socket.close()
            # No pong, no close frame, nothing that would pass for payload.
            other.expect_end()
        eventually(lambda: relay.log.count("code=4004") == 1, "the close hook hears of it")


@pytest.mark.parametrize("rule", [
    frame(CONTINUATION, "of nothing"), frame(BINARY, "x", rsv=1), frame(3, "x"), frame(TEXT, "x", key=None),
    frame(PING, b"x" * 126, length_bytes=2), frame(BINARY, b"x", length_bytes=2), frame(PING, "", fin=False),
    frame(PONG, "") + frame(CONTINUATION, "x" * 200), close_frame(1005),
])
def test_rules_of_framing_hold_within_a_pipe(pipes, rule):
    with raw_pair(pipes) as (one, other):
        one.send(frame(TEXT, "good") + rule)
        assert one.read_close()[0] == 1002
        assert other.read_frame() == (TEXT, b"good")
        assert other.read_close() == GONE


def test_messages_per_second_are_limited(make_relay):
    relay = make_relay(scripts=[PIPE], limits={"messagesPerSecond": "100"})
    with raw_pair(relay) as (one, other):
        one.send(b"".join(frame(TEXT, str(number)) for number in range(300)))
        assert one.read_close()[0] == 4006
        count = 0
        while (step := other.read_frame())[0] == TEXT:
            assert step[1] == str(count).encode()
            count += 1
        assert count < 200
        assert step == (CLOSE, struct.pack("!H", 4004) + GONE[1].encode())


def test_a_relay_that_drains_tells_both_ends_1012(make_relay):
    relay = make_relay(scripts=[PIPE], drain="2s")
    with pair(relay) as (one, other):
        relay.signal(signal.SIGTERM)
        assert one.closed()[0] == 1012
        assert other.closed()[0] == 1012
    assert relay.wait() == 0


def test_an_app_that_is_removed_tells_both_ends_1001(make_relay):
    relay = make_relay()
    relay.invoke("create app", named={"app": "gone"})
    relay.load("pipe.lua", PIPE.read_text(), path="/app/gone")
    with relay.connect("/app/gone") as one, relay.connect("/app/gone") as other:
        other.request("wait", "x")
        assert one.request("join", "x") is True
        relay.invoke("remove app", named={"app": "gone"})
        assert (one.closed()[0], other.closed()[0]) == (1001, 1001)


def test_a_revoked_credential_ends_the_pipe(make_relay):
    relay = make_relay(scripts=[PIPE])
    with relay.operator() as admin:
        made = admin.request("create credential", named={"rights": ["connect:*:*"]})
        with relay.connect(additional_headers={"Authorization": f"Bearer {made['credential']}"}) as one, \
                relay.connect() as other:
            other.request("wait", "x")
            one.request("join", "x")
            admin.request("revoke credential", named={"id": made["id"]})
            assert one.closed()[0] == 4002
            assert other.closed() == GONE


# While a frame is on its way


def test_nothing_falls_into_a_frame_that_is_half_sent(pipes):
    with raw_pair(pipes) as (one, other):
        data = frame(BINARY, b"y" * 100_000)
        one.send(data[:50_000])
        other.read(10 + 50_000 - 14)
        other.send(frame(PING, "older") + frame(PING, "newer") + frame(TEXT, "the other way"))
        assert one.read_frame() == (TEXT, b"the other way")  # Both pings have been seen.
        one.send(data[50_000:80_000])
        assert other.read(30_000) == b"y" * 30_000
        one.send(data[80_000:] + frame(TEXT, "next"))
        assert other.read(len(data) - 80_000) == b"y" * (len(data) - 80_000)
        assert other.read_frame() == (PONG, b"newer")
        assert other.read_frame() == (TEXT, b"next")
        other.send(frame(PING, "at once"))
        assert other.read_frame() == (PONG, b"at once")


@pytest.mark.parametrize("who", ["script", "peer"])
def test_a_close_waits_for_the_end_of_the_frame(pipes, who):
    with raw_pair(pipes) as (one, other):
        data = frame(BINARY, b"y" * 100_000)
        one.send(data[:50_000])
        other.read(10 + 50_000 - 14)
        if who == "script":
            pipes.evaluate("waiting.raw:close(4321, 'enough')")
            assert one.read_close() == GONE
        else:
            other.send(close_frame(4321, "enough"))
            assert one.read_close() == (4321, "enough")
        one.send(data[50_000:] + frame(TEXT, "nobody is there for this") + close_frame(1000))
        assert other.read(50_014) == b"y" * 50_014
        assert other.expect_close(4321)[0] == 4321 if who == "peer" else other.read_close() == (4321, "enough")
        one.expect_end()


def test_a_ping_of_the_relay_waits_and_silence_is_forgiven_meanwhile():
    limits = {"pingInterval": "200ms", "idleTimeout": "600ms"}
    with Relay(scripts=[PIPE], limits=limits) as relay, raw_pair(relay) as (one, other):
        data = frame(BINARY, b"y" * 100)
        one.send(data[:-10])
        other.read(2 + 90)
        for at in range(-10, 0):  # More than two idle timeouts; each byte of the source is a sign of its life.
            assert one.read_frame() == (PING, b"")
            one.send(data[at:at + 1 or None])
            assert other.read(1) == b"y"
        assert other.read_frame() == (PING, b"")
        other.send(frame(PONG))
        through(one, other, TEXT, "alive")


# Back-pressure


PATIENT = {"slowConsumerDeadline": "1h", "pingInterval": "1h", "idleTimeout": "2h"}


def is_waiting(admin):
    return any(entry["waiting"] for entry in admin.request("connections"))


@pytest.mark.parametrize("size", [100, 3_000_000])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_source_waits_for_its_receiver_while_other_pairs_go_on(scheme, size):
    with Relay("--tls-self-signed", listen=[f"{scheme}://127.0.0.1:0"], scripts=[PIPE], limits=PATIENT) as relay:
        with relay.operator() as admin, pair(relay) as (busy, idle), raw_pair(relay) as (one, other):
            before = relay.resident_bytes
            count = 48_000_000 // size
            messages = (frame(BINARY, struct.pack("!I", number) + b"x" * size) for number in range(count))
            batch = 1000 if size < 1000 else 1

            def send():
                while block := b"".join(itertools.islice(messages, batch)):
                    one.send(block)

            sender = threading.Thread(target=send)
            sender.start()
            eventually(lambda: is_waiting(admin), "the source is read no further")
            for number in range(100):
                busy.send(str(number))
                assert idle.receive() == str(number)
            through(other, one, TEXT, "the other way is open")
            assert relay.peak_bytes - before < 16 << 20
            received = bytearray()
            for number in range(count):
                opcode, payload = other.read_frame() if size > 1000 else quick_frame(other, received)
                assert (opcode, len(payload)) == (BINARY, size + 4)
                assert struct.unpack("!I", payload[:4]) == (number,)
            sender.join()
            assert relay.peak_bytes - before < 16 << 20
            assert not is_waiting(admin)


def quick_frame(raw, kept):
    """A frame of up to 125 bytes, without copying all that has been received once more."""
    while len(kept) < 2 or len(kept) < 2 + kept[1]:
        data, raw.buffer = raw.buffer or raw.socket.recv(1 << 16), b""
        assert data
        kept += data
    opcode, payload = kept[0] & 0x0F, bytes(kept[2:2 + kept[1]])
    del kept[:2 + len(payload)]
    return opcode, payload


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_receiver_that_never_reads_is_closed_with_4003_and_its_source_with_4004(size):
    with Relay(scripts=[PIPE], limits={"slowConsumerDeadline": "300ms"}) as relay:
        with raw_pair(relay) as (one, other):
            before = relay.resident_bytes
            data = frame(BINARY, b"x" * size)
            end = threading.Event()

            def send():
                while not end.is_set() and one.try_send(data):
                    pass

            one.socket.settimeout(1)
            sender = threading.Thread(target=send)
            sender.start()
            relay.logs("slow consumer")
            end.set()
            sender.join()
            one.socket.settimeout(DEADLINE)
            assert one.read_close() == GONE
            assert other.read_close()[0] == 4003  # Once it reads, it is told, behind a whole frame.
            assert relay.peak_bytes - before < 16 << 20


def test_a_receiver_that_is_closed_within_an_endless_frame_is_cut_off():
    with Relay(scripts=[PIPE], limits={"slowConsumerDeadline": "300ms"}) as relay:
        with raw_pair(relay) as (one, other):
            before = relay.resident_bytes
            end = threading.Event()
            one.send(frame(BINARY, length=1 << 40, key=b"\0\0\0\0"))
            noise = b"x" * (1 << 20)

            def send():
                while not end.is_set() and one.try_send(noise):
                    pass

            sender = threading.Thread(target=send)
            sender.start()
            relay.logs("slow consumer")
            relay.logs("code=4003")
            end.set()
            sender.join()
            assert one.read_close() == GONE
            assert set(other.read_to_end()[10:]) <= {ord("x")}
            assert relay.peak_bytes - before < 16 << 20


def test_a_flood_of_pairs_that_come_and_go_leaves_nothing(make_relay):
    relay = make_relay(scripts=[PIPE], log_level="error")
    base = relay.descriptors
    choose = random.Random(9)
    data = frame(BINARY, b"q" * 5000)
    for _ in range(200):
        with raw_pair(relay) as (one, other):
            for raw in (one, other):
                raw.try_send(data * 3 + data[:choose.randrange(len(data))])
                if choose.random() < 0.5:
                    raw.reset()
    eventually(lambda: relay.descriptors <= base, "every descriptor is closed")
    assert relay.evaluate("return 1") == 1
