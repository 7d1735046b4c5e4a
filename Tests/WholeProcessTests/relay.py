"""One relayd process under test, and clients for it."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading

import websockets.sync.client
from websockets.exceptions import ConnectionClosed

from conditions import DEADLINE, eventually
from wire import Raw

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELAYD = pathlib.Path(os.environ.get("RELAYD") or ROOT / ".build/release/relayd").absolute()
SCRIPTS = ROOT / "scripts"
TEST_SCRIPTS = pathlib.Path(__file__).resolve().parent / "scripts"

# DESIGN §6, but for those of a later version.
BUILT_INS = [
    "add instruction", "remove instruction", "invoke", "eval", "load script", "unload script", "require", "modules",
    "instructions", "servers", "connections", "channels", "apps", "links", "close connection", "create app", "remove app",
    "create credential", "revoke credential",
]

CRASH = re.compile(r"Fatal error|Crash|Backtrace|precondition|AddressSanitizer|ThreadSanitizer|Segmentation", re.I)


class Refused(Exception):
    """An error reply."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data", {})


class Client:
    """A WebSocket connection made with the `websockets` package."""

    def __init__(self, connection):
        self.connection = connection
        self.waiting = []
        self.ids = itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, message):
        self.connection.send(message)

    def send_json(self, value):
        self.connection.send(json.dumps(value))

    def receive(self):
        """The next message."""
        if self.waiting:
            return self.waiting.pop(0)
        return self.connection.recv(timeout=DEADLINE)

    def receive_json(self):
        return json.loads(self.receive())

    def ask(self, instruction, *positional, credential=None, named=None):
        """Sends a request with an id and returns the whole reply; other messages wait for `receive`."""
        request = {"instruction": instruction, "id": f"request {next(self.ids)}"}
        if named is not None:
            request["parameters"] = named
        elif positional:
            request["parameters"] = list(positional)
        if credential is not None:
            request["credential"] = credential
        self.send_json(request)
        return self.reply(request["id"])

    def reply(self, identifier):
        while True:
            message = self.connection.recv(timeout=DEADLINE)
            if isinstance(message, str) and message.startswith('{"id":'):
                reply = json.loads(message)
                if reply["id"] == identifier:
                    assert ("result" in reply) != ("error" in reply), message
                    return reply
            self.waiting.append(message)

    def request(self, instruction, *positional, credential=None, named=None):
        """The result of a request; raises `Refused` for an error."""
        reply = self.ask(instruction, *positional, credential=credential, named=named)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]

    def messages(self):
        """Everything that has arrived by now: a request that the relay refuses is sent, and what comes before its
        answer is what there is."""
        reply = self.ask("no instruction has this name")
        assert reply["error"]["code"] == "unknown_instruction", reply
        waiting, self.waiting = self.waiting, []
        return waiting

    def closed(self):
        """Waits until the relay has closed; returns (code, reason) of its close frame."""
        try:
            while True:
                self.waiting.append(self.connection.recv(timeout=DEADLINE))
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")

    def close(self):
        self.connection.close()


class Relay:
    """Starts relayd on free ports with a state directory of its own; ends it, and fails if it has crashed."""

    def __init__(
        self, *options, listen=("ws://127.0.0.1:0",), scripts=(), limits=None, loops=1, state=None, wrapper=(),
        environment=None, log_level="debug", drain="200ms", starts=True, stderr=None,
    ):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="relayd-test-"))
        self.state = pathlib.Path(state) if state else self.directory / "state"
        self.log_file = self.directory / "log"
        self.wrapper = list(wrapper)
        # RELAYD_IO chooses the backend that the whole suite is about.
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("RELAYD") or key == "RELAYD_IO"}
        self.environment.update(environment or {})
        self.stderr = stderr
        self.starts = starts
        self.expected_exit = {0}
        self.process = None
        self.urls = []
        self.arguments = ["serve", "--state", str(self.state), "--loops", str(loops), "--log-level", log_level]
        self.arguments += ["--drain-timeout", drain]
        for url in listen:
            self.arguments += ["--listen", url]
        for script in scripts:
            self.arguments += ["--script", str(script)]
        for name, value in (limits or {}).items():
            self.arguments += ["--limit", f"{name}={value}"]
        self.arguments += [str(option) for option in options]
        self.listeners = len(listen)

    # Starting and ending

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.clean_up()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            self.stop(checks=kind is None)
        finally:
            self.clean_up()

    def start(self):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, str(RELAYD), *self.arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=self.stderr if self.stderr is not None else log, env=self.environment, text=True)
        if not self.starts:
            return
        hang = threading.Timer(DEADLINE, self.process.kill)
        hang.start()
        self.urls = []
        for _ in range(self.listeners):
            line = self.process.stdout.readline()
            assert line, f"relayd did not start (exit code {self.process.wait()}):\n{self.log}"
            assert line.startswith("listening ") and line.endswith("\n"), line
            self.urls.append(line.split(" ", 1)[1].rstrip("\n"))
        hang.cancel()

    def stop(self, checks=True):
        if self.process is None or self.process.stdout.closed:
            return
        if self.process.poll() is None and self.starts:
            self.process.send_signal(signal.SIGTERM)
        hung = False
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            hung = True
            self.process.kill()
            self.process.wait()
        rest = self.process.stdout.read()
        self.process.stdout.close()
        if not checks:
            return
        log = self.log
        crash = CRASH.search(log)
        assert not crash, f"relayd crashed:\n{log[max(0, crash.start() - 500):crash.start() + 3000]}"
        assert not hung, f"relayd did not end after SIGTERM:\n{log[-3000:]}"
        assert self.process.returncode in self.expected_exit, (
            f"relayd ended with {self.process.returncode}:\n{log[-3000:]}")
        assert rest == "", f"standard output has more than the listening lines: {rest!r}"

    def wait(self):
        """Waits for a process that ends by itself; returns its exit code."""
        return self.process.wait(DEADLINE)

    def clean_up(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def signal(self, number):
        self.process.send_signal(number)

    # Facts

    @property
    def url(self):
        return self.urls[0]

    @staticmethod
    def port_of(url):
        return int(re.fullmatch(r"wss?://[^/]*:(\d+)/?(\?.*)?", url).group(1))

    @property
    def port(self):
        return self.port_of(self.url)

    @property
    def log(self):
        return self.log_file.read_text(errors="replace")

    def logs(self, text):
        """Waits until the log has the text."""
        eventually(lambda: text in self.log, f"the log says {text!r}")

    @property
    def admin(self):
        return (self.state / "admin.credential").read_text().strip()

    @property
    def pid(self):
        return self.process.pid

    def _status(self, field):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) << 10

    @property
    def resident_bytes(self):
        return self._status("VmRSS")

    @property
    def peak_bytes(self):
        return self._status("VmHWM")

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def is_alive(self):
        return self.process.poll() is None

    # Clients

    def connect(self, path="/", url=None, **options):
        """A client of the `websockets` package."""
        url = url or self.url
        if url.startswith("wss:"):
            options.setdefault("ssl", trusting_anything())
            # This client reads in a thread of its own, and Python before 3.13 does not keep that apart from writing:
            # with TLS 1.3 the relay's session tickets come just when the client writes its request, which can then
            # be lost. The tests of TLS 1.3 use one thread.
            options["ssl"].maximum_version = ssl.TLSVersion.TLSv1_2
        options.setdefault("ping_interval", None)
        options.setdefault("max_size", None)
        options.setdefault("open_timeout", DEADLINE)
        options.setdefault("close_timeout", DEADLINE)
        base, _, query = url.partition("?")
        target = base.rstrip("/") + path
        if query and "?" not in path:
            target += "?" + query
        # Entered by hand: some versions of the package want `connect` used as a context manager only.
        return Client(websockets.sync.client.connect(target, **options).__enter__())

    def raw(self, url=None, upgraded=False, tls=None, **options):
        """A connection for bytes. `upgraded` makes the WebSocket handshake with `options`."""
        url = url or self.url
        connected = socket.create_connection(("127.0.0.1", self.port_of(url)), DEADLINE)
        if url.startswith("wss:") and tls is None:
            tls = trusting_anything()
        raw = Raw(connected, tls or None)
        if upgraded:
            raw.handshake(**options)
        return raw

    @contextlib.contextmanager
    def operator(self, path="/", **options):
        """A client that presented the admin credential at the handshake."""
        headers = {"Authorization": f"Bearer {self.admin}"}
        with self.connect(path, additional_headers=headers, **options) as client:
            yield client

    def invoke(self, instruction, *positional, named=None, path="/"):
        """One request with the admin credential, on a connection of its own."""
        with self.connect(path) as client:
            return client.request(instruction, *positional, credential=self.admin, named=named)

    def add(self, name, body, path="/", **options):
        return self.invoke("add instruction", named={"instructionToAdd": name, "body": body, **options}, path=path)

    def load(self, name, source, path="/", **options):
        return self.invoke("load script", named={"name": name, "source": source, **options}, path=path)

    def evaluate(self, body, path="/"):
        return self.invoke("eval", named={"body": body}, path=path)

    def listed(self, kind, path="/"):
        return self.invoke(kind, path=path)

    # The command line

    def run(self, *arguments, to=None, credential=True, environment=None, stdin=None):
        """Runs a relayd command against this relay; returns the finished process."""
        values = dict(self.environment)
        values["RELAYD_URL"] = to or self.url
        if credential:
            values["RELAYD_CREDENTIAL"] = self.admin
        values.update(environment or {})
        return run_relayd(*arguments, environment=values, stdin=stdin, cwd=self.directory)


def run_relayd(*arguments, environment=None, stdin=None, cwd=None):
    return subprocess.run(
        [str(RELAYD), *map(str, arguments)], env=environment, input=stdin, capture_output=True, text=True,
        timeout=4 * DEADLINE, cwd=cwd)


def is_free(port):
    with socket.socket() as probe:
        # As the relay does: connections that linger after their end are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def restart(relay):
    """Ends the relay and starts it again where it was, with the state that it had."""
    listeners = iter(relay.urls)
    port = relay.port
    relay.stop()
    # The kernel may have given it to one of those who try to come back.
    eventually(lambda: is_free(port), "the port is free again")
    relay.arguments = [next(listeners) if before == "--listen" else argument
                       for before, argument in zip([None, *relay.arguments], relay.arguments)]
    relay.start()


def trusting_anything():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ping_pong(client, count=1, tag="alive"):
    """Exchanges messages with an echo and fails if anything but the own echo comes."""
    for number in range(count):
        text = f"{tag} {number}"
        client.send(text)
        assert client.receive() == text


def refusal(client, *arguments, **options):
    """The error of a request that must fail."""
    reply = client.ask(*arguments, **options)
    assert "error" in reply, reply
    error = reply["error"]
    assert isinstance(error["message"], str) and error["message"]
    return error


def answer(relay, data):
    """What the relay answers to bytes: (status or None, everything until the end of the stream)."""
    with relay.raw() as raw:
        raw.try_send(data)
        received = raw.read_to_end()
    if not received:
        return None, b""
    assert received.startswith(b"HTTP/1.1 "), received[:200]
    assert len(re.findall(rb"HTTP/1\.1 \d", received)) == 1, "more than one response"
    return int(received[9:12]), received
