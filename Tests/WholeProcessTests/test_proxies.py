"""Proxies in front of relays (docs/proxies.md): the files of contrib/ as they are, with real HAProxy, nginx and Caddy,
TLS before two relays; and the configurations of the source documents."""

import contextlib
import json
import re
import signal
import socket
import ssl
import urllib.request

import pytest

from certificates import Pair
from conditions import DEADLINE, eventually
from fronts import caddy, haproxy, nginx, reached, substituted, through
from relay import ROOT, TEST_SCRIPTS, Relay, answer
from tunnels import free_port
from wire import BINARY, TEXT, Raw, close_frame, frame, head, upgrade_head

CONTRIB = ROOT / "contrib"
DOCUMENT = (ROOT / "docs/proxies.md").read_text()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("certificate"), "front")
    pair.both = pair.certificate.with_suffix(".both")
    pair.both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    return pair


def contributed(kind, folder, port, relays, pair, replaced=None):
    """The proxy with its file of contrib/: addresses and certificate are all that is replaced, unless a test says
    more."""
    addresses = dict(zip(["127.0.0.1:8087", "127.0.0.1:8088"], relays)) | (replaced or {})
    if kind == "haproxy":
        text = substituted((CONTRIB / "haproxy.cfg").read_text(), {
            **addresses, ":443": f"127.0.0.1:{port}", "/etc/haproxy/relay.pem": pair.both})
        return haproxy(folder, text + f"\nlisten state\n    bind unix@{folder}/state\n    stats enable\n    "
                                      "stats uri /\n", port)
    if kind == "nginx":
        return nginx(folder, substituted((CONTRIB / "nginx.conf").read_text(), {
            **addresses, "listen 443": f"listen 127.0.0.1:{port}", "/etc/nginx/ssl/relay.crt": pair.certificate,
            "/etc/nginx/ssl/relay.key": pair.key}), port)
    return caddy(folder, substituted((CONTRIB / "Caddyfile").read_text(), {
        **addresses, "https://relay.example": f"https://localhost:{port}", "/etc/caddy/relay.crt": pair.certificate,
        "/etc/caddy/relay.key": pair.key}), port)


class Site:
    """A proxy with TLS before two relays, each of which tells its name."""

    def __init__(self, kind, folder, pair, replaced=None, **options):
        self.kind, self.folder, self.pair, self.replaced = kind, folder, pair, replaced
        self.options = options
        self.names = ["one", "two"]

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.relays = [self.stack.enter_context(self.relay(name)) for name in self.names]
            addresses = [f"127.0.0.1:{Relay.port_of(relay.urls[1])}" for relay in self.relays]
            self.front = self.stack.enter_context(
                contributed(self.kind, self.folder, free_port(), addresses, self.pair, self.replaced))
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *failure):
        return self.stack.__exit__(*failure)

    @contextlib.contextmanager
    def relay(self, name):
        query, trusted = ("?proxy=v2", []) if self.kind == "haproxy" else ("", ["--trusted-proxies", "127.0.0.1"])
        listen = ["ws://127.0.0.1:0", "ws://127.0.0.1:0" + query]
        with Relay(*trusted, listen=listen, scripts=[TEST_SCRIPTS / "echo.lua"], **self.options) as relay:
            relay.add("where", f"function(conn) return {{'{name}', conn.remoteAddress}} end")
            yield relay

    def through(self, source="127.0.0.1", **options):
        return through(self.front, source, self.pair.certificate, **options)


def where(raw):
    """(name of the relay, the client's address there)."""
    raw.send(frame(TEXT, '{"instruction":"where","id":1}'))
    return tuple(json.loads(raw.read_message())["result"])


@pytest.fixture(scope="module", params=["haproxy", "nginx", "caddy"])
def site(request, pair, tmp_path_factory):
    with Site(request.param, tmp_path_factory.mktemp(request.param), pair, loops=2) as site:
        yield site


def test_messages_pass_a_proxy_as_they_are(site):
    with site.through() as raw:
        for message in [b"", b"x", "κόσμε 🦊".encode(), b"y" * 70_000, bytes(range(256)) * 3000]:
            for kind in [BINARY, TEXT] if message[:1] != b"\0" else [BINARY]:
                raw.send(frame(kind, message))
                received = raw.read_message()
                assert (received.encode() if kind == TEXT else received) == message
        raw.send(close_frame(1000))
        assert raw.read_close()[0] == 1000


def test_the_relay_sees_the_address_of_the_client(site):
    for source in ["127.0.0.2", "127.0.0.7", "127.1.2.3"]:
        for forged in [(), ["X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"], ["Forwarded: for=6.6.6.6"]]:
            with site.through(source, extra=forged) as raw:
                assert where(raw)[1] == source, (source, forged)


def test_both_relays_get_connections(site):
    with contextlib.ExitStack() as stack:
        names = [where(stack.enter_context(site.through()))[0] for _ in range(8)]
        assert set(names) == {"one", "two"}, names


def test_linked_relays_need_no_sticky_routing(pair, tmp_path):
    """Whichever relay a server and a client get to: they meet."""
    # Who may is decided where the client is, and credentials are each relay's own: here everybody may.
    (tmp_path / "open.lua").write_text("""
        relay.on("connect", function() return true end)
        relay.instruction { "serve", function(conn, name) relay.install(name, conn) return true end }
    """)
    listen = ["ws://127.0.0.1:0", "ws://127.0.0.1:0?proxy=v2"]
    with contextlib.ExitStack() as stack:
        def start(*options, more=()):
            relay = stack.enter_context(Relay(*options, listen=[*listen, *more], scripts=[tmp_path / "open.lua"]))
            relay.front = f"127.0.0.1:{Relay.port_of(relay.urls[1])}"
            return relay
        one = start(more=["ws://127.0.0.1:0?auth=1234"])
        two = start("--connect", one.urls[2] + "?auth=1234")
        front = stack.enter_context(contributed("haproxy", tmp_path, free_port(), [one.front, two.front], pair))
        hosts = {}
        for name in ["a", "b"]:  # One at each relay.
            raw = stack.enter_context(through(
                front, certificate=pair.certificate, extra=["Sec-WebSocket-Protocol: relay.v1"]))
            raw.send(frame(TEXT, json.dumps({"instruction": "serve", "parameters": [name], "id": 1})))
            assert json.loads(raw.read_message())["result"] is True
            hosts[name] = Host(raw)
        for relay in [one, two]:
            eventually(lambda: {server["server"] for server in relay.listed("servers")} == {"a", "b"}, "both are known")
            assert sum("path" in server for server in relay.listed("servers")) == 1
        for name, host in hosts.items():
            for number in range(4):
                client = stack.enter_context(reached(front, certificate=pair.certificate))
                client.send(upgrade_head(path=f"/c/{name}/{number}"))
                assert host.accepted() == number
                assert client.read_response().status == 101
                client.send(frame(TEXT, f"to {name}"))
                assert host.received() == f"to {name}".encode()


class Host:
    """A server's end, as far as this test needs one."""

    def __init__(self, raw):
        self.raw = raw

    def accepted(self):
        """Accepts the next open; its port."""
        opened = self.raw.read_message()
        assert opened[0] == 0x10
        self.raw.send(frame(BINARY, b"\x11" + opened[1:5] + (1 << 16).to_bytes(4, "big")))
        return json.loads(opened[5:])["port"]

    def received(self):
        data = self.raw.read_message()
        assert data[0] == 0x01
        return data[5:]


def test_files_and_health_come_through_a_proxy(site):
    context = ssl.create_default_context(cafile=site.pair.certificate)
    for path, start in [("/relay.js", (ROOT / "clients/js/relay.js").read_bytes()[:100]), ("/readyz", b"ready\n")]:
        with urllib.request.urlopen(f"https://localhost:{site.front.port}{path}", context=context) as response:
            assert response.read().startswith(start)


def haproxy_says(site, text):
    """Whether HAProxy's table of servers has a line for `one` with the text."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(site.folder / "state"))
        asked.sendall(b"GET /;csv HTTP/1.0\r\n\r\n")
        table = b""
        while piece := asked.recv(1 << 16):
            table += piece
    return any(line.startswith("relays,relay1,") and text in line for line in table.decode().splitlines())


@pytest.mark.parametrize("kind", ["haproxy", "nginx", "caddy"])
def test_a_relay_that_drains_gets_nobody_new_and_keeps_those_it_has_until_they_move(kind, pair, tmp_path):
    with Site(kind, tmp_path, pair, drain="20s") as site, contextlib.ExitStack() as stack:
        draining = site.relays[0]
        clients = [stack.enter_context(site.through()) for _ in range(12)]
        staying = [raw for raw in clients if where(raw)[0] == "one"]
        others = [raw for raw in clients if raw not in staying]
        assert staying and others
        draining.signal(signal.SIGTERM)
        draining.logs("draining")
        # The proxy's health check asks the same.
        assert answer(draining, head("GET /readyz HTTP/1.1", "Host: a"))[0] == 503
        if kind == "caddy":
            eventually(lambda: '"status_code": 503' in site.front.log or '"status_code":503' in site.front.log,
                       f"Caddy's health check sees it: {site.front.log}")
        for _ in range(10):
            # With HAProxy and nginx from the first moment: what gets 503 goes to the other relay.
            assert where(stack.enter_context(site.through("127.0.0.9"))) == ("two", "127.0.0.9")
        if kind == "haproxy":
            eventually(lambda: haproxy_says(site, "DOWN"), "HAProxy's health check sees it")
            assert haproxy_says(site, "503")
        # Each is asked to come again by the relay, not cut off by the proxy; and comes to the other relay.
        for raw in staying:
            assert raw.read_close()[0] == 1012
            raw.send(close_frame(1012))
            assert where(stack.enter_context(site.through()))[0] == "two"
        assert draining.wait() == 0
        for raw in others:
            raw.send(frame(TEXT, "still here"))
            assert raw.read_message() == "still here"


@pytest.mark.parametrize("kind", ["haproxy", "nginx", "caddy"])
def test_a_relay_that_is_gone_is_passed_over(kind, pair, tmp_path):
    with Site(kind, tmp_path, pair) as site:
        site.relays[0].expected_exit = {-signal.SIGKILL}
        site.relays[0].signal(signal.SIGKILL)
        site.relays[0].wait()
        for _ in range(6):
            with site.through() as raw:
                assert where(raw)[0] == "two"


@pytest.mark.parametrize("kind", ["haproxy", "nginx", "caddy"])
def test_who_is_refused_shuts_nobody_else_out(kind, pair, tmp_path):
    """A relay that answers 503 to one client, which is above its limit, is no relay that is down."""
    # Caddy would wait until a relay counts as up again.
    impatient = {"lb_try_duration 5s": "lb_try_duration 0s"} if kind == "caddy" else None
    limits = {"connectionsPerAddress": 1}
    with Site(kind, tmp_path, pair, impatient, limits=limits) as site, contextlib.ExitStack() as stack:
        def status(source):
            raw = stack.enter_context(reached(site.front, source, site.pair.certificate))
            raw.send(upgrade_head(host="localhost"))
            return raw.read_response().status

        assert [status("127.0.0.66") for _ in range(2)] == [101, 101]
        for number in range(6):
            assert status("127.0.0.66") == 503
            assert status(f"127.0.0.{100 + number}") == 101


@pytest.mark.parametrize("kind", ["haproxy", "nginx", "caddy"])
def test_a_request_that_must_not_be_repeated_is_not(kind, pair, tmp_path):
    """What a script has answered with 503 it has done."""
    with Site(kind, tmp_path, pair) as site:
        for relay in site.relays:
            relay.load("refuse.lua", """
                asked = 0
                relay.on("request", function(request) asked = asked + 1 return 503, nil, request.body end)
            """)
        with reached(site.front, certificate=site.pair.certificate) as raw:
            raw.send(head("POST /x HTTP/1.1", "Host: localhost", "Content-Length: 2") + b"hi")
            response = raw.read_response()
            assert (response.status, response.body) == (503, b"hi")
        assert sum(relay.evaluate("return asked") for relay in site.relays) == 1


# The source documents


def block(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert len(found) == 1
    return found[0]


UPDATES = """
local open = {}
relay.on("open", function(conn) open[conn] = true end)
relay.on("close", function(conn) open[conn] = nil end)
relay.on("message", function(conn, data) conn:send("Hey! I got your message: " .. data) return true end)
relay.on("reload", function()
  relay.every(0.5, function() for conn in pairs(open) do conn:send("update") end end)
end)
"""


def test_document_003_a_plain_server_on_8080_becomes_wss_through_haproxy_on_443(make_relay, pair, tmp_path):
    """A server that answers and sends updates; first HAProxy as ws on 80, then as wss on 443; the server stays as it
    was."""
    relay = make_relay()
    relay.load("updates.lua", UPDATES)
    plain, secure = free_port(), free_port()
    text = substituted(block("haproxy"), {
        "bind :80": f"bind 127.0.0.1:{plain}", "bind :443": f"bind 127.0.0.1:{secure}",
        "/etc/haproxy/relay.pem": pair.both, "127.0.0.1:8080": f"127.0.0.1:{relay.port}"})
    with haproxy(tmp_path, text, secure) as front:
        for port, certificate in [(plain, None), (secure, pair.certificate)]:
            front.port = port
            with through(front, certificate=certificate) as raw:
                raw.send(frame(TEXT, "hello"))
                received = {raw.read_message() for _ in range(3)}
                assert received == {"Hey! I got your message: hello", "update"}


def test_document_000_nginx_as_it_configures_it_before_a_listener_with_a_token(make_relay, pair, tmp_path):
    relay = make_relay(
        "--trusted-proxies", "127.0.0.0/29", "--trusted-proxies", "::1", scripts=[TEST_SCRIPTS / "echo.lua"],
        listen=["ws://127.0.0.1:0?auth=1234"])
    with relay.connect("/?auth=1234") as client:
        client.request("add instruction", credential=relay.admin, named={
            "instructionToAdd": "where",
            "body": "function(conn) return {'', conn.remoteAddress, conn.headers['x-forwarded-proto'], conn.tls} end"})
    plain, secure = free_port(), free_port()
    text = substituted(block("nginx"), {
        "listen 443": f"listen 127.0.0.1:{secure}", "listen 80": f"listen 127.0.0.1:{plain}",
        "/etc/nginx/ssl/yourdomain.com.crt": pair.certificate, "/etc/nginx/ssl/yourdomain.com.key": pair.key,
        "http://localhost:9000": f"http://localhost:{relay.port}"})
    with nginx(tmp_path, text, secure) as front:
        with through(front, "127.0.0.77", pair.certificate, path="/?auth=1234") as raw:
            raw.send(frame(TEXT, "hello"))
            assert raw.read_message() == "hello"
            assert where(raw)[1:] == ("127.0.0.77", "https")
        for token, status in [("/?auth=12345", 401), ("/", 401)]:
            with socket.create_connection(("127.0.0.1", secure), DEADLINE) as connected:
                assert status_over_tls(connected, pair, upgrade_head(path=token)) == status
        with socket.create_connection(("127.0.0.1", plain), DEADLINE) as connected:
            connected.sendall(head("GET /any?x=y HTTP/1.1", "Host: yourdomain.com"))
            redirect = connected.recv(4096)
        assert redirect.startswith(b"HTTP/1.1 301 ") and b"Location: https://yourdomain.com/any?x=y\r\n" in redirect


def status_over_tls(connected, pair, data):
    with Raw(connected, ssl.create_default_context(cafile=pair.certificate), "localhost") as raw:
        raw.send(data)
        return raw.read_response().status


# Below a path


@pytest.mark.parametrize("strips", [False, True])
def test_a_relay_below_a_path_of_a_site(make_relay, pair, tmp_path, strips):
    """What contrib/nginx.conf says of `location /relay/`, and a proxy that takes the prefix off."""
    options = [] if strips else ["--base-path", "/relay"]
    relay = make_relay(*options, "--trusted-proxies", "127.0.0.1", "--examples",
                       scripts=[TEST_SCRIPTS / "echo.lua"])
    port = free_port()
    text = substituted((CONTRIB / "nginx.conf").read_text(), {
        "127.0.0.1:8087": f"127.0.0.1:{relay.port}", "    server 127.0.0.1:8088 max_fails=0;\n": "",
        "location / {": "location /relay/ {", "listen 443": f"listen 127.0.0.1:{port}",
        "proxy_pass http://relays;": "proxy_pass http://relays/;" if strips else "proxy_pass http://relays;",
        "/etc/nginx/ssl/relay.crt": pair.certificate, "/etc/nginx/ssl/relay.key": pair.key})
    with nginx(tmp_path, text, port) as front:
        with through(front, certificate=pair.certificate, path="/relay/") as raw:
            raw.send(frame(TEXT, "hello"))
            assert raw.read_message() == "hello"
        done = relay.run("list", "apps", "--ca", str(pair.certificate), to=f"wss://localhost:{port}/relay/")
        assert done.returncode == 0 and "default" in done.stdout, done.stderr
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as connected:
            request = head("GET /relay/examples/ HTTP/1.1", "Host: localhost")
            assert status_over_tls(connected, pair, request) == 200
