"""What is measured: relayd and its peers, each a process of its own on a core of its own, started and ended here."""

import ctypes
import os
import re
import resource
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

READY_DEADLINE = 20.0
STOP_DEADLINE = 10.0
READY_LINE = re.compile(rb"^listening (ws://\S+)$", re.MULTILINE)
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """One sentence for the person at the terminal."""


def raise_file_limit() -> None:
    """As many open files as the machine allows, for this process and what it starts: 10 000 connections need them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> tuple[int | None, int | None]:
    """The core of what is measured and the core of the generator; none is pinned where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


def prepare_child(core: int | None, is_realtime: bool):
    """A child that is pinned to `core`, goes before all ordinary processes if `is_realtime`, and that the kernel ends if
    this process dies without ending it."""

    def prepare() -> None:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if is_realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


@dataclass
class Subject:
    """One relay that can be started. `command` gets an empty directory for what the relay keeps."""

    name: str
    what: str
    command: callable
    # Where the admin credential is, given that directory, and the texts of `forward to server` to put in turn.
    credential: callable = None
    # Names of the peers that it makes sense to compare it with.
    compared_with: tuple[str, ...] = ()
    bodies: list[str] = field(default_factory=list)


class Running:
    """A started subject: `url`, `pid`. A context manager; leaving it ends the process and waits for it."""

    def __init__(self, subject: Subject, directory: Path, core: int | None, is_realtime: bool = False):
        self.subject = subject
        self.directory = directory
        directory.mkdir(parents=True)
        self.errors = directory / "stderr.txt"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                subject.command(directory), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                preexec_fn=prepare_child(core, is_realtime))
        self.pid = self.process.pid
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> str:
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


def node_subject(root: Path, name: str, what: str, log_lines: bool) -> Subject:
    """The Node relay of bench/peers, with or without node-livecode's log lines."""
    peers = root / "bench" / "peers"
    secret = "shared secret"

    def command(directory: Path) -> list[str]:
        (directory / "credential").write_text(secret)
        return ["node", str(peers / "node-livecode.mjs"), "--credential", secret, "--console", "/dev/null",
                "--log-lines", "on" if log_lines else "off"]

    return Subject(name, what, command, lambda directory: directory / "credential")


def relayd_subject(root: Path, binary: Path, name: str, what: str, compared_with: tuple[str, ...],
                   query: str = "") -> Subject:
    """relayd with one loop and the tunnel script."""
    script = root / "scripts" / "tunnel.lua"

    def command(directory: Path) -> list[str]:
        return [str(binary), "serve", "--listen", f"ws://127.0.0.1:0{query}", "--state", str(directory / "state"),
                "--script", str(script), "--loops", "1"]

    subject = Subject(name, what, command,
                      lambda directory: directory / "state" / "admin.credential",
                      compared_with=compared_with)
    body = (root / "scripts" / "tunnel" / "forward to server.lua").read_text().strip()
    # Two texts that do the same: every replacement is a change.
    subject.bodies = [body, f"--[[ the other one ]] {body}"]
    return subject
