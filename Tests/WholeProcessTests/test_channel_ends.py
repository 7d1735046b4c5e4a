"""How channels end, and what each end is told (docs/relay.v1.md, "End and close")."""

import pytest
from websockets.exceptions import InvalidStatus

import wire
from channels import (
    BINARY, CLOSE, END, MORE, TEXT, WINDOW, Rejected, begun, channels, clean, coded, dial, joined, knock,
    no_channel_is_left, number, peer, raw_clean, server)
from conditions import DEADLINE, eventually
from echoes import Bystander
from relay import Relay
from wire import close_frame, frame


@pytest.fixture(scope="module", params=[1, 3], ids=["one loop", "three loops"])
def place(request):
    with Relay(loops=request.param) as relay:
        yield relay
        no_channel_is_left(relay)


def is_absent(relay, name="box"):
    with pytest.raises(InvalidStatus) as failure:
        dial(relay, name).result(DEADLINE)
    return failure.value.response.status_code == 502


def identifiers(relay):
    return {entry["connection"] for entry in relay.listed("connections")}


# One side has said everything


def test_each_side_ends_for_itself(place):
    with server(place) as host, peer(place) as client:
        near, far = joined(client, host)
        near.send("all")
        near.end()
        assert far.receive() == "all"
        far.ended()
        for index in range(10):
            far.send(f"still {index}")
            assert near.receive() == f"still {index}"
        far.end()
        near.ended()
        client.settle()
        host.settle()
        assert not near.inbox and not far.inbox  # No `close` follows.
        no_channel_is_left(place)
        for one in (near, far):  # What comes under an old number is ignored.
            one.data(b"late")
            one.grant(5)
            one.end()
            one.close()
            one.peer.settle()
            assert not one.inbox and not one.peer.strays
        joined(client, host)


def test_both_sides_may_end_at_once(place):
    with server(place) as host, peer(place) as client:
        for _ in range(50):
            near, far = joined(client, host)
            near.end()
            far.end()
            near.ended()
            far.ended()
        no_channel_is_left(place)


def test_an_end_waits_for_what_was_sent_before_it(place):
    with server(place) as host, peer(place) as client:
        near, far = joined(client, host, credit=3 * WINDOW)
        sending = begun(lambda: (near.send(b"x" * 3 * WINDOW), near.end()))
        assert far.receive() == b"x" * 3 * WINDOW
        far.ended()
        sending.result(DEADLINE)


def test_the_end_of_a_server_closes_a_clean_client_with_1000_behind_its_data(place):
    with server(place) as host, clean(place, host) as (client, far):
        sending = begun(lambda: (far.send(b"x" * 1_000_000), far.send("last"), far.end()))
        assert client.receive() == b"x" * 1_000_000
        assert client.receive() == "last"
        assert client.closed() == (1000, "")
        sending.result(DEADLINE)
        assert far.frame().kind in (END, CLOSE)
        no_channel_is_left(place)


def test_what_a_clean_client_sent_before_the_servers_end_reached_it_is_delivered(place):
    with server(place) as host, raw_clean(place, host) as (client, far):
        far.end()
        opcode, payload = client.read_frame()
        assert (opcode, payload[:2]) == (wire.CLOSE, b"\x03\xe8")
        client.send(frame(wire.TEXT, "crossing") + close_frame(1000))
        step = far.frame()
        if step.is_data:  # A closing handshake may drop it, but not cut it.
            assert step.payload == b"crossing"
            step = far.frame()
        assert step.kind in (END, CLOSE)


# Closing


@pytest.mark.parametrize("code, reason", [
    (1000, ""), (1000, "done"), (1001, "tab closed"), (3000, "x" * 123), (4321, "κόσμε"), (4999, "")])
@pytest.mark.parametrize("end", ["server", "client", "multiplexed client", "multiplexed server"])
def test_a_close_arrives_with_code_and_reason_behind_all_that_was_sent(place, end, code, reason):
    with server(place) as host, peer(place) as client:
        if end.startswith("multiplexed"):
            near, far = joined(client, host)
            one, other = (near, far) if end == "multiplexed client" else (far, near)
            one.send("x" * 100_000)
            one.close(code, reason)
            assert other.receive() == "x" * 100_000
            assert other.closed() == (code, reason)
            one.peer.settle()
            assert not one.inbox
            return
        with clean(place, host) as (plain, far):
            if end == "client":
                plain.send("x" * 100_000)
                plain.connection.close(code, reason)
                assert far.receive() == "x" * 100_000
                assert far.closed() == (code, reason)
            else:
                far.send("x" * 100_000)
                far.close(code, reason)
                assert plain.receive() == "x" * 100_000
                assert plain.closed() == (code, reason)


def test_a_clean_client_may_close_without_a_code(place):
    with server(place) as host, raw_clean(place, host) as (client, far):
        client.send(close_frame())
        assert far.closed()[0] == 1005
        assert client.read_close() == (None, "")
        client.expect_end()


@pytest.mark.parametrize("code", [0, 42, 999, 1004, 1005, 1006, 1012, 1015, 2999, 4002, 4004, 5000, 65535])
def test_a_close_with_a_code_of_any_kind_is_no_broken_websocket_for_a_clean_client(place, code):
    with server(place) as host, clean(place, host) as (client, far):
        far.close(code, "odd")
        # The package would call an invalid code a protocol error of its own.
        is_valid = code in (1012, 4002) or code == 1005
        assert client.closed()[0] == (code if is_valid else 4004)


def test_closes_that_cross_end_the_channel_once(place):
    with server(place) as host, peer(place) as client:
        for index in range(50):
            near, far = joined(client, host)
            near.close(4000 + index, "mine")
            far.close(4100 + index, "yours")
        client.settle()
        host.settle()
        no_channel_is_left(place)
        assert not client.strays and not host.strays


def test_a_close_in_the_middle_of_a_message_ends_it_there(place):
    with server(place) as host, peer(place) as client, raw_clean(place, host) as (plain, far_plain):
        near, far = joined(client, host)
        far.data(b"half", TEXT | MORE)
        far.close(4321, "enough")
        assert near.frame()[::2] == (TEXT | MORE, b"half")
        assert near.closed() == (4321, "enough")
        far_plain.data(b"half", TEXT | MORE)
        far_plain.close(4321, "enough")
        assert plain.read_fragment() == (wire.TEXT, b"half", False)
        assert plain.read_close() == (4321, "enough")


def test_data_after_end_is_1002_for_the_channel_alone(place):
    with server(place) as host, peer(place) as client:
        other_near, other_far = joined(client, host)
        for sender in (0, 1):
            ends = joined(client, host)
            one, other = ends[sender], ends[1 - sender]
            one.end()
            one.data(b"more")
            assert one.closed()[0] == 1002
            other.ended()
            assert other.closed()[0] == 1002
            other_near.send("goes on")
            assert other_far.receive() == "goes on"


# One side is gone


def vanish(raw, how):
    if how == "reset":
        raw.reset()
    else:
        raw.socket.close()


@pytest.mark.parametrize("how", ["reset", "end of stream"])
def test_a_server_that_vanishes_within_a_message_ends_its_channels(place, how):
    with Bystander(place), peer(place) as client:
        host = server(place, raw=True)
        near, far = joined(client, host)
        second, far_second = joined(client, host)
        with raw_clean(place, host) as (plain, far_plain), knock(place) as pending:
            waiting = client.open("box")
            host.opened()
            host.opened()
            for channel in (far, far_plain):
                channel.data(b"half a message", BINARY | MORE)
            assert near.frame()[::2] == (BINARY | MORE, b"half a message")
            assert plain.read_fragment() == (wire.BINARY, b"half a message", False)
            # And within a frame.
            host.raw.send(frame(wire.BINARY, bytes([BINARY]) + number(far_second.number) + b"y" * 1000)[:500])
            assert second.frame().kind == BINARY | MORE
            vanish(host.raw, how)
            assert near.closed()[0] == 4004
            step = second.frame()
            while step.is_data:
                step = second.frame()
            assert step.kind == CLOSE and step.payload[:2] == coded(4004)
            assert plain.read_close()[0] == 4004
            with pytest.raises(Rejected) as rejection:
                waiting.accepted()
            assert rejection.value.code == 502
            assert pending.read_response().status == 502
        assert is_absent(place)
        client.settle()


@pytest.mark.parametrize("kind", ["multiplexed", "clean"])
@pytest.mark.parametrize("how", ["reset", "end of stream"])
def test_a_client_that_vanishes_is_1006_for_the_server(place, kind, how):
    with server(place) as host, Bystander(place):
        if kind == "clean":
            with raw_clean(place, host) as (raw, far):
                raw.send(frame(wire.TEXT, "half", fin=False) + frame(0, "x" * 1000)[:500])
                assert far.frame().payload == b"half"
                vanish(raw, how)
                is_told([far])
            return
        client = peer(place, raw=True)
        ends = [joined(client, host)[1] for _ in range(20)]
        client.open("box")
        late = host.opened()
        vanish(client.raw, how)
        is_told([*ends, late])
        late.accept()  # They may cross.
        host.settle()
        assert not host.strays
        eventually(lambda: len(channels(place)) == 1, "only the bystander's channel is left")


def is_told(ends):
    """Each hears 1006 behind whatever data there was."""
    for far in ends:
        step = far.frame()
        while step.is_data:
            step = far.frame()
        assert (step.kind, int.from_bytes(step.payload[:2], "big")) == (CLOSE, 1006)


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_connection_that_is_closed_in_an_orderly_way_ends_its_channels(place, end):
    with server(place) as host, peer(place) as client, clean(place, host) as (plain, far_plain):
        near, far = joined(client, host)
        (client if end == "client" else host).socket.connection.close(1001, "leaving")
        if end == "client":
            assert far.closed()[0] in (1001, 1006)
            plain.send("still")
            assert far_plain.receive() == "still"
        else:
            assert near.closed()[0] == 4004
            assert plain.closed()[0] == 4004
            assert is_absent(place)


def test_the_same_credential_takes_a_name_over(place):
    with server(place) as old, peer(place) as client, clean(place, old) as (plain, _):
        near, _ = joined(client, old)
        with knock(place) as pending:
            old.opened()
            with server(place) as new:
                assert old.closed()[0] == 4005
                assert (near.closed()[0], plain.closed()[0]) == (4004, 4004)
                assert pending.read_response().status == 502
                second, far = joined(client, new)
                second.send("to the new one")
                assert far.receive() == "to the new one"
    assert is_absent(place)


def test_a_name_that_goes_from_hand_to_hand_always_has_one_server(place):
    with peer(place) as client:
        hosts = []
        for index in range(30):
            hosts.append(server(place))
            near, far = joined(client, hosts[-1])
            far.send(f"{index}")
            assert near.receive() == f"{index}"
        assert len([entry for entry in place.listed("servers") if entry["server"] == "box"]) == 1
        for host in hosts[:-1]:
            assert host.closed()[0] == 4005
        hosts[-1].socket.close()
    assert is_absent(place)


@pytest.mark.parametrize("end", ["client", "clean client", "server"])
def test_a_kicked_connection_takes_its_channels_along(place, end):
    others = identifiers(place)
    with server(place) as host:
        host.settle()
        hosts = identifiers(place) - others
        with peer(place) as client, clean(place, host) as (plain, far_plain):
            near, far = joined(client, host)
            listed = {entry["connection"]: entry for entry in place.listed("connections")}
            found = {
                "server": lambda entry: entry["connection"] in hosts and "/s/" in entry["path"],
                "clean client": lambda entry: "/c/" in entry["path"],
                "client": lambda entry: entry["path"] == "/" and entry["remotePort"] == port_of(client),
            }[end]
            (kicked,) = [each for each, entry in listed.items() if found(entry)]
            place.invoke("close connection", named={"connection": kicked})
            if end == "server":
                assert host.closed()[0] == 4007
                assert (near.closed()[0], plain.closed()[0]) == (4004, 4004)
            elif end == "client":
                assert client.closed()[0] == 4007
                assert far.closed()[0] == 4007
            else:
                assert plain.closed()[0] == 4007
                assert far_plain.closed()[0] == 4007


def port_of(peer):
    return peer.socket.connection.local_address[1]
