"""Too much of everything on channels: the relay answers on, keeps little, and has given back what it took."""

import contextlib
import json
import random

import pytest

import wire
from channels import (
    ACCEPT, BINARY, CLOSE, CREDIT, END, HOUR, MORE, OPEN, PING, REJECT, TEXT, begun, channels, coded, decode, encode,
    joined, knock, let_in, number, peer, raw_clean, server)
from conditions import DEADLINE, eventually
from echoes import Bystander
from relay import Relay
from test_channel_flow import narrow_clean, narrow_peer
from wire import frame

MEBI = 1 << 20
OPENING = json.dumps({"server": "box", "port": 22}).encode()
NOBODY = json.dumps({"server": "nobody", "port": 22}).encode()


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def dam(request):
    limits = {**HOUR, "connectionsPerAddress": "10000", "handshakeTimeout": "1h"}
    with Relay(loops=request.param, limits=limits, log_level="error") as relay, Bystander(relay) as bystander:
        relay.bystander = bystander
        yield relay
        eventually(lambda: len(channels(relay)) == 1, "only the bystander's channel is left")


@contextlib.contextmanager
def bounded(relay, peak=32 * MEBI):
    """While it lasts no more than `peak` is held; afterwards the descriptors are back."""
    descriptors = relay.descriptors
    relay.forget_peak()
    before = relay.resident_bytes
    yield
    grown = relay.peak_bytes - before
    assert grown < peak, f"{grown >> 20} MiB were held"
    eventually(lambda: relay.descriptors <= descriptors, "every descriptor is closed")
    relay.bystander.answers()


def flood(raw, message, count, batch=5000):
    """Sends many of the same, unmasked for speed; false when the relay has closed meanwhile."""
    one = frame(wire.BINARY, message, key=b"\0\0\0\0")
    for at in range(0, count, batch):
        if not raw.try_send(one * min(batch, count - at)):
            return False
    return True


# Empty messages


def test_a_million_empty_messages_arrive(dam):
    with bounded(dam), server(dam, raw=True) as host, raw_clean(dam, host) as (client, far):
        sending = begun(flood, host.raw, encode(TEXT, far.number), 1_000_000)
        left = 2_000_000
        while left:
            received = client.socket.recv(1 << 16)
            assert received and set(received) <= {0x81, 0}
            left -= len(received)
        assert sending.result(DEADLINE)
        far.close(4321)
        assert client.read_close()[0] == 4321


def test_a_million_empty_messages_of_a_clean_client_arrive(dam):
    with bounded(dam), server(dam, raw=True) as host, raw_clean(dam, host) as (client, far):
        sending = begun(lambda: [client.send(frame(wire.TEXT, "") * 5000) for _ in range(200)])
        expected = b"\x82\x05" + encode(TEXT, far.number)
        left, rest = 1_000_000, host.raw.buffer
        while left:
            whole = len(rest) // 7
            assert rest[:7 * whole] == expected * whole
            left, rest = left - whole, rest[7 * whole:]
            if left:
                rest += host.raw.socket.recv(1 << 16)
        host.raw.buffer = rest
        sending.result(DEADLINE)


@pytest.mark.parametrize("reader", ["clean", "multiplexed"])
@pytest.mark.parametrize("kind", [TEXT, TEXT | MORE], ids=["messages", "pieces"])
def test_empty_messages_to_one_who_does_not_read_hold_little(dam, reader, kind):
    """They use no credit, and still something has to bound them."""
    with server(dam, raw=True) as host, contextlib.ExitStack() as stack:
        with bounded(dam):
            if reader == "clean":
                raw, far = narrow_clean(dam, host)
                stack.enter_context(raw)
            else:
                client = stack.enter_context(narrow_peer(dam))
                near, far = joined(client, host)
            host.raw.socket.settimeout(2)  # The relay may choose to read it no further.
            flood(host.raw, encode(kind, far.number), 4_000_000)
            stack.close()
            host.raw.socket.close()


# Opens


def test_a_hundred_thousand_opens_to_nobody_are_answered(dam):
    with bounded(dam), peer(dam, raw=True) as client:
        count = 100_000
        sending = begun(open_many, client.raw, range(1, 2 * count, 2), NOBODY)
        for each in range(1, 2 * count, 2):
            answer = decode(client.raw.read_message())
            assert (answer.kind, answer.channel, answer.payload[:2]) == (REJECT, each, coded(502))
        sending.result(DEADLINE)


def open_many(raw, numbers, payload, batch=1000):
    """Opens a channel under each number; false when the relay has closed meanwhile."""
    numbers = list(numbers)
    for at in range(0, len(numbers), batch):
        block = b"".join(frame(wire.BINARY, encode(OPEN, each, payload), key=b"\0\0\0\0")
                         for each in numbers[at:at + batch])
        if not raw.try_send(block):
            return False
    return True


def test_a_hundred_thousand_opens_whose_answers_nobody_reads_hold_little(dam):
    with bounded(dam), narrow_peer(dam) as client:
        client.raw.socket.settimeout(2)
        open_many(client.raw, range(1, 200_000, 2), NOBODY)


def test_a_hundred_thousand_opens_to_a_server_that_never_answers_meet_the_limit(dam):
    with bounded(dam, 48 * MEBI), server(dam, raw=True) as host, peer(dam, raw=True) as client:
        count = 100_000
        sending = begun(open_many, client.raw, range(1, 2 * count, 2), OPENING)
        for _ in range(count - 4096):
            answer = decode(client.raw.read_message())
            assert (answer.kind, answer.payload[:2]) == (REJECT, coded(503))
        sending.result(DEADLINE)
        for _ in range(4096):
            host.opened()
        host.settle()
        assert not host.new
        client.raw.reset()
        for channel in list(host.channels.values()):
            assert channel.closed()[0] == 1006


def test_opens_and_closes_without_end_are_one_channel_each(dam):
    with bounded(dam), server(dam, raw=True) as host, peer(dam, raw=True) as client:
        for start in range(1, 20_001, 2000):
            numbers = range(start, start + 2000, 2)
            client.raw.send(b"".join(
                frame(wire.BINARY, encode(OPEN, each, OPENING)) + frame(wire.BINARY, encode(CLOSE, each, coded(4000)))
                for each in numbers))
            client.settle()
            host.settle()
            while host.new:  # Not every one has to be asked for: some were over before the relay had decided.
                assert host.new.popleft().closed()[0] == 4000
        eventually(lambda: len(channels(dam)) == 1, "all are over")


@pytest.mark.parametrize("answer", [(ACCEPT, number(5)), (REJECT, coded(404)), (CLOSE, coded(4000))])
def test_answers_that_cross_the_clients_close_leave_nothing(dam, answer):
    with bounded(dam), server(dam) as host, peer(dam) as client:
        for _ in range(200):
            near = client.open("box")
            far = host.opened()
            near.close(4321)
            host.send(answer[0], far.number, answer[1])
        host.settle()
        client.settle()
        eventually(lambda: len(channels(dam)) == 1, "all are over")


def test_clean_clients_that_come_and_go_leave_nothing(dam):
    choose = random.Random(3)
    with bounded(dam), server(dam) as host:
        for port in range(300):
            raw = knock(dam, port=port)
            way = choose.randrange(5)
            if way == 0:
                raw.reset()
                continue
            while (far := host.opened()).fields["port"] != port:
                pass  # One that has gone before it was asked for.
            if way == 1:
                far.reject(403)
                assert raw.read_response().status == 403
            elif way == 2:
                raw.reset()
                far.accept()
            else:
                far.accept()
                let_in(raw).try_send(frame(wire.BINARY, b"x" * 5000)[:choose.randrange(5000)])
                raw.reset() if way == 3 else far.close(4000)
            raw.socket.close()
        host.settle()
        eventually(lambda: len(channels(dam)) == 1, "all are over")


def test_connections_that_register_and_vanish_leave_nothing(dam):
    choose = random.Random(4)
    with bounded(dam), peer(dam) as client:
        for index in range(200):
            host = server(dam, f"box-{index % 3}", raw=True)
            near = client.open(f"box-{index % 3}")
            if choose.random() < 0.7:
                far = host.opened()
                if choose.random() < 0.7:
                    far.accept()
                    near.accepted().data(b"x" * 10_000)
            host.raw.reset() if choose.random() < 0.5 else host.raw.socket.close()
        eventually(lambda: len(channels(dam)) == 1, "all are over")
        client.settle()


# Frames that are answered


@pytest.mark.parametrize("message", [
    encode(PING, 0, b"p" * 125), encode(BINARY, 999, b""), encode(BINARY, 999, b"x" * 100)], ids=[
        "ping", "nothing for no channel", "data for no channel"])
def test_frames_whose_answers_nobody_reads_hold_little(dam, message):
    with bounded(dam), narrow_peer(dam) as client:
        client.raw.socket.settimeout(2)
        flood(client.raw, message, 400_000)


@pytest.mark.parametrize("kind", [CREDIT, END, CLOSE])
def test_frames_of_channels_that_are_over_hold_nothing(dam, kind):
    payload = {CREDIT: number(5), END: b"", CLOSE: coded(1000)}[kind]
    with bounded(dam, 8 * MEBI), server(dam, raw=True) as host, peer(dam) as client:
        near, far = joined(client, host)
        near.close(4321)
        assert far.closed()[0] == 4321
        assert flood(host.raw, encode(kind, far.number, payload), 300_000)
        host.settle()


# Memory


@pytest.mark.timeout(240)
def test_memory_stops_growing(dam):
    """What is leaked grows each time; what the allocator keeps for the next time comes to an end."""
    def storm():
        with server(dam, raw=True) as host, peer(dam) as client, contextlib.ExitStack() as stack:
            ends = [joined(client, host) for _ in range(300)]
            cleans = [stack.enter_context(raw_clean(dam, host)) for _ in range(50)]
            for near, far in ends:
                near.data(b"x" * 50_000)
                far.data(b"y" * 50_000)
            for raw, far in cleans:
                raw.send(frame(wire.BINARY, b"x" * 50_000))
                far.data(b"y" * 50_000)
            for near, far in ends:
                assert near.receive() == b"y" * 50_000
                assert far.receive() == b"x" * 50_000
            for raw, far in cleans:
                assert far.receive() == b"x" * 50_000
        eventually(lambda: len(channels(dam)) == 1, "all are over")

        return dam.resident_bytes

    held = [storm() for _ in range(8)]
    while held[-1] - held[-8] >= MEBI:
        assert len(held) < 64, [size >> 10 for size in held]
        held.append(storm())


def test_a_thousand_channels_on_one_connection_are_quick_to_make_and_all_end_with_it(dam):
    with bounded(dam), server(dam) as host:
        client = peer(dam)
        near = [client.open("box", index) for index in range(1000)]
        far = [host.opened().accept() for _ in near]
        for channel in near:
            channel.accepted()
        assert len(channels(dam)) == 1001
        client.socket.close()
        for channel in far:
            assert channel.closed()[0] in (1000, 1001, 1006)
