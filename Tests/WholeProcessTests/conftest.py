"""Whole-process tests: the real relayd over real sockets, and clients that were not written for it."""

import os
import subprocess
import tempfile

import pytest

from relay import RELAYD, SCRIPTS, TEST_SCRIPTS, Relay


def pytest_configure(config):
    # Everything here goes to this machine; a proxy would only be in the way.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    if not RELAYD.exists():
        raise pytest.UsageError(f"{RELAYD} does not exist: run `swift build -c release`, or set RELAYD")


def pytest_sessionstart(session):
    if os.environ.get("RELAYD_IO") != "io_uring":
        return
    # It ends by itself, since the address is nobody's (RFC 5737); the backend comes before the listener.
    with tempfile.TemporaryDirectory() as state:
        answer = subprocess.run(
            [RELAYD, "serve", "--io", "io_uring", "--listen", "ws://192.0.2.1:1", "--state", state],
            capture_output=True, text=True, timeout=20)
    if "io_uring cannot be used" in answer.stderr:
        pytest.exit(f"nothing was tested on io_uring: {answer.stderr.strip()}", returncode=0)


@pytest.fixture
def make_relay():
    """Starts relays that end with the test; takes what `Relay` takes."""
    relays = []

    def make(*arguments, **options):
        relay = Relay(*arguments, **options)
        relay.__enter__()
        relays.append(relay)
        return relay

    yield make
    failures = []
    for relay in reversed(relays):
        try:
            relay.__exit__(None, None, None)
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


@pytest.fixture
def relay(make_relay):
    """An empty relay of this test's own."""
    return make_relay()


@pytest.fixture(scope="module")
def shared_relay():
    """An empty relay for the tests of one file that leave nothing behind."""
    with Relay() as relay:
        yield relay


@pytest.fixture(scope="module")
def echo():
    """A relay that sends every message back, for the tests of one file."""
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits={"messageBytes": "64KiB"}) as relay:
        yield relay


@pytest.fixture
def tunnel(make_relay):
    """A relay with scripts/tunnel.lua."""
    return make_relay(scripts=[SCRIPTS / "tunnel.lua"])


@pytest.fixture(scope="module")
def greeter():
    """A relay with a few small instructions."""
    with Relay() as relay:
        relay.add("greet", "function(conn, name) return 'hello ' .. tostring(name) end")
        relay.add("send twice", "function(conn, text) conn:send(text) conn:send(text) return 'sent' end")
        relay.add("both", "function(conn) return 'a line', {fact = true} end")
        relay.add("secret", "function(conn) return 'secret' end", public=False)
        relay.add("types", "function(conn, ...) local r = {} for i = 1, select('#', ...) do "
                           "r[i] = math.type((select(i, ...))) or type((select(i, ...))) end return r end")
        relay.add("echo parameters", "function(conn, ...) return {...} end")
        relay.add("named", "function(conn, p) return {kind = type(p), x = p and p.x, deep = p and p.a and p.a.b} end")
        relay.add("nothing", "function(conn) end")
        relay.add("raise", "function(conn)\n\n  error('no such thing')\nend")
        yield relay
