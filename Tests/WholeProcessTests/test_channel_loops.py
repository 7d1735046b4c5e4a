"""Channels whose ends live on different loops: nobody can tell."""

import contextlib
import socket

import pytest

import wire
from channels import (
    BINARY, CLOSE, HOUR, MORE, TEXT, WINDOW, Peer, RawWebSocket, Rejected, apart, begun, channels, coded, encode,
    joined, names, no_channel_is_left, peer, server)
from conditions import DEADLINE, eventually
from relay import Relay
from test_pressure import narrow, paused
from wire import frame

MEBI = 1 << 20


@pytest.fixture(scope="module")
def loops():
    with Relay(loops=3, limits={**HOUR, "handshakeTimeout": "1h"}) as relay:
        yield relay
        no_channel_is_left(relay)


@pytest.fixture
def distant(loops):
    """A client, a server on another loop, and its name."""
    with contextlib.ExitStack() as stack:
        yield apart(loops, stack)


def test_credit_goes_from_loop_to_loop_and_is_held_to_the_window(distant):
    client, host, name = distant
    total = 3_000_000
    near = client.open(name, credit=total)
    far = host.opened().accept(total)
    near.accepted()
    near.grants = far.grants = False
    for one, other in [(near, far), (far, near)]:
        sent = received = 0
        while sent < total:
            one.wait_for_credit()
            assert one.credit <= WINDOW
            count = min(one.credit, 10_000)
            one.data(b"x" * count, BINARY | MORE)
            sent += count
            while received < sent:
                received += len(other.frame().payload)
        one.peer.settle()
        assert one.credit == 0


def test_each_side_ends_for_itself_across_loops(loops, distant):
    client, host, name = distant
    before = len(channels(loops))
    for index in range(20):
        near, far = joined(client, host, name)
        one, other = (near, far) if index % 2 else (far, near)
        one.send(b"x" * 100_000)
        one.end()
        assert other.receive() == b"x" * 100_000
        other.ended()
        other.send("still")
        assert one.receive() == "still"
        other.end()
        one.ended()
    eventually(lambda: len(channels(loops)) == before, "they are over")
    client.settle()
    host.settle()
    assert not client.strays and not host.strays


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_close_arrives_across_loops_behind_all_that_was_sent(distant, who):
    client, host, name = distant
    for code, reason in [(1000, ""), (4321, "κόσμε")]:
        near, far = joined(client, host, name)
        one, other = (near, far) if who == "client" else (far, near)
        sending = begun(lambda: (one.send("x" * 1_000_000), one.close(code, reason)))
        assert other.receive() == "x" * 1_000_000
        assert other.closed() == (code, reason)
        sending.result(DEADLINE)


def test_closes_and_data_that_cross_end_the_channel_once(loops, distant):
    client, host, name = distant
    before = len(channels(loops))
    for index in range(100):
        near, far = joined(client, host, name)
        near.data(b"x" * 1000)
        far.data(b"y" * 1000)
        near.close(4000 + index)
        far.close(4100 + index)
        far.data(b"behind the close")
    eventually(lambda: len(channels(loops)) == before, "they are over")
    client.settle()
    host.settle()
    assert not client.strays and not host.strays


@pytest.mark.parametrize("who", ["client", "server"])
def test_data_beyond_the_credit_is_4006_for_both_ends_across_loops(distant, who):
    client, host, name = distant
    near = client.open(name, credit=1000)
    far = host.opened().accept(1000)
    near.accepted()
    near.grants = far.grants = False
    one, other = (near, far) if who == "client" else (far, near)
    one.data(b"x" * 5000)
    assert one.closed()[0] == 4006
    received = 0
    while (step := other.frame()).is_data:
        received += len(step.payload)
    assert (step.kind, step.payload[:2]) == (CLOSE, coded(4006)) and received <= 1000
    second, far_second = joined(client, host, name)
    second.send("goes on")
    assert far_second.receive() == "goes on"


def test_a_client_that_closes_before_the_answer_is_heard_on_the_other_loop(distant):
    client, host, name = distant
    near = client.open(name)
    far = host.opened()
    near.close(4321, "never mind")
    # Where the close comes before the client's loop knows whom to tell, it is a client that has left.
    assert far.closed()[0] in (4321, 1006)
    far.accept()  # They cross.
    host.settle()
    client.settle()
    assert not near.inbox and not host.strays and not far.inbox


@pytest.mark.parametrize("how", ["reset", "end of stream", "close"])
@pytest.mark.parametrize("answer", ["not answered", "accepted"])
def test_a_client_that_vanishes_is_heard_on_the_other_loop(distant, how, answer):
    client, host, name = distant
    near = client.open(name)
    far = host.opened()
    if answer == "accepted":
        far.accept()
        near.accepted().data(b"half", TEXT | MORE)
        assert far.frame().payload == b"half"
    if how == "close":
        client.raw.send(wire.close_frame(1000))
    elif how == "reset":
        client.raw.reset()
    else:
        client.raw.socket.shutdown(socket.SHUT_WR)
    assert far.closed()[0] in ((1000, 1006) if how == "close" else (1006,))


@pytest.mark.parametrize("answer", ["not answered", "accepted"])
def test_a_server_that_vanishes_is_heard_on_the_other_loop(distant, answer):
    client, host, name = distant
    near = client.open(name)
    far = host.opened()
    if answer == "accepted":
        far.accept()
        near.accepted()
        far.data(b"half", TEXT | MORE)
        assert near.frame().payload == b"half"
    host.raw.reset()
    if answer == "accepted":
        assert near.closed()[0] == 4004
    else:
        with pytest.raises(Rejected, match="502"):
            near.accepted()
    with pytest.raises(Rejected, match="502"):
        client.open(name).accepted()


def test_a_reject_comes_from_the_other_loop_as_it_is(distant):
    client, host, name = distant
    for code in (403, 4321):
        near = client.open(name)
        host.opened().reject(code, "κ")
        with pytest.raises(Rejected, match=f"{code} κ"):
            near.accepted()


def test_a_server_meets_a_client_of_another_loop_on_a_connection_of_its_own(loops, distant):
    client, host, name = distant
    near = client.open(name)
    ticket = host.opened().fields["ticket"]
    with loops.connect(f"/a/{ticket}") as dedicated:
        near.accepted()
        for message in ["text", b"\x00", "x" * 100_000]:
            near.send(message)
            assert dedicated.receive() == message
            dedicated.send(message)
            assert near.receive() == message
        dedicated.connection.close(4321, "bye")
        assert near.closed() == (4321, "bye")


def test_a_ticket_of_a_client_that_has_left_another_loop_is_404(loops, distant):
    client, host, name = distant
    near = client.open(name)
    opened = host.opened()
    near.close(4321)
    opened.closed()
    with pytest.raises(Exception, match="404"):
        loops.connect(f"/a/{opened.fields['ticket']}")


def test_instructions_of_connections_far_from_home_keep_their_order(loops, distant):
    loops.add("note", "function(conn, n) noted[#noted + 1] = n conn:send('heard ' .. n) return n end")
    loops.evaluate("noted = {}")
    for one in distant[:2]:
        for index in range(200):
            one.socket.send(f'{{"instruction": "note", "parameters": [{index}], "id": {index}}}')
        texts = []
        while len(texts) < 400:
            if not one.texts:
                one.pump()
            else:
                texts.append(one.texts.popleft())
        assert texts[::2] == [f"heard {index}" for index in range(200)]
        assert [f'"id":{index},"result":{index}' in text for index, text in enumerate(texts[1::2])] == [True] * 200
    assert loops.evaluate("return noted") == [*range(200)] * 2


@pytest.mark.parametrize("payload", [b"", b"x" * 100], ids=["empty", "small"])
def test_who_does_not_read_on_another_loop_holds_little(loops, distant, payload):
    _, host, name = distant
    fields = ["Sec-WebSocket-Protocol: relay.v1", f"Authorization: Bearer {loops.admin}"]
    with Peer(RawWebSocket(narrow(loops, path="/", extra=fields))) as client, contextlib.ExitStack() as stack:
        second = f"bound-{next(names)}"
        anchor = stack.enter_context(server(loops, second))
        joined(client, anchor, second)
        near, far = joined(client, host, name)
        before = loops.resident_bytes
        loops.forget_peak()
        block = frame(wire.BINARY, encode(BINARY, far.number, payload), key=b"\0\0\0\0")
        for _ in range(300):
            host.raw.try_send(block * 5000)  # The relay may end who does that.
        assert loops.peak_bytes - before < 32 * MEBI


def test_a_server_that_is_moved_in_the_turn_in_which_it_speaks_goes_on(make_relay):
    relay = make_relay(loops=2)
    with server(relay, "first") as first, peer(relay) as anchor:
        joined(anchor, first, "first")  # The next server's channels are better off on the other loop.
        for index in range(20):
            with server(relay) as host, peer(relay) as client:
                host.settle()
                client.settle()
                with paused(relay):  # Both are heard in one turn, the client before the server.
                    near = client.open("box")
                    host.socket.send('{"instruction": "none", "id": "in this turn"}')
                far = host.opened().accept()
                near.accepted().send("still")
                assert far.receive() == "still"
                while not host.texts:
                    host.pump()
                assert "in this turn" in host.texts.popleft()


def test_connections_that_come_and_go_on_every_loop_leave_nothing(loops):
    descriptors = loops.descriptors
    for index in range(40):
        with contextlib.ExitStack() as stack:
            ends = [(stack.enter_context(server(loops, f"turn-{each}")), stack.enter_context(peer(loops)))
                    for each in range(3)]
            for each, (host, _) in enumerate(ends):
                for _, client in ends[each:]:
                    near, far = joined(client, host, f"turn-{each}")
                    near.send(f"{index}")
                    assert far.receive() == f"{index}"
    no_channel_is_left(loops)
    eventually(lambda: loops.descriptors <= descriptors, "every descriptor is closed")
