"""What is measured: loads, and how much effort goes into them."""

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Messages over pairs. `rate` is in relayed messages per second; None is a closed loop."""

    name: str
    pairs: int
    in_flight: int
    payload_bytes: int
    rate: int | None = None
    burst: int = 1
    # Whether the sizes of the peers' buffers matter.
    is_large: bool = False

    def arguments(self) -> list[str]:
        fixed = ["--pairs", str(self.pairs), "--inflight", str(self.in_flight), "--size", str(self.payload_bytes)]
        return fixed + (["--rate", str(self.rate), "--burst", str(self.burst)] if self.rate else [])


@dataclass(frozen=True)
class Fairness(Load):
    """Interactive messages through channels of one server's connection, and how many others carry bulk."""

    bulk: int = 0
    # At least, in seconds: a queue takes its time to fill, and a quantile its messages.
    warmup: float = 2
    seconds: float = 4


@dataclass(frozen=True)
class Effort:
    rounds: int
    warmup: float
    seconds: float
    # What is measured where no --only says so.
    kinds: tuple[str, ...]


KINDS = ("pairs", "fixed", "growth", "tls", "setup", "idle", "forward", "replace", "shares", "channels", "fairness",
         "stalled", "tunnel", "webhooks", "links", "micro")
QUICK = Effort(rounds=3, warmup=0.4, seconds=1.2, kinds=("pairs",))
FULL = Effort(rounds=5, warmup=1, seconds=3, kinds=KINDS)


def open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def at_most(wanted: int, files_each: int) -> int:
    """`wanted` connections or pairs, or as many as the limit of open files of one process leaves room for."""
    return min(wanted, (open_files() - 200) // files_each // 100 * 100)


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


# Raw pairs.
SMALL_SINGLE = Load("100 pairs, 64 B, 1 in flight", 100, 1, 64)
SMALL_MANY = Load("100 pairs, 64 B, 32 in flight", 100, 32, 64)
MEDIUM = Load("100 pairs, 4 KiB, 8 in flight", 100, 8, 4096, is_large=True)
LARGE = Load("20 pairs, 64 KiB, 4 in flight", 20, 4, 65536, is_large=True)
THOUSAND = Load("1 000 pairs, 64 B, 1 in flight", 1000, 1, 64)
PAIRS = [SMALL_SINGLE, SMALL_MANY, MEDIUM, LARGE, THOUSAND]

# Rates that the slowest peer holds with a third of its core to spare.
FIXED = [
    Load("100 pairs, 64 B, 30 000 per second", 100, 8, 64, rate=30_000),
    Load("100 pairs, 64 B, 60 000 per second in bursts of 32", 100, 64, 64, rate=60_000, burst=32),
    Load("100 pairs, 4 KiB, 24 000 per second in bursts of 8", 100, 32, 4096, rate=24_000, burst=8, is_large=True),
]


def growth() -> list[Load]:
    """From few pairs to many; both legs of a pair end at the relay, and in the generator."""
    return [Load(f"{spaced(pairs)} pairs, 64 B, 1 in flight", pairs, 1, 64) for pairs in (10, at_most(10_000, 2))]


# Through `forward to server`.
FORWARD_HEADLINE = Load("100 pairs, 64 B, 8 in flight", 100, 8, 64)
FORWARD = [
    FORWARD_HEADLINE,
    Load("100 pairs, 64 B, 1 in flight", 100, 1, 64),
    Load("100 pairs, 4 KiB, 8 in flight", 100, 8, 4096),
    Load("1 000 pairs, 64 B, 1 in flight", 1000, 1, 64),
    Load("100 pairs, 64 B, 10 000 per second", 100, 8, 64, 10_000),
]
# Well below saturation, or queueing would hide what a replacement adds.
REPLACE = Load("100 pairs, 64 B, 10 000 per second", 100, 8, 64, 10_000)

SETUP_CONCURRENCY = 64

# Channels: the loads of raw pairs, which they are compared with.
CHANNELS = [SMALL_SINGLE, SMALL_MANY, MEDIUM, LARGE]
CROWDED = Fairness("100 interactive channels and 900 of bulk on one server's connection", 100, 64, 64, 4_000, bulk=900)
SLOW_RATE = "10mbit"
SLOW = Fairness("10 interactive channels and one of bulk, the server behind 10 Mbit/s", 10, 64, 64, 400, bulk=1)
STALLED = Load("100 channels, 64 B, 8 in flight", 100, 8, 64)
STALLED_CHANNELS = 10_000
# A quarter of the default, so that what ten thousand hold fits into small machines.
STALLED_CREDIT = "64KiB"
# What is sent into each: its credit, and as much beyond (loadgen/stalled.c).
STALLED_BYTES = 128 << 10

# Back ends that speak HTTP: what connections say, and what is pushed to them.
WEBHOOK = Load("100 connections, 64 B, 8 in flight", 100, 8, 64)
PUSH = Load("100 connections, 64 B, 1 in flight for each", 100, 1, 64)
LINKED = [SMALL_MANY, MEDIUM, LARGE]
