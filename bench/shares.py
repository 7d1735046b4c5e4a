"""Where a scripted message's time goes: relayd under callgrind, instructions counted by the library they lie in; and
relayd by itself, for the kernel's share.

Counts of instructions are not times, but they do not depend on what else the machine does.
"""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import relays
from loads import FORWARD_HEADLINE
from measure import Bench, say
from subjects import BenchError

SECONDS = 6
# Part, the objects that it lies in, and the functions where that does not tell; the first match counts.
PARTS = [
    ("Lua", r"/liblua", r""),
    ("JSON", r"/relayd|cjson", r"JSON|json|Envelope|Members|rl_push_parameters"),
    ("our code", r"/relayd", r""),
    ("Swift runtime", r"/libswift|/lib_?Foundation|/libstdc\+\+", r""),
    ("libc", r"/libc\.so|/libm\.so|/ld-linux", r""),
    ("OpenSSL", r"/libcrypto|/libssl", r""),
    ("other", r"", r""),
]
NAME = re.compile(r"^\((\d+)\)(?: (.*))?$")


def part_of(object_name: str, function: str) -> str:
    return next(part for part, objects, functions in PARTS
                if re.search(objects, object_name) and re.search(functions, function))


def count(profile: str) -> Counter:
    """Instructions by part. The format: https://valgrind.org/docs/manual/cl-format.html. The line behind `calls=` is
    what the callee took, which is counted where the callee stands."""
    names: dict[tuple[str, str], str] = {}
    counts: Counter = Counter()
    part, object_name, is_of_callee = "", "", False

    def resolve(kind: str, text: str) -> str:
        number, name = NAME.match(text).groups()
        return names.setdefault((kind, number), name) if name else names[kind, number]

    for line in profile.splitlines():
        key, equals, rest = line.partition("=")
        if equals and key in ("ob", "cob"):
            resolved = resolve("ob", rest)
            object_name = resolved if key == "ob" else object_name
        elif equals and key in ("fn", "cfn"):
            resolved = resolve("fn", rest)
            part = part_of(object_name, resolved) if key == "fn" else part
        elif key == "calls":
            is_of_callee = True
        elif line[:1].isdigit() or line[:1] in "+-*" and line:
            if not is_of_callee:
                counts[part] += int(line.split()[1])
            is_of_callee = False
    return counts


def strip(binary: Path, directory: Path) -> Path:
    """Valgrind stumbles over newer debugging information; the symbol table is all that is needed."""
    stripped = directory / binary.name
    subprocess.run(["objcopy", "--strip-debug", binary, stripped], check=True)
    return stripped


def control(pid: int, directory: Path) -> None:
    done = subprocess.run(["callgrind_control", "-i", "on", str(pid)], cwd=directory, capture_output=True, text=True)
    if done.returncode != 0 or "OK" not in done.stdout:
        raise BenchError(f"callgrind_control: {(done.stdout + done.stderr).strip()}")


def measure(bench: Bench, binary: Path) -> dict | None:
    """Instructions per message by part, and CPU time of user space and kernel; None where valgrind is missing."""
    if not all(map(shutil.which, ("valgrind", "callgrind_control", "objcopy"))):
        return None
    load = FORWARD_HEADLINE.arguments()
    with bench.start(relays.relayd(binary, "relayd", "by itself", relays.TUNNEL_SCRIPT)) as running:
        relay = bench.generate(running, "forward", load + bench.window())["relay"]
    profile = bench.directory / "callgrind.out"
    subject = relays.relayd(
        # Valgrind knows epoll well, io_uring hardly; nothing above the loop differs.
        strip(binary, bench.directory), "relayd", "under callgrind", relays.TUNNEL_SCRIPT, io="epoll",
        wrapper=("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={profile}"))
    with bench.start(subject) as running:
        control(running.pid, running.directory)
        messages = bench.generate(running, "forward", load + ["--warmup", "0", "--seconds", str(SECONDS)])["messages"]
    counts = count(profile.read_text())
    total = sum(counts.values())
    say("shares  " + ", ".join(f"{part} {counts[part] / total:.0%}" for part, _, _ in PARTS))
    return {"messages": messages, "user": relay["userMicrosecondsPerMessage"],
            "system": relay["systemMicrosecondsPerMessage"],
            "instructions": {part: counts[part] / messages for part, _, _ in PARTS if counts[part]}}
