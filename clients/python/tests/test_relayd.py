"""The client and relayd itself, over each transport."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect

from conftest import RELAYD
from fake_relay import AT_ONCE, soon, until
from relayd_client import ChannelClosed, ChannelRejected, ConnectionLost, HandshakeRefused, Relay, RelayError


class Place:
    """One relayd, and how to reach it."""

    def __init__(self, process, url, trust=None):
        self.process = process
        self.url = url
        self.trust = trust

    @property
    def admin(self):
        return self.process.admin

    async def open(self, credential=None, **options):
        options = {"ssl": self.trust, "reconnect": AT_ONCE, **options}
        return await soon(Relay.open(self.url, credential=credential or self.admin, **options))

    def credential(self, *rights):
        return self.process.invoke("create credential", named={"rights": list(rights)})

    def connections(self, **facts):
        return [one for one in self.process.listed("connections") if facts.items() <= one.items()]


@pytest.fixture
def place(make_relay):
    process = make_relay(loops=3)
    return Place(process, process.url)


@pytest.fixture(params=["ws", "wss", "unix"])
def anywhere(request, make_relay, tmp_path):
    if request.param == "ws":
        process = make_relay()
        return Place(process, process.url)
    if request.param == "wss":
        process = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"])
        return Place(process, process.url, ssl.create_default_context(cafile=process.state / "tls-certificate.pem"))
    process = make_relay(listen=["ws://127.0.0.1:0", f"unix:{tmp_path}/relayd.sock"])
    return Place(process, process.urls[1])


@contextlib.asynccontextmanager
async def serving(relay, server, handler, ports=None):
    async with relay.listen(server, ports=ports) as listener:
        task = asyncio.create_task(listener.serve(handler))
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def echo(channel):
    async for message in channel:
        await channel.send(message)


async def test_everything_over_every_transport(anywhere):
    async with await anywhere.open() as server, await anywhere.open() as client:
        assert await soon(client.invoke("eval", body="return 6 * 7")) == 42
        with pytest.raises(RelayError) as raised:
            await soon(client.invoke("no such thing"))
        assert raised.value.code == "unknown_instruction"
        async with serving(server, "box", echo, ports=range(20, 30)):
            async with await soon(client.connect("box", 22)) as channel:
                for message in ("hello", b"\x00\xff", "", b"", "☃" * 100_000, os.urandom(300_000)):
                    await soon(channel.send(message))
                    assert await soon(channel.receive()) == message
            for name, port, status in [("box", 80, 404), ("nobody", 22, 502), (0, 22, 502)]:
                with pytest.raises(ChannelRejected) as refused:
                    await soon(client.connect(name, port))
                assert refused.value.code == status


async def test_fifty_megabytes_arrive_as_they_were(anywhere):
    block = os.urandom(1 << 20)
    count = 50
    expected = hashlib.sha256()
    for _ in range(count):
        expected.update(block)

    async def handler(channel):
        received = hashlib.sha256()
        async for piece in channel.pieces():
            received.update(piece)
        await channel.send(received.hexdigest())
        await channel.send(block * count)

    async with await anywhere.open() as server, await anywhere.open() as client:
        async with serving(server, "box", handler), await soon(client.connect("box", 1)) as channel:
            await asyncio.wait_for(channel.send(block for _ in range(count)), 60)
            assert await soon(channel.receive()) == expected.hexdigest()
            received = hashlib.sha256(await asyncio.wait_for(channel.receive(), 60))
            assert received.hexdigest() == expected.hexdigest()


async def test_two_hundred_channels_at_once(place):
    async with await place.open() as server, await place.open() as client:
        async with serving(server, "box", echo):
            async def talk(number):
                async with await client.connect("box", number) as channel:
                    for turn in range(5):
                        message = f"{number}:{turn}:" + "a" * (number * 100)
                        await channel.send(message)
                        assert await channel.receive() == message

            await asyncio.wait_for(asyncio.gather(*(talk(number) for number in range(200))), 60)
            await until(lambda: place.process.listed("channels") == [])


async def test_either_side_may_end_first(place):
    async def counts(channel):
        received = b""
        while data := await channel.read():
            received += data
        await channel.send(f"{len(received)} bytes")
        await channel.end()

    async with await place.open() as server, await place.open() as client:
        async with serving(server, "box", counts):
            channel = await soon(client.connect("box", 1))
            await channel.send([b"a" * 100_000, b"b"])
            await channel.end()
            assert [message async for message in channel] == ["100001 bytes"]
            assert (channel.close_code, channel.close_reason) == (1000, "")


async def test_what_the_server_is_told_and_what_it_answers(place):
    async def handler(channel):
        if channel.port == 1:
            channel.reject(429, "not now")
        elif channel.port == 2:
            channel.reject(4321, "mine")
        elif channel.port == 3:
            await channel.close(4321, "over")
        elif channel.port == 4:
            raise KeyError("of a handler")
        elif channel.port == 7:
            channel.accept()
            raise KeyError("of a handler")
        elif channel.port == 5:
            await channel.send(f"{channel.server!r} {channel.port} {channel.remote_address} {channel.metadata}")

    async with await place.open() as server, await place.open() as client:
        async with serving(server, 7, handler):
            for port, code, reason in [(1, 429, "not now"), (2, 4321, "mine"), (4, 500, ""), (6, 503, "")]:
                with pytest.raises(ChannelRejected) as rejected:
                    await soon(client.connect(7, port))
                assert (rejected.value.code, rejected.value.reason) == (code, reason)
            with pytest.raises(ChannelClosed) as closed:
                await soon((await soon(client.connect(7, 7))).receive())
            assert closed.value.code == 1011
            channel = await soon(client.connect(7, 5))
            assert await soon(channel.receive()) == "7 5 127.0.0.1 None"
            with pytest.raises(ChannelRejected):
                await soon(client.connect(7, 3))


async def test_clean_clients_and_dedicated_connections(place):
    async def handler(channel):
        if channel.port == 2:
            channel = await channel.dedicated()
        async with channel:
            await echo(channel)

    headers = {"Authorization": f"Bearer {place.admin}"}
    async with await place.open() as server, await place.open() as client, serving(server, "box", handler):
        for port in (1, 2):
            async with connect(f"{place.url}/c/box/{port}", additional_headers=headers) as clean:
                for message in ("hello", b"\x00", "a" * 300_000):
                    await clean.send(message)
                    assert await soon(clean.recv()) == message
            async with await soon(client.connect("box", port)) as channel:
                for message in ("hello", b"\x00", "", "☃" * 100_000):
                    await channel.send(message)
                    assert await soon(channel.receive()) == message
        await until(lambda: place.process.listed("channels") == [])


async def test_names_and_rights(place):
    one, two = place.credential("listen:box", "connect:box:22"), place.credential("listen:b*")
    async with await place.open(one["credential"]) as first, await place.open(two["credential"]) as second:
        async with first.listen("box") as listener:
            with pytest.raises(HandshakeRefused) as refused:
                async with second.listen("box"):
                    pass
            assert refused.value.status == 409
            with pytest.raises(HandshakeRefused) as refused:
                async with first.listen("other"):
                    pass
            assert refused.value.status == 403
            for relay, port in ((first, 23), (second, 22)):
                with pytest.raises(ChannelRejected) as rejected:
                    await soon(relay.connect("box", port))
                assert rejected.value.code == 403
            async with await place.open(one["credential"]) as again, serving(again, "box", echo):
                with pytest.raises(ConnectionLost) as lost:
                    await soon(listener.__anext__())
                assert lost.value.code == 4005
                async with await soon(first.connect("box", 22)) as channel:
                    await channel.send("taken over")
                    assert await soon(channel.receive()) == "taken over"
    with pytest.raises(HandshakeRefused) as refused:
        await place.open("wrong")
    assert refused.value.status == 401


async def test_a_kick_and_a_revocation_are_final(place):
    made = place.credential("listen:box")
    async with await place.open(made["credential"]) as relay:
        async with relay.listen("box") as listener:
            [server] = place.process.listed("servers")
            place.process.invoke("close connection", named={"connection": server["connection"]})
            with pytest.raises(ConnectionLost) as lost:
                await soon(listener.__anext__())
            assert lost.value.code == 4007
        async with relay.listen("box") as listener:
            place.process.invoke("revoke credential", named={"id": made["id"]})
            with pytest.raises(ConnectionLost) as lost:
                await soon(listener.__anext__())
            assert lost.value.code == 4002
        with pytest.raises(ConnectionLost) as lost:
            await soon(relay.invoke("greet"))
        assert lost.value.code == 4002


async def test_a_server_that_goes_ends_its_channels(place):
    async with await place.open() as client:
        async with await place.open() as server:
            async with serving(server, "box", echo):
                channel = await soon(client.connect("box", 1))
                await channel.send("a")
                assert await soon(channel.receive()) == "a"
        with pytest.raises(ChannelClosed) as closed:
            await soon(channel.receive())
        assert closed.value.code in (1001, 4004)
        with pytest.raises(ChannelRejected) as rejected:
            await soon(client.connect("box", 1))
        assert rejected.value.code == 502


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_relay_that_is_restarted_under_them(make_relay, tmp_path, how):
    process = make_relay(listen=[f"unix:{tmp_path}/relayd.sock"])
    place = Place(process, process.url)
    async with await place.open() as server, await place.open() as client, serving(server, "box", echo):
        channel = await soon(client.connect("box", 1))
        await channel.send("before")
        assert await soon(channel.receive()) == "before"
        process.expected_exit.add(-signal.SIGKILL)
        process.signal(how)
        await asyncio.to_thread(process.wait)
        with pytest.raises(ChannelClosed) as closed:
            await soon(channel.receive())
        assert closed.value.code in (1006, 1012)
        await asyncio.to_thread(process.stop)
        await asyncio.to_thread(process.start)

        async def again():
            while True:
                with contextlib.suppress(ChannelRejected):
                    return await client.connect("box", 1)

        channel = await soon(again())
        await channel.send("after")
        assert await soon(channel.receive()) == "after"


async def test_a_reader_that_stops_holds_up_nobody_else(place):
    async with await place.open() as server, await place.open() as client:
        async with server.listen("box") as listener:
            asked = asyncio.create_task(client.connect("box", 1))
            unread = await soon(listener.__anext__())
            unread.accept()
            stuck = await soon(asked)
            sends = asyncio.create_task(stuck.send(bytes(20 << 20)))
            asked = asyncio.create_task(client.connect("box", 2))
            other = await soon(listener.__anext__())
            other.accept()
            channel = await soon(asked)
            for number in range(50):
                await soon(channel.send(bytes(100_000)))
                assert len(await soon(other.receive())) == 100_000, number
            assert not sends.done() and len(unread.flow._waiting[0][1]) <= 262_144
            assert len(await asyncio.wait_for(unread.receive(), 60)) == 20 << 20
            await soon(sends)


async def test_scripts_connect_and_install(place):
    place.process.add("meet", "function(conn, name, port) return relay.connect(conn, name, port, {by = 'script'}) end")
    place.process.add("serve", "function(conn, name) relay.install(name, conn) return 'installed' end")

    async def tells(channel):
        await channel.send(f"{channel.port} {channel.metadata}")

    async with await place.open(on_channel=tells) as server, await place.open() as client:
        assert await soon(server.invoke("serve", "box")) == "installed"
        for port in range(3):
            number = await soon(client.invoke("meet", "box", port))
            channel = await soon(client.channel(number))
            assert await soon(channel.receive()) == f"{port} {{'by': 'script'}}"
            await channel.close()
        with pytest.raises(ValueError):
            await client.channel(await soon(client.invoke("meet", "nobody", 1)))


async def test_a_connection_may_be_all_at_once(place):
    """A server that a script has installed, a client of itself, and one that a script connects to itself."""
    place.process.add("meet", "function(conn, server, port) return relay.connect(conn, server, port) end")
    place.process.add("serve", "function(conn, name) relay.install(name, conn) end")
    async with await place.open(on_channel=echo) as relay:
        await soon(relay.invoke("serve", "me"))
        for number in range(5):
            by_script = await soon(relay.channel(await soon(relay.invoke("meet", "me", number))))
            by_itself = await soon(relay.connect("me", number))
            for channel in (by_script, by_itself):
                await channel.send(str(number))
                assert await soon(channel.receive()) == str(number)


async def test_a_script_that_sends(place):
    place.process.add("say", "function(conn, text) conn:send(text) return 'said' end")
    received = []
    async with await place.open(on_message=received.append) as relay:
        assert await soon(relay.invoke("say", "hello")) == "said"
    assert received == ["hello"]


async def test_an_app_of_its_own(place):
    place.process.invoke("create app", named={"app": "blue"})
    async with await place.open(app="blue") as blue, await place.open() as plain, serving(blue, "box", echo):
        async with await soon(blue.connect("box", 1)) as channel:
            await channel.send("a")
            assert await soon(channel.receive()) == "a"
        with pytest.raises(ChannelRejected):
            await soon(plain.connect("box", 1))


async def test_tunnels_of_relayd_at_the_other_end(place):
    data = os.urandom(1_000_000)

    async def reverse(channel):
        received = b""
        while piece := await channel.read():
            received += piece
        await channel.send(received[::-1])
        await channel.end()

    async def reverse_stream(reader, writer):
        writer.write((await reader.read())[::-1])
        await writer.drain()
        writer.close()

    def command(*arguments):
        environment = {**os.environ, "RELAYD_CREDENTIAL": place.admin, "RELAYD_URL": place.url}
        return asyncio.create_subprocess_exec(
            str(RELAYD), *arguments, env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)

    async with await place.open() as relay:
        async with serving(relay, "python", reverse):
            forward = await command("forward", "--quiet", "stdio", "python:22")
            output, _ = await soon(forward.communicate(data))
            assert (forward.returncode, output) == (0, data[::-1])
        local = await asyncio.start_server(reverse_stream, "127.0.0.1", 0)
        target = f"127.0.0.1:{local.sockets[0].getsockname()[1]}"
        expose = await command("expose", "--quiet", target, "--as", "box:22")
        try:
            await until(lambda: place.process.listed("servers"))
            channel = await soon(relay.connect("box", 22))
            await soon(channel.send(data))
            await channel.end()
            received = b""
            while piece := await soon(channel.read()):
                received += piece
            assert received == data[::-1]
        finally:
            expose.terminate()
            await expose.communicate()
            local.close()
            await local.wait_closed()


async def test_the_command(place):
    async with await place.open() as server, serving(server, "box", echo):
        def run(name, data=b""):
            return subprocess.run(
                [sys.executable, "-m", "relayd_client", "connect", place.url, name, "22"], input=data,
                capture_output=True, timeout=60, env={**os.environ, "RELAYD_CREDENTIAL": place.admin})

        data = os.urandom(1_000_000)
        done = await asyncio.to_thread(run, "box", data)
        assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
        refused = await asyncio.to_thread(run, "nobody")
        assert refused.returncode == 1 and b"502" in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    place.url = url
    unreachable = await asyncio.to_thread(run, "box")
    assert unreachable.returncode == 3 and b"Traceback" not in unreachable.stderr
