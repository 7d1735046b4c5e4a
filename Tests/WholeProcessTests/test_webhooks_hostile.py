"""scripts/webhooks.lua among floods of clients, operators who change it, and settings that are wrong."""

import concurrent.futures
import json
import signal
import time

import pytest

from conditions import eventually
from relay import SCRIPTS, Refused
from test_webhooks import backend, code, connected, curl, make_service, service, status_of, uri  # noqa: F401
from wire import head

HANDSHAKE = head(
    "GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def ends(backend):
    return {entry["path"] for entry in backend.of("DELETE")}


def load(service, source=None, name="webhooks.lua"):
    with service.operator() as operator:
        operator.request("load script", named={
            "name": name, "source": source or (SCRIPTS / "webhooks.lua").read_text()})


# Floods


def test_who_asks_does_not_hold_up_who_is_in(make_service, backend):
    service = make_service(
        {"requests": "4", "timeout": "27"}, limits={"httpRequests": 8, "handshakeTimeout": "60s"})
    client, _ = connected(service, backend)
    backend.mode("hang/POST")
    asking = [service.raw() for _ in range(50)]
    for raw in asking:
        raw.send(HANDSHAKE)
    refused = 0
    for raw in asking[4:]:
        raw.socket.settimeout(20)
        refused += raw.read_to_end().startswith(b"HTTP/1.1 503 ")
    assert refused == 46
    service.logs("clients are not let in")
    client.send("hello")
    eventually(lambda: len(backend.of("PUT")) == 1, "the message arrives")
    assert len(backend.of("POST")) == 5
    for raw in asking:
        raw.socket.close()
    client.close()


def test_connections_without_memory_for_their_ends_are_not_let_in(make_service, backend):
    service = make_service(limits={"scriptMemory": "2MiB", "connectionsPerAddress": 3000})

    def ask(_):
        raw = service.raw()
        raw.send(HANDSHAKE)
        return raw, raw.socket.recv(4096)[9:12]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(ask, range(1000)))
    statuses = [status for _, status in asked]
    assert {*statuses} == {b"101", b"503"}
    assert 600 < statuses.count(b"101") < 800
    for raw, _ in asked:
        raw.socket.close()
    eventually(lambda: len(ends(backend)) == statuses.count(b"101"), "each one that was let in has an end")
    assert len({entry["headers"]["webhook-id"] for entry in backend.of("DELETE")}) == len(ends(backend))
    assert "script failed" not in service.log
    assert status_of(service) == 101


def test_a_message_that_no_call_could_send_ends_its_connection(make_service, backend):
    service = make_service(limits={"outputBytesPerCall": "1MiB", "messageBytes": "2MiB"})
    client, _ = connected(service, backend)
    client.send("x" * 500_000)
    client.send("x" * 600_000)
    assert client.closed()[0] == 1009
    eventually(lambda: len(ends(backend)) == 1, "the end is told")
    assert [len(entry["body"]) for entry in backend.of("PUT")] == [500_000]


def test_what_the_back_end_refuses_is_logged_once(service, backend):
    client, _ = connected(service, backend)
    backend.mode("status", 400)
    for number in range(100):
        client.send(str(number))
    eventually(lambda: len(backend.of("PUT")) == 100, "every message was tried")
    client.close()
    eventually(lambda: ends(backend), "the end is told")
    assert service.log.count("the back end has refused a message") == 1


def test_a_relay_that_stood_still_goes_on(make_service, backend):
    # Calls that were under way when the machine slept are over when it wakes: others take their places.
    service = make_service(
        {"requests": "2", "timeout": "1"}, limits={"callTime": "4s", "handshakeTimeout": "2s"})
    clients = [connected(service, backend)[0] for _ in range(4)]
    backend.mode("hang/PUT")
    for client in clients:
        client.send("hello")
    eventually(lambda: len(backend.of("PUT")) >= 2, "calls are under way")
    service.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    backend.mode("ok")
    eventually(lambda: time.monotonic() > stopped + 5, "the calls' time is over")
    service.signal(signal.SIGCONT)
    eventually(lambda: len({entry["path"] for entry in backend.of("PUT")}) == 4, "every message arrives", deadline=40)
    for client in clients:
        client.close()
    eventually(lambda: len(ends(backend)) == 4, "every end is told", deadline=40)


# Draining


def test_a_relay_that_drains_sends_more_than_one_call_may(make_service, backend):
    # One worker at a time, which may send 16 KiB before another has to go on.
    service = make_service({"requests": "1"}, limits={"outputBytesPerCall": "64KiB"}, drain="20s")
    clients = [connected(service, backend)[0] for _ in range(3)]
    backend.mode("slow", "0.02")
    for number in range(20):
        for client in clients:
            client.send(f"{number} " + "x" * 10_000)
    service.stop()
    assert len(backend.of("PUT")) == 60
    assert len(ends(backend)) == len(backend.of("DELETE")) == 3


# Changes of the script


def test_ends_while_the_script_is_away_are_told_when_it_is_back(service, backend):
    (gone, first), (stays, _) = connected(service, backend), connected(service, backend)
    with service.operator() as operator:
        operator.request("unload script", named={"name": "webhooks.lua"})
        gone.close()
        load(service)
    eventually(lambda: ends(backend) == {first["path"]}, "the end is told")
    stays.send("still here")
    stays.close()
    eventually(lambda: len(ends(backend)) == 2, "the other end is told")
    assert len(backend.of("DELETE")) == 2
    assert [entry["body"] for entry in backend.of("PUT")] == [b"still here"]


def test_a_version_that_fails_or_follows_keeps_what_waits(service, backend):
    client, _ = connected(service, backend)
    backend.mode("status", 503)
    client.send("waits")
    eventually(lambda: backend.of("PUT"), "it was tried")
    with pytest.raises(Refused):
        load(service, 'relay.on("reload", function() error("no") end)')
    load(service)
    client.send("comes later")
    client.close()
    backend.mode("ok")
    eventually(lambda: ends(backend), "the end is told")
    assert [entry["body"] for entry in backend.of("PUT")][-2:] == [b"waits", b"comes later"]
    assert len({entry["headers"]["webhook-id"] for entry in backend.of("PUT")}) == 2
    assert len(backend.of("DELETE")) == 1


# Settings


@pytest.mark.parametrize("name, value", [
    ("secret", "whsec_"), ("secret", "whsec_!!!"), ("secret", "whsec_A"), ("secret", "whsec_abc_def"),
    ("requests", "0"), ("timeout", "-1"), ("queueMessages", "many"), ("retryTime", "nan")])
def test_settings_that_are_wrong(make_relay, name, value):
    relay = make_relay(
        "--set", "target=http://localhost/", "--set", f"{name}={value}", scripts=[SCRIPTS / "webhooks.lua"],
        starts=False)
    relay.expected_exit = {1}
    assert relay.wait() == 1
    assert f"the setting {name}" in relay.log


def test_an_address_without_a_scheme(make_service, backend):
    service = make_service({"address": "relay.example/sockets"})
    client, created = connected(service, backend)
    place = json.loads(created["body"])["ws_uri"].replace("relay.example", f"http://127.0.0.1:{service.port}")
    assert code(curl("-X", "PUT", place, credential=service.admin, body=b"x")) == (200, "OK")
    assert client.receive() == "x"
    client.close()


# Pushes


def test_a_connection_that_is_not_open_yet_can_be_closed(service, backend):
    # Another script still decides when the back end has said yes.
    load(service, 'relay.on("handshake", function() relay.sleep(1) end)', name="slow.lua")
    with service.raw() as raw:
        raw.send(HANDSHAKE)
        created = eventually(lambda: backend.of("POST"), "the back end is asked")[0]
        assert code(curl("-X", "DELETE", uri(service, created), credential=service.admin)) == (200, "OK")
        received = b""
        while b"\x88\x02\x03\xe8" not in received:
            received += raw.socket.recv(4096) or pytest.fail("no close frame came")
    eventually(lambda: ends(backend), "the end is told")


def test_facts_that_are_no_text(service, backend):
    with service.raw() as raw:
        raw.send(HANDSHAKE[:-2] + b"User-Agent: \xff\xfe\r\n\r\n")
        created = eventually(lambda: backend.of("POST"), "the back end is asked")[0]
        place = f"http://127.0.0.1:{service.port}/@connections/{created['path'].rsplit('/', 1)[1]}"
        status, body = curl(place, credential=service.admin)
        assert status == 200 and json.loads(body)["identity"]["sourceIp"] == "127.0.0.1"
