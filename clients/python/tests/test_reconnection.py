"""Connections that are lost and come back, against a relay that a test plays."""

import asyncio
import json

import pytest

from fake_relay import FakeRelay, offer, soon, until
from relayd_client import ChannelClosed, ConnectionLost, HandshakeRefused, Relay, frames
from relayd_client.reconnecting import FINAL_CLOSE_CODES


async def works(relay, end):
    """Whether requests go over this connection."""
    asked = asyncio.create_task(relay.invoke("greet"))
    request = json.loads(await end.receive())
    await end.send(json.dumps({"id": request["id"], "result": 1}))
    return await soon(asked) == 1


async def test_a_first_attempt_that_fails_is_not_repeated():
    async with FakeRelay() as fake:
        for status in (401, 503):
            fake.refusals = [status]
            with pytest.raises(HandshakeRefused) as raised:
                await fake.relay()
            assert raised.value.status == status
        url = fake.url
    with pytest.raises(ConnectionRefusedError):
        await soon(Relay.open(url))
    with pytest.raises(FileNotFoundError):
        await soon(Relay.open("unix:/nowhere/at/all"))
    assert len(fake.requests) == 2


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 1014, 3000, 4003, 4006, 4008, 4999])
async def test_another_connection_follows(code):
    async with FakeRelay() as fake, await fake.relay(credential="secret") as relay:
        await (await fake.next()).socket.close(code)
        end = await fake.next()
        await until(lambda: relay._link._usable is not None)
        assert await works(relay, end)
        assert fake.requests[1].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("code", sorted(FINAL_CLOSE_CODES - {1010, 1015}))
async def test_no_other_connection_follows(code):
    async with FakeRelay() as fake, await fake.relay() as relay:
        await (await fake.next()).socket.close(code, "final")
        await until(lambda: relay._link.failure is not None)
        with pytest.raises(ConnectionLost) as raised:
            await relay.invoke("greet")
        assert raised.value.code == code
        assert len(fake.requests) == 1


@pytest.mark.parametrize("statuses, is_final", [
    ([404, 409, 429, 500, 502, 503], False), ([503, 401], True), ([403], True), ([400], True)])
async def test_refusals(statuses, is_final):
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        fake.refusals = list(statuses)
        await end.vanish()
        if is_final:
            await until(lambda: relay._link.failure is not None)
            with pytest.raises(HandshakeRefused) as raised:
                await relay.invoke("greet")
            assert raised.value.status == statuses[-1]
        else:
            assert await works(relay, await fake.next())


async def test_a_relay_that_is_away_for_a_while():
    async with FakeRelay() as fake:
        relay = await fake.relay()
        port = int(fake.url.rpartition(":")[2])
        await (await fake.next()).vanish()
    attempts = []

    async def slam(reader, writer):
        attempts.append(writer)
        writer.close()

    refuses = await asyncio.start_server(slam, "127.0.0.1", port)
    await until(lambda: len(attempts) >= 3)
    refuses.close()
    await refuses.wait_closed()
    await relay.close()


async def test_a_server_registers_again_and_its_channels_are_gone():
    async with FakeRelay() as fake, await fake.relay() as relay:
        await fake.next()
        async with relay.listen("box", ports="1-9") as server:
            end = await fake.next()
            await end.send(offer(2))
            channel = await soon(server.__anext__())
            channel.accept()
            await end.vanish()
            with pytest.raises(ChannelClosed) as raised:
                await soon(channel.receive())
            assert raised.value.code == 1006
            end = await fake.next()
            assert fake.requests[2].path == fake.requests[1].path == "/s/box?ports=1-9"
            await end.send(offer(2))
            (await soon(server.__anext__())).accept()
            assert (await end.receive())[0] == frames.ACCEPT


async def test_a_client_asks_again_for_what_it_needs():
    async with FakeRelay() as fake, await fake.relay() as relay:
        for _ in range(2):
            end = await fake.next()
            await until(lambda: relay._link._usable is not None)
            asked = asyncio.create_task(relay.connect("box", 22))
            await end.opened()
            channel = await soon(asked)
            await end.vanish()
            with pytest.raises(ChannelClosed):
                await soon(channel.receive())


# Draining

def drain(milliseconds):
    return b"\x16\0\0\0\0" + json.dumps({"reconnectInMilliseconds": milliseconds}).encode()


@pytest.mark.parametrize("code", [1012, 4005])
async def test_a_drain_makes_a_new_connection_before_the_old_one_closes(code):
    async with FakeRelay() as fake, await fake.relay() as relay:
        await fake.next()
        async with relay.listen("box") as server:
            old = await fake.next()
            await old.send(offer(2))
            kept = await soon(server.__anext__())
            kept.accept()
            await old.receive()
            await old.send(drain(20))
            new = await fake.next()
            await old.send(frames.data(2, True, False, b"still here"))
            assert await soon(kept.receive()) == "still here"
            await new.send(offer(2))
            (await soon(server.__anext__())).accept()
            assert (await new.receive())[0] == frames.ACCEPT
            await old.socket.close(code)
            with pytest.raises(ChannelClosed):
                await soon(kept.receive())
            await new.send(offer(4))
            (await soon(server.__anext__())).accept()
            assert len(fake.requests) == 3


async def test_a_drain_while_no_other_relay_is_there():
    async with FakeRelay() as fake, await fake.relay() as relay:
        old = await fake.next()
        fake.refusals = [503] * 5
        await old.send(drain(0))
        await until(lambda: not fake.refusals)
        await old.socket.close(1012)
        assert await works(relay, await fake.next())


async def test_closing_closes_what_drains_too():
    async with FakeRelay() as fake:
        relay = await fake.relay()
        old = await fake.next()
        await old.send(drain(0))
        new = await fake.next()
        await until(lambda: len(relay._link._connections) == 2)
        await soon(relay.close())
        assert [await old.closed(), await new.closed()] == [(1000, "")] * 2


# Half-open connections

async def test_a_relay_that_has_fallen_silent_is_left():
    impatient = {"ping_interval": 0.01, "ping_timeout": 0.05, "close_timeout": 0.05}
    async with FakeRelay() as fake, await fake.relay(**impatient) as relay:
        end = await fake.next()
        end.socket.transport.pause_reading()
        assert await works(relay, await fake.next())
        end.socket.transport.resume_reading()


async def test_a_relay_that_has_fallen_silent_is_left_by_who_writes():
    """The ping then waits behind what could not be written."""
    impatient = {"ping_interval": 0.2, "ping_timeout": 0.2, "close_timeout": 0.05}
    async with FakeRelay() as fake, await fake.relay(**impatient) as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.opened(1 << 30)
        channel = await soon(asked)
        end.socket.transport.pause_reading()
        with pytest.raises(ChannelClosed) as raised:
            await soon(channel.send(bytes(1 << 20) for _ in range(1000)))
        assert raised.value.code == 1006
        assert await works(relay, await fake.next())
        end.socket.transport.resume_reading()
