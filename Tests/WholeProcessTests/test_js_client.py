"""relay.js in Node: client and server, with Node's own WebSocket (and with `ws`), and beside clients that know nothing
of relay.v1."""

import json
import os
import signal
import subprocess
import threading

import pytest
from websockets.exceptions import InvalidStatus

from conditions import DEADLINE, eventually
from relay import ROOT, restart

# `say` tells the test something, one line of JSON; `hear` waits for a line of the test.
PRELUDE = """
import { createInterface } from 'node:readline'
import { Relay, RelayError } from %s
const { url, credential } = JSON.parse(process.argv[1])
const say = (value) => console.log(JSON.stringify(value ?? null))
let lines
const hear = async () => {
    lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]()
    return (await lines.next()).value
}
const message = (channel) => new Promise((resolve) => {
    channel.addEventListener('message', ({ data }) => resolve(data), { once: true })
})
const over = (target) => new Promise((resolve) => { target.addEventListener('close', resolve, { once: true }) })
""" % json.dumps((ROOT / "clients/js/relay.js").as_uri())

OPEN = "const relay = await Relay.open(url, { credential })\n"


NODE = int(subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0])
pytestmark = pytest.mark.skipif(NODE < 20, reason=f"relay.js needs Node 20; this is {NODE}")


def node_options():
    """Node 20 has a WebSocket of its own behind a flag only."""
    return ["--no-warnings"] + ["--experimental-websocket"] * (NODE < 22)


class Program:
    """JavaScript that runs in Node."""

    def __init__(self, relay, source, **given):
        given = {"url": relay.url, "credential": relay.admin, **given}
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": str(relay.state / "tls-certificate.pem")}
        self.process = subprocess.Popen(
            ["node", *node_options(), "--input-type=module", "--eval", PRELUDE + source, json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment if relay.url.startswith("wss") else None)
        self.hang = threading.Timer(3 * DEADLINE, self.process.kill)
        self.hang.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.hang.cancel()
        if kind is not None or self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def heard(self):
        """The next value that it says."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        """Waits until it has ended by itself, without an error."""
        _, problems = self.process.communicate(timeout=3 * DEADLINE)
        assert (self.process.returncode, problems) == (0, "")


@pytest.fixture
def node(relay):
    """Runs a program to its end; returns what it has said."""

    def run(source, **given):
        with Program(relay, source, **given) as program:
            said = [json.loads(line) for line in program.process.stdout]
            program.end()
            return said

    return run


def serving(relay, handler, name="box", **given):
    """A server in Node, registered."""
    program = Program(
        relay, OPEN + f"const server = await relay.listen('{name}', {handler})\nsay('ready')\n"
        "for (let line; (line = await hear()) !== undefined;) await (0, eval)(line)\nrelay.close()", **given)
    assert program.heard() == "ready"
    return program


ECHO = """(channel) => {
    channel.onmessage = ({ data }) => channel.send(data)
    channel.onend = () => channel.end()
}"""


# Both ends


def test_messages_of_every_kind_come_back(node):
    assert node(OPEN + f"await relay.listen('box', {{ ports: [22, [80, 90]] }}, {ECHO})" + """
        const channel = await relay.connect('box', 85)
        const back = []
        channel.onmessage = ({ data }) => back.push(typeof data === 'string' ? data : [...new Uint8Array(data)])
        channel.send('text, ünïcode 🙂')
        channel.send('')
        channel.send(new Uint8Array([0, 255]))
        channel.send(new ArrayBuffer(0))
        channel.send(new Blob(['a', 'b']))
        await channel.end()
        const { code, wasClean } = await over(channel)
        say([back, code, wasClean])
        relay.close()
    """) == [[["text, ünïcode 🙂", "", [0, 255], [], [97, 98]], 1000, True]]


@pytest.mark.parametrize("write", [
    "channel.send(bytes)", "channel.send(new Blob([bytes]))",
    "await new Blob([bytes]).stream().pipeTo(channel.writable)",
])
def test_ten_megabytes_pass_both_ways_at_once(node, write):
    received, sent = node(OPEN + """
        import { createHash, randomBytes } from 'node:crypto'
        const data = [randomBytes(10 << 20), randomBytes(10 << 20)]
        const digest = (bytes) => createHash('sha256').update(bytes).digest('hex')
        const write = async (channel, bytes) => {
            %s
            await channel.end()
        }
        const read = async (channel) => {
            const hash = createHash('sha256')
            for await (const bytes of channel.bytes) hash.update(bytes)
            return hash.digest('hex')
        }
        const served = new Promise((resolve) => {
            relay.listen('box', (channel) => {
                write(channel, data[0])
                resolve(read(channel))
            }).then(async () => {
                const channel = await relay.connect('box', 1)
                write(channel, data[1])
                say([await read(channel), await served])
                say(data.map(digest))
                relay.close()
            })
        })
    """ % write)
    assert received == sent and sent[0] != sent[1]


def test_two_hundred_channels_share_one_connection(node):
    [said] = node(OPEN + f"await relay.listen('box', {ECHO})" + """
        const channels = await Promise.all(Array.from({ length: 200 }, () => relay.connect('box', 1)))
        const answers = await Promise.all(channels.map(async (channel, index) => {
            channel.send(new Uint8Array(20000 + index).fill(index))
            const bytes = new Uint8Array(await message(channel))
            return bytes.length === 20000 + index && bytes.every((byte) => byte === index)
        }))
        say([answers.length, answers.every(Boolean)])
        relay.close()
    """)
    assert said == [200, True]


def test_bulk_does_not_hold_up_a_small_message(node):
    """A message that is sent behind 20 MB on another channel comes before they have all come."""
    [said] = node(OPEN + """
        let bulk = 0
        const order = []
        await relay.listen('box', async (channel) => {
            if (channel.port === 2) {
                channel.onmessage = () => order.push(['small', bulk])
                return
            }
            for await (const bytes of channel.bytes) bulk += bytes.length
            order.push(['bulk', bulk])
            await channel.end()
        })
        const [large, small] = await Promise.all([relay.connect('box', 1), relay.connect('box', 2)])
        large.send(new Uint8Array(20 << 20))
        const sent = large.end()
        small.send('hello')
        await sent
        await over(large)
        say(order)
        relay.close()
    """)
    (first, before), (second, total) = said
    assert (first, second, total) == ("small", "bulk", 20 << 20) and before < 4 << 20


def test_a_writer_waits_for_a_reader_that_does_not_read(relay, node):
    [said] = node(OPEN + """
        const servers = []
        await relay.listen('box', (channel) => { servers.push(channel) })
        const channel = await relay.connect('box', 1)
        const writer = channel.writable.getWriter()
        let written = 0
        const chunk = new Uint8Array(64 << 10)
        const writing = (async () => {
            for (let count = 0; count < 160; count += 1) {
                await writer.ready
                writer.write(chunk).then(() => { written += chunk.length })
            }
            await writer.close()
        })()
        while (channel.bufferedAmount === 0) await new Promise((resolve) => setTimeout(resolve))
        await relay.invoke('channels')
        const stalledAt = written
        let received = 0
        for await (const message of servers[0]) received += message.length
        await writing
        say([stalledAt, received])
        relay.close()
    """)
    stalled_at, received = said
    # What the reader grants, and what the relay may hold of it.
    assert 0 < stalled_at <= 512 << 10 and received == 160 << 16


# Who is refused, and how


def test_every_refusal_says_why(node):
    assert node(OPEN + """
        const codes = []
        const failed = async (promise) => codes.push(await promise.then(() => 'no failure', (error) => error.code))
        await relay.listen('box', { ports: '1-9' }, (channel) => {
            if (channel.port === 1) channel.reject(418, 'a teapot')
            if (channel.port === 2) throw new RelayError(429)
            if (channel.port === 3) return new Promise(() => {})
        })
        await failed(relay.connect('nobody', 1))
        await failed(relay.connect('box', 10))
        await failed(relay.connect('box', 1))
        await failed(relay.connect('box', 2))
        await failed(relay.connect('box', 3, { signal: AbortSignal.timeout(1) }))
        await failed(Relay.open(url, { credential: 'wrong.credential' }))
        await failed(relay.invoke('no such instruction'))
        const { credential: guest } = await relay.invoke('create credential', { rights: ['connect:box:5'] })
        const weak = await Relay.open(url, { credential: guest })
        await failed(weak.connect('box', 6))
        await failed(weak.listen('box', () => {}))
        await weak.connect('box', 5)
        say(codes)
        weak.close()
        relay.close()
    """) == [[502, 404, 418, 429, 23, 1006, "unknown_instruction", 403, 1006]]


def test_the_ids_of_servers_are_names_and_numbers(node):
    assert node(OPEN + """
        for (const id of [0, 9007199254740991, 'a b/c?d#e%', 'é🙂', '007', '-1', 'x'.repeat(255)]) {
            await relay.listen(id, (channel) => { channel.send(`${typeof channel.server} ${channel.server}`) })
                .then(async () => say(await message(await relay.connect(id, 0))), (error) => say(error.code))
        }
        relay.close()
    """) == ["number 0", "number 9007199254740991", 1006, "string é🙂", "string 007", "string -1", "string " + "x" * 255]


# Beside clients that know nothing of channels


def test_a_clean_client_talks_to_a_server_in_node(relay):
    handler = """(channel) => {
        if (channel.port === 2) return channel.reject(418, 'a teapot')
        if (channel.port === 3) return channel.reject(4001, 'no')
        channel.onmessage = ({ data }) => {
            if (data === 'bye') channel.close(4321, 'as you like')
            else if (data === 'end') channel.end()
            else channel.send(data)
        }
        channel.onclose = ({ code, reason }) => say([code, reason])
    }"""
    credential = {"additional_headers": {"Authorization": f"Bearer {relay.admin}"}}
    with serving(relay, handler) as server:
        with relay.connect("/c/box/1", **credential) as client:
            for data in ["text", b"binary", "", os.urandom(3 << 20)]:
                client.send(data)
                assert client.receive() == data
            client.send("bye")
            assert client.closed() == (4321, "as you like")
            assert server.heard() == [4321, "as you like"]
        with relay.connect("/c/box/1", **credential) as client:
            client.send("end")
            assert client.closed()[0] == 1000
            assert server.heard()[0] == 1000
        with relay.connect("/c/box/1", **credential) as client:
            client.connection.close(3000, "done")
            assert server.heard() == [3000, "done"]
        for port, status in [(2, 418), (3, 502)]:
            with pytest.raises(InvalidStatus) as refused:
                relay.connect(f"/c/box/{port}", **credential)
            assert refused.value.response.status_code == status


def test_nodes_own_websocket_is_a_clean_client(relay, node):
    with serving(relay, ECHO):
        assert node("""
            const socket = new WebSocket(`${url}/c/box/1`, ['chat', `bearer.${credential}`])
            socket.binaryType = 'arraybuffer'
            socket.onopen = async () => {
                say(socket.protocol)
                socket.send('hello')
                say(await message(socket))
                socket.send(new Uint8Array(1 << 20).fill(7))
                say(new Uint8Array(await message(socket)).reduce((sum, byte) => sum + byte, 0))
                socket.close(1000)
            }
        """) == ["chat", "hello", 7 << 20]


def test_a_dedicated_connection_is_the_clients_alone(relay):
    handler = """(channel) => {
        const socket = channel.dedicated(['chat'])
        socket.onmessage = ({ data }) => socket.send(`dedicated ${data}`)
        socket.onopen = () => say([socket.protocol, channel.readyState])
        socket.onclose = () => say('closed')
    }"""
    with serving(relay, handler) as server:
        with Program(relay, OPEN + """
            const channel = await relay.connect('box', 1)
            channel.send('hello')
            say(await message(channel))
            channel.close()
            relay.close()
        """) as client:
            assert client.heard() == "dedicated hello"
            client.end()
        assert server.heard() == ["chat", 3]
        assert server.heard() == "closed"
        credential = {"additional_headers": {"Authorization": f"Bearer {relay.admin}"}}
        with relay.connect("/c/box/1", **credential) as client:
            client.send("pipe")
            assert client.receive() == "dedicated pipe"


# Scripts


def test_a_script_makes_a_channel_and_the_client_finds_it_by_its_number(relay, node):
    relay.add("meet", "function(conn, server, port) return relay.connect(conn, server, port, {by = 'script'}) end")
    assert node(OPEN + """
        await relay.listen('box', (channel) => { channel.send(JSON.stringify(channel.metadata)) })
        const number = await relay.invoke('meet', 'box', 1)
        const channel = await relay.channel(number)
        say([number % 2, await message(channel)])
        const lost = await relay.invoke('meet', 'nobody', 1)
        say(lost === null ? 502 : await relay.channel(lost).catch((error) => error.code))
        relay.close()
    """) == [[0, '{"by":"script"}'], 502]


def test_what_a_script_sends_is_a_message(relay, node):
    relay.add("greet", "function(conn, name) conn:send('hello, ' .. name) return {name = name} end")
    assert node(OPEN + """
        const greeting = message(relay)
        say(await relay.invoke('greet', 'you'))
        say(await greeting)
        say(await relay.invoke('remove instruction', { instruction: 'none' }).catch((error) => error.code))
        relay.close()
    """) == [{"name": "you"}, "hello, you", "not_found"]


# Coming back


def test_after_a_restart_the_server_is_there_again(relay):
    handler = """{ ports: 7 }, (channel) => {
        channel.onmessage = ({ data }) => channel.send(data)
    })
    const names = ['open', 'reconnecting', 'drain', 'close']
    for (const name of names) server.addEventListener(name, () => say(name))
    void (0"""
    with serving(relay, handler) as server:
        restart(relay)
        heard = []
        while "open" not in heard:
            heard.append(server.heard())
        assert heard[0] == "drain" and "reconnecting" in heard and "close" not in heard
        assert [[each["server"], each["ports"]] for each in relay.listed("servers")] == [["box", "7"]]
        with Program(relay, OPEN + """
            const channel = await relay.connect('box', 7)
            channel.send('again')
            say(await message(channel))
            relay.close()
        """) as client:
            assert client.heard() == "again"


def test_a_relay_that_is_killed_is_noticed_and_awaited(relay):
    with serving(relay, ECHO + """)
    server.addEventListener('open', () => say('open'))
    void (0""") as server:
        relay.expected_exit = {-signal.SIGKILL}
        relay.process.kill()
        restart(relay)
        relay.expected_exit = {0}
        assert server.heard() == "open"
        assert [each["server"] for each in relay.listed("servers")] == ["box"]


def test_a_relay_that_says_nothing_any_more_is_given_up(relay):
    """Half-open: the process is stopped, so that its sockets stay and nothing answers."""
    with Program(relay, """
        const relay = await Relay.open(url, { credential, pingInterval: 50 })
        relay.onreconnecting = ({ error }) => say([error.code, error.message])
        relay.onopen = () => say('open')
        say('ready')
        await hear()
        relay.close()
    """) as program:
        assert program.heard() == "ready"
        relay.signal(signal.SIGSTOP)
        try:
            assert program.heard() == [1006, "the relay does not answer"]
        finally:
            relay.signal(signal.SIGCONT)
        while program.heard() != "open":
            pass
        program.say("enough")
        program.end()


def test_a_taken_name_is_not_taken_back(node):
    assert node(OPEN + """
        const first = await relay.listen('box', () => {})
        const closed = over(first)
        const second = await relay.listen('box', (channel) => { channel.send('second') })
        say((await closed).code)
        say(await message(await relay.connect('box', 1)))
        say([first.readyState, second.readyState])
        relay.close()
    """) == [4005, "second", [3, 1]]


def test_a_revoked_credential_ends_it(node):
    assert node(OPEN + """
        const { id, credential: guest } = await relay.invoke('create credential', { rights: ['listen:box'] })
        const weak = await Relay.open(url, { credential: guest })
        const server = await weak.listen('box', () => {})
        const ends = [over(weak), over(server)]
        await relay.invoke('revoke credential', { id })
        say((await Promise.all(ends)).map(({ code }) => code))
        relay.close()
    """) == [[4002, 4002]]


def test_who_does_not_read_events_holds_no_more_than_its_credit(relay):
    """A server that takes channels and looks at none of them: the relay's memory does not grow with what is sent."""
    with serving(relay, "() => {}"):
        before = relay.resident_bytes
        with Program(relay, OPEN + """
            const channel = await relay.connect('box', 1)
            channel.send(new Uint8Array(64 << 20))
            while (channel.bufferedAmount > (64 << 20) - (64 << 10)) await new Promise((done) => setTimeout(done))
            say(await relay.invoke('channels'))
            relay.close()
        """) as client:
            [channel] = client.heard()
            assert channel["bytesToServer"] <= 256 << 10
            assert relay.peak_bytes - before < 8 << 20
            client.end()


# With another WebSocket, and TLS


def test_a_websocket_can_be_given(node):
    assert node("""
        import { createRequire } from 'node:module'
        const WebSocket = createRequire(import.meta.url)('/usr/share/nodejs/ws')
        const relay = await Relay.open(url, { credential, WebSocket })
    """ + f"await relay.listen('box', {ECHO})" + """
        const channel = await relay.connect('box', 1)
        channel.send(new Uint8Array(5 << 20))
        say((await message(channel)).byteLength)
        say(await Relay.open(url, { credential: 'wrong.one', WebSocket }).catch(({ message }) => message))
        relay.close()
    """) == [5 << 20, "Unexpected server response: 401"]


@pytest.mark.parametrize("path", ["/relay", "/relay/"])
def test_it_works_below_a_path(make_relay, path):
    relay = make_relay("--base-path", "/relay")
    source = OPEN + f"await relay.listen('box', {ECHO})" + """
        const channel = await relay.connect('box', 22)
        channel.send('hello')
        say(await message(channel))
        relay.close()
    """
    with Program(relay, source, url=relay.url + path) as program:
        assert program.heard() == "hello"
        program.end()


def test_it_works_over_tls(make_relay):
    relay = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"])
    with Program(relay, OPEN + f"await relay.listen('box', {ECHO})" + """
        const channel = await relay.connect('box', 1)
        channel.send(new Uint8Array(5 << 20))
        say((await message(channel)).byteLength)
        relay.close()
    """) as program:
        assert program.heard() == 5 << 20
        program.end()
