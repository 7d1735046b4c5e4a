"""Echoes at the end of channels: for tests of everything else, and for seeing that nobody else notices."""

import collections
import contextlib
import json
import threading

from channels import (
    ACCEPT, CLOSE, CREDIT, END, MORE, OPEN, WINDOW, Closed, Frame, begun, decode, dial, number, server)
from conditions import DEADLINE
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
                self.take(decode(self.peer.message()))
        except Closed:
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


@contextlib.contextmanager
def bystander(relay, name="bystander"):
    """An echo pair beside the test, which must answer to the end."""
    over = threading.Event()
    with Echo(relay, name), dial(relay, name).result(DEADLINE) as client:

        def run():
            while not over.is_set():
                ping_pong(client)
                over.wait(0.005)  # So that it does not take the test's own time.

        running = begun(run)
        try:
            yield client
        finally:
            over.set()
            running.result(DEADLINE)
            ping_pong(client)
