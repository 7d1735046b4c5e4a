"""The first document, from end to end: Caffeine makes a tunnel relay of a node-livecode server by adding six
instructions to it, and two browsers talk through that. The messages are those of the original; the bodies are Lua."""

import json

import pytest

from relay import refusal

DELIMITER = "\x1f"

# What the document's NodeJSTunnelingClient adds, in its order.
BODIES = {
    "initialize": """function (conn)
        servers, clients, serverCredentials = {}, {}, {}
        delimiter = '\\u{1F}'
        return 'initialized tunnel relay' end""",
    "create server credential": """function (conn)
        local credential = math.random(0, 9999)
        serverCredentials[#serverCredentials + 1] = credential
        conn:send((#serverCredentials - 1) .. ' ' .. credential)
        return 'created server credential' end""",
    "install server": """function (conn, serverID, credential)
        if serverCredentials[serverID + 1] == credential then
            servers[serverID] = conn
            conn.data.serverID = serverID
            conn:send('1')
            return 'installed server'
        else
            conn:send('0')
            return 'bad credential' end end""",
    "connect to server": """function (conn, serverID, port)
        if servers[serverID] then
            clients[#clients + 1] = conn
            conn.data.channel = #clients - 1
            servers[serverID]:send('connected:atPort:for: ' .. #clients - 1 .. delimiter .. port .. delimiter
                .. conn.remoteAddress)
            conn:send('1')
            return 'connected client'
        else
            conn:send('0')
            return 'server not connected' end end""",
    "forward to client": """function (conn, channel, data)
        if clients[channel + 1] then
            clients[channel + 1]:send('from:data: ' .. conn.data.serverID .. delimiter .. data)
            conn:send('1')
            return 'sent data to client'
        else
            conn:send('0')
            return 'no such client channel' end end""",
    "forward to server": """function (conn, channel, data)
        if servers[channel] then
            servers[channel]:send('from:data: ' .. conn.data.channel .. delimiter .. data)
            conn:send('1')
            return 'sent data to server'
        else
            conn:send('0')
            return 'no such server channel' end end""",
}

# The console of the document.
CONSOLE = """\
server: received command 'add instruction'
server: adding instruction 'initialize'
server: received command 'initialize'
server: evaluating added instruction 'initialize'
server: initialized tunnel relay
server: received command 'add instruction'
server: adding instruction 'create server credential'
server: received command 'add instruction'
server: adding instruction 'install server'
server: received command 'add instruction'
server: adding instruction 'connect to server'
server: received command 'add instruction'
server: adding instruction 'forward to client'
server: received command 'add instruction'
server: adding instruction 'forward to server'
""".splitlines()


class Caffeine:
    """A NodeJSLivecodingClient: messages without ids, everything that comes is a text in the order of events."""

    def __init__(self, client, credential=None):
        self.client, self.credential = client, credential

    def send(self, instruction, parameters):
        message = {"instruction": instruction, "parameters": parameters}
        if self.credential is not None:
            message["credential"] = self.credential
        self.client.send(json.dumps(message))

    def add(self, name, body):
        self.send("add instruction", {"instructionToAdd": name, "body": body})

    def lines(self, count):
        return [self.client.receive() for _ in range(count)]

    def call(self, name, *parameters):
        """What an added instruction answers, between the lines about it: [its own texts], what it returned."""
        self.send(name, list(parameters))
        assert self.lines(2) == [f"server: received command '{name}'", f"server: evaluating added instruction '{name}'"]
        texts = []
        while not (text := self.client.receive()).startswith("server: "):
            texts.append(text)
        return texts, text.removeprefix("server: ")


@pytest.fixture(params=["listener", "subprotocol"])
def livecode(request, make_relay):
    """Makes connections to a relay as Caffeine expects one."""
    if request.param == "listener":
        relay, options = make_relay(listen=["ws://127.0.0.1:0?livecode=1"], loops=2), {}
    else:
        relay, options = make_relay(loops=2), {"subprotocols": ["livecode.v0"]}

    def connect(credential=None):
        return Caffeine(relay.connect(**options), credential)

    connect.relay = relay
    return connect


def configure(livecode):
    """The document's configureServerAt:withCredential:."""
    configurator = livecode(livecode.relay.admin)
    for name, body in BODIES.items():
        configurator.add(name, body)
        if name == "initialize":
            configurator.send("initialize", [])
    return configurator


def test_the_console_lines_come_as_texts_in_the_document_s_order(livecode):
    with configure(livecode).client as client:
        assert [client.receive() for _ in CONSOLE] == CONSOLE


def test_two_browsers_talk_through_the_tunnel(livecode):
    with configure(livecode).client as client:
        assert [client.receive() for _ in CONSOLE] == CONSOLE
    server, browser = livecode(), livecode()
    with server.client, browser.client:
        (answer,), line = server.call("create server credential")
        assert line == "created server credential"
        server_id, credential = map(int, answer.split(" "))
        assert server.call("install server", server_id, credential + 1) == (["0"], "bad credential")
        assert server.call("install server", server_id, credential) == (["1"], "installed server")
        assert browser.call("connect to server", server_id + 1, 4000) == (["0"], "server not connected")
        assert browser.call("connect to server", server_id, 4000) == (["1"], "connected client")
        assert server.client.receive() == f"connected:atPort:for: 0{DELIMITER}4000{DELIMITER}127.0.0.1"
        for text in ["hello", "", "ünï çødé 🐈", "x" * 100_000]:
            assert browser.call("forward to server", server_id, text) == (["1"], "sent data to server")
            assert server.client.receive() == f"from:data: 0{DELIMITER}{text}"
            assert server.call("forward to client", 0, text) == (["1"], "sent data to client")
            assert browser.client.receive() == f"from:data: {server_id}{DELIMITER}{text}"
        assert server.call("forward to client", 7, "who?") == (["0"], "no such client channel")
        assert browser.call("forward to server", 7, "who?") == (["0"], "no such server channel")


def test_an_instruction_is_replaced_while_the_tunnel_is_in_use(livecode):
    configurator = configure(livecode)
    server, browser = livecode(), livecode()
    with configurator.client, server.client, browser.client:
        configurator.lines(len(CONSOLE))
        (answer,), _ = server.call("create server credential")
        server_id, credential = map(int, answer.split(" "))
        server.call("install server", server_id, credential)
        browser.call("connect to server", server_id, 1)
        server.client.receive()
        louder = BODIES["forward to server"].replace(".. data)", ".. data:upper())")
        configurator.add("forward to server", louder)
        assert configurator.lines(2)[1] == "server: adding instruction 'forward to server'"
        configurator.send("nothing of this name", [])  # What comes before its answer, the change has led to.
        assert configurator.lines(2)[1] == "server: rejected command 'nothing of this name'"
        assert browser.call("forward to server", server_id, "quiet")[1] == "sent data to server"
        assert server.client.receive() == f"from:data: 0{DELIMITER}QUIET"


@pytest.mark.parametrize("body, head", [
    ("function () {\n  global.servers = []\n  return 'initialized tunnel relay'}", "function(conn) ... end"),
    ("function (serverID, credential) {\n  if (serverCredentials[serverID] == credential) { return 1 }}",
     "function(conn, serverID, credential) ... end"),
    ("(channel, data) => { this.send('1') }", "function(conn, channel, data) ... end"),
    ("async function connect( serverID,port , $req ) {}", "function(conn, serverID,port , $req) ... end"),
    ("function ({ a, b }, c = [1]) { return a }", "function(conn) ... end"),
])
def test_a_body_in_javascript_is_refused_with_the_lua_form_of_its_head(livecode, body, head):
    relay = livecode.relay
    with relay.operator() as client:
        error = refusal(client, "add instruction", named={"instructionToAdd": "initialize", "body": body})
        assert error["code"] == "compile_error"
        assert error["message"].endswith(f"(this looks like JavaScript; in Lua this function is written {head})")
        assert client.request("instructions") == []
    # Without an id, as Caffeine sends it, the reason is a line.
    caffeine = livecode(relay.admin)
    with caffeine.client:
        caffeine.add("initialize", body)
        lines = caffeine.lines(3)
        assert lines[:2] == CONSOLE[:2]
        assert lines[2].startswith("server: initialize:") and head in lines[2]


def test_modules_that_were_sent_are_required_by_instructions(livecode):
    caffeine = livecode(livecode.relay.admin)
    with caffeine.client:
        caffeine.send("require", {
            "module": "frames", "source": "return { join = function(...) return table.concat({...}, '|') end }"})
        assert caffeine.lines(1) == ["server: received command 'require'"]
        caffeine.add("join", "function (conn, a, b) conn:send(require('frames').join(a, b)) return 'joined' end")
        assert caffeine.lines(2)[1] == "server: adding instruction 'join'"
        assert caffeine.call("join", "a", "b") == (["a|b"], "joined")
        caffeine.add("lost", "function (conn) return require('left-pad') end")
        caffeine.lines(2)
        assert "module 'left-pad' is not loaded" in caffeine.call("lost")[1]


def test_who_has_no_credential_or_a_wrong_one_adds_nothing(livecode):
    """node-livecode takes what a wrong credential asks for as a call of an added instruction; relayd does not."""
    for credential in [None, "shared secret"]:
        stranger = livecode(credential)
        with stranger.client:
            stranger.add("initialize", BODIES["initialize"])
            stranger.client.send("{ no JSON")
            assert stranger.lines(3) == [
                "server: received command 'add instruction'", "server: rejected command 'add instruction'",
                "server: rejected malformed command{ no JSON"]
    assert livecode.relay.listed("instructions") == []
