"""Echoes at the end of channels: for tests of everything else, and for seeing that nobody else notices."""

import collections
import contextlib
import json
import threading

from websockets.exceptions import ConnectionClosed

from channels import (
    ACCEPT, CLOSE, CREDIT, END, MORE, OPEN, WINDOW, Closed, Frame, begun, decode, dial, number, server)
from conditions import DEADLINE, eventually
from relay import ping_pong


class Echo:
    """A server that accepts every channel and sends back what comes, within its credit."""

    def __init__(self, relay, name="echo", **options):
        self.peer = server(relay, name, **options)
        self.credit, self.waiting = {}, {}
        self.running = begun(self.run)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.peer.socket.close()
        self.running.result(DEADLINE)

    def run(self):
        try:
            while True:
                with contextlib.suppress(TimeoutError):  # It waits for as long as nobody says anything.
                    self.take(decode(self.peer.message()))
        except (Closed, ConnectionClosed):
            pass

    def take(self, frame):
        channel = frame.channel
        if frame.kind == OPEN:
            self.credit[channel], self.waiting[channel] = json.loads(frame.payload)["credit"], collections.deque()
            self.peer.send(ACCEPT, channel, number(WINDOW))
        elif frame.kind == CREDIT:
            self.credit[channel] += int.from_bytes(frame.payload, "big")
        elif frame.kind == CLOSE:
            del self.credit[channel], self.waiting[channel]
            return
        else:
            assert frame.is_data or frame.kind == END, frame
            self.waiting[channel].append(frame)
        waiting = self.waiting[channel]
        while waiting and (self.credit[channel] or not waiting[0].payload):
            kind, _, payload = waiting.popleft()
            piece, rest = payload[:self.credit[channel]], payload[self.credit[channel]:]
            self.peer.send(kind | (MORE if rest else 0), channel, piece)
            self.credit[channel] -= len(piece)
            if piece:
                self.peer.send(CREDIT, channel, number(len(piece)))
            if rest:
                waiting.appendleft(Frame(kind, channel, rest))


class Bystander:
    """An echo pair beside the test, which must answer to the end."""

    def __init__(self, relay, name="bystander"):
        self.echo = Echo(relay, name)
        self.client = dial(relay, name).result(DEADLINE)
        self.over, self.answered = threading.Event(), 0
        self.running = begun(self.run)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.running.result(DEADLINE)
        ping_pong(self.client)
        self.client.close()
        self.echo.__exit__()

    def run(self):
        while not self.over.is_set():
            ping_pong(self.client)
            self.answered += 1
            self.over.wait(0.005)  # So that it does not take the test's own time.

    def answers(self):
        """Waits for an answer to what is sent from now on."""
        seen = self.answered
        eventually(lambda: self.running.done() or self.answered > seen + 1, "the bystander is answered")
        if self.running.done():
            self.running.result()
