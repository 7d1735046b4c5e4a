"""Shows that the load generator is a judge: faulty relays, each of which it must refuse, and one that it must accept.

The faults are bodies of `forward to server` that are put into the running Node peer, so every kind of fault comes out
of a real relay over real sockets. Run by `dev/bench --self-test`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from subjects import BenchError, Running, node_subject, raise_file_limit

ROOT = Path(__file__).resolve().parent.parent

# Every body counts its calls in n and misbehaves once, in the 5000th; `pass` hands a message on as it should be.
PREAMBLE = """function (channel, data) {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 5000, found = channels[channel]
    const pass = (text) => found.server.send('from:data: ' + channel + delimiter + text)
"""
CASES = [  # name, rest of the body, pattern of what the generator must say (None: it must be content)
    ("honest", "pass(data); this.send('1')", None),
    ("loses a message", "if (!fault) pass(data); this.send('1')", "was lost, reordered, duplicated or altered"),
    ("doubles a message", "pass(data); if (fault) pass(data); this.send('1')",
     # The second copy meets the next message's turn, or finds nothing under way.
     "was lost, reordered, duplicated or altered|got a message that was not sent"),
    ("swaps two messages",
     "if (fault) { globalThis.held = [found, data] } else { pass(data) }\n"
     "if (!fault && globalThis.held?.[0] === found) { pass(held[1]); held = undefined }\nthis.send('1')",
     "was lost, reordered, duplicated or altered"),
    ("alters a byte", "pass(fault ? data.replace('z', 'y') : data); this.send('1')",
     "was lost, reordered, duplicated or altered"),
    ("sends to another channel",
     "if (fault) { channels.find((any) => any !== found).server.send('from:data: ' + channel + delimiter + data) }\n"
     "else { pass(data) }\nthis.send('1')", "got another channel's message"),
    ("forgets an answer", "pass(data); if (!fault) this.send('1')", "1 never acknowledged"),
    ("refuses a message", "pass(data); this.send(fault ? '0' : '1')", 'was answered "0"'),
    ("closes a connection", "pass(data); if (fault) { this.close(4007, 'kicked') } else { this.send('1') }",
     "closed a connection: 4007 kicked"),
    ("cuts a connection", "pass(data); if (fault) { this.terminate() } else { this.send('1') }",
     "the relay cut a connection"),
    ("does not compile", "}}", "add instruction was answered"),
]


def judge(generator: Path, running: Running, body: str) -> tuple[int, str]:
    path = running.directory / "body.js"
    path.write_text(body)
    done = subprocess.run(
        [generator, "replace", "--url", running.url, "--pid", str(running.pid), "--warmup", "0.3", "--seconds", "1",
         "--credential-file", running.subject.credential(running.directory), "--body-file", path],
        capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev/bench --self-test", description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--loadgen", type=Path, default=ROOT / ".build/bench/loadgen")
    generator = parser.parse_args().loadgen
    raise_file_limit()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as directory:
        for number, (name, rest, expected) in enumerate(CASES):
            subject = node_subject(ROOT, "node ws", "", False)
            try:
                with Running(subject, Path(directory) / str(number), None) as running:
                    status, said = judge(generator, running, PREAMBLE + rest + "\n}")
            except (BenchError, subprocess.TimeoutExpired) as error:
                status, said = -1, str(error)
            good = status == 0 if expected is None else status == 1 and re.search(expected, said)
            wrong += 0 if good else 1
            print(f"{'ok  ' if good else 'FAIL'} a relay that {name}: {said or 'accepted'}" if expected
                  else f"{'ok  ' if good else 'FAIL'} an honest relay: {said or 'accepted'}", flush=True)
    print(f"{len(CASES) - wrong} of {len(CASES)} judged rightly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
