"""Credit, and channels that somebody does not read: what the relay holds is bounded by what was granted, and the
others go on."""

import contextlib

import pytest

import wire
from channels import (
    BINARY, CLOSE, CREDIT, HOUR, MORE, TEXT, WINDOW, Peer, RawWebSocket, begun, clean, joined, no_channel_is_left,
    number, peer, raw_clean, server)
from conditions import DEADLINE
from echoes import Bystander, Echo
from relay import Relay
from test_pressure import narrow
from wire import frame

MEBI = 1 << 20


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def tap(request):
    with Relay(loops=request.param, limits=HOUR) as relay:
        yield relay
        no_channel_is_left(relay)


def narrow_clean(relay, host, port=22, credit=WINDOW):
    """A clean client for which the kernel keeps little, and its channel; it reads when the test does."""
    began = begun(narrow, relay, path=f"/c/box/{port}", extra=[f"Authorization: Bearer {relay.admin}"])
    channel = host.opened().accept(credit)
    return began.result(DEADLINE), channel


def narrow_peer(relay):
    raw = narrow(relay, path="/", extra=[
        "Sec-WebSocket-Protocol: relay.v1", f"Authorization: Bearer {relay.admin}"])
    return Peer(RawWebSocket(raw))


def pour(channel, data, settled=3):
    """Sends as much as there is credit for, until no more comes; returns how many bytes that were."""
    sent, rounds = 0, 0
    while rounds < settled:
        if channel.credit > 0:
            piece = data[:channel.credit]
            channel.data(piece, BINARY | MORE)
            sent, rounds = sent + len(piece), 0
        channel.peer.settle()
        rounds += channel.credit == 0
    return sent


# Credit


def test_each_byte_uses_one_and_what_is_granted_arrives(tap):
    with server(tap) as host, peer(tap) as client:
        near, far = joined(client, host, credit=1000)
        far.grants = False
        assert near.credit == 1000
        near.data(b"x" * 999, BINARY | MORE)
        near.data(b"x")
        assert far.receive() == b"x" * 1000
        client.settle()
        assert near.credit == 0
        far.grant(1)
        near.wait_for_credit()
        assert near.credit == 1
        far.grant(500)
        near.wait_for_credit(501)
        near.data(b"y" * 501)
        assert far.receive() == b"y" * 501


def test_the_credit_of_an_open_is_what_the_server_may_send(tap):
    with server(tap) as host, peer(tap) as client:
        near = client.open("box", credit=10)
        far = host.opened().accept()
        near.accepted().grants = False
        assert far.fields["credit"] == 10
        far.data(b"x" * 10)
        assert near.receive() == b"x" * 10
        host.settle()
        assert far.credit == 0
        near.grant(7)
        far.wait_for_credit(7)
        far.data(b"x" * 7)
        assert near.receive() == b"x" * 7


@pytest.mark.parametrize("way", ["to the server", "to the client"])
def test_no_credit_at_first_is_no_reason_to_end(tap, way):
    with server(tap) as host, peer(tap) as client:
        near = client.open("box", credit=0)
        far = host.opened().accept(0)
        near.accepted()
        assert near.credit == far.credit == 0
        one, other = (near, far) if way == "to the server" else (far, near)
        one.data(b"", TEXT)  # Nothing uses none.
        one.data(b"", BINARY)
        assert [other.receive(), other.receive()] == ["", b""]
        other.grants = False
        other.grant(5)
        one.send("hello")
        assert other.receive() == "hello"


@pytest.mark.parametrize("limit", [None, 65_536])
def test_a_grant_is_held_to_channel_credit_bytes_and_comes_in_the_end(limit, make_relay):
    relay = make_relay(limits={"channelCreditBytes": str(limit)} if limit else {})
    most = limit or WINDOW
    total = 3_000_000
    with server(relay) as host, peer(relay) as client:
        near = client.open("box", credit=total)
        far = host.opened().accept(total)
        near.accepted()
        near.grants = far.grants = False
        for one, other in [(near, far), (far, near)]:
            sent = received = 0
            while sent < total:
                one.wait_for_credit()
                assert one.credit <= most
                piece = min(one.credit, 10_000)
                one.data(b"x" * piece, BINARY | MORE)
                sent += piece
                while received < sent:
                    received += len(other.frame().payload)
            one.peer.settle()
            assert one.credit == 0  # Never more in all, either.


def test_a_clean_client_is_read_as_far_as_the_credit_goes(tap):
    with server(tap) as host, raw_clean(tap, host, credit=1000) as (client, far):
        far.grants = False
        client.send(frame(wire.BINARY, b"x" * 5000) + frame(wire.TEXT, "next"))
        received = 0
        for granted in [1000, 1, 999, 3000]:
            expected = received + granted
            if received:
                far.grant(granted)
            while received < expected:
                piece = far.frame()
                received += len(piece.payload)
            host.settle()
            assert received == expected and not [each for each in far.inbox if each.payload]
        far.grant(10)
        message = far.frame()
        while not message.payload:  # The end of the first may have come by itself.
            message = far.frame()
        assert (message.kind & ~MORE, message.payload[:1]) == (TEXT, b"n")


@pytest.mark.parametrize("sender", ["client", "server"])
@pytest.mark.parametrize("size", [1001, 100_000, 1_000_000])
def test_data_beyond_the_credit_ends_the_channel_with_4006_and_nothing_else(tap, sender, size):
    with server(tap) as host, peer(tap) as client, Bystander(tap):
        near = client.open("box", credit=1000)
        far = host.opened().accept(1000)
        near.accepted()
        near.grants = far.grants = False
        other_near, other_far = joined(client, host)
        one, other = (near, far) if sender == "client" else (far, near)
        one.data(b"x" * size)
        assert one.closed()[0] == 4006
        received = 0
        while (step := other.frame()).is_data:
            received += len(step.payload)
        assert step.kind == CLOSE and int.from_bytes(step.payload[:2], "big") == 4006
        assert received <= 1000
        one.data(b"of an old channel")
        one.peer.settle()
        other_near.send("goes on")
        assert other_far.receive() == "goes on"
        assert not one.inbox and not one.peer.strays


def test_data_beyond_the_credit_of_a_clean_client_ends_it_with_4006(tap):
    with server(tap) as host, clean(tap, host) as (other, far_other):
        client, far = narrow_clean(tap, host)
        far.data(bytes(20 * MEBI))  # More than kernels take and the relay grants meanwhile.
        assert far.closed()[0] == 4006
        assert client_close(client) == 4006
        far_other.send("goes on")
        assert other.receive() == "goes on"


def client_close(raw):
    """The code of the close frame of a clean client, behind whatever data."""
    while True:
        opcode, payload, _ = raw.read_fragment()
        if opcode == wire.CLOSE:
            raw.try_send(frame(wire.CLOSE, payload))
            return int.from_bytes(payload[:2], "big")


@pytest.mark.parametrize("end", ["server", "client"])
def test_credit_that_adds_up_beyond_every_number_hurts_nobody(tap, end):
    with server(tap) as host, peer(tap) as client:
        near, far = joined(client, host)
        other_near, other_far = joined(client, host)
        one = far if end == "server" else near
        for _ in range(1000):
            one.grant(0xFFFF_FFFF)
        one.peer.settle()
        other_near.send("goes on")
        assert other_far.receive() == "goes on"


def test_a_million_grants_of_nothing_and_of_one_byte_are_no_burden(tap):
    with server(tap, raw=True) as host, peer(tap) as client, Bystander(tap):
        near, far = joined(client, host, credit=0)
        tap.forget_peak()
        before = tap.resident_bytes
        for count in (0, 1):
            grant = frame(wire.BINARY, channel_frame(far, CREDIT, number(count)))
            for _ in range(100):
                host.raw.send(grant * 5000)
        host.settle()
        assert tap.peak_bytes - before < 32 * MEBI
        near.wait_for_credit(WINDOW)
        near.send("still")
        assert far.receive() == "still"


def channel_frame(channel, kind, payload):
    return bytes([kind]) + number(channel.number) + payload


# Those who do not read


@pytest.mark.timeout(240)
def test_clean_clients_that_do_not_read_hold_their_credit_and_others_go_at_full_speed(tap):
    count, data = 24, bytes(WINDOW)
    with server(tap) as host, Echo(tap, "quick"), contextlib.ExitStack() as stack:
        before = tap.resident_bytes
        tap.forget_peak()
        idle = [narrow_clean(tap, host, port) for port in range(count)]
        sent = []
        for raw, far in idle:
            stack.enter_context(raw)
            sent.append(pour(far, bytes([far.number]) * WINDOW))
        assert min(sent) >= WINDOW
        # On the same server connection and elsewhere.
        with clean(tap, host) as (reader, far), peer(tap) as client:
            big = begun(far.send, data * 80)
            assert reader.receive() == data * 80
            big.result(DEADLINE)
            near = client.open("quick").accepted()
            for _ in range(50):
                near.send(data)
                assert near.receive() == data
        assert tap.peak_bytes - before < count * WINDOW + 24 * MEBI
        for (raw, far), total in zip(idle, sent):
            far.data(b"", BINARY)
            assert whole_message(raw) == bytes([far.number]) * total


def whole_message(raw):
    pieces = []
    while True:
        opcode, payload, is_last = raw.read_fragment()
        assert opcode in (wire.BINARY, wire.CONTINUATION)
        pieces.append(payload)
        if is_last:
            return b"".join(pieces)


@pytest.mark.timeout(240)
def test_a_multiplexed_client_that_reads_nothing_holds_the_credit_of_its_channels(tap):
    count = 100
    with server(tap) as host, narrow_peer(tap) as client, Bystander(tap):
        near = [client.open("box") for _ in range(count)]
        far = [host.opened().accept() for _ in near]
        for channel in near:
            channel.accepted().grants = False
        before = tap.resident_bytes
        tap.forget_peak()
        for channel in far:
            channel.data(bytes([channel.number & 0xFF]) * channel.credit)
        host.settle()
        assert all(channel.credit == 0 for channel in far)
        assert tap.peak_bytes - before < count * WINDOW + 16 * MEBI
        for channel, source in zip(near, far):
            assert channel.receive() == bytes([source.number & 0xFF]) * WINDOW


def test_a_server_that_grants_nothing_is_sent_nothing_and_the_relay_keeps_little(tap):
    with server(tap) as host, Bystander(tap), contextlib.ExitStack() as stack:
        before = tap.resident_bytes
        tap.forget_peak()
        clients = []
        for index in range(20):
            client, far = stack.enter_context(raw_clean(tap, host, credit=0))
            client.send(frame(wire.BINARY, b"x" * 100_000))
            clients.append((client, far))
            client.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.socket.send(b"y" * 100_000)
        for client, far in clients:
            client.socket.settimeout(DEADLINE)
        host.settle()
        assert tap.peak_bytes - before < 20 * WINDOW + 8 * MEBI
        assert not any(far.inbox for _, far in clients)


def test_a_server_may_stop_reading_its_whole_connection_and_nobody_else_waits(tap):
    with server(tap, raw=True) as host, Bystander(tap), peer(tap) as client, Echo(tap, "other"):
        ends = [joined(client, host) for _ in range(20)]
        elsewhere = client.open("other").accepted()
        for near, _ in ends:
            near.data(b"x" * near.credit)
        for index in range(200):  # On the same connection as what is not read.
            elsewhere.send(f"{index}")
            assert elsewhere.receive() == f"{index}"
        for near, far in ends:
            assert far.receive() == b"x" * WINDOW


# Deadlines


def test_a_clean_client_that_is_not_read_for_too_long_is_closed_with_4003(make_relay):
    relay = make_relay(limits={"slowConsumerDeadline": "300ms"})
    with server(relay) as host, raw_clean(relay, host, credit=100) as (client, far), Bystander(relay):
        far.grants = False
        client.send(frame(wire.BINARY, b"x" * 5000))
        received = 0
        while (step := far.frame()).is_data:
            received += len(step.payload)
        assert (step.kind, int.from_bytes(step.payload[:2], "big")) == (CLOSE, 4003)
        assert received == 100
        assert client_close(client) == 4003


@pytest.mark.parametrize("kind", ["multiplexed", "clean"])
def test_a_reader_that_stops_for_too_long_is_closed_with_4003_where_its_queue_is_too_long(make_relay, kind):
    relay = make_relay(limits={
        "slowConsumerDeadline": "300ms", "outboundHighBytes": "64KiB", "outboundLowBytes": "16KiB"})
    with server(relay) as host, Bystander(relay), contextlib.ExitStack() as stack:
        if kind == "clean":
            raw, far = narrow_clean(relay, host)
            stack.enter_context(raw)
            while not far.inbox:  # Whatever the kernel takes in between, sooner or later nothing moves.
                far.data(bytes(far.credit), BINARY | MORE) if far.credit else host.pump()
            assert far.closed()[0] == 4003
            return
        client = stack.enter_context(narrow_peer(relay))
        near = [client.open("box") for _ in range(40)]
        far = [host.opened().accept() for _ in near]
        for channel in near:
            channel.accepted()
        for channel in far:
            channel.data(bytes(WINDOW))
        assert {channel.closed()[0] for channel in far} == {4003}


def test_a_slow_reader_that_goes_on_in_time_gets_everything(tap):
    with server(tap) as host:
        raw, far = narrow_clean(tap, host)
        with raw:
            data = b"slowly " * 300_000
            sending = begun(far.send, data)
            received = b"".join(slow_pieces(raw))
            assert received == data
            sending.result(DEADLINE)


def slow_pieces(raw):
    """A whole message, read in small steps."""
    while True:
        while len(raw.buffer) < 10:
            raw.buffer += raw.socket.recv(997)
        _, payload, is_last = raw.read_fragment()
        yield payload
        if is_last:
            return
