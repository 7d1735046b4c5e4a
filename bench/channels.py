"""Channels: what a message costs in them, whether they take turns, and what those hold that nobody reads."""

import os
from pathlib import Path

import loads
import relays
from link import Link, Unavailable
from measure import Bench, say
from subjects import Subject

PIPE = "relay.pipe"
# Names of the ways through relayd, and what they are to the generator.
WAYS = {
    "clean, a server each": ("every client clean, every channel on a server's connection of its own", ()),
    "clean, one server": ("every client clean, all channels on one server's connection", ("--servers", "1")),
    "multiplexed, each": ("every channel on a multiplexed client's connection and a server's connection of its own",
                          ("--multiplexed", "PAIRS")),
    "multiplexed, one": ("all channels on one client's connection and one server's",
                         ("--multiplexed", "1", "--servers", "1")),
}
# Channels whose readers have stopped: who stops, and how.
STALLS = {
    "clean": "clean clients read nothing, the server sends",
    "client": "multiplexed clients read nothing, not even credit; the server sends",
    "grants": "the server grants nothing anew, clean clients send",
    "server": "the server reads nothing, not even data; clean clients send",
}


def named(way: str, name: str) -> str:
    """A way through the relayd of that name: `relayd`, or `relayd (epoll)` where several are told apart."""
    return way + name.removeprefix("relayd")


def ways(name: str, relay, pairs: int) -> list[Subject]:
    """relayd, once for each way that a message can go; `relay` makes a subject of it."""
    pipe = relay(named(PIPE, name), "relayd, one loop, bench/scripts/pair.lua: the raw pair path", scenario="pair",
                 compared_with=("HAProxy", "node ws"))
    return [pipe] + [
        relay(named(way, name), what, scenario="channel", compared_with=(pipe.name, "node ws"),
              options=tuple(str(pairs) if option == "PAIRS" else option for option in options))
        for way, (what, options) in WAYS.items()]


def peers() -> list[Subject]:
    return [
        relays.haproxy("HAProxy", "one thread, in front of an echo back end: raw pairs, no channels"),
        relays.node_channel("node ws", "Node and ws, bench/peers/node-channel.mjs: clean clients, a server each"),
    ]


# Turns


def fairness(bench: Bench, binary: Path, io: str) -> dict:
    """By place, then by what is beside the interactive messages: a result of each round."""
    results = {}

    def measure(load: loads.Fairness, subject_of) -> None:
        pair = [subject_of(name, ("--servers", "1", "--bulk", str(bulk)))
                for name, bulk in (("alone", 0), ("beside bulk", load.bulk))]
        results[load.name] = bench.rounds(load.name, pair, "fairness", load.arguments(), lambda result: (
            f"arrival p99 {result['arrivalMicroseconds']['p99'] / 1e3:8.2f} ms, "
            f"bulk {result['bulk']['bytesPerSecond'] / 1e6:>8,.1f} MB/s"), bench.window(load.warmup, load.seconds))

    def plain(name: str, options: tuple[str, ...]) -> Subject:
        return relays.relayd(binary, name, "over loopback", relays.PAIR_SCRIPT, io=io, options=options)

    measure(loads.CROWDED, plain)
    try:
        with Link(loads.SLOW_RATE) as link:
            measure(loads.SLOW, lambda name, options: relays.relayd(
                binary, name, f"the server behind a link of {loads.SLOW_RATE}", relays.PAIR_SCRIPT, io=io,
                # Ports in a namespace of one's own are free.
                address="0.0.0.0:8087", wrapper=link.relay_side, generator_wrapper=link.generator_side,
                options=("--url", f"ws://{link.fast}:8087", "--server-url", f"ws://{link.slow}:8087", *options)))
    except Unavailable as reason:
        say(f"fairness  {loads.SLOW.name}: left out: {reason}")
    return results


# Readers that stop


def kernel_room() -> int:
    """So many stalled channels leave the kernel's memory for TCP below pressure (tcp(7), tcp_mem), if it has to hold
    what is sent into each: twice that, for a buffer is seldom full."""
    pages = int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // (2 * loads.STALLED_BYTES) // 100 * 100


def stalled(bench: Bench, binary: Path, io: str) -> tuple[list[Subject], dict]:
    """By subject, a result of each round: a load without stalled channels, and with those of each way to stall."""
    count = loads.at_most(loads.STALLED_CHANNELS, 1)
    limits = (f"channelCreditBytes={loads.STALLED_CREDIT}", "channelsPerConnection=100000", "slowConsumerDeadline=1h",
              "idleTimeout=1h")

    def subject(name: str, what: str, channels: int, mode: str) -> Subject:
        return relays.relayd(binary, name, what, relays.PAIR_SCRIPT, io=io, limits=limits, options=(
            "--servers", "1", "--stalled", str(channels), "--stall", mode))

    subjects = [subject("none", "nothing is stalled", 0, "clean")] + [
        # What waits for a clean client may wait in the socket; multiplexed connections leave less there.
        subject(mode, what, min(count, kernel_room()) if mode == "clean" else count, mode)
        for mode, what in STALLS.items()]
    return subjects, bench.rounds("stalled", subjects, "stalled", loads.STALLED.arguments(), lambda result: (
        f"{result['stalled']['bytesEach']:>9,.0f} B each, {result['messagesPerSecond']:>9,.0f} messages/s beside them"))


# Ratios within a round


def speed_ratios(results: dict, mode: str) -> list[float]:
    """Messages per second beside stalled channels to those without."""
    return [a["messagesPerSecond"] / b["messagesPerSecond"] for a, b in zip(results[mode], results["none"])]


def throughput_ratios(results: dict, one: str, other: str) -> list[float]:
    return [a["bytesPerSecond"] / b["bytesPerSecond"] for a, b in zip(results[one], results[other])]
