"""Shows that the load generator is a judge: faulty relays, each of which it must refuse, and honest ones that it must
accept.

The faults are functions that are put into the Node peers, bodies of `forward to server` or what hands a raw message on,
so every kind of fault comes out of a real relay over real sockets. Run by `dev/bench --self-test`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from relays import (ROOT, haproxy, nginx, node_channel, node_livecode, node_pair, node_tcp, node_webhook)
from subjects import BenchError, Running, Subject, make_certificate, raise_file_limit

ALTERED = "was lost, reordered, duplicated or altered"
# The second copy meets the next message's turn, or finds nothing under way.
DOUBLED = f"{ALTERED}|got a message that was not sent"

# Every body counts its calls in n and misbehaves once, in the 5000th; `pass` hands a message on as it should be.
TUNNEL = """function (channel, data) {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 5000, found = channels[channel]
    const pass = (text) => found.server.send('from:data: ' + channel + delimiter + text)
"""
TUNNEL_CASES = [  # name, rest of the body, pattern of what the generator must say (None: it must be content)
    ("is honest", "pass(data); this.send('1')", None),
    ("loses a message", "if (!fault) pass(data); this.send('1')", ALTERED),
    ("doubles a message", "pass(data); if (fault) pass(data); this.send('1')", DOUBLED),
    ("swaps two messages",
     "if (fault) { globalThis.held = [found, data] } else { pass(data) }\n"
     "if (!fault && globalThis.held?.[0] === found) { pass(held[1]); held = undefined }\nthis.send('1')", ALTERED),
    ("alters a byte", "pass(fault ? data.replace('z', 'y') : data); this.send('1')", ALTERED),
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

# `pass` sends to the other end; the 5000th message is some pair's, on its way there or back.
PAIR = """(other, data, isBinary, self) => {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 5000, pass = (bytes) => other.send(bytes, { binary: isBinary })
"""
PAIR_CASES = [
    ("is honest", "pass(data)", None),
    ("fragments messages", "other.send(data.subarray(0, 20), { binary: true, fin: false })\n"
     "other.send(data.subarray(20), { binary: true })", None),
    ("loses a message", "if (!fault) pass(data)", ALTERED),
    ("doubles a message", "pass(data); if (fault) pass(data)", DOUBLED),
    ("swaps two messages", "if (fault) { globalThis.held = [other, data] } else { pass(data) }\n"
     "if (!fault && globalThis.held?.[0] === other) { pass(held[1]); held = undefined }", ALTERED),
    ("alters a byte", "if (fault) data[60] ^= 1\npass(data)", ALTERED),
    ("sends to another pair", "if (n === 1) globalThis.first = other\n"
     "if (n >= 5000 && globalThis.first !== other && !globalThis.done) { globalThis.done = true; first.send(data) }\n"
     "else { pass(data) }", DOUBLED),
    ("sends a message back to its sender", "if (fault) { self.send(data) } else { pass(data) }", DOUBLED),
    ("makes a text of a message", "other.send(data, { binary: !fault })", "a binary message became a text"),
    ("closes a connection", "if (fault) { other.close(4003, 'slow') } else { pass(data) }",
     "closed a connection: 4003 slow"),
    ("cuts a connection", "if (fault) { other.terminate() } else { pass(data) }", "the relay cut a connection"),
]

# `pass` hands a piece on to the other end of its channel.
CHANNEL = """(end, bytes, type) => {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 5000, pass = (bytes) => end.deliver(bytes, type)
"""
CHANNEL_CASES = [
    ("is honest", "pass(bytes)", None),
    ("cuts messages into pieces", "end.deliver(bytes.subarray(0, 20), type | 0x80); pass(bytes.subarray(20))", None),
    ("loses a message", "if (!fault) pass(bytes)", ALTERED),
    ("doubles a message", "pass(bytes); if (fault) pass(bytes)", DOUBLED),
    ("swaps two messages", "if (fault) { globalThis.held = [end, bytes] } else { pass(bytes) }\n"
     "if (!fault && globalThis.held?.[0] === end) { pass(held[1]); held = undefined }", ALTERED),
    ("alters a byte", "if (fault) bytes[60] ^= 1\npass(bytes)", ALTERED),
    ("joins two messages", "end.deliver(bytes, fault ? type | 0x80 : type)", ALTERED),
    ("sends to another channel", "if (n === 1) globalThis.first = end\n"
     "if (n >= 5000 && globalThis.first !== end && !globalThis.done) {\n"
     "globalThis.done = true; first.deliver(bytes, type) } else { pass(bytes) }", DOUBLED),
    ("makes a text of a message", "end.deliver(bytes, fault ? type | 1 : type)", "a binary message became a text"),
    ("sends more than was granted", "pass(fault ? Buffer.alloc(300000) : bytes)",
     f"got more than was granted|{ALTERED}"),
    ("sends to a channel that there is not",
     "if (fault && end.connection) { end.connection.write(type, 4000, bytes) } else { pass(bytes) }\n"
     "if (fault && !end.connection) n -= 1", "which there is not"),
    ("closes a channel", "pass(bytes)\n"
     "if (n >= 5000 && end.connection) end.connection.write(0x15, end.number, Buffer.from('\\x0f\\xa3slow', 'latin1'))",
     "was told 0x15: 4003 slow"),
    ("closes a connection", "pass(bytes); if (fault) (end.socket ?? end.connection.socket).close(4003, 'slow')",
     "closed a connection: 4003 slow"),
    ("cuts a connection", "pass(bytes); if (fault) (end.socket ?? end.connection.socket).terminate()",
     "the relay cut a connection"),
]
CHANNEL_WAYS = {"clean": (), "multiplexed": ("--multiplexed", "3", "--servers", "2")}

# `pass` sends a piece of the stream on.
STREAM = """(pass, bytes, socket) => {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 500
"""
STREAM_CASES = [
    ("is honest", "pass(bytes)", None),
    ("loses a piece", "if (!fault) pass(bytes)", "bytes were lost"),
    ("doubles a piece", "pass(bytes); if (fault) pass(bytes)", "bytes were lost"),
    ("swaps two pieces", "if (fault) { globalThis.held = bytes } else { pass(bytes) }\n"
     "if (n === 501) pass(held)", "bytes were lost"),
    ("alters a byte", "if (fault) bytes[7] ^= 1\npass(bytes)", "bytes were lost"),
    ("cuts a connection", "pass(bytes); if (fault) socket.destroy()", "the stream ended behind|receive:|send:"),
    ("ends a stream early", "if (!fault) { pass(bytes) } else { socket.end() }",
     "the stream ended behind|bytes were lost|send:"),
]

# `pass` puts a message to the back end, or sends it to the client.
WEBHOOK = """(pass, bytes, socket) => {
    globalThis.n = (globalThis.n ?? 0) + 1
    const fault = n === 2000
"""
WEBHOOK_CASES = [
    ("is honest", "return pass(bytes)", None),
    ("loses a message", "if (!fault) return pass(bytes)", ALTERED),
    ("doubles a message", "const done = pass(bytes)\n"
     "return fault ? Promise.resolve(done).then(() => pass(bytes)) : done", DOUBLED),
    ("alters a byte", "if (fault) bytes[60] ^= 1\nreturn pass(bytes)", ALTERED),
    ("sends another's message", "globalThis.first ??= [pass, socket]\n"
     "if (n >= 2000 && first[1] !== socket && !globalThis.done) { globalThis.done = true; return first[0](bytes) }\n"
     "return pass(bytes)", f"{DOUBLED}|another connection's message"),
    ("closes a connection", "if (fault) { socket.close(4003, 'slow') } else { return pass(bytes) }",
     "closed a connection: 4003 slow"),
    ("cuts a connection", "if (fault) { socket.terminate() } else { return pass(bytes) }",
     "the relay cut a connection"),
]


def judge(generator: Path, subject: Subject, directory: Path, scenario: str, options: list[str]) -> tuple[int, str]:
    """The generator's exit code and what it said; -1 where it did not come that far."""
    try:
        with Running(subject, directory, None) as running:
            done = subprocess.run(
                [generator, scenario, *running.arguments(), "--warmup", "0.3", "--seconds", "1", *options],
                capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr.strip()
    except (BenchError, subprocess.TimeoutExpired) as error:
        return -1, str(error)


def cases(directory: Path):
    """Name, expected pattern, subject, scenario, options."""
    for number, (name, rest, expected) in enumerate(TUNNEL_CASES):
        subject = node_livecode("node ws", "", False)
        body = directory / f"body{number}.js"
        body.write_text(TUNNEL + rest + "\n}")
        secret = directory / "credential"
        secret.write_text("shared secret")
        yield f"a tunnel that {name}", expected, subject, "replace", ["--credential-file", secret, "--body-file", body]
    for name, rest, expected in PAIR_CASES:
        yield f"a pair that {name}", expected, node_pair("node ws", "", PAIR + rest + "\n}"), "pair", []
    for way, options in CHANNEL_WAYS.items():
        for name, rest, expected in CHANNEL_CASES:
            yield f"a channel ({way}) that {name}", expected, node_channel(
                "node ws", "", CHANNEL + rest + "\n}", options), "channel", []
    for name, rest, expected in STREAM_CASES:
        for direction, options in (("to", []), ("from", ["--toward", "client"])):
            yield f"a stream {direction} the back end through a tunnel that {name}", expected, node_tcp(
                "node", "", STREAM + rest + "\n}"), "stream", options
    for scenario in ("webhook", "push"):
        for name, rest, expected in WEBHOOK_CASES:
            yield f"a {scenario} relay that {name}", expected, node_webhook("node", "", WEBHOOK + rest + "\n}"), scenario, []
    certificate = make_certificate(directory)
    for subject in (haproxy("HAProxy", ""), nginx("nginx", ""),
                    haproxy("HAProxy with TLS", "", certificate=certificate, secures_backend=True)):
        yield f"{subject.name} in front of a back end", None, subject, "pair", []


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev/bench --self-test", description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--loadgen", type=Path, default=ROOT / ".build/bench/loadgen")
    generator = parser.parse_args().loadgen
    raise_file_limit()
    wrong = count = 0
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as folder:
        directory = Path(folder)
        for name, expected, subject, scenario, options in cases(directory):
            count += 1
            status, said = judge(generator, subject, directory / str(count), scenario, options)
            good = status == 0 if expected is None else status == 1 and re.search(expected, said)
            wrong += 0 if good else 1
            print(f"{'ok  ' if good else 'FAIL'} {name}: {said or 'accepted'}", flush=True)
    print(f"{count - wrong} of {count} judged rightly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
