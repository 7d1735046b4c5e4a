"""HTTP requests that scripts answer: `relay.on("request", …)` (docs/http-inbound.md)."""

import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import threading

import pytest

from conditions import DEADLINE, eventually
from http_requests import HOST, SCRIPT, chunked, get, one, put
from relay import Relay, run_relayd, trusting_anything
from wire import TEXT, Raw, frame, head, upgrade_head


@pytest.fixture(scope="module")
def server():
    with Relay(scripts=[SCRIPT], loops=2) as relay:
        yield relay


# What a script sees, and what it answers


def test_a_hook_gets_the_request(server):
    with server.raw() as raw:
        raw.send(put("/facts/a%20b/%C3%A9/?x=1&y=%20", "hello", "X-One: a", "x-one: b", "Cookie: c"))
        response = raw.read_response()
        port = raw.socket.getsockname()[0]
    facts = json.loads(response.body)
    assert response.status == 200 and response.values("content-type") == ["application/json"]
    assert facts == {
        "method": "PUT", "path": "/facts/a b/é/", "query": "x=1&y=%20", "body": "hello", "remoteAddress": port,
        "isAdmin": False, "app": "default",
        "headers": {"host": "relay.test", "content-length": "5", "x-one": "a, b", "cookie": "c"},
    }


def test_the_path_is_that_within_the_app(server):
    server.invoke("create app", named={"app": "blue"})
    server.load("requests.lua", SCRIPT.read_text(), path="/app/blue")
    with server.raw() as raw:
        for path, inside in [("/app/blue/facts/x", "/facts/x"), ("/facts", "/facts"), ("/app/blue/facts", "/facts")]:
            raw.send(get(path))
            facts = json.loads(raw.read_response().body)
            assert facts["path"] == inside and facts["app"] == ("blue" if "blue" in path else "default")
    assert one(server, get("/app/none/facts")).status == 404


@pytest.mark.parametrize("path, status", [("/nothing", 404), ("/", 426), ("/c/box/1", 426), ("/s/box", 426)])
def test_a_request_that_no_hook_answers_is_answered_as_without_hooks(server, shared_relay, path, status):
    without = one(shared_relay, get(path))
    with server.raw() as raw:
        for _ in range(2):  # Here the connection stays.
            raw.send(get(path))
            response = raw.read_response()
            assert (response.status, response.body) == (without.status, without.body) == (status, without.body)


def test_hooks_are_asked_in_order(server):
    response = one(server, get("/second"))
    assert (response.status, response.body) == (201, b"the second hook")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/relay.js", "/examples/x"])
def test_what_the_relay_answers_itself_no_hook_sees(server, path):
    before = server.invoke("served")
    one(server, get(path))
    assert server.invoke("served") == before


def test_headers_can_be_repeated(server):
    response = one(server, get("/twice"))
    assert response.values("set-cookie") == ["a=1", "b=2"] and response.values("x-number") == ["7"]
    assert response.values("content-type") == ["text/plain; charset=utf-8"]


@pytest.mark.parametrize("status, length", [(200, "0"), (404, "0"), (599, "0"), (205, "0"), (204, None), (304, None)])
def test_a_status_may_stand_alone(server, status, length):
    with server.raw() as raw:
        raw.send(get(f"/status?{status}") + get("/length"))
        response = raw.read_response()
        assert (response.status, response.value("content-length"), response.body) == (status, length, b"")
        assert raw.read_response().body == b"0"


def test_the_answer_to_head_has_no_body_but_its_length(server):
    with server.raw() as raw:
        raw.send(get("/twice", method="HEAD") + get("/length"))
        response = raw.read_response(has_body=False)
        assert (response.status, response.value("content-length")) == (200, "3")
        assert raw.read_response().body == b"0"


@pytest.mark.parametrize("path", ["/nothing", "/", "/app/none/x", "/%zz", "/metrics", "/c/box/1", "/raise"])
def test_an_error_as_answer_to_head_has_no_body_either(server, path):
    with server.raw() as raw:
        raw.send(get(path, "Connection: close", method="HEAD"))
        response = raw.read_response(has_body=False)
        assert response.status >= 400 and int(response.value("content-length")) > 0
        assert raw.read_to_end() == b""
    with server.raw() as raw:  # The next answer is another request's.
        raw.send(get("/length", method="HEAD") + b"nonsense\r\n\r\n")
        assert raw.read_response(has_body=False).status == 200
        assert raw.read_response().body


@pytest.mark.parametrize("path", ["/", "/c/box/1"])
def test_who_is_asked_to_upgrade_is_told_in_both_fields(server, shared_relay, path):
    """RFC 9110 §7.8, with scripts that answer requests as without."""
    for relay, named in [(server, "Upgrade"), (shared_relay, "close, Upgrade")]:
        response = one(relay, get(path))
        assert (response.status, response.values("upgrade")) == (426, ["websocket"])
        assert response.values("connection") == [named]


def test_connect_is_for_proxies(server):
    before = server.invoke("served")
    for target in ["/length", "relay.test:80", "http://relay.test/length"]:
        assert one(server, get(target, method="CONNECT")).status == 400
    assert server.invoke("served") == before


# Failures


@pytest.mark.parametrize(
    "path, words",
    [
        ("/raise", "no such luck"), ("/loop", "burst"), ("/split", "control character"), ("/token", "no token has"),
        ("/own", "the header 'content-length' is the relay's to set"), ("/status?199", "from 200 to 599"),
        ("/status?600", "from 200 to 599"), ("/status?2.5", "from 200 to 599"),
    ])
def test_a_hook_that_fails_is_500_and_logged_with_its_place(server, path, words):
    with server.raw() as raw:
        raw.send(get(path))
        response = raw.read_response()
        assert response.status == 500 and response.values("x-injected") == [] and words.encode() not in response.body
        raw.send(get("/length"))  # The connection goes on.
        assert raw.read_response().status == 200
    server.logs(words)
    line = next(line for line in server.log.splitlines() if words in line)
    assert "requests.lua:" in line and "request hook" in line


def test_the_time_of_a_call_in_all_is_504(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"callTime": "100ms"})
    with relay.raw() as raw:
        raw.send(get("/sleep?5"))
        assert raw.read_response().status == 504
        raw.send(get("/sleep?0.01"))
        assert raw.read_response().body == b"slept"
    relay.logs("callTime")


def test_an_answer_beyond_the_output_of_a_call_is_500(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"outputBytesPerCall": "1MiB"})
    assert one(relay, get("/large?1000000")).status == 200
    assert one(relay, get("/large?1048577")).status == 500
    relay.logs("outputBytesPerCall")


# Credentials


def test_a_request_has_the_rights_of_its_credential(server):
    made = server.invoke("create credential", named={"rights": ["invoke:push*", "connect:box:22", "listen:a"]})
    bearer = f"Authorization: Bearer {made['credential']}"
    answers = {
        "invoke:push": "true", "invoke:pull": "false", "admin": "false", "connect:box:22": "true",
        "connect:box:23": "false", "listen:a": "true", "listen:b": "false",
    }
    with server.raw() as raw:
        for right, expected in answers.items():
            raw.send(get(f"/may?{right}", bearer))
            assert raw.read_response().body.decode() == expected, right
            # The credential is the request's, not the connection's: behind a proxy the next one is somebody else's.
            raw.send(get(f"/may?{right}"))
            assert raw.read_response().body == b"false", right
        raw.send(get("/may?admin", f"Authorization: Bearer {server.admin}") + get(f"/may?invoke:x&auth={server.admin}"))
        assert raw.read_response().body == b"true"
        assert raw.read_response().body == b"true"
        for wrong in ["", "invoke", "push", "connect:box", "connect:box:x", "invoke%20x"]:
            raw.send(get(f"/may?{wrong}"))
            assert b"a right is" in raw.read_response().body, wrong


def test_a_request_that_was_answered_has_no_rights_any_more(server):
    bearer = f"Authorization: Bearer {server.admin}"
    with server.raw() as raw:
        raw.send(get("/keep", bearer) + get("/kept", bearer))
        assert raw.read_response().status == 200
        assert raw.read_response().body == b"false"


def test_a_wrong_credential_is_401_before_the_body_is_read(make_relay):
    relay = make_relay(scripts=[SCRIPT])
    with relay.raw() as raw:
        raw.send(head("PUT /length HTTP/1.1", HOST, "Content-Length: 100", "Authorization: Bearer wrong"))
        response = raw.read_response()
        assert response.status == 401 and response.values("www-authenticate") == ['Bearer realm="relayd"']
        assert response.values("connection") == ["close"]
        raw.expect_end()
    relay.logs("unauthorized")
    assert "wrong" not in relay.log
    assert one(relay, get("/length", "Authorization: Basic d3Jvbmc6")).status == 200  # Somebody else's scheme.


def test_a_listener_with_a_token_wants_it_of_requests_as_well(make_relay):
    relay = make_relay(scripts=[SCRIPT], listen=["ws://127.0.0.1:0?auth=1234"])
    assert one(relay, get("/length")).status == 401
    assert one(relay, get("/length", "Authorization: Bearer 1234")).status == 200
    assert json.loads(one(relay, get("/facts?auth=1234")).body)["isAdmin"] is False


def test_a_proxy_says_of_each_request_whose_it_is(make_relay):
    relay = make_relay("--trusted-proxies", "127.0.0.0/8", scripts=[SCRIPT])
    near = relay.invoke("create credential", named={"rights": ["admin"], "cidr": "192.0.2.0/24"})["credential"]
    with relay.raw() as raw:
        for client in ["192.0.2.1", "198.51.100.7", "192.0.2.2"]:
            raw.send(get("/facts", f"X-Forwarded-For: {client}"))
            assert json.loads(raw.read_response().body)["remoteAddress"] == client
        raw.send(get("/may?admin", "X-Forwarded-For: 192.0.2.1", f"Authorization: Bearer {near}"))
        assert raw.read_response().body == b"true"
        # The range of a credential is held against the client of this request, not of the first.
        raw.send(get("/may?admin", "X-Forwarded-For: 198.51.100.7", f"Authorization: Bearer {near}"))
        assert raw.read_response().status == 401
    relay.logs("198.51.100.7")
    with relay.raw() as raw:
        raw.send(get("/length", "X-Forwarded-For: 192.0.2.1"))
        assert raw.read_response().status == 200
        raw.send(upgrade_head(extra=["X-Forwarded-For: 192.0.2.2"]) + frame(TEXT, '{"instruction":"address","id":1}'))
        assert raw.read_response().status == 101
        assert json.loads(raw.read_message())["result"] == "192.0.2.2"
    conflict = get("/length", "X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.2")
    assert one(relay, conflict).status == 400


def test_an_untrusted_peer_says_nothing_of_whose_a_request_is(server):
    facts = json.loads(one(server, get("/facts", "X-Forwarded-For: 192.0.2.1")).body)
    assert facts["remoteAddress"] == "127.0.0.1"


def test_a_base_path_may_change_while_a_body_comes(make_relay, tmp_path):
    file = tmp_path / "relayd.yaml"
    file.write_text("basePath: /relay\n")
    relay = make_relay("--config", file, scripts=[SCRIPT])
    with relay.raw() as raw:
        for path, status in [("/relay", 426), ("/relay/nothing", 404), ("/relay/c/box/1", 426)]:
            raw.send(get(path))
            assert raw.read_response().status == status
        raw.send(head("PUT /relay/facts HTTP/1.1", HOST, "Content-Length: 2", "Expect: 100-continue"))
        assert raw.read_response().status == 100
        file.write_text("basePath: /else\n")
        relay.signal(signal.SIGHUP)
        relay.logs("reloaded configuration")
        raw.send(b"hi")
        assert json.loads(raw.read_response().body)["path"] == "/facts"
        raw.send(get("/relay/facts"))
        assert raw.read_response().status == 404


# Connections


def test_a_connection_serves_many_requests(server):
    with server.raw() as raw:
        for number in range(50):
            raw.send(put("/echo", f"body {number}"))
            assert raw.read_response().body == f"body {number}".encode()
        raw.send(get("/length", "Connection: close"))
        assert raw.read_response().values("connection") == ["close"]
        raw.expect_end()


def test_requests_that_come_at_once_are_answered_in_order(server):
    bodies = [f"{number} " + "x" * (number * 7 % 300) for number in range(2000)]
    with server.raw() as raw:
        sender = threading.Thread(target=raw.send, args=(b"".join(put("/echo", body) for body in bodies),))
        sender.start()
        for body in bodies:
            assert raw.read_response().body == body.encode()
        sender.join()


def test_a_request_behind_one_that_sleeps_waits_for_it(server):
    before = server.invoke("served")
    with server.raw() as raw:
        raw.send(get("/sleep?0.2") + put("/echo", "behind") + get("/sleep?0") + get("/length"))
        assert [raw.read_response().body for _ in range(4)] == [b"slept", b"behind", b"slept", b"0"]
    assert server.invoke("served") == before + 4


def test_while_a_request_is_handled_nothing_is_read_ahead(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"callTime": "60s"})
    with relay.raw() as raw:
        raw.send(get("/sleep?60"))
        eventually(lambda: relay.invoke("served") == 1, "the hook sleeps")
        before = relay.resident_bytes
        raw.socket.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += raw.socket.send(put("/echo", "x" * 60000))
        except BlockingIOError:
            pass
        assert sent < 32 << 20  # What sockets hold.
        assert relay.resident_bytes - before < 4 << 20
        raw.reset()


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_requests_may_come_in_pieces(server, cut):
    data = put("/echo", "one") + chunked("/echo", b"t", b"wo") + get("/length")
    with server.raw() as raw:
        for start in range(0, len(data), cut):
            raw.send(data[start:start + cut])
        assert [raw.read_response().body for _ in range(3)] == [b"one", b"two", b"0"]


def test_http_1_0_closes_unless_it_is_asked_not_to(server):
    with server.raw() as raw:
        raw.send(get("/length", "Connection: keep-alive", version="HTTP/1.0"))
        assert raw.read_response().values("connection") == ["keep-alive"]
        raw.send(get("/length", version="HTTP/1.0"))
        assert raw.read_response().values("connection") == ["close"]
        raw.expect_end()
    with server.raw() as raw:
        raw.send(get("/length", "Connection: keep-alive, close", version="HTTP/1.0"))
        assert raw.read_response().values("connection") == ["close"]
        raw.expect_end()


def test_who_ends_its_output_still_gets_its_answers(server):
    for path, body in [("/length", b"0"), ("/sleep?0.1", b"slept")]:
        with server.raw() as raw:
            raw.send(get(path) + get("/length"))
            raw.socket.shutdown(socket.SHUT_WR)
            assert [raw.read_response().body, raw.read_response().body] == [body, b"0"]
            raw.expect_end()


@pytest.mark.parametrize("path", ["", "/app/blue"])
def test_who_ends_its_tls_still_gets_its_answers(make_relay, path):
    """close_notify may come together with the requests before it (RFC 8446 §6.1)."""
    relay = make_relay("--tls-self-signed", scripts=[SCRIPT], listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"], loops=2)
    relay.invoke("create app", named={"app": "blue"})
    relay.load("requests.lua", SCRIPT.read_text(), path="/app/blue")
    for first in [get(path + "/length"), put(path + "/length", ""), get(path + "/sleep?0.05")]:
        received = said_at_once(relay.urls[1], first + put(path + "/echo", "behind") + get("/", method="BREW"))
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"405"], received
    assert said_at_once(relay.urls[1], put(path + "/echo", "whole")[:-1]) == b""


def said_at_once(url, data):
    """What comes back when `data` and the end of TLS are sent in one piece."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = trusting_anything().wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", Relay.port_of(url)), DEADLINE) as connected:
        def done(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    connected.sendall(outgoing.read())
                    incoming.write(connected.recv(1 << 16)) or incoming.write_eof()

        done(secure.do_handshake)
        secure.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            secure.unwrap()
        received = b""
        with contextlib.suppress(ssl.SSLError):  # The relay's end, with close_notify or without.
            while piece := done(lambda: secure.read(1 << 16)):
                received += piece
        return received


def test_an_upgrade_may_follow_a_request(server):
    with server.raw() as raw:
        raw.send(put("/echo", "first"))
        assert raw.read_response().body == b"first"
        raw.send(upgrade_head() + frame(TEXT, '{"instruction":"served","id":1}'))
        assert raw.read_response().status == 101
        assert json.loads(raw.read_message())["id"] == 1
    with server.raw() as raw:  # And at once.
        raw.send(get("/sleep?0.05") + get("/length") + upgrade_head() + frame(TEXT, '{"instruction":"served","id":2}'))
        assert [raw.read_response().status for _ in range(3)] == [200, 200, 101]
        assert json.loads(raw.read_message())["id"] == 2


def test_a_connection_between_requests_is_in_no_list(server):
    with server.raw() as raw:
        raw.send(get("/length"))
        assert raw.read_response().status == 200
        assert len(server.listed("connections")) == 1  # Whoever asks.


def test_an_answer_that_is_not_read_stops_its_connection_and_nobody_else(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"slowConsumerDeadline": "60s", "burst": "5s"})
    with relay.raw() as raw:
        before = relay.peak_bytes
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        raw.send(get("/large?4000000") * 40)
        eventually(lambda: relay.invoke("served") >= 1, "the first is asked")
        assert relay.invoke("served") < 40
        assert one(relay, get("/length")).status == 200
        assert relay.peak_bytes - before < 64 << 20
        for _ in range(40):
            assert len(raw.read_response().body) == 4000000


def test_an_answer_that_nobody_takes_ends_the_connection(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"slowConsumerDeadline": "200ms", "burst": "5s"})
    before = relay.descriptors
    with relay.raw() as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        raw.send(get("/large?16000000") * 2)
        eventually(lambda: relay.invoke("served") == 1, "the first is answered")
        eventually(lambda: relay.descriptors == before, "the relay has closed")


# Time


def test_a_request_that_comes_too_slowly_is_408(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"handshakeTimeout": "300ms"})
    for start in [b"", get("/length")]:
        for rest in [b"GET /len", head("PUT /echo HTTP/1.1", HOST, "Content-Length: 5") + b"abc"]:
            with relay.raw() as raw:
                if start:
                    raw.send(start)
                    assert raw.read_response().status == 200
                raw.send(rest)
                assert raw.read_response().status == 408
                raw.expect_end()


def test_a_body_that_makes_progress_has_time(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"handshakeTimeout": "1s"})
    with relay.raw() as raw:
        raw.send(head("PUT /length HTTP/1.1", HOST, f"Content-Length: {1 << 20}"))
        raw.socket.settimeout(0.1)
        for _ in range(15):  # 1.5 s in all: the peer's pace.
            raw.send(b"x" * (64 << 10))
            with pytest.raises(TimeoutError):
                raw.socket.recv(1)
        raw.socket.settimeout(20)
        raw.send(b"x" * (64 << 10))
        assert raw.read_response().body == str(1 << 20).encode()


def test_a_connection_without_requests_ends_without_a_word(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"idleTimeout": "300ms", "handshakeTimeout": "60s"})
    with relay.raw() as raw:
        raw.send(get("/length"))
        assert raw.read_response().status == 200
        raw.expect_end()


# Going


def test_a_peer_that_goes_while_its_request_is_handled_leaves_nothing(make_relay):
    relay = make_relay(scripts=[SCRIPT])
    before = relay.descriptors
    for _ in range(20):
        raw = relay.raw()
        raw.send(get("/sleep?0.2") + get("/length"))
        raw.reset()
    eventually(lambda: relay.descriptors == before, "all are gone")
    assert one(relay, get("/length")).status == 200


def test_a_drain_answers_what_is_here_and_closes(make_relay):
    relay = make_relay(scripts=[SCRIPT], drain="5s")
    with relay.raw() as busy, relay.raw() as idle, relay.raw() as uploading:
        idle.send(get("/length"))
        assert idle.read_response().status == 200
        busy.send(get("/sleep?0.5"))
        eventually(lambda: relay.invoke("served") == 2, "the hook sleeps")
        uploading.send(head("PUT /echo HTTP/1.1", HOST, "Content-Length: 5", "Expect: 100-continue"))
        assert uploading.read_response().status == 100
        relay.signal(signal.SIGTERM)
        idle.expect_end()
        uploading.send(b"hello")
        for raw, body in [(busy, b"slept"), (uploading, b"hello")]:
            response = raw.read_response()
            assert (response.body, response.values("connection")) == (body, ["close"])
            raw.expect_end()
    assert relay.wait() == 0


def test_a_drain_says_nothing_that_nobody_has_asked(make_relay):
    """A second answer would be taken for that of the next request."""
    relay = make_relay(scripts=[SCRIPT], limits={"slowConsumerDeadline": "60s", "burst": "5s"}, drain="20s")
    with relay.raw() as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        raw.send(get("/large?16000000"))
        eventually(lambda: relay.invoke("served") == 1, "the answer is on its way")
        relay.signal(signal.SIGTERM)
        relay.logs("draining")
        assert len(raw.read_response().body) == 16000000
        assert raw.read_to_end() == b""
    assert relay.wait() == 0


def test_hooks_may_come_and_go_while_a_connection_stays(make_relay):
    relay = make_relay()
    relay.load("requests.lua", SCRIPT.read_text())
    with relay.raw() as raw:
        raw.send(get("/sleep?0.2") + get("/length"))
        eventually(lambda: relay.invoke("served") == 1, "the hook sleeps")
        relay.load("requests.lua", 'relay.on("request", function() return 200, nil, "new" end)')
        assert [raw.read_response().body for _ in range(2)] == [b"slept", b"new"]
        relay.invoke("unload script", named={"name": "requests.lua"})
        raw.send(get("/length"))
        assert raw.read_response().status == 404
        raw.expect_end()


def test_an_app_that_is_removed_takes_its_requests_along(make_relay):
    relay = make_relay()
    relay.invoke("create app", named={"app": "blue"})
    relay.load("requests.lua", SCRIPT.read_text(), path="/app/blue")
    with relay.raw() as raw:
        raw.send(get("/app/blue/sleep?10"))
        eventually(lambda: relay.invoke("served", path="/app/blue") == 1, "the hook sleeps")
        relay.invoke("remove app", named={"app": "blue"})
        assert raw.read_response().status == 404


# Other clients, other listeners


def test_http_client_and_curl_are_served(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for body in [b"one", b"x" * 100000, iter([b"a", b"b" * 5000, b"c"])]:
        connection.request("PUT", "/length", body=body, encode_chunked=not isinstance(body, bytes))
        response = connection.getresponse()
        assert response.status == 200 and response.read() in (b"3", b"100000", b"5002")
    connection.close()
    url = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        ["curl", "-sS", "-v", "--max-time", "20", "-T", "-", f"{url}/echo", "-w", "%{http_code}"], input=b"x" * 3000,
        capture_output=True)
    assert done.stdout == b"x" * 3000 + b"200", done.stderr
    twice = subprocess.run(
        ["curl", "-sSv", "--max-time", "20", f"{url}/length", f"{url}/second"], capture_output=True, text=True)
    assert twice.stdout == "0the second hook" and "Re-using existing connection" in twice.stderr


def test_requests_come_over_tls_and_unix_sockets_as_well(make_relay, tmp_path):
    path = tmp_path / "relay.sock"
    relay = make_relay(
        "--tls-self-signed", listen=["wss://127.0.0.1:0", f"unix:{path}"],
        scripts=[SCRIPT], loops=2)
    with relay.raw() as raw:
        for first in range(0, 100, 10):
            raw.send(b"".join(put("/echo", "x" * (100 * number)) for number in range(first, first + 10)))
            for number in range(first, first + 10):
                assert raw.read_response().body == b"x" * (100 * number)
        raw.send(get("/facts"))
        assert json.loads(raw.read_response().body)["tls"].startswith("TLSv1.")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        raw = Raw(plain)
        raw.send(get("/facts") + put("/echo", "unix"))
        assert json.loads(raw.read_response().body)["isAdmin"] is True
        assert raw.read_response().body == b"unix"


def test_apps_on_different_loops_are_served_on_one_connection(make_relay):
    relay = make_relay(loops=2)
    apps = ["a", "b", "c"]
    for app in apps:
        relay.invoke("create app", named={"app": app})
        relay.load("requests.lua", SCRIPT.read_text(), path=f"/app/{app}")
    with relay.raw() as raw:
        for _ in range(3):
            raw.send(b"".join(put(f"/app/{app}/echo", app) for app in apps * 5))
            assert [raw.read_response().body.decode() for _ in apps * 5] == apps * 5
        raw.send(get("/app/b/sleep?0.05") + upgrade_head(path="/app/a"))
        assert [raw.read_response().status for _ in range(2)] == [200, 101]


def test_check_knows_the_hook():
    done = run_relayd("check", SCRIPT)
    assert done.returncode == 0 and done.stdout.count("hook request") == 2
