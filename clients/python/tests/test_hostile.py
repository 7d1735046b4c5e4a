"""What a relay may send that it should not."""

import asyncio
import logging
import random

import pytest

from fake_relay import FakeRelay, offer, soon, until
from relayd_client import ChannelClosed, ConnectionLost, frames
from relayd_client.connection import MAXIMUM_ANSWERS


@pytest.mark.parametrize("message", [
    b"", b"\x00\x00", b"\x11\0\0\0\1", b"\x42\0\0\0\1", b"\x17\0\0\0\0", b"\x10\0\0\0\2{}",
    b"\x10\0\0\0\2" + b"[" * 16_000, offer(3), b"\x16\0\0\0\0{}", b"\x15\0\0\0\1\x03\xe8\xff",
])
async def test_what_cannot_be_understood_closes_the_connection_for_good(message):
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.opened()
        channel = await soon(asked)
        await end.send(message)
        code, reason = await end.closed()
        assert code == 1002 and reason
        with pytest.raises(ChannelClosed):
            await soon(channel.receive())
        await until(lambda: relay._link.failure is not None)
        with pytest.raises(ConnectionLost) as raised:
            await relay.invoke("greet")
        assert raised.value.code == 1002


async def test_a_message_larger_than_any_that_is_asked_for():
    async with FakeRelay() as fake, await fake.relay(maximum_message_bytes=1000, window=2000):
        end = await fake.next()
        await end.send("a" * 2006)
        assert (await end.closed())[0] == 1009


async def test_answers_to_a_relay_that_does_not_read_are_not_kept_without_end():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.connect("box", 22))
        await end.opened(1 << 30)
        channel = await soon(asked)
        end.socket.transport.pause_reading()
        bulk = asyncio.create_task(channel.send(bytes(1 << 25)))
        flood = asyncio.create_task(end.send(*(offer(number) for number in range(2, 20_002, 2))))
        connection = await relay._link.ready()
        answers = connection.multiplexer.control
        await until(lambda: len(answers) > MAXIMUM_ANSWERS)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(answers) == MAXIMUM_ANSWERS + 1 and not bulk.done()
        end.socket.transport.resume_reading()
        reads = asyncio.create_task(end.closed())
        await soon(asyncio.gather(bulk, flood))
        await until(lambda: connection.multiplexer._highest_of_relay == 20_000 and not answers)
        await relay.close()
        await soon(reads)


async def test_any_frames_in_any_order(caplog):
    """Nothing but the end of a channel or of the connection may come of them."""
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    caplog.set_level(logging.ERROR)
    for _ in range(100):
        async with FakeRelay() as fake:
            relay = await fake.relay(on_channel=consume, window=1000, maximum_message_bytes=2000)
            end = await fake.next()
            reads = asyncio.create_task(end.closed())
            asks = [asyncio.create_task(ask(relay)) for _ in range(3)]
            number = 0
            try:
                for _ in range(draw.randrange(300)):
                    number += 2 * (draw.random() < 0.2)
                    await end.send(draw_frame(draw, number))
            except Exception as closed:
                assert end.socket.protocol.close_code in (None, 1002), (seed, closed)
            await soon(relay.close())
            await soon(reads)
            await soon(asyncio.gather(*asks))
    assert not caplog.records, f"seed {seed}"


async def consume(channel):
    await channel.send("hello")
    async for _ in channel:
        pass


async def ask(relay):
    try:
        await consume(await relay.connect("box", 22))
    except Exception as error:
        assert type(error).__module__ == "relayd_client.errors", error


def draw_frame(draw, number):
    one = draw.choice([1, 3, 5, number, number, 2, 4])
    return draw.choice([
        lambda: offer(number),
        lambda: frames.accept(one, draw.choice([0, 1, 1000])),
        lambda: frames.reject(one, 404, ""),
        lambda: frames.data(one, draw.random() < 0.3, draw.random() < 0.3, draw.randbytes(draw.choice([0, 1, 300]))),
        lambda: frames.data(one, False, False, b"a"),
        lambda: frames.credit(one, 5),
        lambda: frames.end(one),
        lambda: frames.close(one, 1000, ""),
        lambda: draw.randbytes(6) if draw.random() < 0.05 else frames.credit(one, 1),
    ])()
