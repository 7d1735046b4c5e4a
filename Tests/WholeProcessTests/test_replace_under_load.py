"""Replacing an instruction while everybody uses it: the promise that nothing you change drops a socket."""

import asyncio
import contextlib
import itertools
import json
import time

import websockets.asyncio.client

from relay import SCRIPTS

D = "\x1f"
PAIRS = 200
SECONDS = 10
PAUSE = 0.05
GOOD = (SCRIPTS / "tunnel" / "forward to server.lua").read_text()


def good_version(number):
    """The body as it is, with a mark by which one can see that it was this version that forwarded."""
    return GOOD.replace("function(conn, channel, data)", f"function(conn, channel, data)\n  forwardedBy = {number}", 1)


def bad_versions():
    """Bodies that must be refused, with the line that the refusal names."""
    lines = GOOD.splitlines()
    broken = list(lines)
    broken[10] = "  local = 7"
    yield "\n".join(broken), 11
    yield "\n".join([*lines, "end"]), len(lines) + 1
    yield "\n".join([lines[0], "  return (channel .. )", *lines[1:]]), 2
    yield "(function()\n  error('this body raises when it is made')\nend)()", 2


class Pair:
    """A server and a client that exchange numbered messages, one at a time each way."""

    def __init__(self, url):
        self.url = url
        self.exchanged = 0

    async def open(self):
        options = {"ping_interval": None, "compression": None, "open_timeout": 30, "close_timeout": 30}
        self.server = await websockets.asyncio.client.connect(self.url, **options)
        self.client = await websockets.asyncio.client.connect(self.url, **options)
        await self.send(self.server, "create server credential")
        server_id, credential = (await self.server.recv()).split(" ")
        await self.send(self.server, "install server", int(server_id), credential)
        assert await self.server.recv() == "1"
        self.server_id = int(server_id)
        await self.send(self.client, "connect to server", self.server_id, 80)
        assert await self.client.recv() == "1"
        self.channel = int((await self.server.recv()).split(D)[0].removeprefix("connected:atPort:for: "))

    @staticmethod
    async def send(socket, instruction, *parameters):
        await socket.send(json.dumps({"instruction": instruction, "parameters": parameters}))

    async def serve(self):
        """Sends every message back, in the order in which they come."""
        answered = 0
        for number in itertools.count():
            message = await self.server.recv()
            while message == "1":
                answered += 1
                message = await self.server.recv()
            assert message == f"from:data: {self.channel}{D}message {number}", message
            await self.send(self.server, "forward to client", self.channel, f"answer {number}")

    async def exchange(self, until):
        for number in itertools.count():
            if time.monotonic() >= until:
                return
            await self.send(self.client, "forward to server", self.channel, f"message {number}")
            assert await self.client.recv() == "1"
            assert await self.client.recv() == f"from:data: {self.server_id}{D}answer {number}"
            self.exchanged = number + 1

    async def close(self):
        await self.client.close()
        await self.server.close()


async def replace(url, credential, until):
    """Sends a good and a bad version alternately; returns how many of each."""
    bad = itertools.cycle(list(bad_versions()))
    counts = {"good": 0, "bad": 0}
    async with websockets.asyncio.client.connect(url, ping_interval=None) as admin:
        async def add(body, number):
            await admin.send(json.dumps({
                "instruction": "add instruction", "credential": credential, "id": number,
                "parameters": {"instructionToAdd": "forward to server", "body": body}}))
            reply = json.loads(await admin.recv())
            assert reply["id"] == number
            return reply

        version = generation = None
        for number in itertools.count():
            if time.monotonic() >= until:
                return counts
            if number % 2 == 0:
                result = (await add(good_version(number), number))["result"]
                assert version is None or result["version"] == version + 1
                assert generation is None or result["generation"] == generation + 1
                version, generation = result["version"], result["generation"]
                counts["good"] += 1
            else:
                body, line = next(bad)
                error = (await add(body, number))["error"]
                assert error["code"] in ("compile_error", "script_error"), error
                assert "forward to server" in error["data"]["file"], error
                assert error["data"]["line"] == line, error
                assert f":{line}:" in error["message"], error
                counts["bad"] += 1
            await asyncio.sleep(PAUSE)  # The scenario's own pace; nothing is waited for here.


async def scenario(relay):
    url = relay.url
    pairs = [Pair(url) for _ in range(PAIRS)]
    for start in range(0, PAIRS, 20):
        await asyncio.gather(*(pair.open() for pair in pairs[start:start + 20]))
    until = time.monotonic() + SECONDS
    servers = [asyncio.create_task(pair.serve()) for pair in pairs]
    traffic = asyncio.gather(*(pair.exchange(until) for pair in pairs))
    failures = asyncio.gather(*servers)  # Servers never end by themselves: only by failing.
    work = asyncio.gather(replace(url, relay.admin, until), traffic)
    done, _ = await asyncio.wait([failures, work], return_when=asyncio.FIRST_COMPLETED)
    for future in (failures, work):
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await future  # Raises what went wrong.
    assert work in done
    counts = work.result()[0]
    listed = relay.listed("connections")
    assert len(listed) >= 2 * PAIRS, "connections have been closed"
    await asyncio.gather(*(pair.close() for pair in pairs))
    return pairs, counts


def test_no_message_is_lost_while_good_and_bad_versions_alternate(make_relay):
    relay = make_relay(scripts=[SCRIPTS / "tunnel.lua"], log_level="info")
    pairs, counts = asyncio.run(asyncio.wait_for(scenario(relay), 90))
    assert counts["good"] > 0 and counts["bad"] > 0
    assert all(pair.exchanged > 0 for pair in pairs)
    last = 2 * (counts["good"] - 1)
    assert relay.evaluate("return forwardedBy") <= last
    (entry,) = [entry for entry in relay.listed("instructions") if entry["instruction"] == "forward to server"]
    assert entry["version"] == counts["good"] + 1
