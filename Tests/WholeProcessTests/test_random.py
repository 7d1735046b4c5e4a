"""Random input, always the same for a seed: whatever comes, the relay lives, and nobody else notices."""

import json
import random
import socket
import threading

import pytest

from conditions import eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import CLOSE, CONTINUATION, Ended, close_frame, frame, upgrade_head

SEEDS = range(4)


@pytest.fixture(scope="module")
def relay():
    limits = {"messageBytes": "64KiB", "connectionsPerAddress": 10000}
    with Relay(scripts=[TEST_SCRIPTS / "echo.lua"], limits=limits, loops=2, log_level="info") as relay:
        yield relay


def mutated(choose, data):
    """`data` with a few bytes changed, removed, doubled or inserted."""
    data = bytearray(data)
    for _ in range(choose.choice([1, 1, 2, 5])):
        at = choose.randrange(len(data) + 1)
        way = choose.randrange(4)
        if way == 0 and at < len(data):
            data[at] = choose.randrange(256)
        elif way == 1:
            del data[at:at + choose.randrange(1, 5)]
        elif way == 2:
            data[at:at] = data[at:at + choose.randrange(1, 20)]
        else:
            data[at:at] = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 5)))
    return bytes(data)


def half_close(raw):
    """Tells the relay that nothing more comes: an unfinished frame stays unfinished."""
    try:
        raw.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_heads_get_an_answer_or_an_end(relay, seed):
    choose = random.Random(seed)
    with relay.connect() as client:
        for _ in range(200):
            with relay.raw() as raw:
                raw.try_send(mutated(choose, upgrade_head(extra=["Origin: https://a.test", "X-A: b"])))
                half_close(raw)
                received = raw.read_to_end()
                assert not received or received.startswith(b"HTTP/1.1 "), received[:100]
        ping_pong(client)


def random_frame(choose):
    payload = bytes(choose.randrange(256) for _ in range(choose.choice([0, 1, 5, 125, 126, 300])))
    return frame(
        choose.choice([0, 1, 2, 8, 9, 10, choose.randrange(16)]), payload, fin=choose.random() < 0.7,
        rsv=choose.choice([0] * 9 + [4]), key=choose.choice([b"\1\2\3\4"] * 9 + [None]),
        length_bytes=choose.choice([None] * 9 + [8]))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_frames_are_echoed_or_closed(relay, seed):
    choose = random.Random(seed)
    with relay.connect() as client:
        for _ in range(200):
            with relay.raw(upgraded=True) as raw:
                data = b"".join(random_frame(choose) for _ in range(choose.randrange(1, 12)))
                data = mutated(choose, data) if choose.random() < 0.3 else data
                while data:
                    count = choose.choice([len(data), len(data), choose.randrange(1, 200)])
                    if not raw.try_send(data[:count]):
                        break
                    data = data[count:]
                raw.try_send(close_frame(1000))
                half_close(raw)
                try:
                    while raw.read_frame()[0] != CLOSE:
                        pass
                except Ended:
                    pass
        ping_pong(client)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_instructions_are_answered_or_left_to_the_hooks(relay, seed):
    choose = random.Random(seed)
    requests = [
        {"instruction": "greet", "parameters": ["you", 1.5e10, None, {"a": [True]}], "id": {"x": "\u00e9\n\""}},
        {"instruction": "add instruction", "credential": "wrong", "parameters": {"instructionToAdd": "x"}, "id": 1},
        {"instruction": "eval", "credential": relay.admin, "parameters": {"body": "return {1, 'x', {a = 2}}"}, "id": 2},
        {"instruction": "load script", "credential": relay.admin, "id": 3, "parameters": {
            "name": "random.lua", "dryRun": True, "source": "relay.on('message', function(conn) return 1 end)"}},
        {"instruction": "connections", "credential": relay.admin, "parameters": {}, "id": 4},
    ]
    relay.add("greet", "function(conn, ...) return {...} end")
    with relay.connect() as bystander, relay.connect() as client:
        for number in range(500):
            text = mutated(choose, json.dumps(choose.choice(requests)).encode()).decode(errors="replace")
            client.send(text)
            if number % 100 == 99:
                client.messages()
        ping_pong(bystander)


def test_everything_at_once(relay):
    """Operators change, apps come and go, connections storm, credentials are revoked; the bystanders echo on."""
    ended = threading.Event()
    failures = []

    def forever(work):
        def run():
            number = 0
            try:
                while not ended.is_set():
                    work(number)
                    number += 1
                rounds.append(number)
            except BaseException as failure:
                failures.append((work.__name__, failure))
        return threading.Thread(target=run)

    def load_scripts(number):
        relay.load(f"s{number % 3}.lua", f"""
          state = (state or 0) + 1
          relay.on("close", function(conn, code) state = state + code end)
          relay.on("open", function(conn) conn.data.n = {number} end)
          relay.instruction {{ "n{number % 3}", function(conn) relay.sleep(0.001) return {number} end }}
        """)

    def make_apps(number):
        name = f"app{number % 5}"
        relay.invoke("create app", named={"app": name})
        with relay.connect(f"/app/{name}") as client:
            relay.load("echo.lua", (TEST_SCRIPTS / "echo.lua").read_text(), path=f"/app/{name}")
            ping_pong(client)
            client.send("on its way")
            relay.invoke("remove app", named={"app": name})
            assert client.closed()[0] == 1001

    def revoke(number):
        with relay.operator() as admin:
            made = admin.request("create credential", named={"rights": ["invoke:*"]})
            headers = {"Authorization": f"Bearer {made['credential']}"}
            with relay.connect(additional_headers=headers) as holder:
                holder.send("something")
                admin.request("revoke credential", named={"id": made["id"]})
                assert holder.closed()[0] == 4002

    def storm(number):
        raw = relay.raw()
        raw.send(upgrade_head() + frame(1, '{"instruction": "n1", "id": 1}') * (number % 3) + b"\x81\x85")
        raw.reset() if number % 2 else raw.socket.close()

    def kick(number):
        with relay.connect() as client, relay.operator() as admin:
            client.request("me")
            named = {"connection": client.request("me")}
            client.send_json({"instruction": "n2", "id": 1})
            admin.request("close connection", named=named)
            assert client.closed()[0] == 4007

    relay.add("me", "function(conn) return conn.id end")
    rounds = []
    works = [load_scripts, make_apps, revoke, storm, kick]
    threads = [forever(work) for work in works]
    with relay.connect() as one, relay.connect() as two:
        for thread in threads:
            thread.start()
        for _ in range(500):
            ping_pong(one)
            ping_pong(two)
        ended.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(rounds) == len(works) and min(rounds) > 0
        ping_pong(one)
    for number in range(3):
        relay.invoke("unload script", named={"name": f"s{number}.lua"})
    eventually(lambda: len(relay.listed("connections")) == 1, "everybody is gone")


def test_a_fragment_of_every_length_is_put_together(relay):
    choose = random.Random(57)
    with relay.raw(upgraded=True) as raw:
        for _ in range(100):
            text = "".join(choose.choice("aß€🦊") for _ in range(choose.randrange(1, 2000)))
            data, sent, opcode = text.encode(), b"", 1
            while data:
                count = choose.choice([0, 1, 2, 3, 100, 1000])
                piece, data = data[:count], data[count:]
                sent += frame(opcode, piece, fin=not data, key=bytes(choose.randrange(256) for _ in range(4)))
                opcode = CONTINUATION
            for start in range(0, len(sent), 777):
                raw.send(sent[start:start + 777])
            assert raw.read_message() == text
