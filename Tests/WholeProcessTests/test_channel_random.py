"""Peers that open, send, end, close and vanish at random, always the same for a seed: what arrives is what was sent."""

import collections
import itertools
import random
import select
import threading

import pytest

import wire
from channels import (
    BINARY, CLOSE, END, MORE, TEXT, WINDOW, Rejected, begun, channels, knock, server)
from conditions import DEADLINE, eventually
from echoes import Bystander
from wire import frame

PEERS, VISITORS, VISITS = 4, 4, 40
NOISE = bytes(random.Random(0).choices(range(32, 127), k=200_000))  # ASCII, so that it is text wherever it is cut.


def messages(key):
    """What one side of a channel says: kinds and messages without end."""
    choose = random.Random(key)
    while True:
        size = choose.choice([0, 1, 5, 100, 1000, 1000, 20_000, 100_000])
        start = choose.randrange(len(NOISE) - size)
        yield choose.choice([BINARY, TEXT]), NOISE[start:start + size]


class Said:
    """What one side has sent."""

    def __init__(self, key):
        self.messages, self.is_within, self.total = messages(key), False, 0
        self.kind, self.rest = next(self.messages)

    def piece(self, most):
        """The next piece: its kind, its bytes, whether it is the first of its message, and whether more follows."""
        is_first = not self.is_within
        piece, self.rest = self.rest[:most], self.rest[most:]
        kind, self.is_within = self.kind, bool(self.rest)
        self.total += len(piece)
        if not self.rest:
            self.kind, self.rest = next(self.messages)
        return kind, piece, is_first, self.is_within


class Heard:
    """What one side has received: it must be what the other says, and nothing else."""

    def __init__(self, key):
        self.messages, self.total = messages(key), 0
        self.kind, self.rest = next(self.messages)

    def take(self, kind, piece, is_last):
        assert kind == self.kind
        assert piece == self.rest[:len(piece)], "other bytes than were sent"
        self.rest, self.total = self.rest[len(piece):], self.total + len(piece)
        if is_last:
            assert not self.rest, "a message was cut short"
            self.kind, self.rest = next(self.messages)


class Meeting:
    """What all who take part know."""

    def __init__(self, relay):
        self.relay = relay
        self.ports = itertools.count()
        self.totals = {}  # key → how much a side had said when it ended
        self.counts = collections.Counter()
        self.over = threading.Event()

    def is_complete(self, key, heard):
        assert heard.total == self.totals[key], "something was lost before the end"
        self.counts["ends"] += 1


class End:
    """One end of a channel on a multiplexed connection."""

    def __init__(self, meeting, channel, port, is_server):
        self.meeting, self.channel = meeting, channel
        self.key, self.other = 2 * port + is_server, 2 * port + (not is_server)
        self.said, self.heard = Said(self.key), Heard(self.other)
        self.is_open, self.is_over = is_server, False
        self.has_ended, self.has_heard_all = False, False

    def take_all(self):
        while self.channel.inbox and not self.is_over:
            if not self.is_open:
                self.is_open = True
                try:
                    self.channel.accepted()
                except Rejected as rejection:
                    assert rejection.code in (418, 502), rejection
                    self.is_over = True
                continue
            step = self.channel.inbox.popleft()
            if step.is_data:
                self.heard.take(step.kind & ~MORE, step.payload, not step.kind & MORE)
                self.meeting.counts["bytes"] += len(step.payload)
            elif step.kind == END:
                # A clean client that is closed because of our end need not have said that it has.
                if not self.has_ended or self.other in self.meeting.totals:
                    self.meeting.is_complete(self.other, self.heard)
                self.has_heard_all, self.is_over = True, self.has_ended
            else:
                assert step.kind == CLOSE, step
                code = int.from_bytes(step.payload[:2], "big")
                assert code in (1000, 1006, 4004, 4005) or 4100 <= code < 4200, f"closed with {code}"
                self.is_over = True

    def act(self, choose):
        """Says something, perhaps; false where it cannot."""
        if not self.is_open or self.is_over or (self.channel.credit <= 0 and not self.has_ended):
            return False
        chance = choose.random()
        if chance < 0.02:
            self.channel.close(4100 + choose.randrange(100), "at random")
            self.is_over = True
        elif self.has_ended:
            return False
        elif chance < 0.06 and not self.said.is_within:
            self.meeting.totals[self.key] = self.said.total
            self.channel.end()
            self.has_ended, self.is_over = True, self.has_heard_all
        else:
            most = min(self.channel.credit, choose.choice([1, 100, 5000, 70_000]))
            kind, piece, _, more = self.said.piece(most)
            self.channel.data(piece, kind | (MORE if more else 0))
        return True


def is_heard(raw, seconds=0.0):
    return raw.buffer or select.select([raw.socket], [], [], seconds)[0]


def multiplexed(meeting, index, seed):
    """A server and client in one, that comes back under its name whenever it has vanished."""
    choose = random.Random(f"{seed} {index}")
    peer, ends = server(meeting.relay, f"box-{index}", raw=True), {}
    while not meeting.over.is_set():
        if choose.random() < 0.004:
            peer.raw.reset() if choose.random() < 0.5 else peer.raw.socket.close()
            peer, ends = server(meeting.relay, f"box-{index}", raw=True), {}
            meeting.counts["vanished"] += 1
        if len(ends) < 2 or len(ends) < 30 and choose.random() < 0.05:
            port = next(meeting.ports)
            more = {"credit": choose.choice([1, 1000, WINDOW, 1 << 20])} if choose.random() < 0.5 else {}
            channel = peer.open(f"box-{choose.randrange(PEERS + 1)}", port, **more)  # One of them is nobody.
            ends[channel.number] = End(meeting, channel, port, False)
        while is_heard(peer.raw):
            peer.pump()
        while peer.new:
            channel = peer.new.popleft()
            if choose.random() < 0.1:
                channel.reject(418, "at random")
            else:
                channel.accept(choose.choice([1, 1000, WINDOW, 1 << 20]))
                ends[channel.number] = End(meeting, channel, channel.fields["port"], True)
        has_spoken = False
        for end in list(ends.values()):
            end.take_all()
            for _ in range(choose.randrange(3)):
                has_spoken |= end.act(choose)
            if end.is_over:
                del ends[end.channel.number]
        if not has_spoken:
            is_heard(peer.raw, 0.05)  # Nothing can be said before something is heard, or a while has passed.
        assert not peer.strays, peer.strays
    peer.raw.socket.close()


def visitor(meeting, index, seed):
    """A clean client that comes again and again."""
    choose, visits = random.Random(f"{seed} visitor {index}"), 0
    while visits < VISITS:
        port = next(meeting.ports)
        if choose.random() < 0.1:
            knock(meeting.relay, f"box-{choose.randrange(PEERS)}", port).reset()
        with knock(meeting.relay, f"box-{choose.randrange(PEERS + 1)}", port) as raw:
            status = raw.read_response().status
            assert status in (101, 418, 502), status
            if status == 101:
                visit(raw, choose, Said(2 * port), Heard(2 * port + 1))
                visits += 1


def visit(raw, choose, said, heard):
    kind = None
    for _ in range(choose.randrange(100)):
        sent, piece, is_first, more = said.piece(choose.choice([1, 100, 5000, 70_000]))
        opcode = {BINARY: wire.BINARY, TEXT: wire.TEXT}[sent] if is_first else wire.CONTINUATION
        if not raw.try_send(frame(opcode, piece, fin=not more)):
            return
        while is_heard(raw):
            try:
                opcode, payload, is_last = raw.read_fragment()
            except wire.Ended:
                return
            if opcode == wire.CLOSE:
                code = int.from_bytes(payload[:2], "big")
                assert code in (1000, 4004, 4005) or 4100 <= code < 4200, f"closed with {code}"
                raw.try_send(frame(wire.CLOSE, payload))
                return
            assert opcode in (wire.TEXT, wire.BINARY, wire.CONTINUATION)
            kind = {wire.BINARY: BINARY, wire.TEXT: TEXT}.get(opcode, kind)
            heard.take(kind, payload, is_last)
    raw.try_send(wire.close_frame(4100, "goodbye")) if choose.random() < 0.5 else raw.reset()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_peers_do_each_channel_carries_what_was_said_and_nothing_is_left(make_relay, loops, seed):
    relay = make_relay(loops=loops, log_level="info")
    with Bystander(relay) as bystander:
        descriptors, before = relay.descriptors, relay.resident_bytes
        meeting = Meeting(relay)
        peers = [begun(multiplexed, meeting, index, seed) for index in range(PEERS)]
        visitors = [begun(visitor, meeting, index, seed) for index in range(VISITORS)]
        try:
            for each in visitors:
                each.result(9 * DEADLINE)
        finally:
            meeting.over.set()
            for each in peers:
                each.result(DEADLINE)
        assert min(meeting.counts[what] for what in ("ends", "bytes", "vanished")) > 0, meeting.counts
        eventually(lambda: len(channels(relay)) == 1, "only the bystander's channel is left")
        eventually(lambda: relay.descriptors <= descriptors, "every descriptor is closed")
        assert relay.resident_bytes - before < 48 << 20
        bystander.answers()
