"""A slow link between a relay and the generator: two network namespaces, with one fast link between them and one that
takes as many bits per second as it is told. Needs no rights where the kernel lets everybody have namespaces."""

import os
import subprocess
import time
from pathlib import Path

from subjects import READY_DEADLINE, prepare_child

# What a queue in front of a slow link holds, in time: a router's. What is beyond is dropped.
QUEUE = "50ms"
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Unavailable(Exception):
    """Why there is no such link here."""


class Link:
    """Two sides, each a way to run a program: `relay_side`, `generator_side`. The relay has the addresses `fast` and
    `slow`. A context manager; leaving it removes everything."""

    fast, slow = "10.99.1.1", "10.99.2.1"

    def __init__(self, rate: str):
        self.holders: list[subprocess.Popen] = []
        try:
            self.relay_side = self._namespace("unshare", "--user", "--map-root-user", "--net")
            # In the same user namespace, or the one could not give the other an interface.
            inside = self.relay_side[:-1]
            self.generator_side = self._namespace(*inside, "unshare", "--net")
            for name in ("fast", "slow"):
                self._run(self.relay_side, "ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns",
                          str(self.holders[1].pid))
            for number, side in enumerate((self.relay_side, self.generator_side), 1):
                self._run(side, "ip", "link", "set", "lo", "up")
                for name, network in (("fast", "10.99.1"), ("slow", "10.99.2")):
                    self._run(side, "ip", "address", "add", f"{network}.{number}/24", "dev", name)
                    self._run(side, "ip", "link", "set", name, "up")
                self._run(side, "tc", "qdisc", "add", "dev", "slow", "root", "tbf", "rate", rate, "burst", "4kb",
                          "latency", QUEUE)
        except BaseException:
            self.close()
            raise

    def _namespace(self, *command: str) -> tuple[str, ...]:
        """Starts what holds a namespace, until its standard input is closed; returns how to run something in it."""
        try:
            holder = subprocess.Popen([*command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE, text=True, preexec_fn=prepare_child(None, False))
        except FileNotFoundError as error:
            raise Unavailable(f"there is no {error.filename}") from None
        self.holders.append(holder)
        deadline = time.monotonic() + READY_DEADLINE
        # What makes the namespace becomes the holder when it has done so.
        while Path(f"/proc/{holder.pid}/comm").read_text() != "cat\n":
            if holder.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(holder.stderr.read().strip() or f"{command[0]} takes too long")
            time.sleep(0.01)
        return ("nsenter", "--target", str(holder.pid), "--user", "--preserve-credentials", "--net")

    @staticmethod
    def _run(side: tuple[str, ...], *command: str) -> None:
        try:
            done = subprocess.run([*side, *command], capture_output=True, text=True, env=os.environ | {"PATH": SEARCH})
        except FileNotFoundError as error:
            raise Unavailable(f"there is no {error.filename}") from None
        if done.returncode != 0:
            raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")

    def close(self) -> None:
        for holder in reversed(self.holders):
            holder.stdin.close()
            holder.stderr.close()
            holder.wait()
        self.holders = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
