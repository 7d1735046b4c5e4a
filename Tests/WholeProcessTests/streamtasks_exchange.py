"""Runs in the environment that has streamtasks: two clients, one at each node, send each other messages on two topics.

Arguments: the names of the nodes, and how many messages of how many bytes. Prints `exchanged` when all have come, in
order, as a client of either node gets them that is connected to it directly.
"""

import asyncio
import hashlib
import sys

from streamtasks.client import Client
from streamtasks.client.discovery import wait_for_topic_signal
from streamtasks.connection import connect
from streamtasks.net import Switch
from streamtasks.net.serialization import RawData
from streamtasks.services.constants import NetworkTopics


async def join(node):
    """A client of a running node, over the socket that nodes have for programs on their machine."""
    switch = Switch()
    await switch.add_link(await connect(f"node://{node}"))
    client = Client(await switch.add_local_connection())
    client.start()
    await wait_for_topic_signal(client, NetworkTopics.DISCOVERY_SIGNAL)  # Only the node with -C sends it.
    await client.request_address()
    return client


def message(number, size):
    return {"number": number, "bytes": hashlib.sha256(b"%d" % number).digest() * (size // 32)}


async def receive(client, topic, count, size, ready):
    async with client.in_topic(topic) as incoming, incoming.RegisterContext():
        ready.set()
        for number in range(count):
            data = await incoming.recv_data()
            assert data.data == message(number, size), number


async def send(client, topic, count, size):
    async with client.out_topic(topic) as outgoing, outgoing.RegisterContext():
        await outgoing.wait_requested()
        for number in range(count):
            await outgoing.send(RawData(message(number, size)))


async def main(first, second, count, size):
    one, two = await join(first), await join(second)
    there, back = await one.request_topic_ids(2)
    ready = asyncio.Event(), asyncio.Event()
    receiving = [
        asyncio.create_task(receive(two, there, count, size, ready[0])),
        asyncio.create_task(receive(one, back, count, size, ready[1]))]
    for event in ready:
        await event.wait()
    await asyncio.gather(*receiving, send(one, there, count, size), send(two, back, count, size))
    print("exchanged", flush=True)


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])), 60))
