"""relay.v1 as peers speak it (docs/relay.v1.md): frames, channels, and the servers and clients that use them."""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import struct
import threading
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

import wire
from conditions import DEADLINE, eventually

BINARY, TEXT, MORE = 0x00, 0x01, 0x80
OPEN, ACCEPT, REJECT, CREDIT, END, CLOSE, DRAIN, PING, PONG = range(0x10, 0x19)

WINDOW = 256 << 10  # What an end grants unless it says otherwise; channelCreditBytes has the same default.
HOUR = {"slowConsumerDeadline": "1h", "pingInterval": "1h", "idleTimeout": "2h"}  # For those who wait on purpose.


names = itertools.count()


class Frame(NamedTuple):
    kind: int
    channel: int
    payload: bytes

    @property
    def is_data(self):
        return self.kind & ~MORE <= TEXT


def encode(kind, channel, payload=b""):
    return struct.pack("!BI", kind, channel) + payload


def decode(message):
    assert len(message) >= 5, f"shorter than a head: {message!r}"
    return Frame(message[0], int.from_bytes(message[1:5], "big"), message[5:])


def number(value):
    return struct.pack("!I", value)


def coded(code, reason=""):
    return struct.pack("!H", code) + (reason.encode() if isinstance(reason, str) else reason)


def code_and_reason(payload):
    assert len(payload) >= 2, payload
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class Closed(Exception):
    """The relay closed the WebSocket: code 1006 where no close frame came."""

    def __init__(self, code, reason=""):
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Rejected(Exception):
    """A channel was not to be: the code and the reason of `reject`."""

    def __init__(self, payload):
        self.code, self.reason = code_and_reason(payload)
        super().__init__(f"{self.code} {self.reason}")


class RawWebSocket:
    """Whole messages over a `wire.Raw`, for tests that count bytes, vanish, or leave what comes unread."""

    def __init__(self, raw):
        self.raw = raw

    def send(self, message):
        # Where the relay has closed, reading says so, and why.
        self.raw.try_send(wire.frame(wire.TEXT if isinstance(message, str) else wire.BINARY, message))

    def receive(self):
        pieces, kind = [], None
        while True:
            try:
                opcode, payload, is_last = self.raw.read_fragment()
            except wire.Ended as end:
                raise Closed(1006, str(end)) from end
            if opcode == wire.PING:
                self.raw.try_send(wire.frame(wire.PONG, payload))
            elif opcode == wire.CLOSE:
                self.raw.try_send(wire.frame(wire.CLOSE, payload))
                raise Closed(*code_and_reason(payload)) if payload else Closed(1005)
            elif opcode != wire.PONG:
                assert (opcode == wire.CONTINUATION) == bool(pieces), "a message begins where none ended"
                kind = opcode if not pieces else kind
                pieces.append(payload)
                if is_last:
                    message = b"".join(pieces)
                    return message.decode() if kind == wire.TEXT else message

    def close(self):
        self.raw.socket.close()


class Channel:
    """One end of a channel on a multiplexed connection. It keeps to its credit, and grants again what has come when
    half is used, unless the test sets `grants` to False."""

    def __init__(self, peer, channel, fields=None):
        self.peer, self.number, self.fields = peer, channel, fields
        self.credit = fields["credit"] if fields else 0
        self.window = WINDOW
        self.grants, self.unacknowledged, self.is_closed = True, 0, False
        self.inbox = collections.deque()

    def take(self, frame):
        if frame.kind == CREDIT:
            assert len(frame.payload) == 4
            self.credit += int.from_bytes(frame.payload, "big")
            return
        self.inbox.append(frame)
        if frame.is_data and self.grants and not self.is_closed:
            self.unacknowledged += len(frame.payload)
            if self.unacknowledged >= max(1, self.window // 2):
                self.grant(self.unacknowledged)
                self.unacknowledged = 0

    def frame(self):
        """The next frame of this channel but for `credit`."""
        while not self.inbox:
            self.peer.pump()
        return self.inbox.popleft()

    # Opening

    def accept(self, credit=WINDOW):
        self.window = credit
        self.peer.send(ACCEPT, self.number, number(credit))
        return self

    def reject(self, code, reason=""):
        self.peer.send(REJECT, self.number, coded(code, reason))

    def accepted(self):
        frame = self.frame()
        if frame.kind == REJECT:
            raise Rejected(frame.payload)
        assert (frame.kind, len(frame.payload)) == (ACCEPT, 4), frame
        self.credit += int.from_bytes(frame.payload, "big")
        return self

    # Messages

    def data(self, payload, kind=BINARY):
        """One data frame, whatever the credit."""
        self.peer.send(kind, self.number, payload)
        self.credit -= len(payload)

    def send(self, message, most=50_000):
        """A message in frames of at most `most` bytes, each within the credit."""
        kind, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        rest = memoryview(data)
        while True:
            if rest:
                self.wait_for_credit()
            piece, rest = rest[:min(most, self.credit)], rest[min(most, self.credit):]
            self.data(bytes(piece), kind | (MORE if rest else 0))
            if not rest:
                return

    def wait_for_credit(self, least=1):
        while self.credit < least:
            assert not self.inbox or self.inbox[-1].kind != CLOSE, self.inbox[-1]
            self.peer.pump()

    def receive(self):
        """A whole message."""
        pieces, kind = [], None
        while True:
            frame = self.frame()
            assert frame.is_data, f"no data: {frame}"
            assert kind in (None, frame.kind & ~MORE), "the type changed within a message"
            kind = frame.kind & ~MORE
            pieces.append(frame.payload)
            if not frame.kind & MORE:
                message = b"".join(pieces)
                return message.decode() if kind == TEXT else message

    def grant(self, count):
        self.peer.send(CREDIT, self.number, number(count))

    # The end

    def end(self):
        self.peer.send(END, self.number)

    def close(self, code=1000, reason=""):
        self.is_closed = True
        self.peer.send(CLOSE, self.number, coded(code, reason))

    def ended(self):
        frame = self.frame()
        assert (frame.kind, frame.payload) == (END, b""), frame

    def closed(self):
        """Code and reason of the `close` that comes next."""
        frame = self.frame()
        assert frame.kind == CLOSE, frame
        return code_and_reason(frame.payload)


@contextlib.contextmanager
def closing():
    """Says `Closed` where the `websockets` package says so in its way."""
    try:
        yield
    except ConnectionClosed as end:
        raise Closed(end.rcvd.code, end.rcvd.reason) if end.rcvd else Closed(1006) from end


class Peer:
    """A multiplexed connection over anything that sends and receives messages."""

    def __init__(self, socket):
        self.socket = socket
        self.channels = {}
        self.new = collections.deque()  # Channels that the relay opened.
        self.texts, self.strays = collections.deque(), collections.deque()
        self.numbers = itertools.count(1, 2)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        connection = getattr(self.socket, "connection", None)
        is_open = connection is not None and connection.state is State.OPEN
        self.socket.close()
        if is_open and kind is None:
            assert connection.protocol.close_rcvd, "the relay has not answered the close frame"

    @property
    def raw(self):
        return self.socket.raw

    def send(self, kind, channel, payload=b""):
        with closing():
            self.socket.send(encode(kind, channel, payload))

    def message(self):
        with closing():
            return self.socket.receive()

    def pump(self):
        """Takes in one message."""
        message = self.message()
        if isinstance(message, str):
            self.texts.append(message)
            return
        frame = decode(message)
        channel = self.channels.get(frame.channel)
        if frame.kind == OPEN or frame.kind in (ACCEPT, REJECT) and channel is None:
            assert frame.channel % 2 == 0 and channel is None, f"not the relay's to use, or used before: {frame}"
            channel = Channel(self, frame.channel, json.loads(frame.payload) if frame.kind == OPEN else None)
            self.channels[frame.channel] = channel
            self.new.append(channel)
        if channel is None:
            self.strays.append(frame)
        elif frame.kind != OPEN:
            channel.take(frame)

    def opened(self):
        """The next channel that the relay opens here."""
        while not self.new:
            self.pump()
        return self.new.popleft()

    def open(self, server, port=22, **more):
        """Asks for a channel; `accepted` of what is returned waits for the answer."""
        channel = Channel(self, next(self.numbers))
        channel.window = more.get("credit", WINDOW)
        self.channels[channel.number] = channel
        self.send(OPEN, channel.number, json.dumps({"server": server, "port": port, **more}).encode())
        return channel

    def stray(self):
        """The next frame of a number that is no channel here, or of 0."""
        while not self.strays:
            self.pump()
        return self.strays.popleft()

    def closed(self):
        """Code and reason with which the relay closes the connection."""
        try:
            while True:
                self.pump()
        except Closed as end:
            return end.code, end.reason

    def request(self, instruction, *positional, identifier="r", **more):
        """The reply to a request with an id."""
        with closing():
            self.socket.send(json.dumps(
                {"instruction": instruction, "parameters": positional, "id": identifier, **more}))
        while not self.texts:
            self.pump()
        reply = json.loads(self.texts.popleft())
        assert reply["id"] == identifier, reply
        return reply

    def settle(self):
        """Returns when everything that was sent here before has been seen by the relay, and its answers have come."""
        assert self.request("no instruction has this name")["error"]["code"] == "unknown_instruction"


# Connecting


def bearer(relay, credential=None):
    return {"Authorization": f"Bearer {credential or relay.admin}"}


def peer(relay, path="/", credential=None, raw=False, **options):
    """A multiplexed connection, over the `websockets` package or byte by byte."""
    if not raw:
        return Peer(relay.connect(
            path, subprotocols=["relay.v1"], additional_headers=bearer(relay, credential), max_queue=None, **options))
    fields = ["Sec-WebSocket-Protocol: relay.v1", f"Authorization: Bearer {credential or relay.admin}"]
    return Peer(RawWebSocket(relay.raw(upgraded=True, path=path, extra=fields, **options)))


def server(relay, name="box", path="", **options):
    """Installs itself under `name`."""
    return peer(relay, f"{path}/s/{name}", **options)


def begun(function, *arguments, **options):
    """Runs `function` in a thread; the future of its result."""
    future = concurrent.futures.Future()

    def run():
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as failure:
            future.set_exception(failure)

    threading.Thread(target=run, daemon=True).start()
    return future


def dial(relay, name="box", port=22, path="", credential=None, **options):
    """The future of a clean client of the `websockets` package: its 101 comes when the server has accepted."""
    return begun(
        relay.connect, f"{path}/c/{name}/{port}", additional_headers=bearer(relay, credential), **options)


def knock(relay, name="box", port=22, path="", credential=None, extra=()):
    """A clean client, byte by byte, that has sent its request and has not read the answer."""
    raw = relay.raw()
    fields = [f"Authorization: Bearer {credential or relay.admin}", *extra]
    raw.send(wire.upgrade_head(f"{path}/c/{name}/{port}", extra=fields))
    return raw


def let_in(raw):
    """Reads the 101 of one who knocked."""
    response = raw.read_response()
    assert response.status == 101, (response.status, response.body)
    return raw


@contextlib.contextmanager
def clean(relay, host, name="box", port=22, credit=WINDOW, **options):
    """A clean client of the server `host`, and the channel at that end."""
    dialling = dial(relay, name, port, **options)
    channel = host.opened().accept(credit)
    with dialling.result(DEADLINE) as client:
        yield client, channel


@contextlib.contextmanager
def raw_clean(relay, host, name="box", port=22, credit=WINDOW, **options):
    """The same, byte by byte."""
    with knock(relay, name, port, **options) as raw:
        channel = host.opened().accept(credit)
        yield let_in(raw), channel


def joined(client, host, name="box", port=22, credit=WINDOW, **more):
    """The two ends of a new channel between multiplexed connections."""
    near = client.open(name, port, **more)
    far = host.opened().accept(credit)
    return near.accepted(), far


def apart(relay, stack):
    """A client, a server, and its name: each is bound by a channel of its own, and they live on different loops."""
    bound = {}
    while len(bound) < 2:
        name = f"bound-{next(names)}"
        host = stack.enter_context(server(relay, name, raw=True))
        client = stack.enter_context(peer(relay, raw=True))
        joined(client, host, name)
        local = client.raw.socket.getsockname()[1]
        (loop,) = [entry["loop"] for entry in relay.listed("connections") if entry["remotePort"] == local]
        bound[loop] = client, host, name
    (client, _, _), (_, host, name) = bound.values()
    return client, host, name


def channels(relay, path="/"):
    return relay.listed("channels", path)


def no_channel_is_left(relay, path="/"):
    eventually(lambda: channels(relay, path) == [], "every channel is over")
