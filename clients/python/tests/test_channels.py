"""How channels of a client begin and end, against a relay that a test plays."""

import asyncio
import itertools

import pytest

from fake_relay import FakeRelay, binary, connected, frames_of, soon, text, until
from relayd_client import ChannelClosed, ChannelRejected, ConnectionLost, frames


# Opening

async def test_opening():
    async with FakeRelay() as fake, await fake.relay(window=5000) as relay:
        end = await fake.next()
        first = asyncio.create_task(relay.connect("box", 22))
        assert await end.receive() == frames.open_(1, "box", 22, 5000)
        second = asyncio.create_task(relay.connect(7, 0))
        assert await end.receive() == frames.open_(3, 7, 0, 5000)
        await end.send(frames.reject(1, 502, "no such server"), frames.accept(3, 1), frames.data(3, True, False, b"a"))
        await end.send(frames.close(3, 4004, "gone"))
        with pytest.raises(ChannelRejected) as raised:
            await soon(first)
        assert (raised.value.code, raised.value.reason) == (502, "no such server")
        channel = await soon(second)
        assert (channel.server, channel.port) == (7, 0)
        assert await soon(channel.receive()) == "a", "what was sent before the close is still delivered"
        with pytest.raises(ChannelClosed):
            await soon(channel.receive())


async def test_an_answer_is_for_who_was_asked():
    async with connected() as (channel, _):
        channel.accept()
        with pytest.raises(RuntimeError):
            channel.reject()
        with pytest.raises(RuntimeError):
            await channel.dedicated()


async def test_a_relay_that_goes_while_a_channel_opens():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.receive()
        await end.vanish()
        with pytest.raises(ChannelClosed) as raised:
            await soon(asked)
        assert raised.value.code == 1006


async def test_whoever_no_longer_waits_for_an_acceptance_closes():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.receive()
        asked.cancel()
        assert await end.receive() == frames.close(1, 1000, "")


async def test_ports_and_ids_that_are_none():
    async with FakeRelay() as fake, await fake.relay() as relay:
        for server, port in [("box", -1), ("box", 65_536), ("a" * 20_000, 1)]:
            with pytest.raises(ValueError):
                await relay.connect(server, port)


async def test_a_script_begins_a_channel():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.channel(2))
        await end.send(frames.accept(2, 9), frames.reject(4, 502, "gone"))
        channel = await soon(asked)
        await channel.send("hi")
        assert await end.receive() == frames.data(2, True, False, b"hi")
        with pytest.raises(ChannelRejected):
            await soon(relay.channel(4))
        asked = asyncio.create_task(relay.channel(6))
        await end.vanish()
        with pytest.raises(ConnectionLost):
            await soon(asked)


async def test_channels_that_nobody_asks_for_have_a_limit():
    async with FakeRelay() as fake, await fake.relay():
        end = await fake.next()
        await end.send(*(frames.accept(number, 1) for number in range(2, 516, 2)))
        message = await end.receive()
        assert message[:7] == frames.close(514, 4006, ""), "the first of 257"


# The end

async def test_half_a_channel():
    async with connected() as (channel, end):
        await channel.end()
        await channel.end()
        assert await end.receive() == frames.end(1)
        with pytest.raises(RuntimeError):
            await channel.send("more")
        await end.send(text(b"still"), frames.end(1))
        assert await soon(channel.receive()) == "still"
        with pytest.raises(ChannelClosed):
            await soon(channel.receive())
        assert (channel.close_code, channel.close_reason) == (1000, "")


async def test_an_end_waits_for_the_message_before_it():
    async with connected(credit=1) as (channel, end):
        sends = asyncio.create_task(channel.send(b"ab"))
        assert await end.receive() == binary(b"a", more=True)
        ends = asyncio.create_task(channel.end())
        await asyncio.sleep(0)
        await end.send(frames.credit(1, 1))
        assert await frames_of(end, 2) == [binary(b"b"), frames.end(1)]
        await soon(asyncio.gather(sends, ends))


async def test_closing():
    async with connected() as (channel, end):
        for code, reason in [(999, ""), (1005, ""), (1006, ""), (5000, ""), (1000, "a" * 124)]:
            with pytest.raises(ValueError):
                await channel.close(code, reason)
        waits = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        await channel.close(3000, "enough")
        await channel.close()
        assert await end.receive() == frames.close(1, 3000, "enough")
        with pytest.raises(ChannelClosed):
            await soon(waits)
        assert (channel.close_code, channel.close_reason) == (3000, "enough")
        await end.send(text(b"late"), frames.credit(1, 1), frames.end(1), frames.close(1, 1000, ""))
        await channel._connection._socket.ping()
        assert channel.close_code == 3000


async def test_what_waits_is_dropped_when_the_channel_is_closed_here():
    async with connected() as (channel, end):
        await end.send(text(b"a"), text(b"b"))
        assert await soon(channel.receive()) == "a"
        await until(lambda: channel.flow.has_waiting)
        await channel.close()
        with pytest.raises(ChannelClosed):
            await channel.receive()


async def test_a_context_closes():
    async with connected() as (channel, end):
        async with channel:
            await channel.send("a")
        assert await frames_of(end, 2) == [text(b"a"), frames.close(1, 1000, "")]
    for error, code in ((KeyError, 1011), (asyncio.CancelledError, 1001)):
        async with connected() as (channel, end):
            with pytest.raises(error):
                async with channel:
                    raise error
            assert await end.receive() == frames.close(1, code, "")


async def test_closing_the_relay_ends_its_channels():
    async with FakeRelay() as fake:
        relay = await fake.relay()
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.opened()
        channel = await soon(asked)
        await channel.send("last")
        await channel.end()
        await soon(relay.close())
        assert await frames_of(end, 2) == [text(b"last"), frames.end(1)]
        assert await end.closed() == (1000, "")
        with pytest.raises(ChannelClosed) as raised:
            await channel.receive()
        assert raised.value.code == 1006


async def test_what_was_said_is_sent_before_the_connection_closes():
    async with FakeRelay() as fake:
        relay = await fake.relay()
        end = await fake.next()
        asked = [asyncio.create_task(relay.connect("box", 22)) for _ in range(100)]
        for _ in asked:
            await end.opened()
        for channel in await soon(asyncio.gather(*asked)):
            await channel.close(3000)
        closes = asyncio.create_task(relay.close())
        assert sorted(await frames_of(end, 100)) == sorted(frames.close(2 * n + 1, 3000, "") for n in range(100))
        await soon(closes)


async def test_bulk_leaves_room_for_others():
    """One channel sends without end to a relay that always grants; the messages of another are not behind it."""
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        channels = []
        for _ in range(2):
            asked = asyncio.create_task(relay.connect("box", 22))
            await end.opened(1 << 30)
            channels.append(await soon(asked))
        bulk = asyncio.create_task(channels[0].send(itertools.repeat(bytes(1 << 20))))
        for number in range(20):
            small = asyncio.create_task(channels[1].send(str(number)))
            while (message := await end.receive())[1:5] != b"\0\0\0\3":
                pass
            assert message == frames.data(3, True, False, str(number).encode())
            await soon(small)
        bulk.cancel()
        reads = asyncio.create_task(end.closed())
        await asyncio.gather(bulk, return_exceptions=True)
        await relay.close()
        await soon(reads)
