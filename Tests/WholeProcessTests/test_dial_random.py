"""Channels of scripts under random traffic: what one side sends the other hears, whole and in order, until one of them
closes; and nothing is left."""

import json
import random

import pytest

from channels import no_channel_is_left, server
from conditions import eventually

SCRIPT = """
channels, state = {}, {}
relay.instruction { "dial", function(conn)
  local channel
  channel = relay.dial("box", 0, {
    message = function(channel, data, kind)
      local own = state[channel.id]
      -- A message is "COUNT SIZE xxx"; each is counted, and answered in kind.
      local count, size, rest = data:match("^(%d+) (%d+) (x*)$")
      if tonumber(count) ~= own.heard or tonumber(size) ~= #rest then own.wrong = data:sub(1, 40) end
      own.heard = own.heard + 1
      if own.heard % 7 == 0 then relay.sleep(0.001) end
      if kind == "binary" then channel:sendBinary(data) else channel:send(data) end
    end,
    close = function(channel, code) state[channel.id].code = code end
  })
  channels[channel.id], state[channel.id] = channel, { heard = 0 }
  return channel.id
end }
relay.instruction { "close", function(conn, id) return channels[id]:close(4000) end }
"""


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_messages_arrive_whole_and_in_order(make_relay, loops, seed):
    rng = random.Random(seed)
    relay = make_relay(loops=loops, limits={"channelCreditBytes": rng.choice(["1KiB", "16KiB", "256KiB"])})
    relay.load("echo", SCRIPT)
    with server(relay) as host, relay.connect() as client:
        ends = {}
        for _ in range(12):
            identifier = client.request("dial")
            ends[identifier] = host.opened().accept(rng.choice([200, 5_000, 256 << 10]))
        sent = dict.fromkeys(ends, 0)
        echoed = dict.fromkeys(ends, 0)

        def hear(identifier):
            message = ends[identifier].receive()
            text = message if isinstance(message, str) else message.decode()
            count, size, rest = text.split(" ")
            assert (int(count), int(size)) == (echoed[identifier], len(rest)), f"seed {seed}"
            echoed[identifier] += 1

        for _ in range(1_500):
            identifier = rng.choice(list(ends))
            size = rng.choice([0, 1, 50, 900, 3_000])
            text = f"{sent[identifier]} {size} {'x' * size}"
            ends[identifier].send(text if rng.random() < 0.5 else text.encode(), most=rng.choice([7, 1_000, 50_000]))
            sent[identifier] += 1
            if rng.random() < 0.5 and echoed[identifier] < sent[identifier]:
                hear(identifier)
        closing = dict.fromkeys(ends)
        for identifier in ends:
            while echoed[identifier] < sent[identifier]:
                hear(identifier)
            if rng.random() < 0.5:
                closing[identifier] = 4000
                assert client.request("close", identifier) is True
                assert ends[identifier].closed()[0] == 4000
            else:
                closing[identifier] = 1000
                ends[identifier].close()
        for identifier, code in closing.items():
            eventually(lambda: relay.evaluate(f"state[{identifier}].code") == code, "the script is told of the end")
            state = json.loads(relay.evaluate(f"json.encode(state[{identifier}])"))
            assert (state["heard"], state.get("wrong")) == (sent[identifier], None), f"seed {seed}"
    no_channel_is_left(relay)
