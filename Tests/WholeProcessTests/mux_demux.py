"""mux-demux as its clients speak it, and browser-stream-server on top: lines of JSON over one WebSocket. Written from
what mux-demux 3 sends; `stream.ended` and `closed` are its events."""

import collections
import itertools
import json

PREFIX = "/browser-server"


class Stream:
    def __init__(self, mux, identifier):
        self.mux, self.id = mux, identifier
        self.inbox = collections.deque()
        self.ended = self.closed = False

    def emit(self, *event):
        self.mux.line([self.id, *event])

    def write(self, data):
        assert not self.ended
        self.emit("data", data)

    def end(self):
        """Both ways, as a stream without `allowHalfOpen` ends."""
        self.emit("end")
        self.close()

    def close(self):
        if not self.closed:
            self.closed = True
            self.mux.streams.pop(self.id, None)
            self.emit("close")

    def data(self):
        """The next that comes; None behind the last."""
        while not self.inbox and not self.ended:
            self.mux.pump()
        return self.inbox.popleft() if self.inbox else None

    def event(self, name, value=None):
        if name == "data":
            self.inbox.append(value)
        elif name == "end":
            assert not self.ended, "a stream ends once"
            self.ended = True
            self.emit("end")
            self.close()
        elif name == "close":
            self.ended = True
            self.close()


class MuxDemux:
    """An `mdm` over a client of the `websockets` package."""

    def __init__(self, client):
        self.client = client
        self.streams = {}
        self.unknown = collections.deque()
        self.rest = ""
        self.numbers = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def line(self, value):
        self.client.send(json.dumps(value, separators=(",", ":")) + "\n")

    def pump(self):
        self.rest += self.client.receive()
        *lines, self.rest = self.rest.split("\n")
        for line in lines:
            identifier, name, *values = json.loads(line)
            stream = self.streams.get(identifier)
            if stream is not None:
                stream.event(name, *values)
            elif name != "close":
                self.unknown.append((identifier, name))

    def create(self, meta):
        stream = Stream(self, f"{next(self.numbers):x}7af1c3d2e4b5")
        self.streams[stream.id] = stream
        stream.emit("new", {"meta": meta, "opts": {"writable": True, "readable": True}})
        return stream

    # browser-stream-server

    def listen(self, name):
        return self.create(f"{PREFIX}/server/{name}")

    def pick_up(self, server, name):
        """What the server does for each client that it is told of."""
        return self.create(f"{PREFIX}/server/{name}/client/{server.data()}")

    def connect(self, name):
        return self.create(f"{PREFIX}/client/{name}/0b1d9a5e-6f53-4c7e-9d1b-3a2f8c7e6d54")

    def settle(self):
        """Returns when what was sent here before has been seen."""
        missing = self.create("/nobody")
        assert missing.data() is None
