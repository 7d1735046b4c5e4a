"""The WebSocket handshake: RFC 6455 §4, tokens, origins, limits, and CASES 30, 35 to 39 and 41."""

import socket

import pytest

from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay, answer
from wire import (
    SAMPLE_ACCEPT, SAMPLE_KEY, TEXT, Ended, Raw, close_frame, frame, head, random_key, request, upgrade_head)

ECHO = TEST_SCRIPTS / "echo.lua"

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
