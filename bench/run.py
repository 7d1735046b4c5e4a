"""Runs the benchmark: relayd and its peers through the same loads in turn, then writes the report.

Started by dev/bench, which builds what this needs. Method and how to read the report: bench/README.md.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import report
from subjects import BenchError, Running, cores, node_subject, prepare_child, raise_file_limit, relayd_subject

ROOT = Path(__file__).resolve().parent.parent
GENERATOR_DEADLINE = 120.0


@dataclass(frozen=True)
class Load:
    """One load of the scenario `forward`. `rate` None is a closed loop."""

    name: str
    pairs: int
    in_flight: int
    payload_bytes: int
    rate: int | None = None

    def arguments(self) -> list[str]:
        fixed = ["--pairs", str(self.pairs), "--inflight", str(self.in_flight), "--size", str(self.payload_bytes)]
        return fixed + (["--rate", str(self.rate)] if self.rate else [])


HEADLINE = Load("100 pairs, 64 B, 8 in flight", 100, 8, 64)
LOADS = [
    HEADLINE,
    Load("100 pairs, 64 B, 1 in flight", 100, 1, 64),
    Load("100 pairs, 4 KiB, 8 in flight", 100, 8, 4096),
    Load("1 000 pairs, 64 B, 1 in flight", 1000, 1, 64),
    Load("100 pairs, 64 B, 10 000 per second", 100, 8, 64, 10_000),
]
# Well below saturation, or queueing would hide what a replacement adds.
REPLACE = Load("100 pairs, 64 B, 10 000 per second", 100, 8, 64, 10_000)


@dataclass(frozen=True)
class Effort:
    rounds: int
    warmup: float
    seconds: float
    loads: list[Load]


QUICK = Effort(rounds=3, warmup=1.5, seconds=2.5, loads=[HEADLINE])
FULL = Effort(rounds=7, warmup=2, seconds=4, loads=LOADS)


class Bench:
    def __init__(self, generator: Path, effort: Effort, directory: Path, is_realtime: bool):
        self.generator = generator
        self.is_realtime = is_realtime
        self.effort = effort
        self.directory = directory
        self.relay_core, self.generator_core = cores()
        self.started = 0

    def start(self, subject) -> Running:
        self.started += 1
        return Running(subject, self.directory / f"{self.started:03}", self.relay_core, self.is_realtime)

    def generate(self, running: Running, scenario: str, arguments: list[str]) -> dict:
        """Runs the generator against a started relay; its report, or a BenchError with its own sentence."""
        command = [str(self.generator), scenario, "--url", running.url, "--pid", str(running.pid)] + arguments
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=prepare_child(self.generator_core, self.is_realtime))
        try:
            output, errors = process.communicate(timeout=GENERATOR_DEADLINE)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode != 0:
            raise BenchError(f"{running.subject.name}, {scenario}: {errors.strip()} {running.last_words()}")
        return json.loads(output)

    def window(self) -> list[str]:
        return ["--warmup", str(self.effort.warmup), "--seconds", str(self.effort.seconds)]

    def forward(self, subjects, load: Load) -> dict[str, list[dict]]:
        """All subjects in turn, round after round (A B C A B C …), a fresh process each time."""
        results = {subject.name: [] for subject in subjects}
        for number in range(self.effort.rounds):
            for subject in subjects:
                with self.start(subject) as running:
                    result = self.generate(running, "forward", load.arguments() + self.window())
                results[subject.name].append(result)
                say(f"{load.name}  round {number + 1}/{self.effort.rounds}  {subject.name:<15} "
                    f"{result['relay']['cpuMicrosecondsPerMessage']:8.2f} µs CPU per message, "
                    f"{result['messagesPerSecond']:>9,.0f} messages/s")
        return results

    def replace(self, subject, load: Load) -> dict[str, list[dict]]:
        """The same load without and with replacing, in turn."""
        results = {"forward": [], "replace": []}
        for number in range(self.effort.rounds):
            for scenario, rounds in results.items():
                with self.start(subject) as running:
                    arguments = load.arguments() + self.window()
                    if scenario == "replace":
                        arguments += self.replacing(subject, running)
                    result = self.generate(running, scenario, arguments)
                rounds.append(result)
                say(f"replacing {'on ' if scenario == 'replace' else 'off'}  round {number + 1}/{self.effort.rounds}  "
                    f"longest delivery {result['latencyMicroseconds']['maximum'] / 1e3:.2f} ms")
        return results

    def replacing(self, subject, running: Running) -> list[str]:
        arguments = ["--credential-file", str(subject.credential(running.directory))]
        for number, body in enumerate(subject.bodies):
            path = running.directory / f"body{number}.txt"
            path.write_text(body)
            arguments += ["--body-file", str(path)]
        return arguments

    def idle(self, subject, connections: int) -> dict:
        with self.start(subject) as running:
            result = self.generate(running, "idle", ["--connections", str(connections), "--seconds", "1"])
        say(f"{connections:,} idle connections  {subject.name:<15} {result['bytesPerConnection']:,.0f} B each")
        return result


def say(text: str) -> None:
    print(text, flush=True)


def idle_connections() -> int:
    """10 000, or as many as the limit of open files leaves room for."""
    return min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the headline load, three rounds: under three minutes")
    parser.add_argument("--relayd", type=Path, default=ROOT / ".build/release/relayd")
    parser.add_argument("--loadgen", type=Path, default=ROOT / ".build/bench/loadgen")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results", help="folder of the report")
    parser.add_argument("--realtime", action="store_true",
                        help="relays and generator go before all ordinary processes (root); for a busy machine")
    parser.add_argument("--only", choices=["forward", "idle", "replace"], help="one kind of measurement")
    parser.add_argument("--only-peers", action="store_true", help="leave relayd out (to try a new peer)")
    return parser.parse_args()


def measure(options: argparse.Namespace, directory: Path) -> report.Findings:
    effort = QUICK if options.quick else FULL
    bench = Bench(options.loadgen, effort, directory, options.realtime)
    relays = []
    if not options.only_peers:
        relays = [
            relayd_subject(ROOT, options.relayd, "relayd", "one loop, scripts/tunnel.lua",
                           compared_with=("node-livecode", "node ws")),
            relayd_subject(ROOT, options.relayd, "relayd (lines)",
                           "the same with node-livecode's log lines (`?livecode=1`)",
                           compared_with=("node-livecode",), query="?livecode=1"),
        ]
    peers = [
        node_subject(ROOT, "node-livecode", "Node and ws, with node-livecode's log lines, console to /dev/null", True),
        node_subject(ROOT, "node ws", "the same without any log line", False),
    ]
    findings = report.Findings(
        effort=effort, machine=report.machine(), versions=report.versions(ROOT, options.relayd, not options.only_peers),
        subjects=relays + peers, pinned=(bench.relay_core, bench.generator_core), is_realtime=options.realtime)
    for load in effort.loads if options.only in (None, "forward") else []:
        findings.forward[load.name] = bench.forward(relays + peers, load)
    for subject in relays[:1] + peers[1:] if options.only in (None, "idle") else []:
        findings.idle[subject.name] = bench.idle(subject, idle_connections())
    if relays and options.only in (None, "replace"):
        findings.replace_load = REPLACE.name
        findings.replace = bench.replace(relays[0], REPLACE)
    return findings


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    os.environ["LC_ALL"] = "C.UTF-8"
    raise_file_limit()
    if options.realtime and os.geteuid() != 0:
        print("dev/bench: --realtime needs root", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="relayd-bench-") as directory:
            findings = measure(options, Path(directory))
    except BenchError as error:
        print(f"dev/bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = report.render(findings)
    options.results.mkdir(parents=True, exist_ok=True)
    marks = [date.today().isoformat(), "quick" if options.quick else "", options.only or ""]
    path = options.results / ("-".join(mark for mark in marks if mark) + ".md")
    path.write_text(text)
    say("\n" + text)
    say(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
