"""The README's examples do what it says."""

import asyncio
import re
import subprocess
import sys

from conftest import ROOT
from conditions import eventually
from fake_relay import soon
from relayd_client import ChannelRejected, Relay

README = (ROOT / "clients/python/README.md").read_text()
SERVER, CLIENT, CHOOSE = re.findall(r"```python\n(.*?)```", README, re.S)


def test_a_server_and_its_client(make_relay, tmp_path):
    relay = make_relay(state=tmp_path / "relayd-state")

    def start(source):
        command = [sys.executable, "-c", source.replace("ws://127.0.0.1:8087", relay.url)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    server = start(SERVER)
    try:
        eventually(lambda: relay.listed("servers"), "the example serves")
        client = start(CLIENT)
        answer, error = client.communicate(timeout=20)
        assert (client.returncode, error) == (0, "")
        assert answer.startswith("box:7 heard hello\n[{") and "'box'" in answer
        [line] = re.findall(r"^\$ (.*python -m relayd_client.*)$", README, re.M)
        line = line.replace("ws://127.0.0.1:8087", relay.url).replace("python -m", f"{sys.executable} -m")
        done = subprocess.run(
            line, shell=True, env={"RELAYD_CREDENTIAL": relay.admin}, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stdout) == (0, "box:7 heard b'hello\\n'")
    finally:
        server.kill()
        server.communicate()


async def test_the_example_on_the_first_page(make_relay):
    relay = make_relay()
    page = (ROOT / "README.md").read_text()
    [program] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "relayd_client" in block]

    async def heard(channel):
        async for message in channel:
            await channel.send(f"heard {message}")

    async with await Relay.open(relay.url, credential=relay.admin) as place, place.listen("box") as listener:
        serves = asyncio.create_task(listener.serve(heard))
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=20,
            env={"RELAYD_URL": relay.url, "RELAYD_CREDENTIAL": relay.admin})
        assert (done.returncode, done.stdout, done.stderr) == (0, "heard hello\n", "")
        serves.cancel()
        await asyncio.gather(serves, return_exceptions=True)


async def test_ways_to_answer(make_relay):
    relay = make_relay()
    scope = {}
    exec(CHOOSE, scope)
    async with await Relay.open(relay.url, credential=relay.admin) as place, place.listen("box") as listener:
        serves = asyncio.create_task(listener.serve(scope["choose"]))
        try:
            await place.connect("box", 1)
            raise AssertionError("this was to be rejected")
        except ChannelRejected as rejected:
            assert (rejected.code, rejected.reason) == (403, "not this port")
        assert len(await soon((await place.connect("box", 2)).receive())) == 10_000_000
        assert [message async for message in await place.connect("box", 3)] == []
        serves.cancel()
        await asyncio.gather(serves, return_exceptions=True)
