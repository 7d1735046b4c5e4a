"""relay.http: requests of scripts to servers elsewhere, and where they may not go."""

import json
import signal
import socket
import ssl
import threading

import pytest

from certificates import Pair
from conditions import DEADLINE, eventually
from relay import Refused
from webhook_backend import Backend


@pytest.fixture(scope="module")
def backend():
    backend = Backend()
    yield backend
    backend.end()


@pytest.fixture
def ordinary(backend):
    backend.mode("ok")
    return backend


@pytest.fixture
def asking(make_relay, ordinary):
    """A relay that may ask the back end by its name and by its address."""
    return make_relay(
        "--http-allow", f"localhost:{ordinary.port}", "--http-allow", f"127.0.0.1:{ordinary.port}",
        limits={"httpResponseBytes": "64KiB"})


def ask(relay, **request):
    """What relay.http answers: [status, headers, body] or [code, message(, status)]."""
    fields = ", ".join(
        f"[{json.dumps(name)}] = json.decode({json.dumps(json.dumps({'v': value}))}).v"
        for name, value in request.items())
    return relay.evaluate(
        f"local r = table.pack(relay.http {{ {fields} }}) "
        "if r[1] then return {r[1], r[2], r[3]} end return {r[2], r[3], r[4]}")


def test_an_ordinary_request(asking, ordinary):
    before = len(ordinary.log)
    for host in ("localhost", "127.0.0.1"):
        status, headers, body = ask(
            asking, method="PUT", url=f"http://{host}:{ordinary.port}/a?b=c", body="some é",
            headers={"X-Own": "1", "Authorization": "Basic x", "Empty": ""})
        assert (status, body) == (200, '{"code":"OK"}')
        assert headers["content-length"] == "13" and all(name == name.lower() for name in headers)
    for entry in ordinary.log[before:]:
        assert (entry["method"], entry["path"], entry["body"].decode()) == ("PUT", "/a?b=c", "some é")
        assert entry["headers"]["x-own"] == "1" and entry["headers"]["authorization"] == "Basic x"
        assert entry["headers"]["empty"] == "" and "content-type" not in entry["headers"]
        assert "expect" not in entry["headers"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "GET"])
def test_a_request_without_a_body(asking, ordinary, method):
    before = len(ordinary.log)
    assert ask(asking, method=method, url=f"http://localhost:{ordinary.port}/")[0] == 200
    entry = ordinary.log[before]
    assert entry["method"] == method and entry["body"] == b""
    assert (entry["headers"].get("content-length") == "0") == (method in ("POST", "PUT", "PATCH"))


def test_connections_are_kept(asking, ordinary):
    for _ in range(20):
        assert ask(asking, url=f"http://localhost:{ordinary.port}/")[0] == 200
    before = asking.descriptors
    asking.evaluate(
        f"for i = 1, 200 do assert(relay.http {{ url = 'http://localhost:{ordinary.port}/' }}) end return 1")
    assert asking.descriptors <= before + 1


# Where requests do not go (CASES 63 and 64)


def test_nothing_is_allowed_unless_it_is_said(relay):
    code, message = ask(relay, url="http://example.com/")[:2]
    assert code == "forbidden" and "--http-allow example.com:80" in message


@pytest.mark.parametrize("host", [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0.0.0.0", "0", "[::1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "169.254.169.254", "[fe80::1%25lo]", "127.0.0.1.", "localhost.",
    "%31%32%37.0.0.1", "example.com", "1２7.0.0.1", "127。0。0。1"])
def test_a_host_in_any_disguise(make_relay, ordinary, host):
    relay = make_relay("--http-allow", "localhost:1", "--http-allow", "allowed.example")
    before = len(ordinary.log)
    answer = ask(relay, url=f"http://{host}:{ordinary.port}/")
    assert answer[0] in ("forbidden", "bad_parameters"), answer
    assert len(ordinary.log) == before


def test_a_name_that_resolves_to_an_address_inside(make_relay, ordinary, tmp_path):
    # The machine's own name, and what resolves to this machine without being called localhost: the name is listed, the
    # address it leads to is not.
    name = "a.localhost"  # libcurl and resolvers take every name below localhost for this machine (RFC 6761 §6.3).
    listed = make_relay("--http-allow", name)
    before = len(ordinary.log)
    code, message = ask(listed, url=f"http://{name}:{ordinary.port}/")[:2]
    assert code == "forbidden" and "not public" in message
    assert len(ordinary.log) == before
    covered = make_relay("--http-allow", name, "--http-allow", f"127.0.0.1:{ordinary.port}", "--http-allow", "::1")
    assert ask(covered, url=f"http://{name}:{ordinary.port}/")[0] == 200


@pytest.mark.parametrize("location, code", [
    ("http://127.0.0.2:1/", "forbidden"), ("http://169.254.169.254/latest", "forbidden"),
    ("file:///etc/passwd", "bad_parameters"), ("gopher://127.0.0.1/", "bad_parameters"),
    ("http://user:secret@localhost/", "bad_parameters")])
def test_redirects_are_checked(asking, ordinary, location, code):
    ordinary.mode("redirect", location.encode())
    url = f"http://localhost:{ordinary.port}/"
    answer = ask(asking, url=url)
    assert (answer[0], answer[1]["location"]) == (307, location)  # Not followed unless it is asked for.
    answer = ask(asking, url=url, redirects=5)
    assert answer[0] == code and answer[-1] == 307


def test_redirects_are_followed_so_far(asking, ordinary):
    ordinary.mode("redirect", b"/again")
    before = len(ordinary.log)
    assert ask(asking, url=f"http://localhost:{ordinary.port}/", redirects=3)[0] == 307
    assert len(ordinary.log) == before + 4


def test_credentials_do_not_leave_their_origin(asking, ordinary):
    ordinary.mode("redirect", f"http://127.0.0.1:{ordinary.port}/elsewhere".encode())
    before = len(ordinary.log)
    ask(asking, url=f"http://localhost:{ordinary.port}/", redirects=1, headers={"Authorization": "Basic x", "A": "b"})
    first, second = ordinary.log[before:]
    assert first["headers"]["authorization"] == "Basic x"
    assert "authorization" not in second["headers"] and second["headers"]["a"] == "b"


def test_the_environment_names_no_proxy(make_relay, ordinary):
    proxy = "http://127.0.0.1:9"
    relay = make_relay(
        "--http-allow", f"localhost:{ordinary.port}", environment={"http_proxy": proxy, "ALL_PROXY": proxy})
    assert ask(relay, url=f"http://localhost:{ordinary.port}/")[0] == 200


@pytest.mark.parametrize("url", ["", "x", "ftp://localhost/", "http://", "http://a b/", "http://localhost:99999/",
                                 "http://u:p@localhost/", "//localhost/", "http://localhost/\r\nx"])
def test_what_is_no_url(asking, url):
    assert ask(asking, url=url)[0] == "bad_parameters"


# Servers that misbehave


def serve(answer):
    """A socket that answers each connection with these bytes, and then is silent. Its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def run():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            connection.recv(65536)
            for piece in answer:
                try:
                    connection.sendall(piece)
                except OSError:
                    break
            if answer and answer[-1] == b"":
                connection.close()

    threading.Thread(target=run, daemon=True).start()
    return listening, listening.getsockname()[1]


@pytest.mark.parametrize("answer, code", [
    ([], "timeout"), ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"], "timeout"),
    ([b""], "unavailable"), ([b"garbage\r\n\r\n", b""], "unavailable"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", b""], "unavailable"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n"], "limit"),
    ([b"HTTP/1.1 200 OK\r\n\r\n"] + [b"x" * 65536] * 100, "limit"),
    ([b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(1000)) + b"\r\n", b""], "limit"),
    ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b""], "limit"),
    ([b"HTTP/1.1 100 Continue\r\n\r\n" * 5000], "limit"),
])
def test_a_server_that_misbehaves(make_relay, answer, code):
    listening, port = serve(answer)
    relay = make_relay("--http-allow", f"127.0.0.1:{port}", limits={"httpResponseBytes": "64KiB"})
    before = relay.resident_bytes
    answered = ask(relay, url=f"http://127.0.0.1:{port}/", timeout=1)
    assert answered[0] == code, answered
    assert relay.resident_bytes - before < 16 << 20
    listening.close()


def test_headers_that_repeat_are_joined(make_relay):
    listening, port = serve([b"HTTP/1.1 200 OK\r\nA: 1\r\nB:\r\na:  2 \r\nContent-Length: 0\r\n\r\n"])
    relay = make_relay("--http-allow", f"127.0.0.1:{port}")
    assert ask(relay, url=f"http://127.0.0.1:{port}/")[1] == {"a": "1, 2", "b": "", "content-length": "0"}
    listening.close()


def test_what_comes_unasked_is_no_answer(make_relay):
    # RFC 9112 §9.2: it must not be taken for the answer to the next request.
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    answered, said = threading.Event(), threading.Event()
    connections = []

    def run():
        for answer in (b"first", b"other"):
            connection, _ = listening.accept()
            connections.append(connection)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + answer)
            answered.wait()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked")
            said.set()

    threading.Thread(target=run, daemon=True).start()
    relay = make_relay("--http-allow", f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}/"
    assert ask(relay, url=url, method="POST", body="x")[2] == "first"
    answered.set()
    assert said.wait(DEADLINE)
    assert ask(relay, url=url, method="POST", body="x")[2] == "other"
    for held in [*connections, listening]:
        held.close()


def test_nobody_listens(make_relay):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    relay = make_relay("--http-allow", f"127.0.0.1:{port}")
    assert ask(relay, url=f"http://127.0.0.1:{port}/")[0] == "unavailable"


def test_a_call_that_is_over_does_not_wait(make_relay, ordinary):
    relay = make_relay("--http-allow", f"localhost:{ordinary.port}", limits={"callTime": "500ms"})
    ordinary.mode("never")
    with pytest.raises(Refused) as refused:
        relay.evaluate(f"relay.http {{ url = 'http://localhost:{ordinary.port}/', timeout = 100 }} while true do end")
    assert refused.value.code == "budget_exceeded"


def test_requests_at_a_time(make_relay, ordinary):
    relay = make_relay("--http-allow", f"localhost:{ordinary.port}", limits={"httpRequests": 2})
    ordinary.mode("slow", "0.3")
    relay.add("go", f"""function(conn)
        results, under = {{}}, 0
        for i = 1, 15 do
          relay.after(0, function()
            local status, code = relay.http {{ url = 'http://localhost:{ordinary.port}/', timeout = 0.5 }}
            results[#results + 1] = tostring(status or code)
          end)
        end
      end""")
    relay.invoke("go")
    eventually(lambda: relay.evaluate("return #results") == 15, "every request is answered")
    results = relay.evaluate("return results")
    # Two at a time, and eight wait, of which no more than two have their turn in time; the rest is refused at once.
    assert results.count("limit") == 5 and 2 <= results.count("200") <= 4
    assert results.count("timeout") == 10 - results.count("200")


# TLS


def test_certificates_are_verified(make_relay, tmp_path):
    pair = Pair(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def run():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            except OSError:
                pass  # The relay does not trust it.

    threading.Thread(target=run, daemon=True).start()
    url = f"https://localhost:{port}/"
    assert ask(make_relay("--http-allow", f"localhost:{port}"), url=url)[0] == "unavailable"
    trusting = make_relay("--http-allow", f"localhost:{port}", "--http-ca", pair.certificate)
    assert ask(trusting, url=url)[::2] == [200, "hi"]
    other = Pair(tmp_path, "other.example")
    assert ask(make_relay("--http-allow", f"localhost:{port}", "--http-ca", other.certificate), url=url)[0] \
        == "unavailable"
    listening.close()


# Settings


def test_settings_change_live(make_relay, tmp_path):
    file = tmp_path / "relayd.yaml"
    file.write_text("settings:\n  greeting: hello\n")
    relay = make_relay("--config", file)
    assert relay.evaluate("return relay.config.greeting") == "hello"
    file.write_text("settings:\n  greeting: good morning\n")
    relay.signal(signal.SIGHUP)
    relay.logs("reloaded configuration")
    eventually(lambda: relay.evaluate("return relay.config.greeting") == "good morning", "the script reads the new one")
