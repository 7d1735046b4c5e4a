"""However the bytes of frames are cut into segments, the same messages come out: small ones in a row and large ones, in
pieces, and with others between them."""

import contextlib
import random

import pytest

import wire
from channels import (
    BINARY, CLOSE, END, MORE, PING, PONG, TEXT, channels, clean, coded, encode, joined, peer, raw_clean, server)
from conditions import eventually
from relay import Relay
from wire import frame

SIZES = [0, 1, 2, 5, 113, 114, 118, 119, 120, 121, 124, 125, 126, 127, 130, 300]


@pytest.fixture(scope="module")
def one_loop():
    """Where everybody is heard in turn: who is answered knows that what came before has been read."""
    with Relay() as relay:
        yield relay


def random_key(choose):
    return choose.choice([b"\0\0\0\0", choose.randbytes(4), choose.randbytes(4)])


class Sender:
    """Makes the bytes of messages for two channels, and remembers what must come out of each."""

    def __init__(self, choose, numbers):
        self.choose, self.numbers = choose, numbers
        self.data, self.expected = b"", [[], []]

    def whole(self, which, message):
        self.pieces(which, message, [len(message.encode() if isinstance(message, str) else message)])

    def pieces(self, which, message, sizes):
        kind, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        for index, size in enumerate(sizes):
            piece, data = data[:size], data[size:]
            self.piece(which, kind, piece, index == 0, index == len(sizes) - 1)
        self.expected[which].append(message)

    def piece(self, which, kind, piece, is_first, is_last):
        payload = encode(kind | (0 if is_last else MORE), self.numbers[which], piece)
        self.data += frame(wire.BINARY, payload, key=random_key(self.choose))

    def between(self):
        """Something that is no data and must not be in its way."""
        self.data += self.choose.choice([
            frame(wire.PING, b"between"), frame(wire.PONG, b""),
            frame(wire.BINARY, encode(PING, 0, b"between"), key=random_key(self.choose))])


class CleanSender(Sender):
    def piece(self, which, kind, piece, is_first, is_last):
        opcode = {TEXT: wire.TEXT, BINARY: wire.BINARY}[kind] if is_first else wire.CONTINUATION
        self.data += frame(opcode, piece, fin=is_last, key=random_key(self.choose))

    def between(self):
        self.data += self.choose.choice([frame(wire.PING, b"between"), frame(wire.PONG, b"")])


def speak(sender, is_clean, count):
    choose = sender.choose
    for _ in range(count):
        which = 0 if is_clean else choose.choice([0, 0, 0, 1])
        size = choose.choice(SIZES)
        message = choose.randbytes(size) if choose.random() < 0.7 else "x" * size
        if choose.random() < 0.15:
            at = choose.randrange(size + 1)
            sender.pieces(which, message, [at, 0, size - at])
        else:
            sender.whole(which, message)
        if choose.random() < 0.1:
            sender.between()


@contextlib.contextmanager
def situation(relay, way):
    """The raw sender, its channels' numbers, and two receivers: of a kind each way through the relay."""
    with contextlib.ExitStack() as stack:
        if way == "clean to multiplexed":
            host = stack.enter_context(server(relay))
            raw, far = stack.enter_context(raw_clean(relay, host))
            yield raw, None, [far, None]
        elif way == "multiplexed to clean":
            host = stack.enter_context(server(relay, raw=True))
            ends = [stack.enter_context(clean(relay, host)) for _ in range(2)]
            yield host.raw, [far.number for _, far in ends], [client for client, _ in ends]
        else:
            host = stack.enter_context(server(relay))
            client = stack.enter_context(peer(relay, raw=True))
            pairs = [joined(client, host) for _ in range(2)]
            yield client.raw, [near.number for near, _ in pairs], [far for _, far in pairs]


WAYS = ["clean to multiplexed", "multiplexed to clean", "multiplexed to multiplexed"]


def hears(receivers, sender):
    for receiver, messages in zip(receivers, sender.expected):
        for message in messages:
            assert receiver.receive() == message


def made(numbers, choose):
    return CleanSender(choose, None) if numbers is None else Sender(choose, numbers)


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_at_any_place_changes_nothing(one_loop, way):
    with situation(one_loop, way) as (raw, numbers, receivers), one_loop.connect() as clock:
        sender = made(numbers, random.Random(1))
        for message in [b"", b"\x01", b"two in a row", "text", b"x" * 114, b"y" * 120, b"z" * 126, b"", b"end"]:
            sender.whole(0, message)
        sender.pieces(0, b"in pieces", [3, 0, 6])
        sender.between()
        if numbers:
            sender.whole(1, b"another's")
            sender.pieces(1, "texts", [2, 3])
        sender.whole(0, b"after")
        for cut in range(1, len(sender.data)):
            raw.send(sender.data[:cut])
            clock.messages()  # By its answer the first part has been read.
            raw.send(sender.data[cut:])
            hears(receivers, sender)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_random_messages_in_random_segments_come_out_the_same(one_loop, way, seed):
    choose = random.Random(f"{seed} {way}")
    with situation(one_loop, way) as (raw, numbers, receivers), one_loop.connect() as clock:
        for _ in range(12):
            sender = made(numbers, choose)
            speak(sender, numbers is None, choose.choice([1, 10, 200]))
            data, most = sender.data, choose.choice([1, 7, 100, 1000, 1 << 20])
            at = 0
            while at < len(data):
                step = choose.randrange(1, most + 1)
                raw.send(data[at:at + step])
                at += step
                if choose.random() < 0.05:
                    clock.messages()
            hears(receivers, sender)


@pytest.mark.parametrize("way", WAYS)
def test_small_messages_in_a_row_are_counted_one_by_one(make_relay, way):
    relay = make_relay()
    with situation(relay, way) as (raw, numbers, receivers):
        sender = made(numbers, random.Random(3))
        for index in range(1000):
            sender.whole(0, b"x" * (index % 100))
        raw.send(sender.data)
        hears(receivers, sender)
        total = sum(index % 100 for index in range(1000))
        moved = "ToClient" if way == "multiplexed to clean" else "ToServer"

        def is_counted():
            listed = channels(relay)
            return any((entry[f"messages{moved}"], entry[f"bytes{moved}"]) == (1000, total) for entry in listed)

        eventually(is_counted, "all are counted")


@pytest.mark.parametrize("receiver", ["clean", "multiplexed"])
@pytest.mark.parametrize("size", [1, 30, 99, 100, 119])
def test_small_messages_go_as_far_as_the_credit_and_the_next_is_one_too_many(one_loop, receiver, size):
    credit = 20 * size + size // 2
    with server(one_loop, raw=True) as host, peer(one_loop, raw=True) as client:
        near = client.open("box", credit=credit)
        far = host.opened().accept(credit)
        near.accepted()
        near.grants = far.grants = False
        one, other = (near, far) if receiver == "multiplexed" else (far, near)
        # The sender's credit is the same either way: what comes after 20 messages does not fit.
        one.peer.raw.send(frame(wire.BINARY, encode(BINARY, one.number, b"x" * size)) * 25)
        received = 0
        while (step := other.frame()).is_data:
            received += 1
            assert step.payload == b"x" * size
        assert (step.kind, step.payload[:2]) == (CLOSE, coded(4006))
        assert received == 20
        assert one.closed()[0] == 4006


@pytest.mark.parametrize("size", [1, 30, 119, 125])
def test_small_messages_of_a_clean_client_wait_for_credit_within_a_row(one_loop, size):
    with server(one_loop) as host, raw_clean(one_loop, host, credit=10 * size + size // 2) as (client, far):
        far.grants = False
        messages = [bytes([index]) * size for index in range(40)]
        client.send(b"".join(frame(wire.BINARY, message) for message in messages))
        received = b""
        while len(received) < 10 * size + size // 2:
            received += far.frame().payload
        for _ in range(40):
            host.settle()
            assert not any(step.payload for step in far.inbox)
            far.grant(size)
            expected = min(len(received) + size, 40 * size)
            while len(received) < expected:
                received += far.frame().payload
        assert received == b"".join(messages)


def test_what_follows_small_messages_in_the_same_segment_keeps_its_place(one_loop):
    with server(one_loop, raw=True) as host, clean(one_loop, host) as (client, far), \
            peer(one_loop, raw=True) as other:
        near, far_other = joined(other, host)
        small = b"".join(frame(wire.BINARY, encode(TEXT, far.number, b"%d" % index)) for index in range(100))
        behind = frame(wire.BINARY, encode(TEXT | MORE, far.number, b"last ")) + frame(
            wire.BINARY, encode(PING, 0, b"?")) + frame(wire.BINARY, encode(TEXT, far.number, b"words")) + frame(
            wire.BINARY, encode(CLOSE, far.number, coded(4321, "done")))
        host.raw.send(small + behind)
        assert [client.receive() for _ in range(101)] == [*(f"{index}" for index in range(100)), "last words"]
        assert client.closed() == (4321, "done")
        assert host.stray() == (PONG, 0, b"?")
        small = b"".join(frame(wire.BINARY, encode(BINARY, near.number, b"%d" % index)) for index in range(100))
        other.raw.send(small + frame(wire.BINARY, encode(END, near.number)) + small)
        assert [far_other.receive() for _ in range(100)] == [b"%d" % index for index in range(100)]
        far_other.ended()
        assert far_other.closed()[0] == 1002  # Data after the end.


@pytest.mark.parametrize("broken", [
    frame(wire.BINARY, b"\x00\0\0\0"), frame(wire.BINARY, b""), frame(wire.TEXT, b"\xff"),
    frame(wire.BINARY, b"\x02\0\0\0\1x"), frame(wire.BINARY, b"\x00\0\0\0\1x", rsv=4),
    frame(wire.BINARY, b"\x00\0\0\0\1x", key=None), frame(wire.BINARY, b"\x00\0\0\0\1x", length_bytes=2),
    frame(0, b"\x00\0\0\0\1x"), frame(wire.BINARY, b"\x00\0\0\0\1x", fin=False) + frame(wire.BINARY, b"y"),
], ids=["short", "empty", "no UTF-8", "type", "reserved bit", "no mask", "long length", "continuation", "within"])
def test_a_broken_frame_behind_small_messages_is_found_and_they_are_delivered(one_loop, broken):
    with server(one_loop) as host, peer(one_loop, raw=True) as client:
        near, far = joined(client, host)
        good = b"".join(frame(wire.BINARY, encode(BINARY, near.number, b"%d" % index)) for index in range(50))
        client.raw.send(good + broken + good)
        assert client.closed()[0] in (1002, 1007)
        assert [far.receive() for _ in range(50)] == [b"%d" % index for index in range(50)]
        step = far.frame()
        if step.is_data:  # What came of the broken message before it broke.
            step = far.frame()
        assert (step.kind, step.payload[:2]) in ((CLOSE, coded(1002)), (CLOSE, coded(1007)))
        host.settle()
