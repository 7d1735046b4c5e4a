"""Messages of a channel, in both directions, against a relay that a test plays."""

import asyncio

import pytest

from fake_relay import binary, connected, frames_of, soon, text, until
from relayd_client import ChannelClosed, frames


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
