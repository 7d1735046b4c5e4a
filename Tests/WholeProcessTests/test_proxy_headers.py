"""What proxies say of the client (docs/proxies.md): PROXY headers, X-Forwarded-For and Forwarded, from those who may
say it and from those who may not. Case 41."""

import contextlib
import json
import os
import random
import signal
import socket
import struct

import pytest

from conditions import DEADLINE, eventually
from relay import Relay, answer, trusting_anything
from wire import TEXT, Ended, Raw, close_frame, frame, head, upgrade_head

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
WHERE = "function(conn) return conn.remoteAddress end"


def block(family=0x11, source="192.0.2.7", port=4711, command=0x21, fields=b"", addresses=None):
    """A header of version 2."""
    if addresses is None:
        kind = socket.AF_INET if family >> 4 == 1 else socket.AF_INET6
        destination = "198.51.100.1" if family >> 4 == 1 else "2001:db8::ffff"
        addresses = socket.inet_pton(kind, source) + socket.inet_pton(kind, destination) + struct.pack("!HH", port, 443)
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses + fields)) + addresses + fields


def line(source="192.0.2.7", family="TCP4", destination="198.51.100.1", ports="4711 443"):
    """A header of version 1."""
    return f"PROXY {family} {source} {destination} {ports}\r\n".encode()


V6 = {"source": "2001:db8::7", "family": "TCP6", "destination": "2001:db8::ffff"}
LONGEST_LINE = b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n"

# Each with the address that it names, or None where it leaves the proxy's.
GOOD = {
    "v1": {
        "IPv4": (line(), "192.0.2.7"),
        "IPv6": (line(**V6), "2001:db8::7"),
        "mapped": (line("::ffff:192.0.2.7", "TCP6", "::ffff:192.0.2.8"), "192.0.2.7"),
        "unknown": (b"PROXY UNKNOWN\r\n", None),
        "unknown with more": (b"PROXY UNKNOWN 192.0.2.7 \xff 1 2\r\n", None),
        "as long as may be": (LONGEST_LINE, None),
    },
    "v2": {
        "IPv4": (block(), "192.0.2.7"),
        "IPv4, datagrams": (block(0x12), "192.0.2.7"),
        "IPv6": (block(0x21, "2001:db8::7"), "2001:db8::7"),
        "mapped": (block(0x21, "::ffff:192.0.2.7"), "192.0.2.7"),
        "local": (block(command=0x20), None),
        "local, with nothing": (block(0, command=0x20, addresses=b""), None),
        "unspecified": (block(0, addresses=b"anything"), None),
        "Unix": (block(0x31, addresses=b"/run/x".ljust(216, b"\0")), None),
        "with fields": (block(fields=b"\x01\0\x02h2\x04\0\0"), "192.0.2.7"),
        "as long as may be": (block(fields=b"\x04" + struct.pack("!H", 4065) + bytes(4065)), "192.0.2.7"),
    },
}
BAD = {
    "v1": {
        "family": line(family="TCP5"), "lower case": line().replace(b"TCP4", b"tcp4"),
        "IPv6 as TCP4": line("2001:db8::7"), "IPv4 as TCP6": line(family="TCP6"), "no address": line("example.com"),
        "octal": line("0300.0.2.7"), "three bytes": line("192.0.2"), "zone": line("fe80::1%lo", "TCP6", "::1"),
        "bad destination": line(destination="x"), "two blanks": line().replace(b" 192", b"  192"),
        "tab": line().replace(b" 192", b"\t192"), "port 65536": line(ports="65536 443"),
        "negative port": line(ports="-1 443"), "leading zero": line(ports="0443 443"), "no ports": line(ports=""),
        "one port": line(ports="4711"), "too much": line(ports="1 2 3"), "NUL": line("192.0.2.7\0"),
        "only LF": line().replace(b"\r", b""), "CR in the middle": line().replace(b"TCP4", b"TC\rP4"),
        "too long": LONGEST_LINE.replace(b"\r", b"f\r"), "never ends": b"PROXY " + b"9" * 5000,
        "unknown and more letters": b"PROXY UNKNOWNS\r\n", "nothing": b"PROXY \r\n",
        "a mark that joins the only blank": "PROXY \u0301\r\n".encode(),
        "one that joins another": line("\u0301192.0.2.7"),
    },
    "v2": {
        "version 1": block(command=0x11), "version 3": block(command=0x31), "command 2": block(command=0x22),
        "family 4": block(0x41, addresses=bytes(216)), "transport 3": block(0x13),
        "IPv4 too short": block(addresses=bytes(11)), "IPv6 too short": block(0x21, addresses=bytes(35)),
        "Unix too short": block(0x31, addresses=bytes(215)),
        "too long": block(fields=bytes(4069)), "64 KiB": block(addresses=bytes(65535)),
        "broken signature": b"\r\n\r\n\0\r\nQUIT\r",
    },
}
NOT_V1 = [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0", b"proxy tcp4 ", b"PROXZ"]


def cases(table):
    return [pytest.param(version, *(case if isinstance(case, tuple) else (case,)), id=f"{version} {name}")
            for version, named in table.items() for name, case in named.items()]


@pytest.fixture(scope="module")
def behind():
    """A relay with a listener for each version, one of which with TLS."""
    listen = [f"ws://127.0.0.1:0?proxy={version}" for version in ("v1", "v2", "any")]
    with Relay("--tls-self-signed", listen=[*listen, "wss://127.0.0.1:0?proxy=any", "ws://127.0.0.1:0"]) as relay:
        relay.by_version = dict(zip(["v1", "v2", "any", "tls", "none"], relay.urls))
        with relay.connect(url=relay.by_version["none"]) as client:
            client.request("add instruction", credential=relay.admin,
                           named={"instructionToAdd": "where", "body": WHERE})
        yield relay


def plain(url, source="127.0.0.1"):
    connected = socket.create_connection(
        ("127.0.0.1", Relay.port_of(url)), DEADLINE, source_address=(source, 0))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def where(raw, extra=(), path="/"):
    """The address that the relay has for this connection."""
    raw.handshake(extra=extra, path=path)
    raw.send(frame(TEXT, '{"instruction":"where","id":1}'))
    return json.loads(raw.read_message())["result"]


def is_closed(connected):
    """Waits for the end; whether nothing at all came before it."""
    with Raw(connected) as raw:
        return raw.read_to_end() == b""


# PROXY headers


@pytest.mark.parametrize("version, header, address", cases(GOOD))
@pytest.mark.parametrize("listener", ["its own", "any", "tls"])
def test_a_proxy_header_says_who_the_client_is(behind, listener, version, header, address):
    connected = plain(behind.by_version[version if listener == "its own" else listener])
    connected.sendall(header)
    with Raw(connected, trusting_anything() if listener == "tls" else None) as raw:
        assert where(raw) == (address or "127.0.0.1")


@pytest.mark.parametrize("header", [line(), block(fields=bytes(300))], ids=["v1", "v2"])
def test_a_proxy_header_may_come_in_pieces_and_together_with_what_follows(behind, header):
    whole = header + upgrade_head() + frame(TEXT, '{"instruction":"where","id":1}')
    for cuts in [[], [1], [len(header) - 1], [len(header)], [len(header) + 1], range(1, len(whole))]:
        with Raw(plain(behind.by_version["any"])) as raw:
            for start, end in zip([0, *cuts], [*cuts, len(whole)]):
                raw.send(whole[start:end])
            assert raw.read_response().status == 101
            assert json.loads(raw.read_message())["result"] == "192.0.2.7"


@pytest.mark.parametrize("version, header", cases(BAD))
@pytest.mark.parametrize("listener", ["its own", "any", "tls"])
def test_a_malformed_proxy_header_ends_the_connection_without_a_word(behind, listener, version, header):
    connected = plain(behind.by_version[version if listener == "its own" else listener])
    connected.sendall(header)
    assert is_closed(connected)


@pytest.mark.parametrize("start", NOT_V1)
@pytest.mark.parametrize("listener", ["v1", "v2", "any", "tls"])
def test_without_a_proxy_header_the_connection_ends(behind, listener, start):
    connected = plain(behind.by_version[listener])
    connected.sendall(start)
    assert is_closed(connected)


@pytest.mark.parametrize("listener, header", [("v1", block()), ("v2", line())])
def test_a_header_of_the_other_version_is_none(behind, listener, header):
    connected = plain(behind.by_version[listener])
    connected.sendall(header + upgrade_head())
    assert is_closed(connected)


@pytest.mark.parametrize("first", [line(), block()], ids=["v1", "v2"])
@pytest.mark.parametrize("second", [line("6.6.6.6"), block(source="6.6.6.6")], ids=["v1", "v2"])
@pytest.mark.parametrize("listener", ["any", "tls"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_repeated_proxy_header_ends_the_connection(behind, listener, first, second, apart):
    connected = plain(behind.by_version[listener])
    with Raw(connected) as raw:
        raw.send(first + (b"" if apart else second))
        if apart:
            raw.try_send(second)
        received = raw.read_to_end()
    # Behind the first header the second is a bad request, or a bad record of TLS.
    assert not received or received.startswith(b"HTTP/1.1 400 ") or received[:1] == b"\x15"


def test_a_truncated_proxy_header_ends_with_the_stream_or_at_the_handshake_timeout(make_relay):
    relay = make_relay(listen=["ws://127.0.0.1:0?proxy=any"], limits={"handshakeTimeout": "500ms"})
    for start in [b"", b"P", line()[:-1], SIGNATURE, block()[:-1]]:
        connected = plain(relay.url)
        connected.sendall(start)
        connected.shutdown(socket.SHUT_WR)
        assert is_closed(connected)
        silent = plain(relay.url)
        silent.sendall(start)
        assert is_closed(silent)
    eventually(lambda: relay.descriptors < 40, "no descriptor is left behind")


def test_what_is_wrong_with_proxy_headers_is_told_once_per_cause_and_counted(make_relay):
    relay = make_relay(listen=["ws://127.0.0.1:0?proxy=any"], log_level="info")
    for _ in range(25):
        for wrong in [b"GET / HTTP/1.1\r\n\r\n", line("x"), LONGEST_LINE.replace(b"\r", b"f\r"), line() + line()]:
            connected = plain(relay.url)
            connected.sendall(wrong)
            assert is_closed(connected)
    for problem in ["does not begin with", "is malformed", "is too long", "a second PROXY header"]:
        eventually(lambda: relay.log.count(problem) >= 2, f"it is told that it {problem}")
        told = [text for text in relay.log.splitlines() if problem in text]
        assert [text.partition("count=")[2].split()[0] for text in told] == ["1", "10"], told


def test_a_proxy_header_on_another_listener_is_a_bad_request(behind):
    """Case 41: nobody's address changes where no proxy is awaited."""
    for header in [line(), block()]:
        connected = plain(behind.by_version["none"])
        connected.sendall(header + upgrade_head())
        with Raw(connected) as raw:
            assert raw.read_response().status == 400


def test_the_proxy_header_of_an_untrusted_peer_is_ignored(make_relay):
    """Case 41, where it is said who the proxies are."""
    relay = make_relay("--trusted-proxies", "127.0.0.2/32", listen=["ws://127.0.0.1:0", "ws://127.0.0.1:0?proxy=any"])
    relay.add("where", WHERE)
    for source, expected in [("127.0.0.2", "192.0.2.7"), ("127.0.0.3", "127.0.0.3")]:
        with Raw(plain(relay.urls[1], source)) as raw:
            raw.send(block())
            assert where(raw) == expected
    relay.logs("none of the trusted proxies")


def test_the_address_of_a_proxy_header_is_what_credentials_and_limits_see(make_relay):
    relay = make_relay(
        listen=["ws://127.0.0.1:0", "ws://127.0.0.1:0?proxy=any"], limits={"connectionsPerAddress": 2}, loops=2)
    made = relay.invoke("create credential", named={"rights": ["invoke:*"], "cidr": "192.0.2.0/24"})
    token = [f"Authorization: Bearer {made['credential']}"]
    for source, status in [("192.0.2.7", 101), ("198.51.100.7", 401)]:
        with Raw(plain(relay.urls[1])) as raw:
            raw.send(line(source) + upgrade_head(extra=token))
            assert raw.read_response().status == status
    with contextlib.ExitStack() as stack:
        for source in ["203.0.113.1", "203.0.113.2", "203.0.113.3"]:
            for _ in range(2):
                raw = stack.enter_context(Raw(plain(relay.urls[1])))
                raw.send(block(source=source))
                raw.handshake()
            third = stack.enter_context(Raw(plain(relay.urls[1])))
            third.send(block(source=source) + upgrade_head())
            response = third.read_response()
            assert response.status == 503 and b"connectionsPerAddress" in response.body
        # The proxy's own address has room.
        with relay.raw(upgraded=True), relay.raw(upgraded=True):
            assert answer(relay, upgrade_head())[0] == 503
        raw.send(close_frame(1000))
        raw.expect_close(1000)

        def is_free():
            with Raw(plain(relay.urls[1])) as again:
                again.send(block(source="203.0.113.3") + upgrade_head())
                return again.read_response().status == 101

        eventually(is_free, "what has gone counts no more")


def test_a_unix_listener_for_a_proxy_makes_nobody_an_admin(make_relay, tmp_path):
    path = tmp_path / "relay.sock"
    relay = make_relay(listen=["ws://127.0.0.1:0", f"unix:{path}?proxy=v2"])
    relay.add("where", WHERE)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.connect(str(path))
    with Raw(connected) as raw:
        raw.send(block())
        assert where(raw) == "192.0.2.7"
        raw.send(frame(TEXT, '{"instruction": "apps", "id": 1}'))
        assert json.loads(raw.read_message())["error"]["code"] == "forbidden"


def test_a_relay_that_drains_lets_nobody_in_who_says_who_he_is(make_relay):
    relay = make_relay(listen=["ws://127.0.0.1:0?proxy=any"], drain="2s")
    with Raw(plain(relay.url)) as raw, Raw(plain(relay.url)) as half:
        raw.send(line())
        raw.handshake()
        half.send(b"PROXY TC")
        relay.signal(signal.SIGTERM)
        assert half.read_to_end() == b""
        assert raw.read_close()[0] == 1012
        raw.send(close_frame(1012))
    assert relay.wait() == 0


# X-Forwarded-For and Forwarded


@pytest.fixture(scope="module")
def trusting():
    """A relay whose proxies are 127.0.0.1, 10.0.0.0/8 and 2001:db8:ff::/48."""
    options = [option for range in ["127.0.0.1", "10.0.0.0/8", "2001:db8:ff::/48"]
               for option in ("--trusted-proxies", range)]
    with Relay(*options, listen=["ws://127.0.0.1:0", "ws://127.0.0.1:0?proxy=any"]) as relay:
        relay.add("where", WHERE)
        yield relay


FORWARDED = {
    # As it is written: whom it names, from 127.0.0.1.
    "X-Forwarded-For": {
        "203.0.113.9": "203.0.113.9", "6.6.6.6, 203.0.113.9": "203.0.113.9", " 6.6.6.6 ,203.0.113.9 ": "203.0.113.9",
        "203.0.113.9, 10.1.2.3": "203.0.113.9", "6.6.6.6, 203.0.113.9, 10.1.2.3, 10.9.9.9": "203.0.113.9",
        "10.1.2.3": "10.1.2.3", "10.1.2.3, 10.1.2.4": "10.1.2.3", "2001:db8::9": "2001:db8::9",
        "[2001:db8::9]": "2001:db8::9", "[2001:db8::9]:443": "2001:db8::9", "203.0.113.9:4711": "203.0.113.9",
        "2001:db8::9, 2001:db8:ff::1": "2001:db8::9", "::ffff:203.0.113.9": "203.0.113.9",
        "203.0.113.9,,": "203.0.113.9",
        # What names nobody leaves the proxy that wrote it.
        "unknown": "127.0.0.1", "": "127.0.0.1", ",": "127.0.0.1", "garbage": "127.0.0.1", "6.6.6.6, x": "127.0.0.1",
        "6.6.6.6, unknown, 10.1.2.3": "10.1.2.3", "1.2.3": "127.0.0.1", "0300.0.2.7": "127.0.0.1",
        "203.0.113.9:65536": "127.0.0.1", "203.0.113.9:": "127.0.0.1", "203.0.113.9:x": "127.0.0.1",
        "[203.0.113.9]": "127.0.0.1", "[2001:db8::9": "127.0.0.1", "[2001:db8::9]x": "127.0.0.1",
        "[fe80::1%eth0]": "127.0.0.1", "fe80::1%eth0": "127.0.0.1", '"203.0.113.9"': "127.0.0.1",
        "203.0.113.9 203.0.113.8": "127.0.0.1", "203.0.113.9/32": "127.0.0.1", "é": "127.0.0.1",
    },
    "Forwarded": {
        "for=203.0.113.9": "203.0.113.9", "For=203.0.113.9;proto=https;by=10.0.0.1": "203.0.113.9",
        "proto=https; FOR=203.0.113.9": "203.0.113.9", 'for="203.0.113.9:4711"': "203.0.113.9",
        'for="[2001:db8::9]"': "2001:db8::9", 'for="[2001:db8::9]:4711"': "2001:db8::9",
        'for="[2001:db8::9]:_port"': "2001:db8::9", "for=6.6.6.6, for=203.0.113.9": "203.0.113.9",
        "for=203.0.113.9, for=10.1.2.3": "203.0.113.9", 'for="6.6.6.6, for=203.0.113.9': "203.0.113.9",
        'for=6.6.6.6;x=", for=203.0.113.9': "203.0.113.9",
        "for=unknown": "127.0.0.1", "for=_hidden": "127.0.0.1", 'for="_SEVKISEK"': "127.0.0.1",
        "proto=https": "127.0.0.1", "for=6.6.6.6, proto=https": "127.0.0.1", "for": "127.0.0.1", "for=": "127.0.0.1",
        'for="': "127.0.0.1", 'for=""': "127.0.0.1", "for=203.0.113.9;for=6.6.6.6": "127.0.0.1",
        "xfor=203.0.113.9": "127.0.0.1", "203.0.113.9": "127.0.0.1", r'for="203.0.113\.9"': "127.0.0.1",
        "for=6.6.6.6, for=unknown, for=10.1.2.3": "10.1.2.3",
        # What a client has chosen, a host say, may stand in the quotes of an element.
        'for=203.0.113.9;host="a,for=6.6.6.6;x="': "127.0.0.1", 'for=203.0.113.9;host="a;for=6.6.6.6"': "127.0.0.1",
        r'for=203.0.113.9;host="a,for=6.6.6.6;x=\""': "127.0.0.1", 'host="for=6.6.6.6";for=203.0.113.9': "203.0.113.9",
    },
}


@pytest.mark.parametrize("name, value, expected", [
    (name, value, expected) for name, values in FORWARDED.items() for value, expected in values.items()])
def test_the_rightmost_address_that_is_no_trusted_proxy_is_the_client(trusting, name, value, expected):
    with trusting.raw() as raw:
        assert where(raw, extra=[f"{name}: {value}"]) == expected


def test_lines_of_one_name_are_one_list(trusting):
    with trusting.raw() as raw:
        assert where(raw, extra=["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9, 10.0.0.1"]) == "203.0.113.9"


@pytest.mark.parametrize("name, value", [
    ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "6.6.6.6, 10.0.0.1"), ("Forwarded", "for=6.6.6.6"),
    ("X-Real-IP", "6.6.6.6"), ("X-Client-IP", "6.6.6.6")])
def test_what_an_untrusted_peer_says_is_ignored(trusting, name, value):
    """Case 41: forged."""
    with Raw(plain(trusting.url, "127.0.0.9")) as raw:
        assert where(raw, extra=[f"{name}: {value}"]) == "127.0.0.9"


def test_two_fields_that_name_different_clients_are_refused(trusting):
    """A client that adds the field which its proxy does not write must not be believed."""
    different = ["X-Forwarded-For: 203.0.113.9", "Forwarded: for=6.6.6.6"]
    status, received = answer(trusting, upgrade_head(extra=different))
    assert status == 400 and b"X-Forwarded-For and Forwarded" in received
    with trusting.raw() as raw:
        same = ["X-Forwarded-For: 203.0.113.9", 'Forwarded: for="203.0.113.9:4711"']
        assert where(raw, extra=same) == "203.0.113.9"


def test_a_proxy_behind_a_proxy_tells_the_client(trusting):
    """HAProxy with a PROXY header before nginx, say: the header names nginx, and nginx names the client."""
    for source, expected in [("10.0.0.1", "203.0.113.9"), ("192.0.2.7", "192.0.2.7")]:
        with Raw(plain(trusting.urls[1])) as raw:
            raw.send(block(source=source))
            assert where(raw, extra=["X-Forwarded-For: 203.0.113.9"]) == expected


def test_a_long_list_of_addresses_is_read_from_its_end(trusting):
    with trusting.raw() as raw:
        assert where(raw, extra=["X-Forwarded-For: " + "6.6.6.6," * 1900 + "203.0.113.9"]) == "203.0.113.9"
    with trusting.raw() as raw:
        assert where(raw, extra=["X-Forwarded-For: 6.6.6.6" + ",10.0.0.1" * 1700]) == "6.6.6.6"


def test_connections_through_a_trusted_proxy_count_for_their_clients(make_relay):
    relay = make_relay("--trusted-proxies", "127.0.0.1", limits={"connectionsPerAddress": 2}, loops=2)
    with contextlib.ExitStack() as stack:
        for client in range(5):
            extra = [f"X-Forwarded-For: 203.0.113.{client}"]
            for _ in range(2):
                stack.enter_context(relay.raw(upgraded=True, extra=extra))
            status, received = answer(relay, upgrade_head(extra=extra))
            assert status == 503 and b"connectionsPerAddress" in received
        # Those whose proxy says nothing count for the proxy.
        raws = [stack.enter_context(relay.raw(upgraded=True)) for _ in range(2)]
        assert answer(relay, upgrade_head())[0] == 503
        raws[0].send(close_frame(1000))
        raws[0].expect_close(1000)
        eventually(lambda: answer(relay, head("GET /healthz HTTP/1.1", "Host: a"))[0] == 200, "there is room again")


def test_each_request_on_a_proxys_connection_has_its_own_client(make_relay):
    """Proxies send the requests of many clients on one connection."""
    relay = make_relay("--trusted-proxies", "127.0.0.1", limits={"connectionsPerAddress": 1}, loops=2)
    relay.load("where.lua", 'relay.on("request", function(request) return 200, {}, request.remoteAddress end)')

    def asked(raw, *fields):
        raw.send(head("GET /x HTTP/1.1", "Host: a", *fields))
        response = raw.read_response()
        return response.body.decode() if response.status == 200 else response.status

    with relay.raw() as raw, relay.raw() as other:
        for client in ["203.0.113.1", "203.0.113.2", "203.0.113.1"]:
            assert asked(raw, f"X-Forwarded-For: {client}") == client
            assert asked(other, f"X-Forwarded-For: {client}") == client
        assert asked(raw) == "127.0.0.1"
        assert asked(raw, "X-Forwarded-For: 203.0.113.1") == "203.0.113.1"
        # The last on it may be a WebSocket, which then counts for its client.
        assert upgraded(raw, "203.0.113.3") == 101
        assert asked(other, "X-Forwarded-For: 203.0.113.3") == "203.0.113.3"
        assert upgraded(other, "203.0.113.3") == 503


def upgraded(raw, client):
    raw.send(upgrade_head(extra=[f"X-Forwarded-For: {client}"]))
    return raw.read_response().status


def test_the_client_of_a_peer_that_is_no_proxy_stays_the_same_for_all_its_requests(make_relay):
    """Case 41: forged, in a later request."""
    relay = make_relay("--trusted-proxies", "127.0.0.1", listen=["ws://127.0.0.1:0", "ws://127.0.0.1:0?proxy=any"])
    relay.load("where.lua", 'relay.on("request", function(request) return 200, {}, request.remoteAddress end)')
    for url, source, header, expected in [
            (relay.urls[0], "127.0.0.9", b"", b"127.0.0.9"), (relay.urls[1], "127.0.0.1", line(), b"192.0.2.7")]:
        with Raw(plain(url, source)) as raw:
            raw.send(header)
            for _ in range(3):
                raw.send(head("GET /x HTTP/1.1", "Host: a", "X-Forwarded-For: 6.6.6.6"))
                assert raw.read_response().body == expected


def test_trusted_proxies_change_live(make_relay, tmp_path):
    file = tmp_path / "relayd.yaml"
    file.write_text("trustedProxies: [192.0.2.0/24]\n")
    relay = make_relay("--config", file)
    relay.add("where", WHERE)
    extra = ["X-Forwarded-For: 203.0.113.9"]
    with relay.raw() as before:
        assert where(before, extra) == "127.0.0.1"
        file.write_text("trustedProxies:\n- 192.0.2.0/24\n- 127.0.0.0/8\n")
        relay.signal(signal.SIGHUP)
        relay.logs("reloaded configuration")
        with relay.raw() as after:
            assert where(after, extra) == "203.0.113.9"
        file.write_text("trustedProxies: [nonsense]\n")
        relay.signal(signal.SIGHUP)
        relay.logs("nonsense")
        with relay.raw() as after:
            assert where(after, extra) == "203.0.113.9"
        before.send(frame(TEXT, '{"instruction":"where","id":2}'))
        assert json.loads(before.read_message())["result"] == "127.0.0.1"


def test_the_settings_are_printed_with_their_sources(make_relay):
    relay = make_relay(environment={"RELAYD_TRUSTED_PROXIES": "10.1.2.3/8 ::1"})
    done = relay.run("serve", "--print-config", "--base-path", "/relay/")
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split())
    assert "10.0.0.0/8" in printed and "::1/128" in printed and "environment" in printed and "/relay" in printed
    for option in [("--trusted-proxies", "10.0.0.0/33"), ("--base-path", "relay"), ("--base-path", "/a//b"),
                   ("--base-path", "/a?b"), ("--base-path", "/../a")]:
        assert relay.run("serve", "--print-config", *option).returncode == 2, option


@pytest.mark.skipif(os.environ.get("RELAYD_IO") == "epoll", reason="what is parsed is the same on either backend")
def test_random_headers_end_connections_and_nothing_else(behind):
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(300):
        good = [line(), line(**V6), block(), block(0x21, "2001:db8::7"), block(fields=bytes(9))]
        header = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 3)):
            header[chance.randrange(len(header))] = chance.randrange(256)
        connected = plain(behind.by_version["any"])
        connected.sendall(bytes(header[:chance.randint(1, len(header))]))
        connected.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Ended), Raw(connected) as raw:
            raw.read_to_end()
    assert behind.is_alive(), f"seed {seed}"
    with Raw(plain(behind.by_version["any"])) as raw:
        raw.send(line())
        assert where(raw) == "192.0.2.7"
