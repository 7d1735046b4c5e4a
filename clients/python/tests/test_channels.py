"""Channels of a client, against a relay that a test plays."""

import asyncio
import contextlib
import itertools

import pytest

from fake_relay import FakeRelay, soon, until
from relayd_client import ChannelClosed, ChannelRejected, ConnectionLost, frames


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


# Receiving

async def test_messages_arrive_as_they_were_sent():
    async with connected() as (channel, end):
        snowman = "☃".encode()
        await end.send(
            text(b"hello"), binary(b"\x00\xff"), text(b""), binary(b""), text(b"a" + snowman[:1], more=True),
            text(snowman[1:2], more=True), text(snowman[2:]),
            binary(b"", more=True), binary(b"b", more=True), binary(b""))
        received = [await soon(channel.receive()) for _ in range(6)]
        assert received == ["hello", b"\x00\xff", "", b"", "a☃", b"b"]


@pytest.mark.parametrize("last", [
    frames.end(1), frames.close(1, 1000, "bye"), frames.close(1, 1001, ""), frames.close(1, 1005, "")])
async def test_a_loop_over_messages_stops_at_a_normal_end(last):
    async with connected() as (channel, end):
        await end.send(text(b"one"), binary(b"two"), last)

        async def collect():
            return [message async for message in channel]

        assert await soon(collect()) == ["one", b"two"]
        if last != frames.close(1, 1001, ""):
            assert await soon(channel.read()) == b""
        else:
            with pytest.raises(ChannelClosed):
                await channel.read()


@pytest.mark.parametrize("last, code", [
    (frames.close(1, 4004, "gone"), 4004),
    (frames.close(1, 1006, ""), 1006),
    (text(b"half", more=True) + b"", None),
])
async def test_a_loop_over_messages_raises_at_another_end(last, code):
    async with connected() as (channel, end):
        await end.send(text(b"one"), last)
        if code is None:
            await end.send(frames.close(1, 1000, ""))
        received = []

        async def collect():
            async for message in channel:
                received.append(message)

        with pytest.raises(ChannelClosed) as raised:
            await soon(collect())
        assert received == ["one"] and raised.value.code == (code or 1006)


async def test_pieces_and_bytes():
    async with connected() as (channel, end):
        snowman = "☃".encode()
        await end.send(text(snowman[:2], more=True), text(snowman[2:] + b"a", more=True), text(b""))
        assert [piece async for piece in channel.pieces()] == ["☃a"]
        await end.send(binary(b"1", more=True))
        pieces = channel.pieces()
        assert await soon(pieces.__anext__()) == b"1", "before the message is complete"
        await pieces.aclose()
        await end.send(binary(b"2", more=True), binary(b"3"), text(b"next"))
        assert await soon(channel.receive()) == "next", "the rest of a message that was left is passed over"
        await end.send(binary(b"1", more=True))
        pieces = channel.pieces()
        assert await soon(pieces.__anext__()) == b"1"
        await pieces.aclose()
        await end.send(binary(b"2"), binary(b"3"))
        assert [piece async for piece in channel.pieces()] == [b"3"]
        await end.send(text(b"a", more=True), text(b""), binary(b""), binary(b"b"), frames.end(1))
        assert [await soon(channel.read()) for _ in range(3)] == [b"a", b"b", b""]


async def test_a_receive_that_is_cancelled_loses_nothing():
    for take in ("receive", "pieces", "read"):
        async with connected() as (channel, end):
            await end.send(binary(b"1", more=True))
            waits = asyncio.create_task(channel.receive())
            await until(lambda: channel._gathered)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            await end.send(binary(b"2", more=True), binary(b"3"), frames.end(1))
            if take == "receive":
                assert await soon(channel.receive()) == b"123"
            elif take == "pieces":
                assert b"".join([piece async for piece in channel.pieces()]) == b"123"
            else:
                received = b""
                while piece := await soon(channel.read()):
                    received += piece
                assert received == b"123"


async def test_text_that_is_no_utf_8_closes_the_channel():
    for take in ("receive", "pieces"):
        async with connected() as (channel, end):
            await end.send(text(b"a\xc3"))
            with pytest.raises(ChannelClosed) as raised:
                if take == "receive":
                    await soon(channel.receive())
                else:
                    await soon(channel.pieces().__anext__())
            assert raised.value.code == channel.close_code == 1007
            assert await end.receive() == frames.close(1, 1007, "a text is not UTF-8")


async def test_a_message_that_is_too_large_closes_the_channel():
    async with connected(maximum_message_bytes=1000, window=10_000) as (channel, end):
        await end.send(binary(b"a" * 999, more=True), binary(b"b"), binary(b"a" * 1000, more=True), binary(b"b"))
        assert await soon(channel.receive()) == b"a" * 999 + b"b"
        with pytest.raises(ChannelClosed) as raised:
            await soon(channel.receive())
        assert raised.value.code == 4006
        assert (await end.receive())[:7] == frames.close(1, 4006, "")


async def test_two_tasks_cannot_receive():
    async with connected() as (channel, end):
        first = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await channel.receive()
        await end.send(text(b"for the first"))
        assert await soon(first) == "for the first"


async def test_a_reader_that_stops_holds_its_window():
    async with connected(window=1000) as (channel, end):
        await end.send(*[binary(b"a" * 100)] * 10)
        for _ in range(5):
            await soon(channel.receive())
        assert await end.receive() == frames.credit(1, 500), "and no grant came before"
        await end.send(*[binary(b"a" * 100)] * 5, binary(b"a"))
        await until(lambda: channel.close_code is not None)
        assert channel.close_code == 4006
        for _ in range(10):
            await channel.receive()
        with pytest.raises(ChannelClosed):
            await channel.receive()


# Sending

async def frames_of(end, count):
    return [await end.receive() for _ in range(count)]


@pytest.mark.parametrize("message", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789"), "0123456789"])
async def test_sending_waits_for_credit(message):
    kind = isinstance(message, str)
    async with connected(credit=4) as (channel, end):
        sends = asyncio.create_task(channel.send(message))
        assert await end.receive() == frames.data(1, kind, True, b"0123")
        await end.send(frames.credit(1, 1))
        assert await end.receive() == frames.data(1, kind, True, b"4")
        assert not sends.done()
        await end.send(frames.credit(1, 100))
        assert await end.receive() == frames.data(1, kind, False, b"56789")
        await soon(sends)


async def test_a_message_of_many_bytes_has_many_elements():
    async with connected() as (channel, end):
        await channel.send(memoryview(b"abcd").cast("H"))
        assert await end.receive() == binary(b"abcd")


async def test_a_message_in_pieces():
    async def later():
        for piece in (b"c", b"d"):
            await asyncio.sleep(0)
            yield piece

    async with connected() as (channel, end):
        await channel.send(["a", "", "b"])
        await channel.send(later())
        await channel.send([])
        await channel.send([b""])
        assert await frames_of(end, 7) == [
            text(b"a", more=True), text(b"b", more=True), text(b""),
            binary(b"c", more=True), binary(b"d", more=True), binary(b""), binary(b"")]


async def test_messages_of_several_tasks_do_not_mix():
    async with connected() as (channel, end):
        await soon(asyncio.gather(*(channel.send([b"a", b"b"]) for _ in range(3))))
        assert await frames_of(end, 9) == [binary(b"a", more=True), binary(b"b", more=True), binary(b"")] * 3


async def test_a_message_that_is_cut_short_closes_the_channel():
    def fails():
        yield b"a"
        raise OverflowError("the source has failed")

    for pieces, error in [(fails(), OverflowError), ([b"a", "b"], TypeError), ([b"a", 1], TypeError)]:
        async with connected() as (channel, end):
            with pytest.raises(error):
                await channel.send(pieces)
            assert await frames_of(end, 2) == [
                binary(b"a", more=True), frames.close(1, 1011, "a message was cut short")]
            with pytest.raises(ChannelClosed):
                await channel.send(b"")


async def test_a_send_that_is_cancelled_closes_the_channel_only_if_half_a_message_was_sent():
    async with connected(credit=0) as (channel, end):
        sends = asyncio.create_task(channel.send(b"never sent"))
        await asyncio.sleep(0)
        sends.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sends
        await end.send(frames.credit(1, 8))
        await soon(channel.send(b"sent"))
        assert await end.receive() == binary(b"sent")
        sends = asyncio.create_task(channel.send(b"half sent"))
        assert await end.receive() == binary(b"half", more=True)
        sends.cancel()
        assert await end.receive() == frames.close(1, 1011, "a message was cut short")


async def test_what_waits_to_be_sent_ends_with_the_channel():
    async with connected(credit=0) as (channel, end):
        sends = [asyncio.create_task(channel.send(b"a")) for _ in range(3)]
        await asyncio.sleep(0)
        await end.send(frames.close(1, 4003, "slow"))
        for task in sends:
            with pytest.raises(ChannelClosed) as raised:
                await soon(task)
            assert raised.value.code == 4003


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
