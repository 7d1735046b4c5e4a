"""A relay on loopback that does what a test tells it to, built on the `websockets` server."""

import asyncio
import contextlib
import http
import json

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from relayd_client import Relay, frames

DEADLINE = 20.0  # Only turns a hang into a failure.
AT_ONCE = (0.001, 0.01)  # Pauses between attempts.


class FakeRelay:
    """`refusals` are the statuses of the next handshakes; `requests` what was asked for in all of them."""

    def __init__(self, speaks="relay.v1"):
        self.refusals = []
        self.requests = []
        self.url = ""
        self._speaks = speaks
        self._accepted = asyncio.Queue()

    async def __aenter__(self):
        self._server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._answer, ping_interval=None, max_size=None,
            select_subprotocol=lambda _, offered: self._speaks if self._speaks in offered else None)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def relay(self, **options):
        """A client of this relay."""
        return await asyncio.wait_for(Relay.open(self.url, **{"reconnect": AT_ONCE, **options}), DEADLINE)

    async def next(self):
        """The next connection that a client has made."""
        return await asyncio.wait_for(self._accepted.get(), DEADLINE)

    def _answer(self, connection, request):
        self.requests.append(request)
        if self.refusals:
            return connection.respond(http.HTTPStatus(self.refusals.pop(0)), "so the test wants it\n")
        return None

    async def _serve(self, connection):
        end = Peer(connection)
        self._accepted.put_nowait(end)
        await end.socket.wait_closed()


class Peer:
    """The relay's end of one connection."""

    def __init__(self, connection):
        self.socket = connection

    async def send(self, *messages):
        for message in messages:
            await self.socket.send(message)

    async def receive(self):
        return await asyncio.wait_for(self.socket.recv(), DEADLINE)

    async def opened(self, credit=1 << 20):
        """Accepts the open that comes; returns its number."""
        message = await self.receive()
        assert message[0] == frames.OPEN
        number = int.from_bytes(message[1:5], "big")
        await self.send(frames.accept(number, credit))
        return number

    async def closed(self):
        """The code and reason with which the client closes; what it sends before is passed over."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive()
        protocol = self.socket.protocol
        return protocol.close_code, protocol.close_reason

    async def vanish(self):
        self.socket.transport.abort()


def offer(number, **more):
    """An open as the relay sends it."""
    asked = {
        "server": "box", "port": 22, "remoteAddress": "192.0.2.1", "metadata": None, "credit": 1 << 20, "ticket": "t"}
    return frames.open_(number, "", 0, 0)[:5] + json.dumps({**asked, **more}).encode()


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, DEADLINE)


async def until(condition):
    async def look():
        while not condition():
            await asyncio.sleep(0.001)  # The pace of looking, not the wait.

    await soon(look())


@contextlib.asynccontextmanager
async def connected(credit=1 << 20, **options):
    """A channel, and the relay's end of its connection."""
    async with FakeRelay() as fake, await fake.relay(**options) as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.opened(credit)
        yield await soon(asked), end


def text(payload, more=False):
    return frames.data(1, True, more, payload)


def binary(payload, more=False):
    return frames.data(1, False, more, payload)


async def frames_of(end, count):
    return [await end.receive() for _ in range(count)]
