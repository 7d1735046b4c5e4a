"""HTTP: what is answered without a WebSocket, and heads that are broken, large or none at all (RFC 9112, CASES 31 to 34
and 40)."""

import os
import signal
import socket
import subprocess
from email.utils import parsedate_to_datetime

import pytest

from relay import ROOT, TEST_SCRIPTS, answer
from wire import close_frame, head, request, upgrade_head

# Plain HTTP


@pytest.mark.parametrize("path, body", [("/healthz", b"ok\n"), ("/readyz", b"ready\n")])
def test_health_and_readiness_are_plain_http(shared_relay, path, body):
    with shared_relay.raw() as raw:
        raw.send(head(f"GET {path} HTTP/1.1", "Host: relay.test"))
        response = raw.read_response()
        assert (response.status, response.body) == (200, body)


def test_head_of_health_has_no_body(shared_relay):
    with shared_relay.raw() as raw:
        raw.send(head("HEAD /healthz HTTP/1.1", "Host: relay.test"))
        assert raw.read_response(has_body=False).status == 200
        raw.expect_end()


@pytest.mark.parametrize("path, status", [("/healthz", "200"), ("/readyz", "200"), ("/", "426"), ("/nothing", "404")])
def test_curl_understands_the_answers(shared_relay, path, status):
    url = shared_relay.url.replace("ws://", "http://").rstrip("/") + path
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", url], capture_output=True,
        text=True)
    assert (done.returncode, done.stdout) == (0, status)


@pytest.mark.parametrize("path", ["/nothing", "/app", "/app/", "/app/none/more", "/healthz/x", "/c"])
def test_a_path_that_is_nothing_gets_404(shared_relay, path):
    status, _ = answer(shared_relay, head(f"GET {path} HTTP/1.1", "Host: relay.test"))
    assert status == 404


def test_an_app_that_does_not_exist_gets_404(shared_relay):
    assert answer(shared_relay, upgrade_head(path="/app/none"))[0] == 404


def test_a_websocket_path_without_upgrade_gets_426(shared_relay):
    status, received = answer(shared_relay, head("GET / HTTP/1.1", "Host: relay.test"))
    assert status == 426
    assert b"upgrade: websocket" in received.lower()


def test_other_methods_on_health_get_405(shared_relay):
    status, received = answer(shared_relay, head("POST /healthz HTTP/1.1", "Host: relay.test", "Content-Length: 0"))
    assert status == 405
    assert b"\r\nallow: get" in received.lower()


def test_other_methods_on_a_websocket_path_are_refused(shared_relay):
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]:
        status, _ = answer(shared_relay, request(first=f"{method} / HTTP/1.1"))
        assert status == 405, method


# Files


def get(relay, path, method="GET"):
    with relay.raw() as raw:
        raw.send(head(f"{method} {path} HTTP/1.1", "Host: relay.test"))
        response = raw.read_response(has_body=method != "HEAD")
        raw.expect_end()
        return response


def test_the_client_is_served_to_every_page(shared_relay):
    response = get(shared_relay, "/relay.js")
    assert response.status == 200 and response.body == (ROOT / "clients/js/relay.js").read_bytes()
    assert response.values("content-type") == ["text/javascript; charset=utf-8"]
    assert response.values("access-control-allow-origin") == ["*"]
    assert response.values("cache-control") == ["no-cache"]
    assert response.values("x-content-type-options") == ["nosniff"]
    without = get(shared_relay, "/relay.js", method="HEAD")
    fields = lambda each: [field for field in each.fields if field[0].lower() != "date"]
    assert (without.status, fields(without)) == (200, fields(response))
    assert parsedate_to_datetime(*response.values("date")).tzinfo is not None
    assert get(shared_relay, "/relay.js", method="POST").status == 405


def test_the_examples_are_served_only_when_they_are_on(shared_relay, make_relay):
    names = ["", "chat.html", "chat.js", "style.css"]
    for name in names:
        assert get(shared_relay, f"/examples/{name}").status == 404
    relay = make_relay("--examples")
    for name in names:
        response = get(relay, f"/examples/{name}")
        assert response.status == 200
        assert response.body == (ROOT / "clients/js/examples" / (name or "index.html")).read_bytes()
        assert "default-src 'none'" in response.values("content-security-policy")[0]
        assert response.values("x-content-type-options") == ["nosniff"]
        assert response.values("access-control-allow-origin") == []
    redirect = get(relay, "/examples")
    assert (redirect.status, redirect.values("location")) == (308, ["examples/"])
    for path in ["/examples/none", "/examples/chat.html/", "/examples//", "/examples/examples/"]:
        assert get(relay, path).status == 404


def test_the_examples_can_be_switched_while_the_relay_runs(make_relay, tmp_path):
    file = tmp_path / "relayd.yaml"
    file.write_text("examples: true\n")
    relay = make_relay("--config", file)
    assert get(relay, "/examples/").status == 200
    file.write_text("examples: false\n")
    relay.signal(signal.SIGHUP)
    relay.logs("reloaded configuration")
    assert get(relay, "/examples/").status == 404


# Case 31: the syntax of HTTP


@pytest.mark.parametrize(
    "name, data",
    [
        ("obs-fold", request(added=["X-A: b", " folded"])),
        ("obs-fold with a tab", request(added=["X-A: b", "\tfolded"])),
        ("a fold before the first field", b"GET / HTTP/1.1\r\n Host: relay.test\r\n\r\n"),
        ("a blank before the colon", request(added=["X-A : b"])),
        ("a tab before the colon", request(added=["X-A\t: b"])),
        ("no colon", request(added=["X-A b"])),
        ("an empty name", request(added=[": b"])),
        ("a bad name", request(added=["X A: b"])),
        ("a name with a slash", request(added=["X/A: b"])),
        ("a name that is no ASCII", request(added=["X-\xc4: b"])),
        ("NUL in a value", request(added=["X-A: b\0c"])),
        ("a control character in a value", request(added=["X-A: b\x07c"])),
        ("DEL in a value", request(added=["X-A: b\x7fc"])),
        ("CR in a value", request(added=["X-A: b\rc"])),
        ("a bare LF between fields", request(added=["X-A: b\nX-C: d"])),
        ("bare LFs everywhere", request().replace(b"\r\n", b"\n")),
        ("bare CRs everywhere", request().replace(b"\r\n", b"\r") + b"\r\n\r\n"),
        ("an LF before the end", request()[:-2] + b"\n" + b"\r\n"),
        ("two blanks in the request line", request(first="GET  / HTTP/1.1")),
        ("a tab in the request line", request(first="GET\t/ HTTP/1.1")),
        ("a blank after the request line", request(first="GET / HTTP/1.1 ")),
        ("a blank before the request line", request(first=" GET / HTTP/1.1")),
        ("no target", request(first="GET HTTP/1.1")),
        ("a target without a slash", request(first="GET x HTTP/1.1")),
        ("a blank in the target", request(first="GET /a b HTTP/1.1")),
        ("NUL in the target", request(first="GET /a\0b HTTP/1.1")),
        ("a raw byte in the target", request(first="GET /\xff HTTP/1.1")),
        ("a bad method", request(first="G(T / HTTP/1.1")),
        ("HTTP/1.1x", request(first="GET / HTTP/1.1x")),
        ("HTTP/11", request(first="GET / HTTP/11")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_http_gets_400_and_the_connection_ends(shared_relay, name, data):
    status, received = answer(shared_relay, data)
    assert status in (400, 505), received[:100]


# Case 32: bodies and pipelining


@pytest.mark.parametrize(
    "name, data",
    [
        ("a length", request(added=["Content-Length: 5"]) + b"hello"),
        ("two lengths", request(added=["Content-Length: 0", "Content-Length: 0"])),
        ("two different lengths", request(added=["Content-Length: 0", "Content-Length: 5"]) + b"hello"),
        ("a negative length", request(added=["Content-Length: -1"])),
        ("a length that is none", request(added=["Content-Length: five"])),
        ("a length with a sign", request(added=["Content-Length: +0"])),
        ("a list of lengths", request(added=["Content-Length: 0, 0"])),
        ("a length that overflows", request(added=["Content-Length: 18446744073709551617"])),
        ("chunks", request(added=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n"),
        ("chunks, disguised", request(added=["Transfer-Encoding: xchunked"])),
        ("both", request(added=["Content-Length: 0", "Transfer-Encoding: chunked"]) + b"0\r\n\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_handshake_with_a_body_is_refused(shared_relay, name, data):
    follower = head("GET /healthz HTTP/1.1", "Host: relay.test")
    status, received = answer(shared_relay, data + follower)
    assert status == 400, received[:100]
    assert b"200" not in received[:13]


def test_a_second_request_behind_the_handshake_is_read_as_frames(shared_relay):
    with shared_relay.raw() as raw:
        raw.send(upgrade_head() + head("GET /healthz HTTP/1.1", "Host: relay.test"))
        assert raw.read_response().status == 101
        raw.expect_close(1002)


def test_a_second_request_behind_a_refused_one_is_not_answered(shared_relay):
    follower = head("GET /healthz HTTP/1.1", "Host: relay.test")
    assert answer(shared_relay, head("GET /nothing HTTP/1.1", "Host: relay.test") + follower)[0] == 404
    assert answer(shared_relay, b"BROKEN\r\n\r\n" + follower)[0] == 400


# Case 33: sizes


def test_large_heads_are_refused_with_431_and_long_targets_with_414(make_relay):
    relay = make_relay()
    large = b"X-A: " + b"a" * 1000 + b"\r\n"
    start = b"GET / HTTP/1.1\r\nHost: relay.test\r\n"
    assert answer(relay, start + large * 15 + b"\r\n")[0] == 426  # Below 16 KiB.
    before = relay.resident_bytes
    for _ in range(20):
        assert answer(relay, start + b"X-A: " + b"a" * (64 << 10) + b"\r\n\r\n")[0] == 431
        assert answer(relay, start + b"X-A: b\r\n" * 5000 + b"\r\n")[0] == 431
        assert answer(relay, start + large * 2000)[0] == 431
        assert answer(relay, b"GET /" + b"a" * (64 << 10) + b" HTTP/1.1\r\nHost: relay.test\r\n\r\n")[0] == 414
        assert answer(relay, b"GET /" + b"a" * (2 << 20))[0] == 414
        assert answer(relay, b"G" * (64 << 10))[0] in (400, 414, 431)
    assert relay.peak_bytes - before < 16 << 20


def test_a_small_limit_of_the_head_holds(make_relay):
    relay = make_relay(limits={"handshakeBytes": "1KiB"})
    assert answer(relay, request(added=["X-A: " + "a" * 1000]))[0] == 431
    with relay.raw(upgraded=True):
        pass


# Case 34: what is no handshake at all


@pytest.mark.parametrize(
    "name, data",
    [
        ("CONNECT", b"CONNECT relay.test:80 HTTP/1.1\r\nHost: relay.test:80\r\n\r\n"),
        ("TRACE", b"TRACE / HTTP/1.1\r\nHost: relay.test\r\n\r\n"),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: relay.test\r\n\r\n"),
        ("absolute form", b"GET http://relay.test/ HTTP/1.1\r\nHost: relay.test\r\n\r\n"),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
        ("TLS", bytes.fromhex("16030100a5010000a10303") + b"\0" * 160 + b"\r\n\r\n"),
        ("zeros", b"\0" * 64 + b"\r\n\r\n"),
        ("empty lines", b"\r\n" * 20000),
        ("a broken PROXY line", b"PROXY TCP4 1.2.3.4 garbage\r\n" + upgrade_head()),
        ("a PROXY line that nobody asked for", b"PROXY TCP4 1.2.3.4 127.0.0.1 5 6\r\n" + upgrade_head()),
        ("PROXY version 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\1" * 12 + upgrade_head()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_handshake_is_refused(shared_relay, name, data):
    status, received = answer(shared_relay, data)
    assert status is None or 400 <= status < 600, received[:100]


def test_random_bytes_never_become_a_connection(shared_relay):
    for length in [1, 7, 100, 1000, 20000]:
        for _ in range(4):
            with shared_relay.raw() as raw:
                raw.try_send(os.urandom(length) + b"\r\n\r\n")
                try:
                    raw.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                received = raw.read_to_end()
            assert not received.startswith(b"HTTP/1.1 101")
            assert not received or received.startswith(b"HTTP/1.1 4"), received[:100]
    with shared_relay.raw(upgraded=True):
        pass


# Case 40: paths


@pytest.mark.parametrize(
    "path",
    [
        "/%0d%0aX-Injected:%20yes", "/%00", "/app/%0a", "/app/%2e%2e", "/app/..%2f..%2fetc", "/%c0%ae%c0%ae/",
        "/app/%c0%80", "/%", "/%4", "/%zz", "/app/%1b[31m", "/app/" + "a" * 65, "//", "/./", "/app/default%00",
        "/app//default",
    ],
)
def test_a_hostile_path_is_refused_without_a_trace_in_the_answer(shared_relay, path):
    status, received = answer(shared_relay, upgrade_head(path=path))
    assert status in (400, 404)
    assert b"x-injected" not in received.lower()


def test_nothing_that_a_peer_sends_starts_a_line_of_the_log(make_relay):
    relay = make_relay(scripts=[TEST_SCRIPTS / "hooks.lua"])
    for path in ["/%0aFAKE", "/app/%0d%0aFAKE", "/?x=%0aFAKE"]:
        answer(relay, head(f"GET {path} HTTP/1.1", "Host: a", "User-Agent: \x1b[31mFAKE"))
    with relay.connect() as client:
        client.send_json({"instruction": "print", "parameters": ["one\nFAKE\r\nFAKE\x1b[31m"], "id": 1})
        client.receive()
        client.send_json({"instruction": "x\nFAKE", "credential": "wrong\nFAKE", "id": 2})
        client.receive()
    with relay.raw(upgraded=True) as raw:
        raw.send(close_frame(4999, "bye\nFAKE\x1b"))
        raw.expect_close(4999)
    relay.logs("bye")
    lines = relay.log.splitlines()
    assert lines and not any(line.startswith("FAKE") for line in lines)
    assert "\x1b" not in relay.log and "\r" not in relay.log
