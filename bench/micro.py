"""Micro-benchmarks: the package bench/micro, timed by itself and counted by callgrind."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from figures import median
from measure import Bench, say
from relays import ROOT, TUNNEL_SCRIPT
from shares import strip
from subjects import BenchError, prepare_child

PACKAGE = ROOT / "bench/micro"
BUILD = ROOT / ".build/micro"


def build() -> Path:
    say("micro  building bench/micro (release)")
    done = subprocess.run(["swift", "build", "-c", "release", "--package-path", PACKAGE, "--scratch-path", BUILD])
    if done.returncode != 0:
        raise BenchError("bench/micro does not build")
    return BUILD / "release/micro"


def run(bench: Bench, *command) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=bench.directory, capture_output=True, text=True,
        # Swift seeds its hash tables at random, which would change from count to count.
        env=os.environ | {"SWIFT_DETERMINISTIC_HASHING": "1"},
        preexec_fn=prepare_child(bench.relay_core, bench.is_realtime))
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def count(bench: Bench, binary: Path, name: str, iterations: int) -> float:
    """Instructions of one operation: twice as many operations less as many, so that the start is in neither."""
    profile = bench.directory / "micro.out"

    def total(times: int) -> int:
        run(bench, "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", binary, TUNNEL_SCRIPT, name, times)
        return int(re.search(r"^totals: (\d+)$", profile.read_text(), re.MULTILINE)[1])

    return (total(2 * iterations) - total(iterations)) / iterations


def measure(bench: Bench) -> list[dict]:
    """Of each benchmark the nanoseconds of one operation, by round, and its instructions; None where valgrind is
    missing."""
    binary = build()
    results = [json.loads(line) for line in run(bench, binary, TUNNEL_SCRIPT).splitlines()]
    counted = None
    if all(map(shutil.which, ("valgrind", "objcopy"))):
        counted = strip(binary, bench.directory)
    else:
        say("micro  instructions left out: valgrind or objcopy is missing; dev/setup --bench installs them")
    for result in results:
        result["instructions"] = counted and count(bench, counted, result["name"], result["iterations"])
        say(f"micro  {result['name']:<43} {median(result['nanoseconds']):>9,.1f} ns" + (
            f", {result['instructions']:>9,.1f} instructions" if counted else ""))
    return results
