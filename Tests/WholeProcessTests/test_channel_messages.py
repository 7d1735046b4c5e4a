"""What is sent at one end of a channel comes out at the other: any message, in order, as it comes."""

import contextlib
import hashlib
import itertools
import json
import random
import struct

import pytest

import wire
from channels import (
    BINARY, MORE, PING, PONG, TEXT, apart, begun, clean, dial, joined, knock, let_in, no_channel_is_left, peer,
    raw_clean, server)
from conditions import DEADLINE
from echoes import Bystander, Echo
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import close_frame, frame

WAYS = ["clean", "multiplexed", "script, multiplexed", "script, plain", "rendezvous, clean",
        "rendezvous, multiplexed"]
APART = ["multiplexed, apart", "rendezvous, apart"]
names = (f"box-{index}" for index in itertools.count())


@pytest.fixture(scope="module", params=[1, 3], ids=["one loop", "three loops"])
def wires(request):
    with Relay(scripts=[TEST_SCRIPTS / "connect.lua"], loops=request.param) as relay:
        relay.loops = request.param
        yield relay
        no_channel_is_left(relay)


@contextlib.contextmanager
def pair(relay, way):
    """Two ends of a channel that was made in one of the ways; each sends and receives."""
    name = next(names)
    with contextlib.ExitStack() as stack:
        if way.endswith("apart"):
            if relay.loops == 1:
                pytest.skip("nothing is apart on one loop")
            client, host, name = apart(relay, stack)
        else:
            host = stack.enter_context(server(relay, name))
        if way == "clean":
            yield stack.enter_context(clean(relay, host, name))
            return
        is_plain = way in ("script, plain", "rendezvous, clean")
        if way == "rendezvous, clean":
            near = dial(relay, name)
        else:
            if not way.endswith("apart"):
                client = stack.enter_context(relay.connect() if is_plain else peer(relay))
            if way.startswith("script"):
                reply = client.request("connect me", name, 22)
                assert (reply if is_plain else reply["result"])["channel"]
            else:
                near = client.open(name)
        far = host.opened()
        if way.startswith("rendezvous"):
            far = stack.enter_context(relay.connect(f"/a/{far.fields['ticket']}"))
        else:
            far.accept()
        if way == "rendezvous, clean":
            near = stack.enter_context(near.result(DEADLINE))
        elif way == "script, plain":
            near = client
        else:
            near = (client.opened() if way.startswith("script") else near).accepted()
        yield near, far


def through(one, other, message):
    sending = begun(one.send, message)
    received = other.receive()
    assert type(received) is type(message)
    assert received == message, f"{len(message)} were sent, {len(received)} came"
    sending.result(DEADLINE)


# Every kind and size


@pytest.mark.parametrize("way", WAYS + APART)
def test_messages_of_every_kind_and_size_arrive_as_they_were(wires, way):
    with pair(wires, way) as ends:
        for message in ["", b"", "a", b"\x00", "κόσμε 🦊", b"\x00\xff" * 50, '{"instruction": "x", "id": 1}',
                        *("x" * size for size in (120, 125, 126, 65_530, 65_536)),
                        *(b"\xfe" * size for size in (121, 65_531, 262_143, 262_144, 262_145, 1_000_000)),
                        "🦊" * 300_000]:
            for one, other in [ends, ends[::-1]]:
                through(one, other, message)


@pytest.mark.parametrize("way", ["clean", "multiplexed", "rendezvous, clean", "rendezvous, multiplexed"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_twenty_megabytes_are_one_message(make_relay, way, scheme):
    relay = make_relay("--tls-self-signed", listen=[f"{scheme}://127.0.0.1:0"])
    data = random.Random(20).randbytes(20_000_000)
    with pair(relay, way) as ends:
        for one, other in [ends, ends[::-1]]:
            sending = begun(one.send, data)
            assert hashlib.sha256(other.receive()).digest() == hashlib.sha256(data).digest()
            sending.result(DEADLINE)


@pytest.mark.parametrize("way", WAYS + APART)
def test_both_ends_send_at_once_and_order_is_kept(wires, way):
    choose = random.Random(5)
    noise = choose.randbytes(70_000)
    sizes = [choose.choice([0, 1, 10, 125, 1000, 4096, 65_535]) for _ in range(500)]

    def message(number):
        data = struct.pack("!I", number) + noise[:sizes[number]]
        return data if number % 2 else data.hex()

    def work(channel):
        for number in range(len(sizes)):
            channel.send(message(number))
            if number >= 3:  # A few are on their way at any time.
                assert channel.receive() == message(number - 3), number
        for number in range(len(sizes) - 3, len(sizes)):
            assert channel.receive() == message(number), number

    with pair(wires, way) as ends:
        for working in [begun(work, end) for end in ends]:
            working.result(3 * DEADLINE)


# Messages stream


def test_a_message_goes_on_before_it_is_whole_to_a_server(wires):
    with server(wires) as host, raw_clean(wires, host) as (client, far):
        data = frame(wire.BINARY, b"z" * 200_000)
        client.send(data[:20_000])
        received = b""
        while len(received) < 20_000 - 14:
            piece = far.frame()
            assert piece.kind == BINARY | MORE
            received += piece.payload
        client.send(data[20_000:])
        assert received + far.receive() == b"z" * 200_000


def test_a_message_goes_on_before_it_is_whole_to_a_clean_client(wires):
    with server(wires) as host, raw_clean(wires, host) as (client, far):
        received = b""
        for number in range(5):
            far.data(str(number).encode(), TEXT | MORE)
            while len(received) < number + 1:
                opcode, payload, is_last = client.read_fragment()
                assert (opcode, is_last) == (wire.CONTINUATION if received else wire.TEXT, False)
                received += payload
        far.data(b"", TEXT)
        assert client.read_fragment() == (wire.CONTINUATION, b"", True)
        assert received == b"01234"


def test_a_message_goes_on_before_its_frame_is_whole(wires):
    with server(wires, raw=True) as host, peer(wires) as client:
        near, far = joined(client, host)
        data = frame(wire.BINARY, struct.pack("!BI", BINARY, far.number) + b"y" * 100_000)
        received = b""
        for at in range(0, len(data), 20_000):
            host.raw.send(data[at:at + 20_000])
            while len(received) < at + 20_000 - 100 and len(received) < 100_000:
                received += near.frame().payload
        assert received == b"y" * 100_000


def test_fragments_are_one_message_whatever_comes_between(wires):
    with server(wires) as host, raw_clean(wires, host) as (client, far):
        client.send(frame(wire.TEXT, "frag", fin=False) + frame(wire.PING, "1") + frame(0, "", fin=False)
                    + frame(0, "mented", fin=False) + frame(0, "") + frame(wire.BINARY, b"next"))
        assert [far.receive(), far.receive()] == ["fragmented", b"next"]
        assert client.read_frame() == (wire.PONG, b"1")


@pytest.mark.parametrize("size", [1, 4, 5, 6, 100])
def test_a_frame_of_a_channel_may_come_in_fragments_of_a_websocket_message(wires, size):
    with server(wires, raw=True) as host, peer(wires) as client:
        near, far = joined(client, host)
        for kind, payload in [(BINARY | MORE, b"one "), (BINARY, b"whole " * 50), (TEXT, "κόσμε".encode())]:
            data = struct.pack("!BI", kind, far.number) + payload
            pieces = [data[at:at + size] for at in range(0, len(data), size)]
            for index, piece in enumerate(pieces):
                host.raw.send(
                    frame(0 if index else wire.BINARY, piece, fin=index == len(pieces) - 1)
                    + frame(wire.PING, "between"))
        assert near.receive() == b"one " + b"whole " * 50
        assert near.receive() == "κόσμε"


def test_bytes_that_come_one_by_one_are_the_same_frames(wires):
    with server(wires, raw=True) as host, peer(wires) as client:
        near, far = joined(client, host)
        data = frame(wire.BINARY, struct.pack("!BI", TEXT, far.number) + b"hello") * 3
        for at in range(len(data)):
            host.raw.send(data[at:at + 1])
        assert [near.receive() for _ in range(3)] == ["hello"] * 3


def test_texts_are_cut_inside_of_characters_and_come_out_whole(wires):
    text = "aß€🦊" * 50
    data = text.encode()
    with server(wires) as host, clean(wires, host) as (client, far), raw_clean(wires, host) as (raw, raw_far):
        for cut in range(1, 11):
            pieces = [data[at:at + cut] for at in range(0, len(data), cut)]
            for index, piece in enumerate(pieces):
                is_last = index == len(pieces) - 1
                far.data(piece, TEXT | (0 if is_last else MORE))
                raw.send(frame(0 if index else wire.TEXT, piece, fin=is_last))
            assert client.receive() == text
            assert raw_far.receive() == text


# Many channels


def test_two_hundred_channels_on_one_connection_do_not_mix(wires):
    with Echo(wires, "many"), peer(wires) as client:
        ends = [client.open("many", index) for index in range(200)]
        for channel in ends:
            channel.accepted()
        choose = random.Random(200)
        sent = [[] for _ in ends]
        for number in range(4000):
            channel = choose.choice(ends)
            message = f"{channel.number}: {number} " * choose.choice([1, 20])
            sent[ends.index(channel)].append(message)
            channel.send(message)
        for channel, messages in zip(ends, sent):
            assert [channel.receive() for _ in messages] == messages
        for channel in ends:
            channel.end()
            channel.ended()


def test_two_hundred_clean_clients_of_one_server_do_not_mix(wires):
    with Echo(wires, "crowded"), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(let_in(knock(wires, "crowded", index))) for index in range(200)]
        for turn in range(10):
            for index, client in enumerate(clients):
                client.send(frame(wire.TEXT, f"{index} {turn}"))
        for turn in range(10):
            for index, client in enumerate(clients):
                assert client.read_streamed_message() == f"{index} {turn}"


def test_a_message_begins_before_another_channels_has_ended(wires):
    with server(wires) as host, peer(wires) as client, clean(wires, host) as (other, far_other):
        near, far = joined(client, host)
        near.data(b"one, ", TEXT | MORE)
        far.data(b"back, ", BINARY | MORE)
        far_other.data(b"for a clean client, ", TEXT | MORE)
        second, far_second = joined(client, host)
        for index in range(10):
            through(second, far_second, f"whole {index}")
            through(far_second, second, b"whole %d" % index)
            far_other.data(b"", TEXT | MORE)
        near.data(b"whole", TEXT)
        far.data(b"whole", BINARY)
        far_other.data(b"whole", TEXT)
        assert (far.receive(), near.receive(), other.receive()) == (
            "one, whole", b"back, whole", "for a clean client, whole")


# The connection beside its channels


def test_instructions_go_on_between_the_frames_of_channels(wires):
    wires.add("add up", "function(conn, number) sum = (sum or 0) + number return sum end")
    wires.evaluate("sum = 0")
    with server(wires) as host, peer(wires) as client:
        near, far = joined(client, host)
        for index in range(1, 101):
            near.data(b"part ", TEXT | MORE)
            assert client.request("add up", 1, identifier=index)["result"] == 2 * index - 1
            assert host.request("add up", 1, identifier=index)["result"] == 2 * index
            near.data(b"whole", TEXT)
            assert far.receive() == "part whole"


def test_what_an_instruction_sends_and_what_channels_carry_both_arrive(wires):
    wires.add("send", "function(conn, n) for i = 1, n do conn:send('line ' .. i) conn:sendBinary('?') end end")
    with server(wires) as host, wires.connect() as plain:
        plain.send(json.dumps({"instruction": "send", "parameters": [3]}))
        assert [plain.receive() for _ in range(6)] == ["line 1", b"?", "line 2", b"?", "line 3", b"?"]
        with clean(wires, host) as (client, far):
            through(client, far, "beside")


def test_pings_are_answered_by_the_relay_on_every_end(wires):
    with server(wires, raw=True) as host, raw_clean(wires, host) as (client, far):
        for raw in (host.raw, client):
            raw.send(frame(wire.PING, "alive?"))
            assert raw.read_frame() == (wire.PONG, b"alive?")
        for payload in [b"", b"x", bytes(range(125))]:
            host.send(PING, 0, payload)
            assert host.stray() == (PONG, 0, payload)
        client.send(frame(wire.TEXT, "on") + close_frame(1000))
        assert far.receive() == "on"


def test_pings_within_a_message_are_answered_within_it(wires):
    with server(wires) as host, raw_clean(wires, host) as (client, far):
        far.data(b"half", TEXT | MORE)
        assert client.read_fragment() == (wire.TEXT, b"half", False)
        client.send(frame(wire.PING, "now"))
        assert client.read_fragment() == (wire.PONG, b"now", True)
        far.data(b"whole", TEXT)
        assert client.read_fragment() == (wire.CONTINUATION, b"whole", True)


def test_a_change_of_instructions_and_scripts_does_not_touch_channels(make_relay):
    relay = make_relay(loops=2)
    with Bystander(relay), server(relay) as host, peer(relay) as client:
        near, far = joined(client, host)
        near.data(b"begun ", TEXT | MORE)
        for index in range(30):
            relay.load(f"script {index % 3}.lua", f"relay.on('message', function(conn) conn:send('{index}') end)")
            relay.add("instruction", f"function(conn) return {index} end")
            assert client.request("instruction")["result"] == index
            through(far, near, f"{index}")
        near.data(b"and ended", TEXT)
        assert far.receive() == "begun and ended"


def test_an_echo_answers_a_thousand_times_over_every_way(wires):
    with Echo(wires, "thousand"), peer(wires) as client, dial(wires, "thousand").result(DEADLINE) as plain:
        near = client.open("thousand").accepted()
        for index in range(1000):
            ping_pong(near, tag=f"{index}")
            ping_pong(plain, tag=f"{index}")
