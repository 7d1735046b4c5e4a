"""Tests of the Python client: alone, against a relay that misbehaves, and against relayd itself."""

import asyncio
import inspect
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
RELAYD = pathlib.Path(os.environ.get("RELAYD") or ROOT / ".build/release/relayd").absolute()
sys.path.append(str(ROOT / "Tests/WholeProcessTests"))  # For what starts relayd, and waits.


def pytest_configure(config):
    # Everything here goes to this machine; a proxy would only be in the way.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test that is a coroutine, and fails it when it leaves tasks behind."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def run():
        await pyfuncitem.obj(**arguments)
        await asyncio.sleep(0)  # What was cancelled gets the turn in which it ends.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    asyncio.run(run())
    return True


@pytest.fixture
def make_relay():
    """Starts relays that end with the test."""
    if not RELAYD.exists():
        pytest.fail(f"{RELAYD} does not exist: run `swift build -c release`, or set RELAYD")
    from relay import Relay

    relays = []

    def make(*arguments, **options):
        relay = Relay(*arguments, **options)
        relays.append(relay.__enter__())
        return relay

    yield make
    for relay in reversed(relays):
        relay.__exit__(None, None, None)
