"""The report's sections about channels and tunnels."""

import channels
from figures import is_noisy, median, median_of, spread, table, values


def marked(name: str, rounds: list[dict]) -> str:
    return name + (" ~" if is_noisy(rounds) else "")


def fairness_section(place: str, results: dict[str, list[dict]]) -> str:
    rows = []
    for name, rounds in results.items():
        milliseconds = lambda key, quantile: f"{median_of(rounds, key, quantile) / 1e3:.2f}"
        shares = [share for share in values(rounds, "bulk", "leastShare") if share is not None]
        rows.append([
            marked(name, rounds), *(milliseconds("arrivalMicroseconds", key) for key in ("p50", "p99", "maximum")),
            *(milliseconds("latencyMicroseconds", key) for key in ("p50", "p99", "maximum")),
            f"{median_of(rounds, 'bulk', 'bytesPerSecond') / 1e6:,.1f}", f"{min(shares):.2f}" if shares else "",
            f"{max(values(rounds, 'relay', 'peakResidentKiB')) / 1024:.1f}",
            f"{median_of(rounds, 'generator', 'longestTurnMicroseconds') / 1e3:.1f}"])
    head = ["interactive messages", "to the server: p50 ms", "p99", "max", "there and back: p50 ms", "p99", "max",
            "bulk MB/s", "least share", "peak MiB", "generator's longest turn ms"]
    return f"### {place}\n\n{table(head, rows)}" + (
        "\nMaxima are medians of the rounds' maxima. The least share is that of the bulk channel that got least, in "
        "equal shares, in the worst round.\n")


def stalled_section(results: dict[str, list[dict]]) -> str:
    rows = []
    for name, rounds in results.items():
        stalled = lambda key: median_of(rounds, "stalled", key)
        count = stalled("channels")
        rows.append([
            marked(name, rounds), f"{count:,}", f"{stalled('creditBytes') * count / 1048576:,.0f}",
            f"{(stalled('residentKiBFull') - stalled('residentKiBOpen')) / 1024:,.0f}", f"{stalled('bytesEach'):,.0f}",
            f"{stalled('bytesSentEach'):,.0f}", f"{stalled('kernelKiB') / 1024:,.0f}",
            f"{median_of(rounds, 'messagesPerSecond'):,.0f}", spread(channels.speed_ratios(results, name)),
            f"{median_of(rounds, 'relay', 'cpuMicrosecondsPerMessage'):.2f}",
        ] if count else [
            marked(name, rounds), "0", "", "", "", "", "", f"{median_of(rounds, 'messagesPerSecond'):,.0f}", "",
            f"{median_of(rounds, 'relay', 'cpuMicrosecondsPerMessage'):.2f}"])
    head = ["stalled", "channels", "their credit, MiB", "resident growth, MiB", "bytes each", "sent into each",
            "kernel, MiB", "messages/s beside them", "to those without (range)", "CPU µs"]
    return table(head, rows) + (
        "\nResident growth is from when the channels are open to when nothing moves in them any more. The kernel's "
        "memory is that of all TCP sockets, of which the generator has one end. Beside them: 100 clean clients of the "
        "same server connection, 64 B, 8 in flight.\n")


def tunnel_section(direction: str, results: dict[str, list[dict]], subjects: list) -> str:
    rows = [[
        marked(name, rounds), spread([rate / 1e6 for rate in values(rounds, "bytesPerSecond")], ",.0f"),
        f"{median_of(rounds, 'relay', 'cpuSecondsPerGiB'):.3f}", f"{median_of(rounds, 'relay', 'coresUsed'):.2f}",
        f"{median_of(rounds, 'generator', 'coresUsed'):.2f}",
        f"{max(values(rounds, 'relay', 'peakResidentKiB')) / 1024:.1f}",
    ] for name, rounds in results.items()]
    ratios = [[f"{subject.name} / {peer}", *(
        f"{median(numbers):.2f} ({min(numbers):.2f}–{max(numbers):.2f})" for numbers in (
            channels.throughput_ratios(results, subject.name, peer),
            [a["relay"]["cpuSecondsPerGiB"] / b["relay"]["cpuSecondsPerGiB"]
             for a, b in zip(results[subject.name], results[peer])]))]
        for subject in subjects for peer in subject.compared_with if subject.name in results and peer in results]
    head = ["tunnel", "MB/s (range)", "CPU s per GiB", "cores", "generator", "peak MiB, all processes"]
    return f"### {direction[0].upper()}{direction[1:]}\n\n{table(head, rows)}" + (
        "\n" + table(["ratio within a round", "throughput (range)", "CPU per GiB (range)"], ratios) if ratios else "")
