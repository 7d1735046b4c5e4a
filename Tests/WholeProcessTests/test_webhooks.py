"""scripts/webhooks.lua: WebSocket as a service, with a back end in a process of its own and curl for its pushes."""

import base64
import hashlib
import hmac
import json
import signal
import subprocess
import time

import pytest
import websockets.exceptions

from conditions import DEADLINE, eventually
from relay import SCRIPTS
from webhook_backend import Backend

SECRET = base64.b64encode(b"a key of twenty-four b!!").decode()


@pytest.fixture
def backend():
    backend = Backend()
    yield backend
    backend.end()


@pytest.fixture
def make_service(make_relay, backend):
    """Starts a relay with webhooks.lua; `settings` are the script's."""

    def make(settings=None, limits=None, allow=None, loops=1, drain="200ms"):
        values = {"target": f"http://localhost:{backend.port}/websocket", "secret": f"whsec_{SECRET}",
                  "address": "http://relay.example/sockets", **(settings or {})}
        options = ["--http-allow", allow or f"localhost:{backend.port}"]
        for name, value in values.items():
            options += ["--set", f"{name}={value}"]
        return make_relay(
            *options, listen=["ws://127.0.0.1:0?bearer=scripts"], scripts=[SCRIPTS / "webhooks.lua"], limits=limits,
            loops=loops, drain=drain)

    return make


@pytest.fixture
def service(make_service):
    return make_service()


def status_of(service, **options):
    """What the handshake is answered with."""
    try:
        service.connect(**options).close()
    except websockets.exceptions.InvalidStatus as refusal:
        return refusal.response.status_code
    return 101


def uri(service, created):
    """Where the client of a POST is reached, without the proxy that `address` speaks of."""
    path = json.loads(created["body"])["ws_uri"].removeprefix("http://relay.example/sockets")
    return f"http://127.0.0.1:{service.port}{path}"


def curl(*arguments, credential=None, body=None):
    """(status, body) of a request that curl makes."""
    command = ["curl", "-sS", "-o", "-", "-w", "\n%{http_code}", "--max-time", str(DEADLINE), *arguments]
    if credential:
        command += ["-H", f"Authorization: Bearer {credential}"]
    if body is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command, input=body, capture_output=True, timeout=2 * DEADLINE, check=True)
    text, _, status = done.stdout.rpartition(b"\n")
    return int(status), text


def code(answer):
    return answer[0], json.loads(answer[1])["code"]


def connected(service, backend, **options):
    """A client that was let in, and the POST that announced it."""
    before = len(backend.of("POST"))
    client = service.connect(**options)
    return client, backend.of("POST")[before]


def make_credential(service, *rights):
    with service.operator() as operator:
        return operator.request("create credential", named={"rights": list(rights)})["credential"]


# The story


@pytest.mark.parametrize("loops", [1, 2])
def test_the_story(make_service, backend, loops):
    service = make_service(loops=loops)
    token = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
    client, created = connected(service, backend, path="/?room=7", additional_headers={"Authorization": token})
    told = json.loads(created["body"])
    assert told["code"] == "NEW_CONNECTION"
    assert told["ws_uri"].startswith("http://relay.example/sockets/")
    assert (told["path"], told["query"], told["remote_address"]) == ("/", "room=7", "127.0.0.1")
    assert created["headers"]["authorization"] == token
    identifier = told["ws_uri"].rsplit("/", 1)[1]
    assert created["path"] == f"/websocket/{identifier}" and len(identifier) == 32

    # What the client says, whatever it looks like.
    said = ["héllo", b"\x00\xff", '{"instruction": "list"}', "", "x" * 100_000]
    for message in said:
        client.send(message)
    eventually(lambda: len(backend.of("PUT")) == len(said), "the back end has every message")
    puts = backend.of("PUT")
    for message, put in zip(said, puts):
        is_text = isinstance(message, str)
        assert put["body"] == (message.encode() if is_text else message)
        kind = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        assert put["headers"]["content-type"] == kind
        assert put["path"] == created["path"]
        assert "authorization" not in put["headers"]
    assert len({put["headers"]["webhook-id"] for put in puts}) == len(said)

    # What the back end says.
    push = make_credential(service, "invoke:push")
    place = uri(service, created)
    json_type = ["-H", "Content-Type: application/json"]
    assert code(curl("-X", "PUT", *json_type, place, credential=push, body=b'{"a":1}')) == (200, "OK")
    assert client.receive() == '{"a":1}'
    octets = ["-H", "Content-Type: application/octet-stream"]
    assert code(curl("-X", "PUT", *octets, place, credential=push, body=b"\x00\x01\xff")) == (200, "OK")
    assert client.receive() == b"\x00\x01\xff"
    assert code(curl("-X", "DELETE", place, credential=push)) == (200, "OK")
    assert client.closed()[0] == 1000
    eventually(lambda: len(backend.of("DELETE")) == 1, "the back end hears of the end")
    assert backend.of("DELETE")[0]["path"] == created["path"]
    assert code(curl("-X", "PUT", *json_type, place, credential=push, body=b"late")) == (404, "NOT_FOUND")

    # Each request carries a signature that the secret makes.
    for entry in backend.log:
        headers = entry["headers"]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + entry["body"]
        digest = hmac.new(base64.b64decode(SECRET), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


def test_a_client_that_goes_is_told_once_after_what_it_said(service, backend):
    client, created = connected(service, backend)
    for number in range(20):
        client.send(str(number))
    client.close()
    eventually(lambda: backend.of("DELETE"), "the back end hears of the end")
    assert [entry["body"].decode() for entry in backend.of("PUT")] == [str(number) for number in range(20)]
    assert [entry["method"] for entry in backend.log] == ["POST"] + ["PUT"] * 20 + ["DELETE"]


def test_a_relay_that_drains_tells_every_end(make_service, backend):
    service = make_service({"requests": "2"}, loops=2, drain="10s")
    clients = [connected(service, backend)[0] for _ in range(20)]
    backend.mode("slow", "0.05")
    for client in clients:
        client.send("last words")
    service.stop()
    assert len(backend.of("PUT")) == 20
    assert len({entry["path"] for entry in backend.of("DELETE")}) == len(backend.of("DELETE")) == 20


# Who is let in


@pytest.mark.parametrize("mode, argument", [
    ("body", b'{"code":"NO"}'), ("body", b"{}"), ("body", b"[1]"), ("body", b"no JSON"), ("body", b""),
    ("body", b'"OK"'), ("status", 500), ("status", 201), ("status", 404), ("redirect", b"http://127.0.0.2:1/"),
    ("redirect", b"http://169.254.169.254/"), ("huge", "announced"), ("huge", "endless")])
def test_anything_but_ok_refuses(service, backend, mode, argument):
    backend.mode(mode, argument)
    before = service.resident_bytes
    assert status_of(service) == 403
    assert service.resident_bytes - before < 24 << 20
    backend.mode("ok")
    assert status_of(service) == 101
    eventually(lambda: len(backend.of("DELETE")) == 1, "only the one that was let in has an end")


def test_a_back_end_that_is_late_refuses_and_hears_of_the_end(make_service, backend):
    service = make_service({"timeout": "0.5"})
    backend.mode("never")
    assert status_of(service) == 403
    backend.mode("ok")
    # It may have opened the connection, for all that is known.
    eventually(lambda: len(backend.of("DELETE")) == 1, "the end of what may have been opened")
    assert backend.of("DELETE")[0]["path"] == backend.of("POST")[0]["path"]


def test_a_back_end_that_is_not_there_refuses(service, backend):
    backend.end()
    assert status_of(service) == 403
    assert service.log.count("the back end does not answer") == 1
    backend.start()


def test_a_client_that_goes_while_the_back_end_decides_has_an_end(make_service, backend):
    service = make_service(limits={"handshakeTimeout": "1s"})
    backend.mode("slow", "0.3")
    with service.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        eventually(lambda: backend.of("POST"), "the back end is asked")
    eventually(lambda: len(backend.of("DELETE")) == 1, "the back end hears of the end")


def test_hosts_that_are_not_allowed(make_service, backend):
    service = make_service(allow="somewhere.example")
    assert status_of(service) == 403
    service.logs("is not among the hosts that are allowed")
    assert backend.log == []


def test_no_target_no_start(make_relay):
    relay = make_relay(scripts=[SCRIPTS / "webhooks.lua"], starts=False)
    relay.expected_exit = {1}
    assert relay.wait() == 1
    assert "needs the setting target" in relay.log


# When the back end fails


def test_a_message_is_tried_again_with_its_id_and_in_order(service, backend):
    client, _ = connected(service, backend)
    backend.mode("fail", 3)
    for number in range(5):
        client.send(str(number))
    eventually(lambda: len(backend.of("PUT")) == 8, "every message has arrived")
    puts = [(entry["body"].decode(), entry["headers"]["webhook-id"]) for entry in backend.of("PUT")]
    assert [body for body, _ in puts] == ["0"] * 4 + ["1", "2", "3", "4"]
    assert len({identifier for _, identifier in puts[:4]}) == 1
    assert all(entry["headers"]["idempotency-key"] == entry["headers"]["webhook-id"] for entry in backend.of("PUT"))
    client.close()


def test_a_message_that_is_refused_is_not_tried_again(service, backend):
    client, _ = connected(service, backend)
    backend.mode("status", 400)
    client.send("refused")
    service.logs("the back end has refused a message")
    backend.mode("ok")
    client.send("taken")
    eventually(lambda: len(backend.of("PUT")) == 2, "the next one follows")
    client.close()


def test_an_answer_that_is_too_long_is_an_answer(service, backend):
    client, _ = connected(service, backend)
    backend.mode("huge", "endless")
    client.send("one")
    eventually(lambda: backend.of("PUT"), "the first has arrived")
    backend.mode("ok")
    client.send("two")
    eventually(lambda: len(backend.of("PUT")) == 2, "the next one follows")
    assert [entry["body"] for entry in backend.of("PUT")] == [b"one", b"two"]
    client.close()


@pytest.mark.parametrize("way", ["ends", "stops"])
def test_a_stopped_back_end_loses_nothing(make_service, backend, way):
    service = make_service({"timeout": "1"})
    clients = [connected(service, backend, close_timeout=0.2)[0] for _ in range(10)]
    log = []
    if way == "ends":
        log = backend.log
        backend.end()
    else:
        backend.process.send_signal(signal.SIGSTOP)
    service.forget_peak()
    before = service.resident_bytes
    for number in range(150):
        for index, client in enumerate(clients):
            client.send(f"{index} {number} " + "x" * 1000)
    for client in clients[5:]:
        client.close()
    service.logs("the back end does not answer")
    assert service.peak_bytes - before < 32 << 20
    if way == "ends":
        backend.start()
    else:
        backend.process.send_signal(signal.SIGCONT)
    eventually(lambda: len({entry["path"] for entry in backend.of("DELETE")}) == 5, "five ends", deadline=60)
    for client in clients[:5]:
        client.close()
    eventually(lambda: len({entry["path"] for entry in backend.of("DELETE")}) == 10, "ten ends", deadline=60)
    log += backend.log
    said = {}
    for entry in log:
        if entry["method"] == "PUT":
            index, number, _ = entry["body"].decode().split(" ")
            # One that the back end has read before it stopped comes again, with its id.
            said.setdefault(index, {}).setdefault(int(number), set()).add(entry["headers"]["webhook-id"])
    assert {index: list(numbers) for index, numbers in said.items()} == {
        str(index): list(range(150)) for index in range(10)}
    assert all(len(identifiers) == 1 for numbers in said.values() for identifiers in numbers.values())


def test_a_client_waits_for_a_back_end_that_does_not_take_it(make_service, backend):
    service = make_service({"timeout": "20"})
    client, _ = connected(service, backend)
    backend.mode("never")
    # What the queue and the sockets' buffers hold is a few megabytes; then the client is read no further.
    client.connection.socket.settimeout(1)
    sent = 0
    with pytest.raises((TimeoutError, websockets.exceptions.ConnectionClosed)):
        for sent in range(2_000):
            client.send(b"x" * 60_000)
    assert 10 < sent < 1_000
    # Others are served meanwhile, but for the back end.
    with service.operator() as operator:
        assert operator.request("eval", named={"body": "return webhooks.bytes < 2 << 20"}) is True


def test_a_message_that_nobody_takes_ends_its_connection(make_service, backend):
    service = make_service({"retryTime": "0.5"})
    client, _ = connected(service, backend)
    backend.mode("status", 503)
    client.send("lost")
    assert client.closed() == (1011, "the back end does not answer")
    backend.mode("ok")
    eventually(lambda: backend.of("DELETE")[-1:], "the end is told all the same")


# Pushes


def test_pushes_need_a_credential(service, backend):
    client, created = connected(service, backend)
    place = uri(service, created)
    other = make_credential(service, "invoke:something else")
    for credential in (None, other, "wrong"):
        for method in ("PUT", "DELETE"):
            assert curl("-X", method, place, credential=credential, body=b"x")[0] in (401, 403)
    assert code(curl("-X", "PUT", place, credential=service.admin, body=b"in")) == (200, "OK")
    assert client.receive() == "in"
    # Nobody learns without one which connections there are.
    assert curl("-X", "PUT", f"http://127.0.0.1:{service.port}/{'0' * 32}", body=b"x")[0] == 401
    client.close()


def test_pushes_that_cannot_be_sent(make_service, backend):
    service = make_service(limits={"messageBytes": "1KiB"})
    client, created = connected(service, backend)
    place, nobody = uri(service, created), f"http://127.0.0.1:{service.port}/{'0' * 32}"
    credential = service.admin
    text = ["-H", "Content-Type: text/plain"]
    assert code(curl("-X", "PUT", place, credential=credential, body=b"x" * 1025)) == (413, "MESSAGE_TOO_LONG")
    assert code(curl("-X", "PUT", *text, place, credential=credential, body=b"\xff")) == (400, "BAD_REQUEST")
    status, answered = curl("-i", "-X", "PATCH", place, credential=credential, body=b"x")
    assert status == 405 and b"\r\nallow: PUT, DELETE\r\n" in answered
    assert code(curl("-X", "PUT", nobody, credential=credential, body=b"x")) == (404, "NOT_FOUND")
    assert code(curl("-X", "DELETE", nobody, credential=credential)) == (404, "NOT_FOUND")
    assert curl(f"http://127.0.0.1:{service.port}/nothing", credential=credential)[0] == 404
    assert code(curl("-X", "PUT", *text, place, credential=credential, body=b"x" * 1024)) == (200, "OK")
    assert client.receive() == "x" * 1024
    client.close()


def test_the_words_of_api_gateway(service, backend):
    client, created = connected(service, backend, additional_headers={"User-Agent": "a client"})
    identifier = created["path"].rsplit("/", 1)[1]
    place = f"http://127.0.0.1:{service.port}/@connections/{identifier}"
    credential = service.admin
    assert code(curl("-X", "POST", place, credential=credential, body=b"hello")) == (200, "OK")
    assert client.receive() == "hello"
    status, body = curl(place, credential=credential)
    described = json.loads(body)
    assert status == 200 and described["identity"]["sourceIp"] == "127.0.0.1"
    assert described["connectedAt"].endswith("Z") and described["lastActiveAt"] >= described["connectedAt"]
    assert curl("-X", "DELETE", place, credential=credential)[0] == 204
    assert client.closed()[0] == 1000
    assert curl("-X", "POST", place, credential=credential, body=b"late")[0] == 410
    assert curl(place)[0] == 401


def test_a_new_version_of_the_script_keeps_its_connections(service, backend):
    client, _ = connected(service, backend)
    client.send("before")
    with service.operator() as operator:
        operator.request("load script", named={
            "name": "webhooks.lua", "source": (SCRIPTS / "webhooks.lua").read_text()})
    client.send("after")
    client.close()
    eventually(lambda: backend.of("DELETE"), "the end is told")
    assert [entry["body"] for entry in backend.of("PUT")] == [b"before", b"after"]
    assert len(backend.of("DELETE")) == 1
