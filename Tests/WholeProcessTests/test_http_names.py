"""relay.http and the names of a resolver that lies, or says nothing (CASES 63 and 64)."""

import os
import socket
import threading
import time

import pytest

from test_http_requests import ask
from webhook_backend import Backend

ADDRESS = "127.0.0.153"  # The resolver's; ports below 1024 are root's, as is the name space of mounts.

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a resolver of the test's own needs root")


class Resolver:
    """Answers each question for a name's IPv4 address with the next of its addresses; the last one stays.
    With None it is silent."""

    def __init__(self, names):
        self.names = {name: list(addresses) for name, addresses in names.items()}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((ADDRESS, 53))
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def end(self):
        self.socket.sendto(b"", (ADDRESS, 53))
        self.thread.join()
        self.socket.close()

    def run(self):
        while True:
            question, sender = self.socket.recvfrom(512)
            if not question:
                return
            at, labels = 12, []
            while question[at]:
                labels.append(question[at + 1:at + 1 + question[at]].decode().lower())
                at += 1 + question[at]
            kind = question[at + 1:at + 3]
            addresses = self.names.get(".".join(labels), [])
            address = addresses.pop(0) if kind == b"\0\1" and len(addresses) > 1 else addresses[0] if addresses else ""
            if address is None:
                continue
            records = b""
            if kind == b"\0\1" and address:
                records = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
            status = b"\x81\x80" if labels and addresses else b"\x81\x83"
            head = question[:2] + status + b"\0\1" + (b"\0\1" if records else b"\0\0") + b"\0\0\0\0"
            self.socket.sendto(head + question[12:at + 5] + records, sender)


@pytest.fixture
def resolving(make_relay, tmp_path):
    """Makes a relay that asks a resolver of the test's own."""
    resolvers = []

    def make(names, *options, **more):
        try:
            resolvers.append(Resolver(names))
        except OSError as error:
            pytest.skip(f"no resolver at {ADDRESS}: {error}")
        file = tmp_path / "resolv.conf"
        file.write_text(f"nameserver {ADDRESS}\noptions timeout:20 attempts:1\n")
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return make_relay(*options, wrapper=["unshare", "--mount", "sh", "-c", mount, str(file)], **more)

    yield make
    for resolver in resolvers:
        resolver.end()


@pytest.fixture
def backend():
    backend = Backend()
    yield backend
    backend.end()


@pytest.mark.parametrize("address", [
    "127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1"])
def test_a_name_that_leads_inside(resolving, backend, address):
    relay = resolving({"inside.example": [address]}, "--http-allow", "inside.example")
    code, message = ask(relay, url=f"http://inside.example:{backend.port}/")[:2]
    assert code == "forbidden" and address in message
    assert backend.log == []


def test_a_name_that_changes(resolving, backend):
    # What was public at one question leads inside at the next: each socket is checked.
    relay = resolving(
        {"changing.example": ["192.0.0.9", "127.0.0.1"]}, "--http-allow", "changing.example",
        "--http-allow", "192.0.0.9")
    url = f"http://changing.example:{backend.port}/"
    ask(relay, url=url, timeout=0.5)
    answer = ask(relay, url=url, timeout=0.5)
    assert answer[0] in ("forbidden", "timeout", "unavailable")
    assert backend.log == []


def test_a_name_within_a_range_that_is_allowed(resolving, backend):
    relay = resolving(
        {"inside.example": ["127.0.0.1"]}, "--http-allow", "inside.example",
        "--http-allow", f"127.0.0.0/8:{backend.port}")
    assert ask(relay, url=f"http://inside.example:{backend.port}/")[0] == 200
    # The range alone names nobody.
    assert ask(relay, url=f"http://other.example:{backend.port}/")[0] == "forbidden"


def test_a_name_that_nobody_knows(resolving):
    relay = resolving({}, "--http-allow", "nobody.example")
    assert ask(relay, url="http://nobody.example/", timeout=5)[0] == "unavailable"


def test_a_silent_resolver_holds_nobody_else_up(resolving, backend):
    relay = resolving(
        {"silent.example": [None]}, "--http-allow", "silent.example", "--http-allow", f"127.0.0.1:{backend.port}")
    start = time.monotonic()
    took = relay.evaluate(f"""
        for i = 1, 20 do
          relay.after(0, function() relay.http {{ url = "http://silent.example/", timeout = 0.2 }} end)
        end
        relay.sleep(0.1)
        for i = 1, 50 do assert(relay.http {{ url = "http://127.0.0.1:{backend.port}/", timeout = 5 }}) end
        return relay.http {{ url = "http://silent.example/", timeout = 0.2 }} or "late" """)
    assert took == "late"
    assert time.monotonic() - start < 15  # The resolver itself would have taken 20 s.
