"""scripts/mux-demux.lua where its clients do not read."""

import contextlib
import json

from conditions import eventually
from relay import SCRIPTS
from wire import CLOSE, TEXT, frame

LINES = 1900


def new(stream, meta):
    return f'["{stream}","new",{{"meta":"/browser-server/{meta}"}}]\n'


def test_no_line_is_left_out_for_who_does_not_read(make_relay):
    relay = make_relay(scripts=[SCRIPTS / "mux-demux.lua"], limits={
        "outboundHighBytes": "64KiB", "outboundLowBytes": "16KiB", "outputBytesPerCall": "64KiB",
        "slowConsumerDeadline": "1h"})

    def serves(name):
        return lambda: any(entry["server"] == name for entry in relay.listed("servers"))

    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(relay.raw(upgraded=True))
        servers = []
        for number in range(16):
            server = stack.enter_context(relay.connect())
            server.send(new("s", f"server/{number}"))
            eventually(serves(str(number)), "it listens")
            slow.send(frame(TEXT, new(number, f"client/{number}/1")))
            server.send(new("p", f"server/{number}/client/{json.loads(server.receive())[2]}"))
            servers.append(server)
        for number, server in enumerate(servers):
            # The first hundred wait for the receiver, those behind them are read in calls of their own.
            lines = "".join(f'["p","data","{line:0500d}"]\n' for line in range(LINES))
            server.send(lines + new("q", f"server/done-{number}"))
            eventually(serves(f"done-{number}"), "its lines were read")
        expected = dict.fromkeys(map(str, range(16)), 0)
        while any(count < LINES for count in expected.values()):
            opcode, payload = slow.read_frame()
            if opcode == CLOSE:
                assert int.from_bytes(payload[:2], "big") == 4003
                break
            stream, _, value = json.loads(payload)
            assert int(value) == expected[stream]
            expected[stream] += 1
