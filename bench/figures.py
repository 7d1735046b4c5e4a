"""Medians, ratios and tables: what the report and the targets are made of."""

import statistics

# A row in which the relay's threads had to wait for a core for more of the window than this is marked.
NOISE_SHARE = 0.02

median = statistics.median


def cpu(result: dict) -> float:
    """Of the relay, microseconds per message or connection."""
    relay = result["relay"]
    return relay.get("cpuMicrosecondsPerMessage") or relay["cpuMicrosecondsPerConnection"]


def values(results: list[dict], *path: str) -> list[float]:
    def pick(result):
        for key in path:
            result = result[key]
        return result

    return [pick(result) for result in results]


def median_of(results: list[dict], *path: str) -> float:
    return median(values(results, *path))


def ratios_of(results: dict[str, list[dict]], ours: str, peer: str) -> list[float]:
    """Of CPU, within each round."""
    return [cpu(a) / cpu(b) for a, b in zip(results[ours], results[peer])]


def is_noisy(results: list[dict]) -> bool:
    return any(result["relay"]["waitedForCoreMilliseconds"] > NOISE_SHARE * result["seconds"] * 1e3
               for result in results)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that reads well as plain text, too."""
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head] + rows]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |"] + lines[1:]) + "\n"


def spread(numbers: list[float], form: str = ".2f") -> str:
    return f"{median(numbers):{form}} ({min(numbers):{form}}–{max(numbers):{form}})"


def verdict(value: float, target: float) -> str:
    return "met" if value <= target else f"missed by {(value / target - 1) * 100:.0f} %"
