"""Turns what was measured into a Markdown report: medians over rounds, medians of the ratios within a round."""

import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

# What the project asks of itself. `node-livecode` took about 112 µs where relayd was asked for 8.
FORWARD_TARGET_MICROSECONDS = 8.0
FORWARD_TARGET_RATIO = 8.0 / 112.0
IDLE_TARGET_BYTES = 2048
REPLACE_TARGET_MILLISECONDS = 2.0
# A row in which the relay's threads had to wait for a core for more of the window than this is marked.
NOISE_SHARE = 0.02


@dataclass
class Findings:
    effort: object
    machine: dict[str, str]
    versions: dict[str, str]
    subjects: list
    pinned: tuple
    is_realtime: bool
    forward: dict[str, dict[str, list[dict]]] = field(default_factory=dict)
    idle: dict[str, dict] = field(default_factory=dict)
    replace_load: str = ""
    replace: dict[str, list[dict]] = field(default_factory=dict)


def run(*command: str, cwd: Path | None = None) -> str:
    """The first line that a command prints; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


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
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def package_version(name: str) -> str:
    return run("dpkg-query", "--showformat", "${Version}", "--show", name) or "unknown"


def versions(root: Path, binary: Path, with_relayd: bool) -> dict[str, str]:
    changed = run("git", "status", "--porcelain", "--", "Sources", "scripts", "Package.swift", cwd=root)
    revision = (run("git", "rev-parse", "--short=12", "HEAD", cwd=root) or "unknown") + (", changed" if changed else "")
    found = {
        "relayd": revision if with_relayd else "left out",
        "Swift": run("swift", "--version").partition("(")[0].strip() or "unknown",
        "Lua": package_version("liblua5.4-0"),
        "OpenSSL": package_version("libssl3"),
        "Node peer": run("node", str(root / "bench/peers/node-livecode.mjs"), "--version"),
        "generator": run("gcc", "--version"),
    }
    return found


def median(values) -> float:
    return statistics.median(values)


def cpu(result: dict) -> float:
    return result["relay"]["cpuMicrosecondsPerMessage"]


def median_of(results: list[dict], *path: str) -> float:
    def pick(result):
        for key in path:
            result = result[key]
        return result

    return median(pick(result) for result in results)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that reads well as plain text, too."""
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head] + rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |"] + lines[1:])


def verdict(value: float, target: float) -> str:
    return "met" if value <= target else f"missed by {(value / target - 1) * 100:.0f} %"


def is_noisy(results: list[dict]) -> bool:
    return any(result["relay"]["waitedForCoreMilliseconds"] > NOISE_SHARE * result["seconds"] * 1e3
               for result in results)


def forward_section(name: str, results: dict[str, list[dict]], subjects: list) -> str:
    rows = []
    for subject, rounds in results.items():
        latency = lambda quantile: f"{median_of(rounds, 'latencyMicroseconds', quantile) / 1e3:.2f}"
        costs = [cpu(result) for result in rounds]
        rows.append([
            subject + (" ~" if is_noisy(rounds) else ""), f"{median_of(rounds, 'messagesPerSecond'):,.0f}",
            f"{median(costs):.2f} ({min(costs):.2f}–{max(costs):.2f})",
            f"{median_of(rounds, 'relay', 'userMicrosecondsPerMessage'):.2f} + "
            f"{median_of(rounds, 'relay', 'systemMicrosecondsPerMessage'):.2f}",
            latency("p50"), latency("p90"), latency("p99"), latency("p999"), latency("maximum"),
            f"{max(result['relay']['peakResidentKiB'] for result in rounds) / 1024:.1f}",
            f"{median_of(rounds, 'relay', 'coresUsed'):.2f}", f"{median_of(rounds, 'generator', 'coresUsed'):.2f}"])
    head = ["relay", "messages/s", "CPU µs per message (range)", "user + system", "p50 ms", "p90", "p99", "p99.9",
            "max", "peak MiB", "cores", "generator"]
    text = f"### {name}\n\n{table(head, rows)}\n"
    ratios = ratio_rows(results, subjects)
    if ratios:
        text += "\n" + table(["CPU per message, ratio within a round", "median", "range"], ratios) + "\n"
    return text


def ratio_rows(results: dict[str, list[dict]], subjects: list) -> list[list[str]]:
    rows = []
    for subject in subjects:
        for peer in subject.compared_with:
            ratios = ratios_of(results, subject.name, peer)
            rows.append([f"{subject.name} / {peer}", f"{median(ratios):.3f}", f"{min(ratios):.3f}–{max(ratios):.3f}"])
    return rows


def ratios_of(results: dict[str, list[dict]], ours: str, peer: str) -> list[float]:
    return [cpu(a) / cpu(b) for a, b in zip(results[ours], results[peer])]


def idle_section(results: dict[str, dict]) -> str:
    rows = [[
        name, f"{result['connections']:,}", f"{result['bytesPerConnection']:,.0f}",
        f"{result['residentKiBBefore'] / 1024:.1f}", f"{result['residentKiBIdle'] / 1024:.1f}",
        f"{result['residentKiBClosed'] / 1024:.1f}", f"{result['openedPerSecond']:,.0f}",
        f"{result['cpuMicrosecondsPerOpening']:.1f}", f"{result['idleCoresUsed'] * 100:.2f} %",
    ] for name, result in results.items()]
    head = ["relay", "connections", "bytes each", "MiB before", "MiB idle", "MiB after closing", "opened/s",
            "CPU µs per opening", "CPU while idle"]
    return "### Idle connections\n\n" + table(head, rows) + (
        "\n\nResident memory of the process (VmRSS); the kernel's socket buffers are not in it.\n")


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
    return f"### Replacing `forward to server` every 50 ms ({load})\n\n{table(head, rows)}\n\n" + (
        f"{calls} replacements, {skipped} put off because the one before was not answered. One replacement costs the "
        f"relay {cost:.0f} µs of CPU (500 in a row without other load, median of rounds). What the machine adds: the "
        f"generator did not look at its sockets for up to {max(turns):.3f} ms at a time (median of rounds "
        f"{median(turns):.3f} ms); the relay waited for its core for up to {max(waits):.1f} ms of a window.\n")


def replace_delays(results: dict[str, list[dict]]) -> list[float]:
    """By round, in milliseconds: the longest delivery near a replacement beyond the usual (median) delivery of the
    same load without replacing."""
    return [(replacing["nearMicroseconds"]["maximum"] - plain["latencyMicroseconds"]["p50"]) / 1e3
            for plain, replacing in zip(results["forward"], results["replace"])]


def targets_section(findings: Findings) -> str:
    headline = next(iter(findings.forward.values()), {})
    rows = []
    if "relayd" in headline:
        cost = median(cpu(result) for result in headline["relayd"])
        rows.append(["scripted forward, CPU µs per message", f"{FORWARD_TARGET_MICROSECONDS:.0f}", f"{cost:.2f}",
                     verdict(cost, FORWARD_TARGET_MICROSECONDS)])
        ratio = median(ratios_of(headline, "relayd", "node-livecode"))
        rows.append(["the same, ratio to node-livecode (8 / 112)", f"{FORWARD_TARGET_RATIO:.3f}", f"{ratio:.3f}",
                     verdict(ratio, FORWARD_TARGET_RATIO)])
    if "relayd" in findings.idle:
        each = findings.idle["relayd"]["bytesPerConnection"]
        rows.append(["idle connection, resident bytes", str(IDLE_TARGET_BYTES), f"{each:,.0f}",
                     verdict(each, IDLE_TARGET_BYTES)])
    if findings.replace:
        delays = replace_delays(findings.replace)
        rows.append(["longest delivery near a replacement beyond the usual, ms, median of rounds",
                     f"{REPLACE_TARGET_MILLISECONDS:.0f}", f"{median(delays):.2f} (worst {max(delays):.2f})",
                     verdict(median(delays), REPLACE_TARGET_MILLISECONDS)])
    if not rows:
        return ""
    return "## Targets\n\n" + table(["what", "at most", "measured", ""], rows) + "\n"


def render(findings: Findings) -> str:
    effort = findings.effort
    facts = [[name, value] for name, value in (findings.machine | {
        "load after": " ".join(f"{value:.2f}" for value in os.getloadavg())} | findings.versions).items()]
    core, generator_core = findings.pinned
    pinning = ("relay and generator not pinned: only one core" if core is None
               else f"relay pinned to core {core}, generator to core {generator_core}")
    if findings.is_realtime:
        pinning += "; all under real-time scheduling, before every ordinary process"
    parts = [
        f"# Benchmark of {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC\n",
        targets_section(findings),
        "## Messages through `forward to server`\n" if findings.forward else "",
        *(forward_section(name, results, findings.subjects) for name, results in findings.forward.items()),
        "## Connections\n" if findings.idle else "",
        idle_section(findings.idle) if findings.idle else "",
        "## Changing while it runs\n" if findings.replace else "",
        replace_section(findings.replace_load, findings.replace) if findings.replace else "",
        "## Machine, versions, method\n",
        table(["what", "which"], facts) + "\n",
        "\n".join(f"- `{subject.name}`: {subject.what}" for subject in findings.subjects) + "\n",
        f"{effort.rounds} rounds; in each, every relay in turn, in a fresh process ({pinning}), {effort.warmup:g} s of "
        f"warm-up and {effort.seconds:g} s measured. Figures are medians over the rounds, ratios medians of the ratios "
        "within a round. CPU is the relay process's own (user and system, all threads), divided by the messages "
        "delivered in the window; the split into user and system is sampled by the kernel at its tick. Latency is from "
        "sending (at a fixed rate: from when the message was due) to its arrival at the server end. Every message's "
        "place in its order and every byte of it were checked. `~` marks rows in which the relay had to wait for its "
        f"core for more than {NOISE_SHARE * 100:.0f} % of a window. What it all means: bench/README.md.\n",
    ]
    return "\n".join(part for part in parts if part)
