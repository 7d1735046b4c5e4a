"""Turns what was measured into a Markdown report: medians over rounds, medians of the ratios within a round."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import channel_report
import loads
import targets
from figures import (NOISE_SHARE, cpu, is_noisy, median, median_of, ratios_of, spread, table, values)
from relays import CIPHER, NODE_PEERS, ROOT


@dataclass
class Findings:
    effort: object
    machine: dict[str, str]
    versions: dict[str, str]
    pinned: tuple
    is_realtime: bool
    # The subject that targets are about.
    ours: str
    # By load and subject, a result of each round.
    pairs: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    fixed: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    forward: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    # By load, of one subject.
    growth: dict[str, list[dict]] = field(default_factory=dict)
    # By subject.
    tls: dict[str, list[dict]] = field(default_factory=dict)
    # By kind, `plain` and `TLS`, and subject.
    setup: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    idle: dict[str, dict[str, dict]] = field(default_factory=dict)
    replace_load: str = ""
    replace: dict[str, list[dict]] = field(default_factory=dict)
    shares: dict | None = None
    # Channels: by load and way, by place and what is beside, by way to stall; and by direction and tunnel.
    channels: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    fairness: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    stalled: dict[str, list[dict]] = field(default_factory=dict)
    tunnel: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    # By scenario, or load, and subject.
    webhooks: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    links: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    # A result of each benchmark.
    micro: list[dict] = field(default_factory=list)
    # By section, the subjects that were measured in it.
    subjects: dict[str, list] = field(default_factory=dict)


def run(*command: str, cwd: Path | None = None) -> str:
    """The first line that a command prints, wherever it prints it; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    text = (done.stdout + done.stderr).strip()
    return text.splitlines()[0] if done.returncode == 0 and text else ""


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 1048576:.1f} GiB",
        "system": f"{system}, Linux {platform.release()}",
        "virtual": run("systemd-detect-virt", "--vm") or ("yes" if " hypervisor" in info else "no"),
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def package_version(name: str) -> str:
    return run("dpkg-query", "--showformat", "${Version}", "--show", name) or "unknown"


def versions(with_relayd: bool) -> dict[str, str]:
    changed = run("git", "status", "--porcelain", "--", "Sources", "scripts", "Package.swift", cwd=ROOT)
    revision = (run("git", "rev-parse", "--short=12", "HEAD", cwd=ROOT) or "unknown") + (", changed" if changed else "")
    return {
        "relayd": revision if with_relayd else "left out",
        "Swift": run("swift", "--version").partition("(")[0].strip() or "unknown",
        "Lua": package_version("liblua5.4-0"),
        "OpenSSL": package_version("libssl3"),
        "HAProxy": package_version("haproxy"),
        "nginx": package_version("nginx"),
        "Node peers": run("node", str(NODE_PEERS / "node-livecode.mjs"), "--version"),
        "generator": run("gcc", "--version"),
    }


# Tables of messages

WEBHOOK_SECTIONS = {
    "webhook": f"What connections say, as `PUT`s to the back end: {loads.WEBHOOK.name}",
    "push": f"`PUT`s of the back end to connections: {loads.PUSH.name}",
}


def messages_section(name: str, results: dict[str, list[dict]], subjects: list) -> str:
    rows = []
    for subject, rounds in results.items():
        latency = lambda quantile: f"{median_of(rounds, 'latencyMicroseconds', quantile) / 1e3:.2f}"
        rows.append([
            subject + (" ~" if is_noisy(rounds) else ""), f"{median_of(rounds, 'messagesPerSecond'):,.0f}",
            spread([cpu(result) for result in rounds]),
            f"{median_of(rounds, 'relay', 'userMicrosecondsPerMessage'):.2f} + "
            f"{median_of(rounds, 'relay', 'systemMicrosecondsPerMessage'):.2f}",
            latency("p50"), latency("p90"), latency("p99"), latency("p999"), latency("maximum"),
            f"{max(values(rounds, 'relay', 'peakResidentKiB')) / 1024:.1f}",
            f"{median_of(rounds, 'relay', 'coresUsed'):.2f}", f"{median_of(rounds, 'generator', 'coresUsed'):.2f}"])
    head = ["relay", "messages/s", "CPU µs per message (range)", "user + system", "p50 ms", "p90", "p99", "p99.9",
            "max", "peak MiB", "cores", "generator"]
    return f"### {name}\n\n{table(head, rows)}" + ratio_table("message", results, subjects)


def ratio_table(what: str, results: dict[str, list[dict]], subjects: list) -> str:
    rows = []
    for subject in subjects:
        for peer in subject.compared_with:
            if subject.name in results and peer in results:
                rows.append([f"{subject.name} / {peer}", *spread_cells(ratios_of(results, subject.name, peer))])
    return "\n" + table([f"CPU per {what}, ratio within a round", "median", "range"], rows) if rows else ""


def spread_cells(ratios: list[float]) -> list[str]:
    return [f"{median(ratios):.3f}", f"{min(ratios):.3f}–{max(ratios):.3f}"]


def growth_section(results: dict[str, list[dict]]) -> str:
    rows = [[
        load + (" ~" if is_noisy(rounds) else ""), f"{median_of(rounds, 'messagesPerSecond'):,.0f}",
        spread([cpu(result) for result in rounds]), f"{median_of(rounds, 'latencyMicroseconds', 'p50') / 1e3:.2f}",
        f"{max(values(rounds, 'relay', 'peakResidentKiB')) / 1024:.1f}",
    ] for load, rounds in results.items()]
    head = ["relayd", "messages/s", "CPU µs per message (range)", "p50 ms", "peak MiB"]
    return "### From few pairs to many\n\n" + table(head, rows) + (
        "\nBoth legs of a pair end at the relay; the most pairs that the limit of open files leaves room for.\n")


# Connections


def setup_section(kind: str, results: dict[str, list[dict]], subjects: list) -> str:
    rows = []
    for subject, rounds in results.items():
        duration = lambda quantile: f"{median_of(rounds, 'durationMicroseconds', quantile) / 1e3:.2f}"
        rows.append([
            subject + (" ~" if is_noisy(rounds) else ""), f"{median_of(rounds, 'connectionsPerSecond'):,.0f}",
            spread([cpu(result) for result in rounds], ".1f"), duration("p50"), duration("p99"), duration("maximum"),
            f"{median_of(rounds, 'relay', 'coresUsed'):.2f}", f"{median_of(rounds, 'generator', 'coresUsed'):.2f}"])
    under_way = next(iter(results.values()))[0]["concurrency"]
    head = ["relay", "connections/s", "CPU µs per connection (range)", "p50 ms", "p99", "max", "cores", "generator"]
    resumed = ", TLS sessions resumed by ticket" if kind == "TLS" else ""
    return f"### Opened, one message there and back, closed: {under_way} under way, {kind}{resumed}\n\n" + table(
        head, rows) + ratio_table("connection", results, subjects)


def idle_section(kind: str, results: dict[str, dict]) -> str:
    rows = [[
        name, f"{result['connections']:,}", f"{result['bytesPerConnection']:,.0f}",
        f"{result['residentKiBBefore'] / 1024:.1f}", f"{result['residentKiBIdle'] / 1024:.1f}",
        f"{result['residentKiBClosed'] / 1024:.1f}", f"{result['openedPerSecond']:,.0f}",
        f"{result['cpuMicrosecondsPerOpening']:.1f}", f"{result['idleCoresUsed'] * 100:.2f} %",
    ] for name, result in results.items()]
    head = ["relay", "connections", "bytes each", "MiB before", "MiB idle", "MiB after closing", "opened/s",
            "CPU µs per opening", "CPU while idle"]
    return f"### Idle connections, {kind}\n\n" + table(head, rows) + (
        "\nResident memory of the process (VmRSS); the kernel's socket buffers are not in it. As many connections as "
        "the limit of open files leaves room for; a proxy has a connection to its back end for each.\n")


# Scripts


def replace_section(load: str, results: dict[str, list[dict]]) -> str:
    plain, replacing = results["forward"], results["replace"]
    kinds = [
        ("delivery, nothing replaced", plain, "latencyMicroseconds"),
        ("delivery while replacing, all", replacing, "latencyMicroseconds"),
        ("… under way during a replacement, or sent within 5 ms after", replacing, "nearMicroseconds"),
        ("… the others of the same run", replacing, "awayMicroseconds"),
        ("the call of `add instruction` itself", replacing, "callMicroseconds"),
    ]
    rows = []
    for name, rounds, key in kinds:
        milliseconds = lambda quantile: f"{median_of(rounds, key, quantile) / 1e3:.3f}"
        longest = [result[key]["maximum"] / 1e3 for result in rounds]
        rows.append([name, f"{sum(result[key]['count'] for result in rounds):,}",
                     *(milliseconds(quantile) for quantile in ("p50", "p90", "p99", "p999")),
                     f"{median(longest):.3f}", f"{max(longest):.3f}"])
    head = ["milliseconds", "count", "p50", "p90", "p99", "p99.9", "max, median of rounds", "max of all"]
    calls = sum(result["replacements"] for result in replacing)
    skipped = sum(result["skipped"] for result in replacing)
    turns = [result["generator"]["longestTurnMicroseconds"] / 1e3 for result in plain + replacing]
    waits = [result["relay"]["waitedForCoreMilliseconds"] for result in plain + replacing]
    cost = median_of(replacing, "cpuMicrosecondsPerReplacement")
    return f"### Replacing `forward to server` every 50 ms ({load})\n\n{table(head, rows)}\n" + (
        f"{calls} replacements, {skipped} put off because the one before was not answered. One replacement costs the "
        f"relay {cost:.0f} µs of CPU (500 in a row without other load, median of rounds). What the machine adds: the "
        f"generator did not look at its sockets for up to {max(turns):.3f} ms at a time (median of rounds "
        f"{median(turns):.3f} ms); the relay waited for its core for up to {max(waits):.1f} ms of a window.\n")

def shares_section(shares: dict) -> str:
    counts = shares["instructions"]
    total, user, system = sum(counts.values()), shares["user"], shares["system"]
    rows = [[part, f"{each:,.0f}", f"{each / total:.0%}", f"{each / total * user:.2f}"] for part, each in counts.items()]
    rows += [["user space", f"{total:,.0f}", "100%", f"{user:.2f}"], ["kernel", "", "", f"{system:.2f}"]]
    return "### Where a scripted message goes\n\n" + table(
        ["part", "instructions per message", "of user space", "µs"], rows) + (
        f"\n100 pairs, 64 B, 8 in flight. Instructions are counted by callgrind over {shares['messages']:,} messages, by "
        "library; JSON is the envelope, its parameters and lua-cjson. The time of user space and of the kernel is that of "
        "one window without callgrind; the time of a part is estimated by its share of the instructions.\n")


def micro_section(results: list[dict]) -> str:
    rows = [[result["name"], f"{median(result['nanoseconds']):,.1f}",
             f"{min(result['nanoseconds']):,.1f}–{max(result['nanoseconds']):,.1f}",
             f"{result['instructions']:,.1f}" if result["instructions"] is not None else "not counted"]
            for result in results]
    return table(["operation", "ns of CPU", "range", "instructions"], rows) + (
        f"\nMedian of {len(results[0]['nanoseconds'])} runs in turn, caches warm: what an operation costs at least. An "
        "operation on frames is one frame. The instruction message is `forward to server` with 64 B, up to the two "
        "messages that it sends, which a host without sockets counts. Instructions are callgrind's.\n")


# The whole


def method(findings: Findings) -> str:
    effort = findings.effort
    core, generator_core = findings.pinned
    pinning = ("relay and generator not pinned: only one core" if core is None
               else f"relay pinned to core {core}, generator to core {generator_core}")
    if findings.is_realtime:
        pinning += "; all under real-time scheduling, before every ordinary process"
    return (
        f"{effort.rounds} rounds; in each, every relay in turn, in a fresh process ({pinning}), {effort.warmup:g} s of "
        f"warm-up and {effort.seconds:g} s measured. Figures are medians over the rounds, ratios medians of the ratios "
        "within a round. CPU is the relay process's own (user and system, all threads), divided by the messages that "
        "it relayed in the window; the split into user and system is sampled by the kernel at its tick: "
        f"{split_error(effort.seconds, effort.rounds)}. Latency is from sending (at a fixed rate: from when the "
        "message was due) to arrival at the server end; on raw pairs, to the far end and back, which are two relayed messages. "
        f"TLS is 1.3 with {CIPHER} everywhere. Every message's place in its order and every byte of it were checked. "
        f"`~` marks rows in which the relay had to wait for its core for more than {NOISE_SHARE * 100:.0f} % of a "
        "window. What it all means: bench/README.md.\n")


def split_error(seconds: float, rounds: int) -> str:
    """One standard deviation of a share that is sampled so often, where it is most (a half)."""
    configured = run("sh", "-c", "zcat /proc/config.gz | grep -x 'CONFIG_HZ=[0-9]*'").partition("=")[2]
    if not configured:
        return "good for a share, not for small differences"
    samples = int(configured) * seconds
    return (f"{configured} times a second, so that in one window a share is good to ±{50 / samples ** 0.5:.1f} % of "
            f"the CPU time, and over the rounds to about ±{50 / (samples * rounds) ** 0.5:.1f} %")


def render(findings: Findings) -> str:
    facts = [[name, value] for name, value in (findings.machine | {
        "load after": " ".join(f"{value:.2f}" for value in os.getloadavg())} | findings.versions).items()]
    subjects = findings.subjects

    def chapter(title: str, kind: str, *sections: str) -> str:
        if not any(sections):
            return ""
        named = "\n".join(f"- `{subject.name}`: {subject.what}" for subject in subjects.get(kind, []))
        return "\n".join([f"## {title}\n", *([named + "\n"] if named else []), *filter(None, sections)])

    def each(results: dict, kind: str) -> list[str]:
        return [messages_section(load, found, subjects[kind]) for load, found in results.items()]

    parts = [
        f"# Benchmark of {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC\n",
        targets.section(findings),
        chapter("Raw pairs", "pairs", *each(findings.pairs, "pairs"),
                growth_section(findings.growth) if findings.growth else ""),
        chapter("Raw pairs at a fixed rate", "fixed", *each(findings.fixed, "fixed")),
        chapter("Raw pairs, TLS on both sides", "tls",
                *each({"100 pairs, 4 KiB, 8 in flight": findings.tls} if findings.tls else {}, "tls")),
        chapter("New connections", "setup",
                *(setup_section(kind, found, subjects["setup"]) for kind, found in findings.setup.items())),
        chapter("Connections that say nothing", "idle",
                *(idle_section(kind, found) for kind, found in findings.idle.items())),
        chapter("Messages through `forward to server`", "forward", *each(findings.forward, "forward"),
                shares_section(findings.shares) if findings.shares else ""),
        chapter("Changing while it runs", "replace",
                replace_section(findings.replace_load, findings.replace) if findings.replace else ""),
        chapter("Messages through channels", "channels", *each(findings.channels, "channels")),
        chapter("Turns", "fairness",
                *(channel_report.fairness_section(*found) for found in findings.fairness.items())),
        chapter("Readers that stop", "stalled",
                channel_report.stalled_section(findings.stalled) if findings.stalled else ""),
        chapter("Tunnels", "tunnel",
                *(channel_report.tunnel_section(*found, subjects["tunnel"]) for found in findings.tunnel.items())),
        chapter("Back ends that speak HTTP", "webhooks", *each({
            WEBHOOK_SECTIONS[scenario]: found for scenario, found in findings.webhooks.items()}, "webhooks")),
        chapter("Channels across a link", "links", *each(findings.links, "links")),
        chapter("Micro-benchmarks", "micro", micro_section(findings.micro) if findings.micro else ""),
        "## Machine, versions, method\n",
        table(["what", "which"], facts),
        method(findings),
    ]
    return "\n".join(part for part in parts if part)
