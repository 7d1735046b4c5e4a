"""What is measured: relayd and its peers, each a process of its own on a core of its own, started and ended here."""

import ctypes
import os
import random
import re
import resource
import selectors
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

READY_DEADLINE = 20.0
STOP_DEADLINE = 10.0
READY_LINE = re.compile(rb"^listening (wss?://\S+)$", re.MULTILINE)
# Below the ports that Linux gives to outgoing connections.
PROXY_PORTS = range(18_000, 32_000)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """One sentence for the person at the terminal."""


def raise_file_limit() -> None:
    """As many open files as the machine allows, for this process and what it starts: 10 000 pairs need them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> tuple[int | None, int | None]:
    """The core of what is measured and the core of the generator; none is pinned where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


def prepare_child(core: int | None, is_realtime: bool):
    """A child that is pinned to `core`, goes before all ordinary processes if `is_realtime`, and that the kernel ends
    if this process dies without ending it."""

    def prepare() -> None:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if is_realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def free_port() -> int:
    for port in random.sample(PROXY_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise BenchError("no free port was found")


def is_listening(port: int) -> bool:
    """Whether somebody does. Nobody connects to see: what is in front of something else would connect to that, too."""
    # Local address and state in hexadecimal; 0A is LISTEN (proc_net(5)).
    sockets = Path("/proc/net/tcp").read_text()
    return re.search(rf"^ *\d+: [0-9A-F]+:{port:04X} \S+ 0A ", sockets, re.MULTILINE) is not None


@dataclass(frozen=True)
class Certificate:
    """For everything that speaks TLS here; `both` holds certificate and key."""

    certificate: Path
    key: Path
    both: Path


def make_certificate(directory: Path) -> Certificate:
    made = Certificate(directory / "certificate.pem", directory / "key.pem", directory / "both.pem")
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", made.key, "-out", made.certificate], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"openssl made no certificate: {done.stderr.strip()}")
    made.both.write_text(made.certificate.read_text() + made.key.read_text())
    return made


@dataclass(frozen=True)
class Place:
    """What a subject gets when it starts: an empty directory; a proxy, its port and that of its back end; and the relay
    that it links itself to."""

    directory: Path
    port: int
    backend_port: int
    neighbour: "Running | None" = None


@dataclass(frozen=True)
class Subject:
    """One relay that can be started."""

    name: str
    what: str
    command: callable
    # The schemes of a proxy's own address and of its back end's; others say themselves where they listen.
    proxy_schemes: tuple[str, str] | None = None
    # The certificate of a back end that speaks TLS.
    certificate: Certificate | None = None
    # Where the admin credential is, given the directory, and the texts of `forward to server` to put in turn.
    credential: callable = None
    bodies: tuple[str, ...] = ()
    # The relay that is started before and that it links itself to: servers connect there, clients here.
    neighbour: "Subject | None" = None
    # What the generator does with it, and further options, where that is not the kind's own scenario.
    scenario: str = ""
    options: tuple[str, ...] = ()
    # What the generator runs under.
    generator_wrapper: tuple[str, ...] = ()
    # Names of the peers that it makes sense to compare it with.
    compared_with: tuple[str, ...] = ()


class Running:
    """A started subject: `url`, `pid`. A context manager; leaving it ends the process and waits for it."""

    def __init__(self, subject: Subject, directory: Path, core: int | None, is_realtime: bool = False):
        self.subject = subject
        self.directory = directory
        directory.mkdir(parents=True)
        self.errors = directory / "stderr.txt"
        self.process = None
        self.neighbour = subject.neighbour and Running(subject.neighbour, directory / "neighbour", core, is_realtime)
        try:
            ports = (free_port(), free_port()) if subject.proxy_schemes else (0, 0)
            self.place = Place(directory, *ports, self.neighbour)
            with open(self.errors, "wb") as errors:
                self.process = subprocess.Popen(
                    subject.command(self.place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    preexec_fn=prepare_child(core, is_realtime))
            self.pid = self.process.pid
            self.url = self._wait_for_port() if subject.proxy_schemes else self._wait_for_line()
        except BaseException:
            self.stop()
            raise

    def arguments(self) -> list[str]:
        """What the load generator has to know."""
        known = ["--url", self.url, "--pid", str(self.pid)]
        if self.subject.credential:
            known += ["--credential-file", str(self.subject.credential(self.directory))]
        if self.subject.proxy_schemes:
            known += ["--backend", f"{self.subject.proxy_schemes[1]}://127.0.0.1:{self.place.backend_port}"]
        if self.neighbour:
            known += ["--pid", str(self.neighbour.pid), "--server-url", self.neighbour.url]
        if self.subject.certificate:
            known += ["--certificate", str(self.subject.certificate.both)]
        return known + list(self.subject.options)

    def _wait_for_port(self) -> str:
        deadline = time.monotonic() + READY_DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            if is_listening(self.place.port):
                return f"{self.subject.proxy_schemes[0]}://127.0.0.1:{self.place.port}"
            time.sleep(0.01)
        raise BenchError(f"{self.subject.name} does not listen. {self.last_words()}")

    def _wait_for_line(self) -> str:
        deadline, output = time.monotonic() + READY_DEADLINE, b""
        descriptor = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if not selector.select(timeout=deadline - time.monotonic()):
                    break
                piece = os.read(descriptor, 65536)
                output += piece
                if found := READY_LINE.search(output):
                    return found[1].decode()
                if not piece:
                    break
        raise BenchError(f"{self.subject.name} did not say where it listens. {self.last_words()}")

    def last_words(self) -> str:
        text = self.errors.read_text(errors="replace").strip().splitlines()
        return "Its last words: " + " / ".join(text[-5:]) if text else "It wrote nothing on standard error."

    def stop(self) -> None:
        if self.process:
            self._end_process()
        if self.neighbour:
            self.neighbour.stop()

    def _end_process(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
