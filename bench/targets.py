"""What the project asks of itself, and whether it was reached."""

import channels
import loads
from figures import cpu, median, median_of, ratios_of, table, verdict

# Ratio of CPU per relayed message to the peer's, at most.
PAIR_RATIOS = {
    loads.SMALL_SINGLE.name: {"HAProxy": 0.75, "nginx": 0.90, "node ws": 0.40},
    loads.SMALL_MANY.name: {"HAProxy": 0.80, "nginx": 0.95, "node ws": 0.05},
    loads.MEDIUM.name: {"HAProxy": 0.75, "nginx": 0.35, "node ws": 0.20},
    loads.LARGE.name: {"HAProxy": 0.75, "nginx": 0.35, "node ws": 0.20},
    loads.THOUSAND.name: {"HAProxy": 0.90, "nginx": 0.90, "node ws": 0.45},
}
PAIR_USER_MICROSECONDS = 0.5
GROWTH_RATIO = 1.25
TLS_RATIO = 0.9
FORWARD_MICROSECONDS = 4.0
# `node-livecode` took about 112 µs where relayd was asked for 8.
FORWARD_RATIO = 8.0 / 112.0
IDLE_BYTES = {"plain": 1024, "TLS": 14 * 1024}
REPLACE_MILLISECONDS = 2.0
# CPU per message of a channel, to the raw pair path's of the same run.
CHANNEL_RATIO = 1.2
# Interactive messages beside bulk: there and back at line rate, p99; and by how much a slow link's p99 may grow.
INTERACTIVE_MILLISECONDS = 50.0
# Channels beside stalled ones, messages per second to those without.
STALLED_SPEED = 0.9
TUNNEL_RATIO = 2.0
# Messages per second on one core; and CPU of two relays that are linked, to that of one.
WEBHOOK_RATES = {"webhook": 5_000, "push": 10_000}
LINK_RATIO = 1.6


def linked(name: str) -> str:
    """Two relays of that name: `relayd`, or `relayd (epoll)`."""
    return "two linked" + name.removeprefix("relayd")


def replace_delays(results: dict[str, list[dict]]) -> list[float]:
    """By round, in milliseconds: the longest delivery near a replacement beyond the usual (median) delivery of the
    same load without replacing."""
    return [(replacing["nearMicroseconds"]["maximum"] - plain["latencyMicroseconds"]["p50"]) / 1e3
            for plain, replacing in zip(results["forward"], results["replace"])]


def pair_table(results: dict[str, dict], ours: str) -> str:
    rows = []
    for load, targets in PAIR_RATIOS.items():
        if ours not in results.get(load, {}):
            continue
        row = [load]
        for peer, target in targets.items():
            ratio = median(ratios_of(results[load], ours, peer))
            row.append(f"{ratio:.2f} (≤ {target:.2f}) {verdict(ratio, target)}")
        rows.append(row)
    if not rows:
        return ""
    return (f"CPU per relayed message, {ours} to the peer, median of the ratios within a round:\n\n"
            + table(["load", "HAProxy", "nginx", "node ws"], rows))


def at_most(what: str, target: float, measured: float, digits: int = 2) -> list[str]:
    return [what, f"≤ {target:,.{digits}f}", f"{measured:,.{digits}f}", verdict(measured, target)]


def pair_rows(findings, ours: str) -> list[list[str]]:
    rows = []
    if ours in findings.pairs.get(loads.SMALL_MANY.name, {}):
        user = median_of(findings.pairs[loads.SMALL_MANY.name][ours], "relay", "userMicrosecondsPerMessage")
        rows.append(at_most(f"pair path, user µs per message ({loads.SMALL_MANY.name})", PAIR_USER_MICROSECONDS, user))
    if findings.growth:
        (few, before), (many, after) = findings.growth.items()
        ratio = median([cpu(b) / cpu(a) for a, b in zip(before, after)])
        name = f"CPU per message with {many.split(',')[0]}, to that with {few.split(',')[0]}"
        rows.append(at_most(name, GROWTH_RATIO, ratio))
    if ours in findings.tls:
        rows.append(at_most("TLS on both sides, CPU per message, to HAProxy's", TLS_RATIO,
                            median(ratios_of(findings.tls, ours, "HAProxy"))))
    return rows


def other_rows(findings, ours: str) -> list[list[str]]:
    rows = []
    for kind, results in findings.setup.items():
        if ours in results:
            ratio = median([a["connectionsPerSecond"] / b["connectionsPerSecond"]
                            for a, b in zip(results[ours], results["HAProxy"])])
            rows.append([f"new connections per second, {kind}, to HAProxy's", "≥ 1.00", f"{ratio:.2f}",
                         "met" if ratio >= 1 else f"missed by {(1 - ratio) * 100:.0f} %"])
    for kind, results in findings.idle.items():
        if ours in results:
            rows.append(at_most(f"idle connection, {kind}, resident bytes", IDLE_BYTES[kind],
                                results[ours]["bytesPerConnection"], 0))
    headline = findings.forward.get(loads.FORWARD_HEADLINE.name, {})
    if ours in headline:
        rows.append(at_most("scripted forward, CPU µs per message", FORWARD_MICROSECONDS,
                            median([cpu(result) for result in headline[ours]])))
        rows.append(at_most("the same, ratio to node-livecode (8 / 112)", FORWARD_RATIO,
                            median(ratios_of(headline, ours, "node-livecode")), 3))
    if findings.replace:
        delays = replace_delays(findings.replace)
        rows.append(["longest delivery near a replacement beyond the usual, ms, median of rounds",
                     f"≤ {REPLACE_MILLISECONDS:.0f}", f"{median(delays):.2f} (worst {max(delays):.2f})",
                     verdict(median(delays), REPLACE_MILLISECONDS)])
    return rows


def at_least(what: str, target: float, measured: float) -> list[str]:
    return [what, f"≥ {target:.2f}", f"{measured:.2f}",
            "met" if measured >= target else f"missed by {(1 - measured / target) * 100:.0f} %"]


def channel_table(results: dict[str, dict], ours: str) -> str:
    if not results or not ours:
        return ""
    rows = []
    for load, found in results.items():
        ratios = [median(ratios_of(found, channels.named(way, ours), channels.named(channels.PIPE, ours)))
                  for way in channels.WAYS]
        rows.append([load] + [f"{ratio:.2f} {verdict(ratio, CHANNEL_RATIO)}" for ratio in ratios])
    return (f"CPU per message of a channel, to `{channels.PIPE}`, median of the ratios within a round "
            f"(≤ {CHANNEL_RATIO}):\n\n" + table(["load", *channels.WAYS], rows))


def turn_rows(findings) -> list[list[str]]:
    """Interactive messages beside bulk."""
    rows = []
    if loads.CROWDED.name in findings.fairness:
        beside = findings.fairness[loads.CROWDED.name]["beside bulk"]
        rows.append(at_most(f"{loads.CROWDED.name}: p99 there and back, ms", INTERACTIVE_MILLISECONDS,
                            median_of(beside, "latencyMicroseconds", "p99") / 1e3))
    if loads.SLOW.name in findings.fairness:
        found = findings.fairness[loads.SLOW.name]
        delays = [(a["arrivalMicroseconds"]["p99"] - b["arrivalMicroseconds"]["p99"]) / 1e3
                  for a, b in zip(found["beside bulk"], found["alone"])]
        rows.append(at_most(f"{loads.SLOW.name}: p99 to the server beyond that without bulk, ms",
                            INTERACTIVE_MILLISECONDS, median(delays)))
    return rows


def channel_rows(findings) -> list[list[str]]:
    rows = turn_rows(findings)
    for mode in channels.STALLS:
        if mode in findings.stalled:
            credit = median_of(findings.stalled[mode], "stalled", "creditBytes")
            rows.append(at_most(f"a stalled channel ({mode}), resident bytes, to its credit", credit,
                                median_of(findings.stalled[mode], "stalled", "bytesEach"), 0))
            rows.append(at_least(f"others beside it ({mode}), messages per second, to those without", STALLED_SPEED,
                                 median(channels.speed_ratios(findings.stalled, mode))))
    for direction, results in findings.tunnel.items():
        for name in (findings.ours, f"{findings.ours}, TLS"):
            if name in results:
                rows.append(at_least(f"tunnel {direction}, {name}: throughput, to `ssh -L`", TUNNEL_RATIO,
                                     median(channels.throughput_ratios(results, name, "ssh -L"))))
    return rows


def backend_rows(findings) -> list[list[str]]:
    rows = []
    for scenario, rate in WEBHOOK_RATES.items():
        if findings.ours in findings.webhooks.get(scenario, {}):
            measured = median_of(findings.webhooks[scenario][findings.ours], "messagesPerSecond")
            rows.append([f"{scenario}: messages per second, one core", f"≥ {rate:,}", f"{measured:,.0f}",
                         "met" if measured >= rate else f"missed by {(1 - measured / rate) * 100:.0f} %"])
    for load, results in findings.links.items():
        if findings.ours in results:
            rows.append(at_most(f"CPU per message across a link, both relays', to one relay's ({load})", LINK_RATIO,
                                median(ratios_of(results, linked(findings.ours), findings.ours))))
    return rows


def section(findings) -> str:
    text = pair_table(findings.pairs, findings.ours) + channel_table(findings.channels, findings.ours)
    rows = pair_rows(findings, findings.ours) + other_rows(findings, findings.ours) + channel_rows(findings)
    rows += backend_rows(findings)
    if rows:
        text += ("\n" if text else "") + table(["what", "target", "measured", ""], rows)
    return "## Targets\n\n" + text if text else ""
