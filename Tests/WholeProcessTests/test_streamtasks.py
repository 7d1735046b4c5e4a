"""The story of document 000, with streamtasks 0.1.13 itself: two instances that cannot reach each other are connected
over a relay, and exchange topics as if they were connected directly. Neither knows anything of relayd."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from conditions import DEADLINE, eventually
from links import leads, listening, to
from relay import ROOT, Relay
from tunnels import Expose, free_port

# What streamtasks asks for, without the extras of its tasks for media and inference.
PACKAGES = ["lark<2", "msgpack<2", "numpy<2", "pydantic<3", "typing-extensions<5", "uvicorn<1", "websockets>=12"]
EXCHANGE = pathlib.Path(__file__).with_name("streamtasks_exchange.py")


@pytest.fixture(scope="module")
def python():
    """An interpreter that has streamtasks, in an environment of this test's own."""
    folder = ROOT / ".build" / "streamtasks-venv"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        steps = [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin/pip", "install", "-q", "--no-deps", "streamtasks==0.1.13"],
            [folder / "bin/pip", "install", "-q", *PACKAGES],
        ]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                pytest.skip(f"streamtasks cannot be installed: {done.stderr.strip()[-300:]}")
        (folder / "complete").touch()
    return folder / "bin/python"


@contextlib.contextmanager
def node(python, folder, name, *arguments):
    """`streamtasks` with these arguments; ready when programs on this machine can join it."""
    environment = {**os.environ, "NODE_NAME": name, "TMPDIR": str(folder), "DATA_DIR": str(folder)}
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [python, "-m", "streamtasks", *arguments, "-P", str(free_port())], stdout=log, stderr=log,
            env=environment, cwd=folder)
        try:
            def said():
                assert process.poll() is None, (folder / f"{name}.log").read_text()[-3000:]
                return (folder / f"streamtasks-{name}.sock").exists()
            eventually(said, f"the node {name} runs")
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE)


def exchange(python, folder, count, size):
    done = subprocess.run(
        [python, EXCHANGE, "one", "two", str(count), str(size)], capture_output=True, text=True, timeout=90,
        env={**os.environ, "TMPDIR": str(folder), "DATA_DIR": str(folder)})
    logs = "".join(path.read_text(errors="replace")[-1500:] for path in folder.glob("*.log"))
    assert done.stdout == "exchanged\n", done.stdout + done.stderr[-3000:] + logs


@pytest.fixture
def folder():
    # Paths of Unix sockets are short.
    with tempfile.TemporaryDirectory(prefix="st-") as name:
        yield pathlib.Path(name)


GIVEN = "ws://127.0.0.1:0?server=studio&port=9000"


def test_two_instances_over_one_relay(python, folder):
    port = free_port()
    with node(python, folder, "one", "--serve", f"ws://127.0.0.1:{port}?auth=1234", "-C"):
        with Relay(listen=["ws://127.0.0.1:0", GIVEN]) as relay:
            with Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")):
                with node(python, folder, "two", "--connect", f"{relay.urls[1]}?auth=1234"):
                    exchange(python, folder, 500, 10_000)


@pytest.mark.parametrize("loops", [1, 2])
def test_two_instances_over_two_linked_relays(python, folder, loops):
    port = free_port()
    with node(python, folder, "one", "--serve", f"ws://127.0.0.1:{port}?auth=1234", "-C"):
        with listening(loops=loops) as near, Relay("--connect", to(near), listen=["ws://127.0.0.1:0", GIVEN]) as far:
            with Expose(near, (f"ws://127.0.0.1:{port}", "studio:9000")):
                leads(far, "studio")
                with node(python, folder, "two", "--connect", f"{far.urls[1]}?auth=1234"):
                    exchange(python, folder, 500, 10_000)


def test_an_instance_that_is_refused_and_tries_again_at_once_costs_nobody_else_anything(python, folder):
    port = free_port()
    with node(python, folder, "one", "--serve", f"ws://127.0.0.1:{port}?auth=1234", "-C"):
        with Relay(listen=["ws://127.0.0.1:0", GIVEN]) as relay:
            with Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")) as expose:
                environment = {
                    **os.environ, "NODE_NAME": "three", "TMPDIR": str(folder), "DATA_DIR": str(folder)}
                wrong = subprocess.Popen(
                    [python, "-m", "streamtasks", "--connect", f"{relay.urls[1]}?auth=wrong", "-L", "ERROR"],
                    env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
                try:
                    expose.says("client from", times=1)
                    before = relay.descriptors
                    assert relay.listed("servers")[0]["server"] == "studio"
                finally:
                    wrong.kill()
                    wrong.wait(DEADLINE)
                eventually(lambda: relay.listed("channels") == [], "no channel is left")
                assert relay.descriptors <= before
