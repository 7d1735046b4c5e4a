"""Servers: registration, and the channels that clients ask for, against a relay that a test plays."""

import asyncio
import contextlib
import logging

import pytest

from fake_relay import FakeRelay, offer, soon, until
from relayd_client import ChannelClosed, ConnectionLost, HandshakeRefused, frames, listener


@contextlib.asynccontextmanager
async def listening(**options):
    """A server, the relay's end of its connection, and the relay."""
    async with FakeRelay() as fake, await fake.relay(credential="secret", **options) as relay:
        await fake.next()
        async with relay.listen("box", ports=[22, 80]) as server:
            yield server, await fake.next(), fake


@contextlib.asynccontextmanager
async def serving(handler):
    async with FakeRelay() as fake, await fake.relay() as relay:
        await fake.next()
        serves = asyncio.create_task(relay.serve("box", handler))
        yield await fake.next()
        serves.cancel()
        await asyncio.gather(serves, return_exceptions=True)


async def test_a_registration():
    async with listening() as (_, _, fake):
        assert fake.requests[1].path == "/s/box?ports=22,80"
        assert fake.requests[1].headers["Authorization"] == "Bearer secret"
        assert fake.requests[1].headers["Sec-WebSocket-Protocol"] == "relay.v1"


async def test_a_registration_that_is_refused():
    async with FakeRelay() as fake, await fake.relay() as relay:
        fake.refusals = [409]
        with pytest.raises(HandshakeRefused) as raised:
            async with relay.listen("box"):
                pass
        assert (raised.value.status, raised.value.reason) == (409, "so the test wants it")


async def test_a_channel_is_accepted_by_its_first_use():
    async def receive(channel):
        await channel.receive()

    async def read(channel):
        await channel.read()

    async def pieces(channel):
        await channel.pieces().__anext__()

    async def send(channel):
        await channel.send("a")

    async def end(channel):
        await channel.end()

    async def accept(channel):
        channel.accept()

    async with listening(window=1000) as (server, peer, _):
        for index, use in enumerate((receive, read, pieces, send, end, accept)):
            number = 2 * index + 2
            await peer.send(offer(number, metadata={"user": 7}, remoteAddress="192.0.2.7", port=80))
            channel = await soon(server.__anext__())
            facts = channel.server, channel.port, channel.remote_address, channel.metadata
            assert facts == ("box", 80, "192.0.2.7", {"user": 7})
            uses = asyncio.create_task(use(channel))
            assert await peer.receive() == frames.accept(number, 1000)
            await peer.send(frames.data(number, True, False, b"a"))
            await soon(uses)
            await channel.close()
            while (await peer.receive())[0] != frames.CLOSE:
                pass


async def test_a_channel_is_rejected():
    async with listening() as (server, peer, _):
        await peer.send(offer(2))
        channel = await soon(server.__anext__())
        for code, reason in [(399, ""), (5000, ""), (403, "a" * 124)]:
            with pytest.raises(ValueError):
                channel.reject(code, reason)
        channel.reject(429, "too many")
        channel.accept()
        assert await peer.receive() == frames.reject(2, 429, "too many")
        with pytest.raises(ChannelClosed):
            await channel.send("a")


async def test_a_context_that_makes_no_use_of_a_channel_rejects_it():
    async with listening() as (server, peer, _):
        await peer.send(offer(2), offer(4))
        async with await soon(server.__anext__()):
            pass
        with pytest.raises(KeyError):
            async with await soon(server.__anext__()):
                raise KeyError
        assert [await peer.receive(), await peer.receive()] == [frames.reject(2, 503, ""), frames.reject(4, 500, "")]


async def test_a_client_that_has_gone_is_not_seen():
    async with listening() as (server, peer, _):
        await peer.send(offer(2), frames.close(2, 504, "too late"), offer(4, server=3))
        assert (await soon(server.__anext__())).server == 3


async def test_clients_that_wait_have_a_limit(monkeypatch):
    monkeypatch.setattr(listener, "MAXIMUM_WAITING", 3)
    async with listening() as (server, peer, _):
        await peer.send(*(offer(number) for number in (2, 4, 6)), frames.close(4, 504, ""), offer(8), offer(10))
        assert await peer.receive() == frames.reject(10, 503, "too many clients wait")
        for number in (2, 6, 8):
            (await soon(server.__anext__())).accept()
            assert (await peer.receive())[:5] == frames.accept(number, 0)[:5]


async def test_leaving_stops_the_loop():
    async with listening() as (server, peer, _):
        waits = asyncio.create_task(server.__anext__())
        await asyncio.sleep(0)
        await server.close()
        with pytest.raises(StopAsyncIteration):
            await soon(waits)
        assert await peer.closed() == (1000, "")


async def test_a_final_close_is_raised():
    async with listening() as (server, peer, _):
        await peer.socket.close(4005, "replaced")
        with pytest.raises(ConnectionLost) as raised:
            await soon(server.__anext__())
        assert (raised.value.code, raised.value.reason) == (4005, "replaced")


# A connection of its own

async def test_a_dedicated_connection():
    async with listening() as (server, peer, fake):
        await peer.send(offer(2, ticket="a/b", metadata=[1]))
        channel = await soon(server.__anext__())
        own = await soon(channel.dedicated())
        other = await fake.next()
        assert fake.requests[2].path == "/a/a%2Fb" and "Sec-WebSocket-Protocol" not in fake.requests[2].headers
        assert (own.server, own.port, own.remote_address, own.metadata) == ("box", 22, "192.0.2.1", [1])
        await other.send("text", b"bytes", "☃")
        assert [await soon(own.receive()), await soon(own.read())] == ["text", b"bytes"]
        assert [piece async for piece in own.pieces()] == ["☃"]
        await own.send("one")
        await own.send([b"t", b"w", b"o"])
        assert [await other.receive(), await other.receive()] == ["one", b"two"]
        with pytest.raises(RuntimeError):
            await channel.dedicated()
        await other.socket.close(4004, "gone")
        with pytest.raises(ChannelClosed) as raised:
            await soon(own.receive())
        assert raised.value.code == own.close_code == 4004 and own.close_reason == "gone"
        with pytest.raises(ChannelClosed):
            await own.send("more")


async def test_a_dedicated_connection_ends_as_a_whole():
    async with listening() as (server, peer, fake):
        await peer.send(offer(2))
        async with await (await soon(server.__anext__())).dedicated() as own:
            other = await fake.next()
            with pytest.raises(ValueError):
                await own.close(1006)
            await own.end()
        assert await other.closed() == (1000, "")


async def test_a_dedicated_connection_that_is_refused_leaves_the_channel_as_it_was():
    async with listening() as (server, peer, fake):
        await peer.send(offer(2))
        channel = await soon(server.__anext__())
        fake.refusals = [404]
        with pytest.raises(HandshakeRefused):
            await soon(channel.dedicated())
        channel.accept()
        assert (await peer.receive())[0] == frames.ACCEPT


async def test_without_a_ticket_there_is_no_dedicated_connection():
    async with listening() as (server, peer, _):
        await peer.send(offer(2, ticket=None))
        with pytest.raises(RuntimeError):
            await (await soon(server.__anext__())).dedicated()


# Handlers

async def test_handlers_run_at_the_same_time_and_their_channels_close():
    running, go = [], asyncio.Event()

    async def handler(channel):
        running.append(channel)
        await channel.send("hello")
        await go.wait()

    async with serving(handler) as peer:
        await peer.send(offer(2), offer(4))
        await until(lambda: len(running) == 2)
        go.set()
        received = [await peer.receive() for _ in range(6)]
        for number in (2, 4):
            assert [message for message in received if message[4] == number] == [
                frames.accept(number, 262_144), frames.data(number, True, False, b"hello"),
                frames.close(number, 1000, "")]


async def test_a_handler_that_fails_ends_its_channel_alone(caplog):
    async def handler(channel):
        if channel.port == 1:
            raise KeyError("of a handler")
        if channel.port == 2:
            channel.accept()
            raise KeyError("of a handler")
        if channel.port == 3:
            await channel.receive()

    async with serving(handler) as peer:
        await peer.send(offer(2, port=1), offer(4, port=2), offer(6, port=4), offer(8, port=3))
        received = {(message[0], message[4]): message for message in [await peer.receive() for _ in range(5)]}
        assert received[frames.REJECT, 2] == frames.reject(2, 500, "")
        assert received[frames.CLOSE, 4] == frames.close(4, 1011, "")
        assert received[frames.REJECT, 6] == frames.reject(6, 503, "")
        assert (frames.ACCEPT, 8) in received
        await peer.send(frames.close(8, 4004, ""), offer(10, port=3))
        assert (await peer.receive())[:5] == frames.accept(10, 0)[:5], "it serves on"
    assert caplog.text.count("of a handler") >= 2 and logging.ERROR in {record.levelno for record in caplog.records}


async def two_of(peer):
    return {await peer.receive(), await peer.receive()}


async def test_serving_ends_with_its_handlers():
    ended = []

    async def handler(channel):
        try:
            await channel.receive()
        finally:
            ended.append(channel)

    async with serving(handler) as peer:
        await peer.send(offer(2), offer(4))
        for _ in range(2):
            await peer.receive()
        closes = asyncio.create_task(two_of(peer))
    assert len(ended) == 2 and await closes == {frames.close(2, 1001, ""), frames.close(4, 1001, "")}


async def test_an_instruction_connection_serves_what_a_script_installs():
    async def handler(channel):
        await channel.send("served")

    async with FakeRelay() as fake:
        async with await fake.relay() as relay:
            peer = await fake.next()
            await peer.send(offer(2))
            assert await peer.receive() == frames.reject(2, 404, "nothing is served here")
            del relay
        async with await fake.relay(on_channel=handler):
            peer = await fake.next()
            await peer.send(offer(2))
            received = [await peer.receive() for _ in range(3)]
            assert received[1] == frames.data(2, True, False, b"served")
