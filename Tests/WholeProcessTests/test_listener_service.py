"""A listener that is given to one server (`?server=NAME&port=N`, DESIGN §5), and a relay below a base path."""

import pytest

from channels import begun, clean, no_channel_is_left, server
from conditions import DEADLINE
from relay import SCRIPTS, Relay, answer, refusal
from wire import head, upgrade_head


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def given(request):
    listen = ["ws://127.0.0.1:0", "ws://127.0.0.1:0?server=studio&port=9000",
              "ws://127.0.0.1:0?server=7&port=0&auth=1234"]
    with Relay(listen=listen, loops=request.param) as relay:
        yield relay
        no_channel_is_left(relay)


def meets(relay, host, url, port, path="/", **options):
    """A client that knows nothing of relayd speaks to the server; what the server was told of it."""
    dialed = begun(relay.connect, path, url=url, **options)
    channel = host.opened().accept()
    with dialed.result(DEADLINE) as client:
        client.send("hello")
        assert channel.receive() == "hello"
        channel.send(b"\0\xff")
        assert client.receive() == b"\0\xff"
        assert channel.fields["port"] == port
        channel.close()
        client.closed()
    return channel.fields


@pytest.mark.parametrize("path", ["/", "/any/path", "/c/other/1", "/s/studio", "/healthz", "/app/none", "/?auth=1234",
                                  "/%zz"])
def test_every_path_of_a_listener_that_is_given_to_a_server_leads_to_it(given, path):
    with server(given, "studio") as host:
        fields = meets(given, host, given.urls[1], 9000, path)
        assert fields["server"] == "studio"


def test_a_token_of_such_a_listener_has_to_be_presented(given):
    with server(given, "7") as host:
        status, _ = answer_at(given, given.urls[2], upgrade_head())
        assert status == 401
        status, _ = answer_at(given, given.urls[2], upgrade_head(path="/?auth=12345"))
        assert status == 401
        assert meets(given, host, given.urls[2], 0, "/?auth=1234")["server"] == 7


def answer_at(relay, url, data):
    with relay.raw(url=url) as raw:
        raw.send(data)
        response = raw.read_response()
        return response.status, response.body


def test_without_its_server_such_a_listener_answers_502_and_426_without_upgrade(given):
    assert answer_at(given, given.urls[1], upgrade_head())[0] == 502
    assert answer_at(given, given.urls[1], head("GET /healthz HTTP/1.1", "Host: a"))[0] == 426


def test_elsewhere_the_same_server_still_takes_a_right(given):
    with server(given, "studio"):
        assert answer_at(given, given.urls[0], upgrade_head(path="/c/studio/9000"))[0] == 401


def test_a_script_may_still_refuse_what_such_a_listener_lets_in(make_relay):
    relay = make_relay(listen=["ws://127.0.0.1:0", "ws://127.0.0.1:0?server=studio&port=9000"])
    with server(relay, "studio") as host:
        meets(relay, host, relay.urls[1], 9000)
        relay.load("door", 'relay.on("connect", function() return false, 403, "closed today" end)')
        status, body = answer_at(relay, relay.urls[1], upgrade_head())
        assert (status, body) == (403, b"closed today\n")


# Below a base path


@pytest.fixture(scope="module")
def below():
    with Relay("--base-path", "/relay", "--examples", scripts=[SCRIPTS / "tunnel.lua"]) as relay:
        yield relay


@pytest.mark.parametrize("path, status", [
    ("/relay/healthz", 200), ("/relay/readyz", 200), ("/relay/relay.js", 200), ("/relay/examples/", 200),
    ("/relay/", 426), ("/relay", 426), ("/relay/c/box/1", 426), ("/healthz", 404), ("/", 404), ("/relay.js", 404),
    ("/relayd/", 404), ("/relay//", 404), ("/x/relay/healthz", 404)])
def test_with_a_base_path_everything_is_below_it(below, path, status):
    assert answer(below, head(f"GET {path} HTTP/1.1", "Host: a"))[0] == status


def test_a_redirect_stays_below_whatever_path_the_proxy_shows(below):
    _, received = answer(below, head("GET /relay/examples HTTP/1.1", "Host: a"))
    assert b"\r\nLocation: examples/\r\n" in received


def test_instructions_servers_and_clients_work_below_a_base_path(below):
    for path in ["/relay", "/relay/"]:
        with below.connect(path) as client:
            assert refusal(client, "no such thing")["code"] == "unknown_instruction"
    with server(below, path="/relay") as host, clean(below, host, path="/relay") as (client, channel):
        client.send("hello")
        assert channel.receive() == "hello"


def test_commands_take_a_url_with_a_base_path(below):
    to = below.url + "/relay/"
    for options in [[], ["--app", "default"]]:
        done = below.run("list", "apps", *options, to=to)
        assert done.returncode == 0, done.stderr
    below.invoke("create app", named={"app": "other"}, path="/relay/")
    done = below.run("invoke", "no such thing", "--app", "other", to=to)
    assert "no such thing" in done.stderr and done.returncode == 1, done.stderr
    assert below.run("list", "apps", "--app", "other", to=to + "app/other").returncode != 0
