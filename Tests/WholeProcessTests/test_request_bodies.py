"""The bodies and heads of HTTP requests that scripts answer (RFC 9112, CASES 30 to 34 and 40): nothing that two readers could
understand differently is taken, and what is taken is bounded."""

import pytest

from http_requests import HOST, SCRIPT, chunked, get, one, put
from relay import Relay
from wire import head

HEALTH = head("GET /healthz HTTP/1.1", HOST)
CHUNKS = head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: Chunked")
FOLLOWER = get("/follower")


@pytest.fixture(scope="module")
def server():
    with Relay(scripts=[SCRIPT], loops=2) as relay:
        yield relay


# Bodies


def test_a_body_in_chunks_is_put_together(server):
    large = bytes(range(256)) * 2000
    with server.raw() as raw:
        raw.send(chunked("/echo", b"a", b"bc", large, trailer=b"X-Sum: 1\r\nX-B: 2\r\n") + get("/length"))
        assert raw.read_response().body == b"abc" + large
        assert raw.read_response().body == b"0"
        raw.send(CHUNKS + b"03;a=b;c=\"d e\"\r\nabc\r\n00\r\n\r\n")
        assert raw.read_response().body == b"abc"


@pytest.mark.parametrize(
    "name, data",
    [
        ("both kinds of length", head("POST /echo HTTP/1.1", HOST, "Content-Length: 5", "Transfer-Encoding: chunked")),
        ("both, the other way", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: chunked", "Content-Length: 5")),
        ("a list of lengths", head("POST /echo HTTP/1.1", HOST, "Content-Length: 5, 5")),
        ("two lengths", head("POST /echo HTTP/1.1", HOST, "Content-Length: 5", "Content-Length: 5")),
        ("two different lengths", head("POST /echo HTTP/1.1", HOST, "Content-Length: 5", "Content-Length: 6")),
        ("a length with a sign", head("POST /echo HTTP/1.1", HOST, "Content-Length: +5")),
        ("a length in hexadecimal", head("POST /echo HTTP/1.1", HOST, "Content-Length: 0x5")),
        ("a length that overflows", head("POST /echo HTTP/1.1", HOST, "Content-Length: 18446744073709551621")),
        ("a negative length", head("POST /echo HTTP/1.1", HOST, "Content-Length: -1")),
        ("an empty length", head("POST /echo HTTP/1.1", HOST, "Content-Length:")),
        ("another coding", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: gzip")),
        ("two codings", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: gzip, chunked")),
        ("chunked twice", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: chunked, chunked")),
        ("two lines", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: identity")),
        ("a disguise", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: \vchunked")),
        ("a blank before the colon", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding : chunked")),
        ("a folded coding", head("POST /echo HTTP/1.1", HOST, "Transfer-Encoding:", " chunked")),
        ("chunks in HTTP/1.0", head("POST /echo HTTP/1.0", HOST, "Transfer-Encoding: chunked")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_length_that_two_readers_could_understand_differently_is_refused(server, name, data):
    expect_refusal(server, data + b"0\r\n\r\n" + FOLLOWER, 400)


@pytest.mark.parametrize(
    "name, status, body",
    [
        ("no size", 400, b"\r\nabc\r\n0\r\n\r\n"),
        ("a size that is none", 400, b"g\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", 400, b"-3\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", 400, b"0x3\r\nabc\r\n0\r\n\r\n"),
        ("a blank behind the size", 400, b"3 \r\nabc\r\n0\r\n\r\n"),
        ("a blank before it", 400, b" 3\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF behind the size", 400, b"3\nabc\r\n0\r\n\r\n"),
        ("a CR in an extension", 400, b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("an LF in an extension", 400, b"3;a\nabc\r\n0\r\n\r\n"),
        ("NUL in an extension", 400, b"3;\0\r\nabc\r\n0\r\n\r\n"),
        ("a chunk that is too long", 400, b"3\r\nabcd\r\n0\r\n\r\n"),
        ("one that is too short", 400, b"3\r\nab\r\n0\r\n\r\n"),
        ("a bare LF behind a chunk", 400, b"3\r\nabc\n0\r\n\r\n"),
        ("a bare LF at the end", 400, b"0\r\n\n"),
        ("a bare LF in a trailer", 400, b"0\r\nX: y\n\r\n"),
        ("a folded trailer", 400, b"0\r\nX: y\r\n z\r\n\r\n"),
        ("long extensions", 400, b"1;" + b"x" * 5000),
        ("many extensions", 400, (b"1;" + b"x" * 1000 + b"\r\na\r\n") * 5),
        ("long trailers", 400, b"0\r\nX: " + b"y" * 5000),
        ("many trailers", 400, b"0\r\n" + b"X: y\r\n" * 2000),
        ("a huge size", 413, b"fffffffffffffff\r\n"),
        ("one that overflows", 413, b"10000000000000003\r\nabc"),
        ("many zeros", 413, b"0" * 17 + b"3\r\nabc\r\n0\r\n\r\n"),
        ("more than the limit", 413, b"100001\r\n"),
        ("more than the limit together", 413, b"80000\r\n" + b"x" * 0x80000 + b"\r\n80001\r\n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_chunks_that_are_broken_or_too_large_are_refused(server, name, status, body):
    expect_refusal(server, CHUNKS + body + FOLLOWER, status)


def expect_refusal(server, data, status):
    """One answer, the end of the connection, and no byte of what was sent taken for another request."""
    before = server.invoke("served")
    with server.raw() as raw:
        raw.try_send(data)
        response = raw.read_response()
        assert response.status == status and response.values("connection") == ["close"]
        assert raw.read_to_end() == b""
    assert server.invoke("served") == before


@pytest.mark.parametrize("body", [b"", b"GET /follower HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n"])
def test_a_body_is_never_read_as_a_request(server, body):
    before = server.invoke("served")
    with server.raw() as raw:
        raw.send(put("/echo", body) + chunked("/echo", *([body] if body else [])) + get("/length"))
        assert [raw.read_response().body for _ in range(3)] == [body, body, b"0"]
    assert server.invoke("served") == before + 3


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/%2e%2e", "/app/none"])
def test_a_body_that_nobody_wants_ends_the_connection(server, path):
    with server.raw() as raw:
        raw.send(put(path, HEALTH))
        response = raw.read_response()
        assert response.status in (400, 404, 405) and response.values("connection") == ["close"]
        raw.expect_end()


def test_a_body_beyond_the_limit_is_413(make_relay):
    relay = make_relay(scripts=[SCRIPT], limits={"requestBytes": "100"})
    for data, status in [
        (put("/length", "x" * 100), 200), (put("/length", "x" * 101), 413), (chunked("/length", b"x" * 100), 200),
        (chunked("/length", b"x" * 101), 413),
        (head("PUT /length HTTP/1.1", HOST, "Content-Length: 999999999999"), 413),
        (chunked("/length", b"x" * 60, b"x" * 41), 413),
    ]:
        response = one(relay, data)
        assert response.status == status
        assert response.values("connection") == ([] if status == 200 else ["close"])


def test_what_a_body_takes_is_bounded(make_relay):
    relay = make_relay(scripts=[SCRIPT])
    before = relay.peak_bytes
    raws = [relay.raw() for _ in range(50)]
    for raw in raws:  # Announced, and not sent.
        raw.send(head("PUT /length HTTP/1.1", HOST, "Content-Length: 1048576") + b"x")
    assert one(relay, get("/length")).status == 200
    assert relay.peak_bytes - before < 8 << 20
    for raw in raws:
        raw.reset()


def test_who_expects_a_100_gets_it_when_the_body_is_wanted(server):
    expects = ["Expect: 100-continue", "Content-Length: 5"]
    with server.raw() as raw:
        for _ in range(2):
            raw.send(head("PUT /echo HTTP/1.1", HOST, *expects))
            assert raw.read_response().status == 100
            raw.send(b"hello")
            assert raw.read_response().body == b"hello"
        raw.send(head("PUT /echo HTTP/1.1", HOST, "Expect: 100-continue", "Content-Length: 0"))
        assert raw.read_response().status == 200
        raw.send(head("PUT /echo HTTP/1.1", HOST, "Expect: 100-continue", "Content-Length: 9999999"))
        assert raw.read_response().status == 413
        raw.expect_end()
    assert one(server, head("PUT /echo HTTP/1.1", HOST, *expects, "Authorization: Bearer wrong")).status == 401
    assert one(server, head("PUT /echo HTTP/1.1", HOST, "Expect: 200-ok", "Content-Length: 5")).status == 417


# Heads


@pytest.mark.parametrize(
    "path", ["/%0d%0aX-Injected:%20yes", "/%00", "/%2e%2e/x", "/a%2fb", "/%c0%ae", "/%zz", "/../x"])
def test_a_hostile_path_reaches_no_hook(server, path):
    expect_refusal(server, get(path), 400)


def test_case_33_sizes_hold_for_the_second_request_as_for_the_first(server):
    for data, status in [
        (get("/length", "X-A: " + "a" * 20000), 431), (get("/" + "a" * 9000), 414),
        (get("/length", *["X: y"] * 200), 431),
        (b"\0" * 64, 400), (get("/length")[:-2] + b"bad line\r\n\r\n", 400),
    ]:
        with server.raw() as raw:
            raw.send(get("/length"))
            assert raw.read_response().status == 200
            raw.send(data)
            assert raw.read_response().status == status
            raw.expect_end()
