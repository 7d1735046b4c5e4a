"""`relayd expose` and `relayd forward` as processes, and what stands at either end of a tunnel."""

import contextlib
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading

from conditions import DEADLINE, eventually
from relay import CRASH, RELAYD, is_free


class Tunnel:
    """One of the two commands, running against a relay. Ends it, and fails if it has crashed."""

    def __init__(self, relay, *arguments, to=None, credential=True, stdin=subprocess.DEVNULL):
        self.arguments = [str(RELAYD), *map(str, arguments)]
        self.environment = {**relay.environment, "RELAYD_URL": to or relay.url}
        if credential:
            self.environment["RELAYD_CREDENTIAL"] = relay.admin if credential is True else credential
        self.directory = relay.directory
        self.stdin = stdin
        self.expected_exit = {0}

    def __enter__(self):
        self.log_file = tempfile.NamedTemporaryFile(dir=self.directory, prefix=f"{self.arguments[1]}-", suffix=".log")
        self.process = subprocess.Popen(
            self.arguments, stdin=self.stdin, stdout=subprocess.PIPE, stderr=self.log_file, env=self.environment,
            cwd=self.directory)
        return self

    def __exit__(self, kind, *_):
        hung = False
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            hung = True
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        log = self.log
        self.log_file.close()
        if kind is None:
            assert not CRASH.search(log), log[-3000:]
            assert not hung, f"it did not end after SIGTERM:\n{log[-3000:]}"
            assert self.process.returncode in self.expected_exit, f"{self.process.returncode}:\n{log[-3000:]}"

    @property
    def log(self):
        return pathlib.Path(self.log_file.name).read_text(errors="replace")

    def says(self, text, times=1):
        """Waits until standard error has the text so many times."""
        eventually(lambda: self.log.count(text) >= times, f"{self.arguments[1]} says {text!r}: {self.log}")
        return self

    def wait(self):
        """Waits for a command that ends by itself; returns its exit code."""
        code = self.process.wait(DEADLINE)
        self.expected_exit = {code}
        return code

    def descriptors(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M).group(1)) << 10


class Expose(Tunnel):
    """`relayd expose` with pairs of a target and what it is exposed as; ready when it is installed."""

    def __init__(self, relay, *pairs, options=(), **more):
        arguments = [argument for target, name in pairs for argument in (target, "--as", name)]
        super().__init__(relay, "expose", *arguments, *options, **more)
        self.servers = len({name.rpartition(":")[0] or name for _, name in pairs})
        self.waits = "--quiet" not in options

    def __enter__(self):
        super().__enter__()
        if self.waits:
            self.says("installed as", times=self.servers)
        return self


class Forward(Tunnel):
    """`relayd forward`, from a free port where no local address is given; ready when it is connected."""

    def __init__(self, relay, destination, local="127.0.0.1:0", options=(), **more):
        super().__init__(relay, "forward", local, destination, *options, **more)
        self.waits = "--quiet" not in options

    def __enter__(self):
        super().__enter__()
        line = self.process.stdout.readline().decode()
        assert line.startswith("listening "), (line, self.log)
        self.address = line.split(" ", 1)[1].rstrip("\n")
        if self.waits:
            self.says("forwarding")
        return self

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def connect(self):
        if self.address.startswith("unix:"):
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.settimeout(DEADLINE)
            connected.connect(self.address.removeprefix("unix:"))
            return connected
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)


class Target:
    """Something that listens on this machine; each connection is handled in a thread of its own, and closed then."""

    def __init__(self, handle, path=None):
        self.handle = handle
        self.connections = []
        self.threads = []
        if path:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(str(path))
            self.address = f"unix:{path}"
        else:
            self.listener = socket.socket()
            self.listener.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.listener.listen(1024)

    def __enter__(self):
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()
        return self

    def __exit__(self, *_):
        # Wakes the acceptor; close alone does not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(DEADLINE)
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(DEADLINE)

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(DEADLINE)
            self.connections.append(connection)
            thread = threading.Thread(target=self._handle, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _handle(self, connection):
        with contextlib.suppress(OSError), connection:
            self.handle(connection)


def echo(connection):
    """Sends everything back, and ends when the other side does."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection):
    """Everything until the end of the stream."""
    received = bytearray()
    while data := connection.recv(1 << 18):
        received += data
    return bytes(received)


def read_exactly(connection, count):
    received = bytearray()
    while len(received) < count:
        data = connection.recv(count - len(received))
        assert data, f"the stream ended after {len(received)} of {count} bytes"
        received += data
    return bytes(received)


def reset(connection):
    """Closes with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_over(connection):
    """Whether the other side has ended or reset the connection by the deadline."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# Below those that the kernel gives to whoever connects: a client that tries a port again and again until somebody
# listens would sooner or later be given that very port, and keep it (or even meet itself there).
PORTS = range(18_000, 32_000)


def free_port():
    return next(port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
