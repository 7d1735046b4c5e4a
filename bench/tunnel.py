"""Tunnels: one TCP stream through `relayd expose` and `relayd forward`, through `ssh -L`, and through HAProxy.

All processes of a tunnel share one core, so that their throughput compares what they do for a byte, and no scheduler
decides which two of them meet on which core.
"""

import getpass
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import relays
from measure import Bench, say
from subjects import (READY_DEADLINE, STOP_DEADLINE, BenchError, Certificate, Running, Subject, free_port,
                      is_listening, prepare_child)

DIRECTIONS = {"to the exposed end": (), "from the exposed end": ("--toward", "client")}
# Where OpenSSH's server finds a directory for its unprivileged part; only root's needs one.
PRIVILEGE_SEPARATION = Path("/run/sshd")


@dataclass(frozen=True)
class Tunnel:
    """One way to carry a TCP stream from a near port to a far one. `start` starts its processes."""

    name: str
    what: str
    start: callable
    compared_with: tuple[str, ...] = ()


class Processes:
    """What a tunnel consists of, on one core; ended together."""

    def __init__(self, bench: Bench, directory: Path):
        directory.mkdir(parents=True)
        self.bench = bench
        self.directory = directory
        self.near, self.far = free_port(), free_port()
        self.started: list[subprocess.Popen] = []
        self.errors: list[Path] = []
        self.stack = ExitStack()

    def start(self, *command, **more) -> None:
        self.errors.append(self.directory / f"stderr{len(self.errors)}.txt")
        with open(self.errors[-1], "wb") as errors:
            self.started.append(subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                preexec_fn=prepare_child(self.bench.relay_core, self.bench.is_realtime), **more))

    def relay(self, subject: Subject) -> Running:
        running = self.stack.enter_context(self.bench.start(subject))
        self.started.append(running.process)
        return running

    def wait_for_port(self, port: int) -> None:
        self._wait(f"nothing listens on port {port}", lambda: is_listening(port))

    def wait_for_word(self, word: str) -> None:
        """Until the last that was started has said so on standard error."""
        self._wait(f"nobody said '{word}'", lambda: word in self._errors(len(self.errors) - 1))

    def _wait(self, otherwise: str, condition) -> None:
        deadline = time.monotonic() + READY_DEADLINE
        while not condition():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.started):
                raise BenchError(f"{otherwise}. {self.last_words()}")
            time.sleep(0.02)

    def _errors(self, number: int) -> str:
        return self.errors[number].read_text(errors="replace")

    def last_words(self) -> str:
        lines = [line for number in range(len(self.errors)) for line in self._errors(number).splitlines()[-3:]]
        return "Last words: " + " / ".join(lines)

    def pids(self) -> list[int]:
        """Of all processes and of what they have started."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # Gone meanwhile.
        found = [process.pid for process in self.started]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
        for process in reversed(self.started):
            try:
                process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.stack.close()


# What there is


def relayd(binary: Path, name: str, what: str, io: str, certificate: Certificate | None = None) -> Tunnel:
    def start(processes: Processes) -> None:
        relay = processes.relay(relays.relayd(binary, name, what, relays.PAIR_SCRIPT, io=io, certificate=certificate))
        trust = ["--ca", certificate.certificate] if certificate else []
        known = ["--to", relay.url, "--state", relay.directory / "state", *trust]
        processes.start(binary, "expose", f"127.0.0.1:{processes.far}", "--as", "bench:1", *known)
        processes.wait_for_word("Connected to")
        processes.start(binary, "forward", f"127.0.0.1:{processes.near}", "bench:1", *known)
        processes.wait_for_word("Connected to")
        processes.wait_for_port(processes.near)

    return Tunnel(name, what, start, ("ssh -L", "ssh -L (AES-GCM)", "HAProxy"))


def ssh(name: str, what: str, cipher: str = "") -> Tunnel:
    """A local sshd with keys and configuration of its own, run by whoever runs this."""

    def start(processes: Processes) -> None:
        directory, port = processes.directory, free_port()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True)
        shutil.copy(directory / "user.pub", directory / "authorized_keys")
        (directory / "sshd.conf").write_text(f"""Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
""")
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        # sshd starts itself anew for each connection and wants its full path.
        processes.start(shutil.which("sshd"), "-D", "-e", "-f", directory / "sshd.conf")
        processes.wait_for_port(port)
        ciphers = ["-c", cipher] if cipher else []
        processes.start("ssh", "-N", "-F", "none", "-p", port, "-i", directory / "user", *ciphers,
                        "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
                        "-o", f"UserKnownHostsFile={directory}/known", "-o", "ExitOnForwardFailure=yes",
                        "-L", f"127.0.0.1:{processes.near}:127.0.0.1:{processes.far}", f"{getpass.getuser()}@127.0.0.1")
        processes.wait_for_port(processes.near)

    return Tunnel(name, what, start)


def haproxy(name: str, what: str) -> Tunnel:
    def start(processes: Processes) -> None:
        path = processes.directory / "haproxy.cfg"
        path.write_text(f"""global
    nbthread 1
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen tunnel
    bind 127.0.0.1:{processes.near}
    server far 127.0.0.1:{processes.far}
""")
        processes.start("haproxy", "-q", "-db", "-f", path)
        processes.wait_for_port(processes.near)

    return Tunnel(name, what, start)


def tunnels(binary: Path, interfaces: list[str], certificate: Certificate, name_of) -> list[Tunnel]:
    ours = [tunnel for io in interfaces for tunnel in (
        relayd(binary, name_of(io), f"relayd serve --io {io}, relayd expose, relayd forward", io),
        relayd(binary, f"{name_of(io)}, TLS", "the same, both commands over wss://", io, certificate))]
    return ours + [
        ssh("ssh -L", "OpenSSH to an sshd on this machine, with the cipher that the two choose"),
        ssh("ssh -L (AES-GCM)", "the same with aes128-gcm@openssh.com, as TLS here has", "aes128-gcm@openssh.com"),
        haproxy("HAProxy", "TCP mode, one thread, option splice-auto: no encryption, and one process instead of three"),
    ]


def measure(bench: Bench, every: list[Tunnel]) -> dict:
    """By direction and tunnel, a result of each round."""
    results = {direction: {tunnel.name: [] for tunnel in every} for direction in DIRECTIONS}
    for number in range(bench.effort.rounds):
        for direction, options in DIRECTIONS.items():
            for tunnel in every:
                bench.started += 1
                with Processes(bench, bench.directory / f"{bench.started:03}") as processes:
                    tunnel.start(processes)
                    pids = [option for pid in processes.pids() for option in ("--pid", str(pid))]
                    result = bench.run_generator(
                        f"{tunnel.name}, {direction}", ["stream", "--url", f"tcp://127.0.0.1:{processes.near}",
                         "--backend", f"tcp://127.0.0.1:{processes.far}", *pids, *options, *bench.window()],
                        processes.last_words)
                results[direction][tunnel.name].append(result)
                say(f"tunnel, {direction}  {number + 1}/{bench.effort.rounds}  {tunnel.name:<17} "
                    f"{result['bytesPerSecond'] / 1e6:8,.0f} MB/s, "
                    f"{result['relay']['cpuSecondsPerGiB']:6.2f} s CPU per GiB")
    return results
