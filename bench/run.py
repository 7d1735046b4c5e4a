"""Runs the benchmark: relayd and its peers through the same loads in turn, then writes the report.

Started by dev/bench, which builds what this needs. Method and how to read the report: bench/README.md.
"""

import argparse
import os
import signal
import sys
import tempfile
from datetime import date
from pathlib import Path

import channels
import loads
import micro
import relays
import report
import shares
import targets
import tunnel
from measure import Bench, say
from relays import BIG_BUFFER_KIBIBYTES as BIG, ROOT
from subjects import BenchError, Subject, make_certificate, raise_file_limit


class Run:
    """One run of the benchmark: each method measures one kind and adds its results to the findings."""

    def __init__(self, bench: Bench, options: argparse.Namespace):
        self.bench = bench
        self.binary = options.relayd
        self.interfaces = [] if options.only_peers else list(dict.fromkeys(options.io or ["auto"]))
        self.certificate = make_certificate(bench.directory)
        self.findings = report.Findings(
            effort=bench.effort, machine=report.machine(), versions=report.versions(not options.only_peers),
            pinned=(bench.relay_core, bench.generator_core), is_realtime=options.realtime,
            ours=self.name_of(self.interfaces[0]) if self.interfaces else "")

    def measure(self, kinds: list[str]) -> report.Findings:
        for kind in kinds:
            getattr(self, kind)()
        return self.findings

    @staticmethod
    def name_of(io: str) -> str:
        return "relayd" if io == "auto" else f"relayd ({io})"

    def ours(self, what: str, script: Path, compared_with: tuple[str, ...] = (), **more) -> list[Subject]:
        """relayd, once for each of the kernel's interfaces that was asked for."""
        return [relays.relayd(self.binary, self.name_of(io), f"one loop, {script.relative_to(ROOT)}{what}, --io {io}",
                              script, compared_with, io, **more) for io in self.interfaces]

    # Raw pairs

    def pair_subjects(self) -> list[Subject]:
        peers = [
            relays.haproxy("HAProxy", "one thread, in front of an echo back end"),
            relays.nginx("nginx", "one worker, in front of an echo back end, as its documentation sets up WebSockets"),
            relays.node_pair("node ws", "Node and ws, bench/peers/node-pair.mjs"),
            *self.big_buffers(),
        ]
        return self.ours("", relays.PAIR_SCRIPT, tuple(peer.name for peer in peers)) + peers

    @staticmethod
    def big_buffers() -> list[Subject]:
        return [
            relays.haproxy(f"HAProxy ({BIG} KiB)", f"the same with buffers of {BIG} KiB instead of 16", True),
            relays.nginx(f"nginx ({BIG} KiB)", f"the same with buffers of {BIG} KiB instead of 4", True),
        ]

    def messages(self, kind: str, chosen: list[loads.Load]) -> dict:
        subjects = self.findings.subjects[kind] = self.pair_subjects()
        big = {subject.name for subject in self.big_buffers()}
        return {load.name: self.bench.messages(
            "pair", [subject for subject in subjects if load.is_large or subject.name not in big], load)
            for load in chosen}

    def pairs(self) -> None:
        self.findings.pairs = self.messages("pairs", loads.PAIRS)

    def fixed(self) -> None:
        self.findings.fixed = self.messages("fixed", loads.FIXED)

    def growth(self) -> None:
        for subject in self.ours("", relays.PAIR_SCRIPT)[:1]:
            self.findings.growth = self.bench.growth(subject, loads.growth())

    def tls(self) -> None:
        peers = [relays.haproxy(name, f"one thread, TLS from the client and to the back end{what}", is_big,
                                self.certificate, secures_backend=True)
                 for name, what, is_big in (("HAProxy", "", False),
                                            (f"HAProxy ({BIG} KiB)", f", buffers of {BIG} KiB", True))]
        subjects = self.findings.subjects["tls"] = self.ours(
            ", TLS with both clients", relays.PAIR_SCRIPT, tuple(peer.name for peer in peers),
            certificate=self.certificate) + peers
        self.findings.tls = self.bench.messages("pair", subjects, loads.MEDIUM)

    # Connections

    def setup(self) -> None:
        for kind, certificate in (("plain", None), ("TLS", self.certificate)):
            # What is listed in the report are the plain ones; TLS differs in nothing but TLS.
            subjects = self.ours("; a script answers the message", relays.PAIR_SCRIPT, ("HAProxy",),
                                 certificate=certificate) + [
                relays.haproxy("HAProxy", "one thread; opens a connection to its back end, without TLS, for each",
                               certificate=certificate)]
            self.findings.subjects.setdefault("setup", subjects)
            self.findings.setup[kind] = self.bench.setup(
                f"setup, {kind}", subjects, loads.SETUP_CONCURRENCY)

    def idle(self) -> None:
        node = relays.node_pair("node ws", "Node and ws, bench/peers/node-pair.mjs")
        for kind, certificate, connections, peers in (
                ("plain", None, 50_000, [node]), ("TLS", self.certificate, 10_000, [])):
            proxy = relays.haproxy("HAProxy", "one thread, in front of a back end without TLS", certificate=certificate)
            ours = self.ours("", relays.TUNNEL_SCRIPT, certificate=certificate)
            self.findings.subjects.setdefault("idle", ours + [proxy] + peers)
            wanted = {subject: loads.at_most(connections, 1) for subject in ours + peers}
            wanted[proxy] = min(loads.at_most(connections, 2), relays.HAPROXY_CONNECTIONS - 100)
            self.findings.idle[kind] = {
                subject.name: self.bench.idle(kind, subject, number) for subject, number in wanted.items()}

    # Scripts

    def tunnel_subjects(self) -> list[Subject]:
        return self.ours("", relays.TUNNEL_SCRIPT, ("node-livecode", "node ws"))

    def forward(self) -> None:
        lines = [] if not self.interfaces else [relays.relayd(
            self.binary, "relayd (lines)", "the same with node-livecode's log lines (`?livecode=1`)",
            relays.TUNNEL_SCRIPT, ("node-livecode",), query="?livecode=1")]
        subjects = self.findings.subjects["forward"] = self.tunnel_subjects() + lines + [
            relays.node_livecode("node-livecode", "Node and ws, with node-livecode's log lines, console to /dev/null",
                                 True),
            relays.node_livecode("node ws", "the same without any log line", False)]
        self.findings.forward = {load.name: self.bench.messages("forward", subjects, load) for load in loads.FORWARD}

    def replace(self) -> None:
        for subject in self.tunnel_subjects()[:1]:
            self.findings.subjects["replace"] = [subject]
            self.findings.replace_load = loads.REPLACE.name
            self.findings.replace = self.bench.replace(subject, loads.REPLACE)

    # Channels

    def channels(self) -> None:
        for load in loads.CHANNELS:
            subjects = channels.peers()
            for io in self.interfaces:
                subjects += channels.ways(self.name_of(io), lambda name, what, **more: relays.relayd(
                    self.binary, name, what, relays.PAIR_SCRIPT, io=io, **more), load.pairs)
            self.findings.subjects["channels"] = subjects
            self.findings.channels[load.name] = self.bench.messages("pair", subjects, load)

    def fairness(self) -> None:
        for io in self.interfaces[:1]:
            self.findings.fairness = channels.fairness(self.bench, self.binary, io)

    def stalled(self) -> None:
        for io in self.interfaces[:1]:
            self.findings.subjects["stalled"], self.findings.stalled = channels.stalled(self.bench, self.binary, io)

    def tunnel(self) -> None:
        every = self.findings.subjects["tunnel"] = tunnel.tunnels(
            self.binary, self.interfaces, self.certificate, self.name_of)
        self.findings.tunnel = tunnel.measure(self.bench, every)

    # Back ends and other relays

    def webhooks(self) -> None:
        subjects = self.findings.subjects["webhooks"] = [
            relays.relayd_with_webhooks(self.binary, self.name_of(io), f"one loop, scripts/webhooks.lua, --io {io}", io,
                                        compared_with=("node",)) for io in self.interfaces] + [
            relays.node_webhook("node", "Node, ws and http, bench/peers/node-webhook.mjs")]
        for scenario, load in (("webhook", loads.WEBHOOK), ("push", loads.PUSH)):
            self.findings.webhooks[scenario] = self.bench.messages(scenario, subjects, load)

    def links(self) -> None:
        for load in loads.LINKED:
            subjects = [subject for io in self.interfaces for subject in (
                relays.relayd(self.binary, self.name_of(io), f"one relay, one loop, --io {io}", relays.PAIR_SCRIPT,
                              io=io, scenario="channel"),
                relays.linked(self.binary, targets.linked(self.name_of(io)), "two, linked: clients at one, servers at the "
                              "other; CPU and memory of both", io, compared_with=(self.name_of(io),)))]
            self.findings.subjects["links"] = subjects
            self.findings.links[load.name] = self.bench.messages("channel", subjects, load)

    def shares(self) -> None:
        if not self.interfaces:
            return
        self.findings.shares = shares.measure(self.bench, self.binary)
        if self.findings.shares is None:
            say("shares  left out: valgrind or objcopy is missing; dev/setup --bench installs them")

    def micro(self) -> None:
        if self.interfaces:
            self.findings.micro = micro.measure(self.bench)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="raw pairs in three short rounds: under three minutes")
    parser.add_argument("--only", action="append", choices=loads.KINDS, help="one kind of measurement; repeatable")
    parser.add_argument("--io", action="append", choices=["auto", "epoll", "io_uring"],
                        help="the kernel's interface that relayd uses (auto); repeatable: each is a relay of its own")
    parser.add_argument("--only-peers", action="store_true", help="leave relayd out (to try a new peer)")
    parser.add_argument("--realtime", action="store_true",
                        help="relays and generator go before all ordinary processes (root); for a busy machine")
    parser.add_argument("--relayd", type=Path, default=ROOT / ".build/release/relayd")
    parser.add_argument("--loadgen", type=Path, default=ROOT / ".build/bench/loadgen")
    parser.add_argument("--results", type=Path, default=ROOT / "bench/results", help="folder of the report")
    return parser.parse_args()


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    os.environ["LC_ALL"] = "C.UTF-8"
    raise_file_limit()
    if options.realtime and os.geteuid() != 0:
        print("dev/bench: --realtime needs root", file=sys.stderr)
        return 2
    effort = loads.QUICK if options.quick else loads.FULL
    try:
        with tempfile.TemporaryDirectory(prefix="relayd-bench-") as directory:
            bench = Bench(options.loadgen, effort, Path(directory), options.realtime)
            findings = Run(bench, options).measure(options.only or effort.kinds)
    except BenchError as error:
        print(f"dev/bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = report.render(findings)
    options.results.mkdir(parents=True, exist_ok=True)
    marks = [date.today().isoformat(), "quick" if options.quick else "", *(options.only or [])]
    path = options.results / ("-".join(mark for mark in marks if mark) + ".md")
    path.write_text(text)
    say("\n" + text)
    say(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
