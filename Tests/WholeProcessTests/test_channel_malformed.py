"""Frames that no peer should send: each has an answer, and only its sender notices."""

import json
import random
import struct

import pytest
from websockets.exceptions import ConnectionClosed

import wire
from channels import (
    ACCEPT, BINARY, CLOSE, CREDIT, DRAIN, END, MORE, OPEN, PING, PONG, REJECT, TEXT, WINDOW, Closed, Rejected, channels,
    clean, coded, encode, joined, knock, let_in, number, peer, raw_clean, server)
from conditions import eventually
from echoes import Bystander
from relay import Relay
from wire import frame

MEBI = 1 << 20


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def calm(request):
    with Relay(loops=request.param) as relay, Bystander(relay) as bystander:
        relay.bystander = bystander
        yield relay
        eventually(lambda: len(channels(relay)) == 1, "only the bystander's channel is left")


@pytest.fixture(params=["server", "client"])
def ends(calm, request):
    """A multiplexed connection that misbehaves, its end of a channel, and the other end and connection."""
    with server(calm) as host, peer(calm) as client:
        near, far = joined(client, host)
        yield (host, far, client, near) if request.param == "server" else (client, near, host, far)
    calm.bystander.answers()


def outcome(one, channel_number):
    """What the sender has been told: ("connection", code), ("channel", code) of a `close` of this number, or None."""
    try:
        one.settle()
    except Closed as end:
        return "connection", end.code
    channel = one.channels.get(channel_number)
    for step in channel.inbox if channel else one.strays:
        if step.kind == CLOSE and step.channel == channel_number:
            return "channel", int.from_bytes(step.payload[:2], "big")


OURS = 0xFFFF_FFF0  # Stands for the number of the channel that is open, in the lists below.


@pytest.mark.parametrize("message", [
    pytest.param(message, id=name) for name, message in {
        "nothing": b"", "one byte": b"\x00", "four bytes": b"\x00\0\0\0", "half a head of ping": b"\x17\0\0",
        **{f"type {kind:#x}": encode(kind, OURS, b"") for kind in (0x02, 0x0F, 0x19, 0x20, 0x7F, 0x82, 0x91, 0xFF)},
        "drain by a peer": encode(DRAIN, 0, b"{}"), "pong by a peer": encode(PONG, 0, b""),
        "ping of 126 bytes": encode(PING, 0, b"x" * 126), "ping of a channel": encode(PING, OURS, b""),
        "credit without a number": encode(CREDIT, OURS), "credit of three bytes": encode(CREDIT, OURS, b"\0\0\1"),
        "credit of five bytes": encode(CREDIT, OURS, b"\0\0\0\1\0"), "end with a payload": encode(END, OURS, b"x"),
        "close without a code": encode(CLOSE, OURS), "close of one byte": encode(CLOSE, OURS, b"\x03"),
        "close with a reason that is no UTF-8": encode(CLOSE, OURS, coded(1000, b"\xff\xfe")),
        "close with a reason of a megabyte": encode(CLOSE, OURS, coded(1000, b"x" * 1_000_000)),
        "accept without a credit": encode(ACCEPT, OURS), "accept of five bytes": encode(ACCEPT, OURS, b"\0" * 5),
        "reject without a code": encode(REJECT, OURS), "reject of one byte": encode(REJECT, OURS, b"\1"),
        "reject that is no UTF-8": encode(REJECT, OURS, coded(403, b"\xff")),
    }.items()])
def test_what_cannot_be_understood_closes_the_connection_with_1002(ends, message):
    one, mine, other, theirs = ends
    one.socket.send(message.replace(number(OURS), number(mine.number)))
    assert one.closed()[0] == 1002
    assert theirs.closed()[0] in (1002, 1006, 4004)
    other.settle()


NO_TEXTS = {
    "a byte that begins nothing": [b"\xff"], "an overlong slash": [b"\xc0\xaf"], "a surrogate": [b"\xed\xa0\x80"],
    "beyond Unicode": [b"\xf4\x90\x80\x80"], "a character that does not end": ["κ".encode()[:1]],
    "a long one with one wrong byte": [b"x" * 70_000 + b"\x80" + b"x" * 70_000],
    "wrong in the second piece": [b"x" * 10, b"\xff"], "half a character, then a letter": ["κ".encode()[:1], b"a"],
    "half a character, then nothing": ["κ".encode()[:1], b""],
    "the wrong rest of a character": [b"\xed", b"\xa0\x80"],
}


@pytest.mark.parametrize("pieces", NO_TEXTS.values(), ids=NO_TEXTS.keys())
def test_46_a_text_that_is_not_utf_8_closes_its_channel_with_1007(ends, pieces):
    one, mine, other, theirs = ends
    for text in ("fine", "κ" * 30, "x" * 40_000):
        mine.send(text)
        assert theirs.receive() == text
    for index, piece in enumerate(pieces):
        mine.data(piece, TEXT | (MORE if index < len(pieces) - 1 else 0))
    assert outcome(one, mine.number) == ("channel", 1007)
    eventually(lambda: outcome(other, theirs.number) == ("channel", 1007), "the other end is told")


def test_46_a_clean_client_gets_no_text_that_is_not_utf_8(calm):
    with server(calm) as host:
        with clean(calm, host) as (client, far):
            for text in ("fine", "", "κ" * 30, "x" * 40_000):
                far.send(text)
                assert client.receive() == text
            far.data("κ".encode()[:1], TEXT | MORE)
            far.data("κ".encode()[1:], TEXT)
            assert client.receive() == "κ"
            far.data(b"before \xc3", TEXT)
            with pytest.raises(ConnectionClosed) as end:
                client.receive()
            assert end.value.rcvd.code == 1007
        host.settle()


OPENING = json.dumps({"server": "box", "port": 22}).encode()


@pytest.mark.parametrize("numbers", [[0], [2], [1 << 31], [0xFFFF_FFFE], [101, 101], [101, 99], [101, 103, 3], [1]])
def test_an_open_whose_number_is_out_of_turn_closes_the_connection_with_1002(calm, numbers):
    with server(calm) as host, peer(calm) as client:
        near, far = joined(client, host)  # Number 1.
        for each in numbers:
            client.send(OPEN, each, OPENING)
        assert client.closed()[0] == 1002
        step = far.frame()
        assert step.kind == CLOSE
        host.settle()
    calm.bystander.answers()


def test_numbers_may_be_skipped_up_to_the_last_one(calm):
    with server(calm) as host, peer(calm) as client:
        for each in [1, 3, 101, 0x7FFF_FFFF, 0xFFFF_FFFD, 0xFFFF_FFFF]:
            client.numbers = iter([each])
            near, far = joined(client, host)
            near.send(f"{each}")
            assert far.receive() == f"{each}"
        client.send(OPEN, 1, OPENING)
        assert client.closed()[0] == 1002


@pytest.mark.parametrize("payload", [
    b"", b"{", b"null", b"[]", b"22", b'"box"', b"{}", b'{"server": "box"}', b'{"port": 22}', b"\xff\xfe", b"\0" * 100,
    b'{"server": "box", "port": 22', b'{"server": "box", "port": 22}}', b'{"server": "box", "port": 22} x',
    b'{"server": null, "port": 22}', b'{"server": "", "port": 22}',
    b'{"server": 9223372036854775808, "port": 22}', b'{"server": true, "port": 22}', b'{"server": ["box"], "port": 22}',
    b'{"server": 1.5, "port": 22}', b'{"server": 1e400, "port": 22}', b'{"server": {"a": 1}, "port": 22}',
    b'{"server": "box", "port": "22"}', b'{"server": "box", "port": -1}', b'{"server": "box", "port": 65536}',
    b'{"server": "box", "port": 22.5}', b'{"server": "box", "port": null}', b'{"server": "box", "port": 1e99}',
    b'{"server": "box", "port": 22, "credit": -1}', b'{"server": "box", "port": 22, "credit": "1"}',
    b'{"server": "box", "port": 22, "credit": 4294967296}', b'{"server": "box", "port": 22, "credit": 1.5}',
    b'{"server": "box", "port": 22, "credit": 99999999999999999999}', b'{"server": "\xff", "port": 22}',
    b'{"server": "\\ud800", "port": 22}',
    b'{"server": "' + b"x" * 256 + b'", "port": 22}', b"[" * 10_000,
    b'{"server": "box", "port": 22, "x": ' + b"[" * 16_000,
    b'{"server": "box", "port": 22, "x": "' + b"y" * 16_384 + b'"}',
    b'{"server": "box", "port": 22, "x": "' + b"y" * 1_000_000 + b'"}',
], ids=lambda payload: f"{payload[:40]!r} {len(payload)}")
def test_an_open_that_cannot_be_read_closes_the_connection_with_1002(calm, payload):
    with server(calm) as host, peer(calm) as client:
        client.send(OPEN, 1, payload)
        assert client.closed()[0] == 1002
        host.settle()
        assert not host.new
    calm.bystander.answers()


def test_an_open_of_sixteen_kibibytes_is_read(calm):
    with server(calm) as host, peer(calm) as client:
        near = client.open("box", more="x" * (16_384 - 42))
        host.opened().accept()
        near.accepted()


@pytest.mark.parametrize("channel", [0, 998, 999, 0xFFFF_FFFF])
@pytest.mark.parametrize("message", [
    (BINARY, b"x"), (TEXT | MORE, b""), (CREDIT, number(5)), (END, b""), (CLOSE, coded(1000)), (ACCEPT, number(5)),
    (REJECT, coded(404))])
def test_a_frame_of_no_channel_is_1002_for_it_and_of_channel_0_for_the_connection(ends, channel, message):
    one, mine, other, theirs = ends
    one.send(message[0], channel, message[1])
    told = outcome(one, channel)
    assert told == (("channel", 1002) if channel else ("connection", 1002))
    if channel:
        mine.send("goes on")
        assert theirs.receive() == "goes on"


@pytest.mark.parametrize("message", [
    (ACCEPT, number(5)), (REJECT, coded(404)), (OPEN, OPENING)], ids=["accept", "reject", "open"])
def test_an_answer_to_what_is_no_question_is_1002(ends, message):
    one, mine, other, theirs = ends
    one.send(message[0], mine.number, message[1])
    assert outcome(one, mine.number)[1] == 1002
    step = theirs.frame()
    assert (step.kind, int.from_bytes(step.payload[:2], "big") in (1002, 1006, 4004)) == (CLOSE, True)
    other.settle()


@pytest.mark.parametrize("message", [
    (BINARY, b"x"), (BINARY, b""), (TEXT | MORE, b"x"), (END, b"")])
def test_what_a_server_sends_before_it_accepts_is_1002_for_the_channel(calm, message):
    with server(calm) as host, peer(calm) as client, knock(calm) as raw:
        clean_far = host.opened()
        near = client.open("box")
        far = host.opened()
        for channel in (far, clean_far):
            channel.peer.send(message[0], channel.number, message[1])
            assert outcome(host, channel.number) == ("channel", 1002)
        with pytest.raises(Rejected) as rejection:
            near.accepted()
        assert rejection.value.code == 502
        assert raw.read_response().status == 502
    calm.bystander.answers()


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_what_a_client_sends_before_it_is_accepted_is_beyond_its_credit(calm, size):
    with server(calm) as host, peer(calm) as client:
        near = client.open("box")
        far = host.opened()
        near.data(b"x" * size)
        assert outcome(client, near.number) == ("channel", 4006)
        assert far.frame().kind == CLOSE
        host.settle()
    calm.bystander.answers()


def test_a_type_that_changes_within_a_message_is_1002_for_the_channel(ends):
    one, mine, other, theirs = ends
    mine.data(b"text ", TEXT | MORE)
    mine.data(b"binary", BINARY)
    assert outcome(one, mine.number) == ("channel", 1002)
    step = theirs.frame()
    assert step[::2] == (TEXT | MORE, b"text ")
    assert theirs.closed()[0] == 1002
    one.settle()


def test_text_that_is_no_utf8_is_the_receivers_to_refuse(calm):
    with server(calm) as host, clean(calm, host) as (client, far), raw_clean(calm, host) as (raw, far_raw):
        raw.send(frame(wire.TEXT, b"\xff\xfe"))
        step = far_raw.frame()
        assert step[::2] == (TEXT, b"\xff\xfe") or step.kind == CLOSE
        far.data(b"\xff\xfe", TEXT)
        with pytest.raises(ConnectionClosed):
            client.receive()
        step = far.frame()
        assert (step.kind, step.payload[:2]) in ((CLOSE, coded(1007)), (CLOSE, coded(1006)))
        host.settle()
    calm.bystander.answers()


# Lengths


def test_a_length_beyond_every_number_is_1002_or_1009_at_once(calm):
    with server(calm) as host:
        before = calm.resident_bytes
        for head in [b"\x00\0\0\0\1", b"\x10\0\0\0\1", b"\x15\0\0\0\1", b"\x17\0\0\0\0"]:
            with peer(calm, raw=True) as client:
                client.raw.send(frame(wire.BINARY, head + b"x", length=(1 << 63) + 5))
                assert client.closed()[0] in (1002, 1009)
        for head in [b"\x10\0\0\0\1", b"\x15\0\0\0\1", b"\x17\0\0\0\0", b"\x7f\0\0\0\0"]:
            with peer(calm, raw=True) as client:
                client.raw.send(frame(wire.BINARY, head + b"x" * 17_000, length=(1 << 63) - 1))
                assert client.closed()[0] in (1002, 1009)
        assert calm.resident_bytes - before < 8 * MEBI
        with raw_clean(calm, host) as (client, far):
            client.send(frame(wire.BINARY, b"x", length=1 << 63))
            assert client.read_close()[0] == 1002
            assert far.frame().kind == CLOSE
    calm.bystander.answers()


@pytest.mark.parametrize("kind", ["clean", "multiplexed"])
@pytest.mark.parametrize("length", [1 << 30, (1 << 63) - 1])
def test_a_message_of_any_announced_length_streams_and_may_stop(calm, kind, length):
    with server(calm) as host, peer(calm, raw=True) as client:
        calm.forget_peak()
        before = calm.resident_bytes
        near, far = joined(client, host)
        if kind == "clean":
            raw = knock(calm)
            far = host.opened().accept()
            let_in(raw)
            raw.send(frame(wire.BINARY, b"", key=b"\0\0\0\0", length=length))
        else:
            raw = client.raw
            raw.send(frame(wire.BINARY, encode(BINARY, near.number), key=b"\0\0\0\0", length=length))
        block, total = random.Random(7).randbytes(100_000), 0
        for _ in range(80):
            if kind == "multiplexed":
                near.wait_for_credit(len(block))
                near.credit -= len(block)
            raw.send(block)
            received = b""
            while len(received) < len(block):
                step = far.frame()
                assert step.kind == BINARY | MORE
                received += step.payload
            assert received == block
            total += len(block)
        assert calm.peak_bytes - before < 16 * MEBI
        raw.reset()
        assert far.closed()[0] == 1006
    calm.bystander.answers()


def test_a_frame_that_runs_over_its_credit_ends_the_channel_and_the_rest_of_it_is_passed_over(calm):
    with server(calm) as host, peer(calm, raw=True) as client:
        near, far = joined(client, host)
        second, far_second = joined(client, host)
        far.grants = False
        near.data(b"x" * (WINDOW + 5_000_000))
        assert near.closed()[0] == 4006
        second.send("goes on")
        assert far_second.receive() == "goes on"
    calm.bystander.answers()


def test_websocket_rules_hold_for_both_kinds_of_ends(calm):
    rules = [frame(0, "of nothing"), frame(wire.BINARY, b"x", rsv=4), frame(3, "x"), frame(wire.TEXT, "x", key=None),
             frame(wire.PING, b"x" * 126, length_bytes=2), frame(wire.BINARY, b"x", length_bytes=2),
             frame(wire.PING, "", fin=False), wire.close_frame(1005), struct.pack("!BBB", 0x88, 0x81, 0) + b"\0" * 4]
    for rule in rules:
        with server(calm) as host, peer(calm, raw=True) as client, raw_clean(calm, host) as (plain, far_plain):
            near, far = joined(client, host)
            for raw, channel in [(client.raw, far), (plain, far_plain)]:
                raw.send(rule)
                assert raw.read_close()[0] == 1002
                assert channel.frame().kind == CLOSE
    calm.bystander.answers()


@pytest.mark.parametrize("seed", range(4))
def test_random_frames_of_any_kind_are_answered_or_end_the_connection(calm, seed):
    choose = random.Random(seed)
    for _ in range(100):
        with server(calm) as host, peer(calm, raw=True) as client:
            joined(client, host)
            one = choose.choice([host, client])
            try:
                for _ in range(choose.randrange(1, 20)):
                    kind = choose.choice([0, 1, 0x80, 0x81, *range(0x10, 0x19), choose.randrange(256)])
                    payload = choose.choice([
                        b"", b"x", number(choose.choice([0, 5, 0xFFFF_FFFF])), coded(choose.randrange(65536), "why"),
                        OPENING, choose.randbytes(choose.randrange(300))])
                    one.send(kind, choose.choice([0, 1, 2, 3, 4, choose.randrange(1 << 32)]), payload)
                one.settle()
            except (Closed, OSError, AssertionError):
                pass  # It need not follow what comes back; the relay and the others are what counts.
            except Exception as failure:
                assert type(failure).__name__ == "ConnectionClosedError", failure
    calm.bystander.answers()
