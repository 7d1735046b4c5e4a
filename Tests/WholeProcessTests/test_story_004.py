"""The fourth document, from end to end: stream servers in the browser. Tabs of Chromium listen under names and connect
to them, through scripts/stream-server.lua; old clients of mux-demux do so through scripts/mux-demux.lua."""

import json

import pytest
from websockets.exceptions import InvalidStatus

from browser import Browser
from channels import Closed, Peer, bearer, begun, no_channel_is_left, server
from conditions import eventually
from links import leads, listening, to
from mux_demux import MuxDemux
from relay import SCRIPTS, Relay, restart
from test_js_client import NODE, Program

NAMED = [SCRIPTS / "stream-server.lua", SCRIPTS / "mux-demux.lua"]
MINUTE = {"handshakeTimeout": "60s"}
TAKEN = 4409

# The document's two programs, in today's words.
SERVER = """
    window.heard = []
    window.server = await relay.listen('SERVER_NAME', { through: 'listen' }, (stream) => {
        stream.onmessage = ({ data }) => heard.push(data)
        stream.send('from server')
    })
"""
CLIENT = """
    window.heard = []
    window.stream = await relay.connect('SERVER_NAME')
    stream.onmessage = ({ data }) => heard.push(data)
    stream.send('from client')
"""


@pytest.fixture(scope="module")
def site():
    with Relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], scripts=NAMED, loops=2) as relay:
        yield relay


@pytest.fixture(scope="module")
def chromium(site):
    browser = Browser(site.state / "tls-certificate.pem")
    yield browser
    browser.close()


@pytest.fixture
def tab(site, chromium):
    """Makes tabs with an open `relay` of their own, that has no credential."""
    origin = site.url.replace("wss://", "https://").rstrip("/")

    def make():
        tab = chromium.tab(f"{origin}/healthz")
        tab.run("""
            Object.assign(window, await import(given.client))
            window.relay = await Relay.open(given.url)
            window.events = []
            relay.onmessage = ({ data }) => events.push(JSON.parse(data))
        """, client=f"{origin}/relay.js", url=site.url)
        return tab

    yield make
    chromium.close_tabs()
    eventually(lambda: site.listed("servers") == [], "the tabs' servers have gone")


def hears(tab, expected):
    eventually(lambda: tab.run("return heard") == expected, f"the tab hears {expected}")


def test_a_tab_serves_and_another_connects(tab):
    host, guest = tab(), tab()
    host.run(SERVER)
    guest.run(CLIENT)
    hears(host, ["from client"])
    hears(guest, ["from server"])


def test_a_name_that_is_taken_closes_the_second(tab):
    host, second = tab(), tab()
    host.run(SERVER)
    error = second.run("""
        try { await relay.listen('SERVER_NAME', { through: 'listen' }, () => {}) } catch (error) { return error }
    """)
    assert error["code"] == TAKEN
    second.run(CLIENT)  # The first is still the one.
    hears(host, ["from client"])
    host.run("server.close()")
    eventually(lambda: second.run("""
        try { await relay.listen('SERVER_NAME', { through: 'listen' }, () => {}); return true } catch { return false }
    """), "the name is free")


def test_an_absent_one_closes_the_client(tab):
    guest = tab()
    assert guest.run("try { await relay.connect('NOBODY') } catch (error) { return error.code }") == 401
    assert guest.run("""
        const socket = new WebSocket(given.url + '/c/NOBODY/0')
        return await new Promise((resolve) => { socket.onclose = (event) => resolve(event.wasClean) })
    """, url=guest.run("return location.origin.replace('https', 'wss')")) is False
    host = tab()
    host.run(SERVER)
    guest.run(CLIENT + "stream.onclose = ({ code }) => heard.push(code)")
    host.close()
    hears(guest, ["from server", 4004])


def test_streams_are_piped_with_back_pressure(tab):
    host, guest = tab(), tab()
    host.run("""
        await relay.listen('echo', { through: 'listen' }, (stream) => {
            stream.readable.pipeTo(stream.writable)
        })
    """)
    assert guest.run("""
        const stream = await relay.connect('echo')
        const source = new ReadableStream({
            start(controller) { this.left = 64 },
            pull(controller) {
                if (this.left-- === 0) return controller.close()
                controller.enqueue(new Uint8Array(64 << 10).fill(this.left))
            },
        })
        source.pipeTo(stream.writable)
        let bytes = 0
        for await (const chunk of stream.readable) bytes += chunk.length
        return bytes
    """) == 64 * (64 << 10)


def test_each_client_can_have_a_connection_of_its_own(tab):
    """The way of the document: the server opens another connection for each client."""
    host, guest = tab(), tab()
    host.run("""
        window.heard = []
        await relay.listen('SERVER_NAME', { through: 'listen' }, (stream) => {
            const own = stream.dedicated()
            own.onopen = () => own.send('from server')
            own.onmessage = ({ data }) => heard.push(data)
        })
    """)
    guest.run(CLIENT)
    hears(host, ["from client"])
    hears(guest, ["from server"])


def test_tabs_that_watch_are_told_of_servers(tab):
    watcher, host = tab(), tab()
    assert watcher.run("return await relay.invoke('watch servers')") == {"servers": {}}
    host.run(SERVER)
    told = [{"event": "server.created", "server": "SERVER_NAME"}]
    eventually(lambda: watcher.run("return events") == told, "it is told of the first")
    assert list(host.run("return await relay.invoke('watch servers')")["servers"]) == ["SERVER_NAME"]
    host.crash()
    told.append({"event": "server.destroyed", "server": "SERVER_NAME"})
    eventually(lambda: watcher.run("return events") == told, "it is told that it has gone")
    assert watcher.run("return await relay.invoke('watch servers')") == {"servers": {}}


def test_a_server_comes_back_under_its_name(make_relay):
    relay = make_relay(scripts=NAMED)
    if NODE < 20:
        pytest.skip("relay.js needs Node 20")
    with Program(relay, """
        const relay = await Relay.open(url, { minimumDelay: 50 })
        const server = await relay.listen('box', { through: 'listen', ports: [0, [5, 7]] }, (stream) => {
            stream.onmessage = ({ data }) => stream.send(`${stream.port} heard ${data}`)
        })
        server.onopen = () => say('again')
        say('listening')
        await hear()
        relay.close()
    """) as program:
        assert program.heard() == "listening"
        with relay.connect("/c/box/6") as client:
            client.send("hello")
            assert client.receive() == "6 heard hello"
        with pytest.raises(InvalidStatus, match="404"):
            relay.connect("/c/box/8")
        restart(relay)
        assert program.heard() == "again"
        eventually(lambda: [entry["server"] for entry in relay.listed("servers")] == ["box"], "it listens again")
        with relay.connect("/c/box/0") as client:
            client.send("you")
            assert client.receive() == "0 heard you"
        program.say("done")
        program.end()


# Clients in Python

@pytest.fixture
def relay(make_relay):
    return make_relay(scripts=NAMED, limits=MINUTE, loops=2)


def anonymous(relay, name):
    """Listens as anybody can; the connection and the reply."""
    host = Peer(relay.connect(subprotocols=["relay.v1"], max_queue=None))
    return host, host.request("listen", name)


def test_anybody_listens_and_anybody_connects(relay):
    host, reply = anonymous(relay, "box")
    with host:
        assert reply["result"] == {"server": "box", "listening": True}
        client = begun(relay.connect, "/c/box/0")
        far = host.opened().accept()
        with client.result(20) as client:
            client.send("hi")
            assert far.receive() == "hi"
        # A server that was registered with a credential is not everybody's.
        with server(relay, "private"), pytest.raises(InvalidStatus, match="401"):
            relay.connect("/c/private/0")
        # Nor can its name be taken, or its holder be made to leave.
        with server(relay, "private") as private:
            with pytest.raises(Closed, match=str(TAKEN)):
                anonymous(relay, "private")
            private.settle()
        assert host.request("stop listening", "private")["result"]["wasListening"] is False
        assert host.request("stop listening", "box")["result"]["wasListening"] is True
        for headers, status in [({}, 401), (bearer(relay), 502)]:
            with pytest.raises(InvalidStatus, match=str(status)):
                relay.connect("/c/box/0", additional_headers=headers)


@pytest.mark.parametrize("name", [1, None, "", "x" * 256, ["a"], True])
def test_names_that_are_none(relay, name):
    host, reply = anonymous(relay, name)
    with host:
        assert "error" in reply
    with relay.connect() as plain:
        assert plain.ask("listen", "box")["error"]["code"] == "script_error"
        assert plain.ask("watch servers")["result"] == {"servers": {}}


def test_the_relay_talks_to_a_server(relay):
    """proxy.connect of the document."""
    host, _ = anonymous(relay, "box")
    with host, relay.operator() as operator:
        result = operator.request("say to server", "box", "are you there?")
        assert result["connected"] is True
        far = host.opened().accept()
        assert (far.fields["remoteAddress"], far.receive()) == ("relay", "are you there?")
        far.send("yes")
        assert operator.receive_json() == {"event": "server.said", "server": "box", "text": "yes"}
        far.close(1000, "that is all")
        assert operator.receive_json() == {
            "event": "server.left", "server": "box", "code": 1000, "reason": "that is all"}
        assert operator.request("say to server", "nobody", "?")["reason"] == "not_found"
    with relay.connect() as stranger:
        assert stranger.ask("say to server", "box", "?")["error"]["code"] == "forbidden"


# mux-demux

@pytest.fixture
def mdm(relay):
    opened = []

    def make():
        opened.append(MuxDemux(relay.connect(max_queue=None)))
        return opened[-1]

    yield make
    for mux in opened:
        mux.client.close()


def test_the_document_s_story_over_mux_demux(relay, mdm):
    browser, other = mdm(), mdm()
    listening = browser.listen("SERVER_NAME")
    browser.settle()
    client = other.connect("SERVER_NAME")
    client.write("from client")
    stream = browser.pick_up(listening, "SERVER_NAME")
    stream.write("from server")
    assert (stream.data(), client.data()) == ("from client", "from server")
    for value in [1, -0.5, None, True, [], {}, {"deep": [1, {"x": "ü\n\"]"}]}, "\n", ""]:
        client.write(value)
        assert stream.data() == value
        stream.write(value)
        assert client.data() == value
    client.end()
    assert stream.data() is None
    browser.settle()
    other.settle()
    assert not other.unknown and not browser.unknown


def test_names_are_free_taken_or_absent_over_mux_demux(relay, mdm):
    browser, other = mdm(), mdm()
    listening = browser.listen("box")
    browser.settle()
    assert other.listen("box").data() is None
    assert other.connect("nobody").data() is None
    assert [entry["server"] for entry in relay.listed("servers")] == ["box"]
    with relay.connect() as watcher:
        watcher.request("watch servers")
        listening.end()
        browser.settle()
        assert watcher.receive_json() == {"event": "server.destroyed", "server": "box"}
        taken = other.listen("box")
        other.settle()
        assert not taken.ended
        assert watcher.receive_json() == {"event": "server.created", "server": "box"}
    # One held by a client of relay.v1 is taken, too.
    host, _ = anonymous(relay, "modern")
    with host:
        assert browser.listen("modern").data() is None


def test_who_goes_ends_the_streams_of_others(relay, mdm):
    browser, other, third = mdm(), mdm(), mdm()
    listening = browser.listen("box")
    browser.settle()
    paired, waiting = other.connect("box"), other.connect("box")
    stream = browser.pick_up(listening, "box")
    stream.write("hello")
    assert paired.data() == "hello"
    assert third.create(f"/browser-server/server/box/client/{listening.data()}").data() is None  # Not its server.
    browser.client.close()
    assert paired.data() is None and waiting.data() is None
    assert other.connect("box").data() is None
    eventually(lambda: relay.evaluate("next(muxServers) == nil and next(muxClients) == nil"), "nothing is kept")


def test_mux_demux_clients_reach_servers_of_relay_v1(relay, mdm):
    host, _ = anonymous(relay, "modern")
    browser = mdm()
    with host:
        client = browser.connect("modern")
        client.write("from client")
        client.write({"a": [1]})
        far = host.opened().accept()
        assert far.receive() == "from client" and json.loads(far.receive()) == {"a": [1]}
        far.send("from server")
        assert client.data() == "from server"
        far.close()
        assert client.data() is None
        client = browser.connect("modern")
        far = host.opened().accept()
        client.end()
        assert far.closed()[0] == 1000
    no_channel_is_left(relay)


def test_nobody_without_a_credential_reaches_other_servers(relay, mdm):
    browser = mdm()
    with server(relay, "private") as private, relay.connect() as anybody:
        assert browser.connect("private").data() is None
        assert anybody.ask("listen", "private")["error"]["code"] == "script_error"
        with pytest.raises(InvalidStatus, match="401"):
            relay.connect("/c/private/0")
        private.settle()
        assert not private.new


def test_nobody_without_a_credential_reaches_servers_of_linked_relays(make_relay):
    with listening() as far, server(far, "far") as host:
        near = make_relay("--connect", to(far), scripts=NAMED)
        leads(near, "far")
        with pytest.raises(InvalidStatus, match="401"):
            near.connect("/c/far/0")
        with MuxDemux(near.connect()) as browser:
            assert browser.connect("far").data() is None
        host.settle()
        assert not host.new
        with near.operator() as operator:  # Who may is the relay itself.
            assert operator.request("say to server", "far", "hello")["connected"] is True
            channel = host.opened().accept()
            assert (channel.fields["remoteAddress"], channel.receive()) == ("relay", "hello")
            channel.send("from afar")
            assert operator.receive_json()["text"] == "from afar"
            channel.close(4321, "bye")
            assert operator.receive_json()["code"] == 4321


def test_lines_may_be_cut_and_joined(relay, mdm):
    browser, other = mdm(), mdm()
    listening = browser.listen("box")
    browser.settle()
    new = json.dumps(["a", "new", {"meta": "/browser-server/client/box/x", "opts": {}}]) + "\n"
    lines = new.replace('", ', '",') + "".join(f'["a","data",{count}]\n' for count in range(500))
    for at in range(0, len(lines), 997):
        other.client.send(lines[at:at + 997])
    stream = browser.pick_up(listening, "box")
    assert [stream.data() for _ in range(500)] == list(range(500))


@pytest.mark.parametrize("text, code", [
    ('["a","data"\n', 1007), ('["a"]\n', 1007), ('[1,"data",2]\n', 1007), ('["a",1]\n', 1007), ("[]\n", 1007),
    ('["a","data",1]]\n', 1007), ('["a\\"","end"]\n', 1007), ("[" * 1000 + "\n", 1007),
    (b'["a","data","\xff"]\n', 1007),
])
def test_what_is_no_line_closes_its_sender_only(relay, mdm, text, code):
    browser, other = mdm(), mdm()
    listening = browser.listen("box")
    browser.settle()
    other.client.send(text)
    assert other.client.closed()[0] == code
    browser.settle()
    assert not listening.ended


@pytest.mark.parametrize("meta", [None, 1, {}, "", "/other", "/browser-server/", "/browser-server/server/",
                                  "/browser-server/client/box", "/browser-server/server/a/b/c",
                                  "/browser-server/server/" + "x" * 256, "/browser-server/server/a/client/none"])
def test_streams_for_nothing_are_ended(mdm, meta):
    assert mdm().create(meta).data() is None


def test_mux_demux_is_bounded(relay, mdm):
    browser, other = mdm(), mdm()
    listening = browser.listen("box")
    browser.settle()
    waiting = other.connect("box")
    for _ in range(2_000):
        other.client.send(f'["{waiting.id}","data","{"x" * 100}"]\n')
    assert waiting.data() is None  # More than waits for a server that does not come.
    streams = [other.connect("box") for _ in range(1_100)]
    other.settle()  # Itself refused, since there are too many.
    assert sum(stream.ended for stream in streams) >= 100
    flood = mdm()
    for _ in range(40):
        flood.client.send("[" + "x" * (100 << 10))
    assert flood.client.closed()[0] == 1009
    assert not listening.ended
