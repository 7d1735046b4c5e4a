"""Types, as those who use the package see them."""

import importlib.resources
import os
import pathlib
import re
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[1]

PROGRAM = """\
from relayd_client import Channel, Relay

async def handler(channel: Channel) -> None:
    async for message in channel:
        reveal_type(message)

async def main() -> None:
    async with await Relay.open("ws://h") as relay, relay.listen("box", ports=[1]) as listener:
        await relay.serve("box", handler)
        async for channel in listener:
            await channel.send([b"a", "b"])
            await channel.send(1)
"""


def mypy(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir=/dev/null", *map(str, arguments)], cwd=PROJECT,
        env={**os.environ, "MYPYPATH": str(PROJECT)}, capture_output=True, text=True).stdout


def test_the_package_is_typed_strictly():
    assert mypy().startswith("Success")
    assert (importlib.resources.files("relayd_client") / "py.typed").is_file()


def test_a_program_that_uses_it_is_checked(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said = mypy("--strict", "--config-file=", program)
    assert re.search(r"Revealed type is .*str.*bytes", said), said
    assert re.findall(r":(\d+): error:", said) == ["12"], said
