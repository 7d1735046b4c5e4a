"""HTTP and the WebSocket handshake: RFC 9112, RFC 6455 §4, and CASES 30 to 41."""

import os
import re
import socket
import subprocess

import pytest

from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay
from wire import SAMPLE_ACCEPT, SAMPLE_KEY, TEXT, Ended, Raw, close_frame, frame, random_key, upgrade_head

ECHO = TEST_SCRIPTS / "echo.lua"


def answer(relay, data, url=None):
    """What the relay answers to bytes: (status or None, everything until the end of the stream)."""
    with relay.raw(url) as raw:
        raw.try_send(data)
        received = raw.read_to_end()
    if not received:
        return None, b""
    assert received.startswith(b"HTTP/1.1 "), received[:200]
    assert len(re.findall(rb"HTTP/1\.1 \d", received)) == 1, "more than one response"
    return int(received[9:12]), received


def head(*lines):
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request(without=(), replaced=None, added=(), first="GET / HTTP/1.1"):
    """A proper handshake, but for what the test changes."""
    fields = {
        "Host": "relay.test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": SAMPLE_KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields.update(replaced or {})
    return head(first, *(f"{name}: {value}" for name, value in fields.items() if name not in without), *added)


# What works


def test_the_accept_value_is_the_one_of_rfc_6455(echo):
    with echo.raw() as raw:
        response = raw.handshake(key=SAMPLE_KEY)
    assert response.value("Sec-WebSocket-Accept") == SAMPLE_ACCEPT
    assert response.value("Upgrade").lower() == "websocket"
    assert response.value("Connection").lower() == "upgrade"
    assert response.value("Sec-WebSocket-Extensions") is None
    assert response.value("Sec-WebSocket-Protocol") is None


def test_every_key_gets_its_own_accept_value(echo):
    for _ in range(20):
        with echo.raw() as raw:
            raw.handshake(key=random_key())  # Checks the value.


@pytest.mark.parametrize(
    "changes",
    [
        {"replaced": {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"}},
        {"replaced": {"Upgrade": "h2c, websocket"}},
        {"without": ["Connection"], "added": ["Connection: keep-alive", "Connection: Upgrade"]},
        {"without": ["Host"], "added": ["hOsT:relay.test:8087"]},
        {"without": ["Sec-WebSocket-Key"], "added": [f"sec-websocket-key: \t {SAMPLE_KEY} \t "]},
        {"first": "GET /?a=b%20c&d HTTP/1.1"},
    ],
    ids=["letter case", "several upgrades", "two Connection lines", "name's case", "blanks", "query"],
)
def test_what_the_rfc_allows_is_accepted(echo, changes):
    with echo.raw() as raw:
        raw.send(request(**changes))
        assert raw.read_response().status == 101


def test_a_handshake_may_come_byte_by_byte(echo):
    with echo.raw() as raw:
        for byte in upgrade_head():
            raw.send(bytes([byte]))
        assert raw.read_response().status == 101
        raw.send(frame(TEXT, "hello"))
        assert raw.read_message() == "hello"


def test_a_handshake_may_be_split_anywhere(echo):
    whole = upgrade_head()
    for position in range(1, len(whole), 7):
        with echo.raw() as raw:
            raw.send(whole[:position])
            raw.send(whole[position:])
            assert raw.read_response().status == 101


def test_frames_in_the_handshakes_own_segment_are_delivered(echo):
    with echo.raw() as raw:
        raw.send(upgrade_head() + frame(TEXT, "one") + frame(TEXT, "two") + frame(TEXT, "half")[:5])
        assert raw.read_response().status == 101
        assert raw.read_message() == "one"
        assert raw.read_message() == "two"
        raw.send(frame(TEXT, "half")[5:])
        assert raw.read_message() == "half"


def test_frames_in_the_handshakes_own_segment_wait_for_the_other_loop():
    with Relay(scripts=[ECHO], loops=2) as relay:
        for number in range(40):
            with relay.raw() as raw:
                raw.send(upgrade_head() + frame(TEXT, f"{number} a") + frame(TEXT, f"{number} b"))
                assert raw.read_response().status == 101
                assert [raw.read_message(), raw.read_message()] == [f"{number} a", f"{number} b"]


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


# Case 30: what a handshake must have


@pytest.mark.parametrize(
    "name, data",
    [
        ("no Host", request(without=["Host"])),
        ("two Hosts", request(added=["Host: relay.test"])),
        ("two different Hosts", request(added=["Host: other.test"])),
        ("a bad Host", request(replaced={"Host": "relay.test/path"})),
        ("a Host with a blank", request(replaced={"Host": "relay test"})),
        ("two Hosts in one", request(replaced={"Host": "a.test, b.test"})),
        ("no Upgrade", request(without=["Upgrade"])),
        ("another Upgrade", request(replaced={"Upgrade": "h2c"})),
        ("an Upgrade that only contains it", request(replaced={"Upgrade": "websockets"})),
        ("no Connection", request(without=["Connection"])),
        ("another Connection", request(replaced={"Connection": "keep-alive"})),
        ("no key", request(without=["Sec-WebSocket-Key"])),
        ("two keys", request(added=[f"Sec-WebSocket-Key: {SAMPLE_KEY}"])),
        ("an empty key", request(replaced={"Sec-WebSocket-Key": ""})),
        ("a key of 15 bytes", request(replaced={"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAA"})),
        ("a key of 17 bytes", request(replaced={"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAAA="})),
        ("a key that is no base64", request(replaced={"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j!!=="})),
        ("a key without its padding", request(replaced={"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"})),
        ("no version", request(without=["Sec-WebSocket-Version"])),
        ("two versions", request(added=["Sec-WebSocket-Version: 13"])),
        ("POST", request(first="POST / HTTP/1.1")),
        ("HTTP/1.0", request(first="GET / HTTP/1.0")),
        ("HTTP/2.0", request(first="GET / HTTP/2.0")),
        ("HTTP/0.9", b"GET /\r\n\r\n"),
        ("http/1.1 in small letters", request(first="GET / http/1.1")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_incomplete_handshake_is_refused(shared_relay, name, data):
    status, received = answer(shared_relay, data)
    assert status is not None and (400 <= status < 500 or status == 505), received[:100]


@pytest.mark.parametrize("version", ["99", "8", "0", "013", "13, 8", "x", "-13", ""])
def test_another_version_gets_426_and_the_version_that_works(shared_relay, version):
    status, received = answer(shared_relay, request(replaced={"Sec-WebSocket-Version": version}))
    assert status in (400, 426)
    if status == 426:
        assert b"\r\nsec-websocket-version: 13\r\n" in received.lower()
    if version in ("99", "8"):
        assert status == 426


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


# Case 35: origins


@pytest.fixture(scope="module")
def guarded():
    options = ["--allowed-origin", "https://example.com", "--allowed-origin", "http://localhost:3000"]
    with Relay(*options, scripts=[ECHO]) as relay:
        yield relay


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil-example.com", "https://example.com.evil.test", "https://sub.example.com", "http://example.com",
        "https://example.com:444", "https://example.co", "https://example.com/", "null", "", "*",
        "http://localhost:3001", "http://localhost", "https://example.com https://evil.test", "https://example.com\t,x",
    ],
)
def test_an_origin_that_is_not_in_the_list_gets_403(guarded, origin):
    assert answer(guarded, request(added=[f"Origin: {origin}"]))[0] == 403


def test_two_origins_are_never_accepted(guarded):
    both = ["Origin: https://example.com", "Origin: https://evil.test"]
    assert answer(guarded, request(added=both))[0] in (400, 403)


@pytest.mark.parametrize("added", [["Origin: https://example.com"], ["Origin: http://localhost:3000"], []])
def test_a_listed_origin_and_a_client_without_one_are_let_in(guarded, added):
    with guarded.raw() as raw:
        raw.send(request(added=added))
        assert raw.read_response().status == 101


def test_without_a_list_any_origin_is_let_in(echo):
    with echo.raw() as raw:
        raw.send(request(added=["Origin: https://anything.test"]))
        assert raw.read_response().status == 101


# Cases 36 and 37: subprotocols and extensions


@pytest.mark.parametrize(
    "offered, chosen",
    [
        (["chat"], None),
        (["chat, superchat"], None),
        (["livecode.v0"], "livecode.v0"),
        (["chat, livecode.v0"], "livecode.v0"),
        (["chat", "livecode.v0"], "livecode.v0"),
        (["LIVECODE.V0"], None),
        ([", ".join(f"protocol{number}" for number in range(100))], None),
        (["livecode.v0, " + ", ".join(f"protocol{number}" for number in range(99))], "livecode.v0"),
    ],
)
def test_only_a_subprotocol_that_was_offered_and_is_known_is_chosen(echo, offered, chosen):
    with echo.raw() as raw:
        raw.send(request(added=[f"Sec-WebSocket-Protocol: {value}" for value in offered]))
        response = raw.read_response()
        assert response.status == 101
        assert response.value("Sec-WebSocket-Protocol") == chosen


@pytest.mark.parametrize("offered", ["", "a,,b", "a b", "a;b", ",", "livecode.v0, livecode.v0", "a/b"])
def test_a_broken_list_of_subprotocols_is_refused_or_ignored(echo, offered):
    with echo.raw() as raw:
        raw.send(request(added=[f"Sec-WebSocket-Protocol: {offered}"]))
        response = raw.read_response()
        assert response.status in (101, 400)
        if response.status == 101:
            assert response.value("Sec-WebSocket-Protocol") in (None, "livecode.v0")


@pytest.mark.parametrize(
    "offered",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=99; server_max_window_bits=99",
        "x-webkit-deflate-frame, unknown; a=b",
        ", ".join(["permessage-deflate"] * 100),
        "permessage-deflate; a=\"unterminated",
        ";;;",
    ],
)
def test_no_extension_is_agreed_to(echo, offered):
    with echo.raw() as raw:
        raw.send(request(added=[f"Sec-WebSocket-Extensions: {offered}"]))
        response = raw.read_response()
        assert response.status in (101, 400)
        assert response.value("Sec-WebSocket-Extensions") is None


# Case 39: time


def test_a_silent_connection_is_ended_by_the_handshake_timeout(make_relay):
    relay = make_relay(limits={"handshakeTimeout": "500ms"})
    with relay.raw() as raw:
        received = raw.read_to_end()
    assert received == b"" or received.startswith(b"HTTP/1.1 408 ")


def test_half_a_head_gets_408(make_relay):
    relay = make_relay(limits={"handshakeTimeout": "500ms"})
    with relay.raw() as raw:
        raw.send(upgrade_head()[:40])
        assert raw.read_response().status == 408
        raw.expect_end()


def test_a_head_that_trickles_does_not_outlast_the_timeout(make_relay):
    relay = make_relay(limits={"handshakeTimeout": "500ms"})
    with relay.raw() as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\nX-A: ")

        def ended():
            raw.socket.settimeout(0.05)
            raw.try_send(b"a")
            try:
                raw._more()
            except TimeoutError:
                return False
            except Ended:
                return True
            return raw.buffer.startswith(b"HTTP/1.1 408 ")

        eventually(ended, "the trickling head is ended")


def test_a_connection_that_made_its_handshake_is_not_ended_by_the_timeout(make_relay):
    relay = make_relay(scripts=[ECHO], limits={"handshakeTimeout": "500ms"})
    with relay.raw(upgraded=True) as early, relay.raw() as late:
        late.read_to_end()  # A whole timeout has gone by.
        early.send(frame(TEXT, "still here"))
        assert early.read_message() == "still here"


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


# Case 41: addresses


def test_a_forwarded_address_of_an_untrusted_peer_is_ignored(make_relay):
    relay = make_relay()
    relay.add("where from", "function(conn) return conn.remoteAddress end")
    headers = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Real-IP": "6.6.6.6"}
    with relay.connect(additional_headers=headers) as client:
        assert client.request("where from") == "127.0.0.1"


# Limits and draining


def test_one_connection_too_many_gets_503_and_a_sentence(make_relay):
    relay = make_relay(scripts=[ECHO], limits={"connections": 2})
    with relay.raw(upgraded=True) as first, relay.raw(upgraded=True) as second:
        status, received = answer(relay, upgrade_head())
        assert status == 503
        assert b"limit connections" in received and b"\r\nretry-after:" in received.lower()
        for raw in (first, second):
            raw.send(frame(TEXT, "here"))
            assert raw.read_message() == "here"
        second.send(close_frame(1000))
        second.expect_close(1000)
        eventually(lambda: answer(relay, head("GET /readyz HTTP/1.1", "Host: a"))[0] == 200, "there is room again")


def test_one_connection_too_many_from_an_address_gets_503(make_relay):
    relay = make_relay(limits={"connectionsPerAddress": 3})
    with relay.raw(upgraded=True), relay.raw(upgraded=True), relay.raw(upgraded=True):
        status, received = answer(relay, upgrade_head())
        assert status == 503
        assert b"limit connectionsPerAddress" in received
        elsewhere = socket.create_connection(
            ("127.0.0.1", relay.port), DEADLINE, source_address=("127.0.0.2", 0))
        with Raw(elsewhere) as raw:
            raw.handshake()


# Tokens


def test_a_listener_with_a_token_wants_it_in_one_of_three_places():
    with Relay(listen=["ws://127.0.0.1:0?auth=1234"], scripts=[ECHO]) as relay:
        assert "1234" not in relay.url
        for added, path in [
            ([], "/"), (["Authorization: Bearer 12345"], "/"), ([], "/?auth=123"), (["Authorization: Basic 1234"], "/"),
            (["Sec-WebSocket-Protocol: bearer.wrong"], "/"), (["Authorization: Bearer wrong"], "/?auth=1234"),
        ]:
            status, received = answer(relay, request(added=added, first=f"GET {path} HTTP/1.1"))
            assert status == 401, (added, path)
            assert b"\r\nwww-authenticate: bearer" in received.lower()
        for added, path in [
            (["Authorization: Bearer 1234"], "/"), (["Authorization: bearer 1234"], "/"), ([], "/?auth=1234"),
            ([], "/?x=y&credential=1234"), (["Sec-WebSocket-Protocol: bearer.1234"], "/"),
        ]:
            with relay.raw() as raw:
                raw.send(request(added=added, first=f"GET {path} HTTP/1.1"))
                response = raw.read_response()
                assert response.status == 101, (added, path)
                assert response.value("Sec-WebSocket-Protocol") is None
        with relay.raw() as raw:
            raw.send(request(added=["Sec-WebSocket-Protocol: bearer.1234, livecode.v0"]))
            assert raw.read_response().value("Sec-WebSocket-Protocol") == "livecode.v0"
        # The admin credential opens every door, and health needs none.
        with relay.raw() as raw:
            raw.send(request(added=[f"Authorization: Bearer {relay.admin}"]))
            assert raw.read_response().status == 101
        assert answer(relay, head("GET /healthz HTTP/1.1", "Host: a"))[0] == 200
        assert "1234" not in relay.log and relay.admin not in relay.log


def test_a_wrong_credential_at_the_handshake_gets_401(shared_relay):
    assert answer(shared_relay, request(added=["Authorization: Bearer wrong"]))[0] == 401


# Unix sockets


def test_a_unix_listener_is_an_admin_channel(tmp_path):
    path = tmp_path / "relay.sock"
    with Relay(listen=["ws://127.0.0.1:0", f"unix:{path}"], scripts=[ECHO]) as relay:
        assert relay.urls[1] == f"unix:{path}"
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(str(path))
        with Raw(connected) as raw:
            raw.handshake()
            raw.send(frame(TEXT, '{"instruction": "apps", "id": 1}'))
            assert raw.read_message() == '{"id":1,"result":[{"app":"default","loop":0}]}'
        assert (path.stat().st_mode & 0o077) == 0
    assert not path.exists()


def test_a_unix_socket_that_a_dead_relay_left_is_taken_over(tmp_path):
    path = tmp_path / "relay.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    with Relay(listen=[f"unix:{path}"]) as relay:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(str(path))
        with Raw(connected) as raw:
            raw.handshake()
        assert relay.is_alive()


def test_a_unix_socket_that_is_in_use_is_left_alone(tmp_path):
    path = tmp_path / "relay.sock"
    with Relay(listen=[f"unix:{path}"]):
        with Relay(listen=[f"unix:{path}"], starts=False) as second:
            second.expected_exit = {1}
            assert second.wait() == 1
            assert str(path) in second.log
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.connect(str(path))
        with Raw(connected) as raw:
            raw.handshake()
