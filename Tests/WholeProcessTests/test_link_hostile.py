"""Neighbours that break the rules of a link: the link ends, with a reason, and everybody else goes on."""

import contextlib
import json
import os
import random
import struct
import threading

import pytest
from websockets.exceptions import InvalidStatus

import wire
from channels import BINARY, CLOSE, DRAIN, MORE, OPEN, TEXT, Closed, Peer, Rejected, dial, encode, server
from conditions import DEADLINE, eventually
from links import TOKEN, client, is_linked, leads, leads_nowhere, listening, to, ways
from tunnels import Target, read_exactly

RELAY, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def relay(request):
    with listening(loops=request.param) as relay:
        yield relay
        eventually(lambda: relay.listed("links") == [], "every link is over")


@contextlib.contextmanager
def neighbour(relay, hello=RELAY):
    """A connection that is a link, and has introduced itself."""
    connected = relay.connect(
        f"/?auth={TOKEN}", url=relay.urls[1], subprotocols=["relay.link.v1"], max_queue=None)
    peer = Peer(connected)
    with peer:
        peer.id = json.loads(peer.message())["hello"]["relay"]
        if hello:
            say(peer, hello={"relay": hello})
        yield peer


def say(peer, **message):
    peer.socket.send(json.dumps(message))


def route(server, path=(RELAY,), ports="*", cost=0):
    return {"server": server, "ports": ports, "cost": cost, "path": list(path)}


def hears(relay, peer):
    """Returns when the relay has read all that came from the neighbour before."""
    say(peer, routes=[route("marker")])
    leads(relay, "marker")
    say(peer, gone=["marker"])
    leads_nowhere(relay, "marker")


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "1", '"x"', '{"hello":1}', '{"hello":{"relay":1}}', '{"routes":{}}', '{"routes":[1]}',
    '{"routes":[{"server":{},"ports":"*","cost":0,"path":[]}]}', '{"gone":[null]}', "\u0000",
    '{"instruction":"add instruction"', "[" * 60_000, '{"routes":[{"server":"x"}]}',
])
@pytest.mark.parametrize("hello", [None, RELAY], ids=["before hello", "after hello"])
def test_texts_that_cannot_be_read_end_the_link(relay, hello, text):
    with neighbour(relay, hello) as peer:
        peer.socket.send(text)
        assert peer.closed()[0] == 1002


@pytest.mark.parametrize("hello", [
    {"relay": ""}, {"relay": "x" * 16}, {"relay": RELAY + "0"}, {"relay": RELAY, "cost": 0},
    {"relay": RELAY, "cost": 10_001}, {"relay": RELAY, "cost": -(1 << 63)}])
def test_a_neighbour_that_says_nonsense_of_itself(relay, hello):
    with neighbour(relay, None) as peer:
        say(peer, hello=hello)
        assert peer.closed()[0] == 1002


def test_a_neighbour_introduces_itself_first_and_once(relay):
    with neighbour(relay, None) as peer:
        say(peer, routes=[route("box")])
        assert peer.closed()[0] == 1002
    with neighbour(relay) as peer:
        say(peer, hello={"relay": RELAY})
        assert peer.closed()[0] == 1002


def test_63_who_has_this_relays_own_name_is_this_relay(relay):
    with neighbour(relay, None) as peer:
        say(peer, hello={"relay": peer.id})
        assert peer.closed() == (1008, "the link leads back to this relay itself")


@pytest.mark.parametrize("changed", [
    {"path": []}, {"path": [OTHER]}, {"path": [RELAY] * 17}, {"cost": -1}, {"cost": 1 << 62}, {"path": "own"}])
def test_65_ways_that_cannot_be_are_none(relay, changed):
    with neighbour(relay) as peer:
        if changed.get("path") == "own":
            changed = {"path": [RELAY, peer.id]}
        say(peer, routes=[{**route("never"), **changed}, route("ever")])
        leads(relay, "ever")
        assert not ways(relay, "never")
    leads_nowhere(relay, "ever")


@pytest.mark.parametrize("changed", [
    {"ports": "x"}, {"ports": "70000"}, {"server": ""}, {"server": "x" * 256}, {"path": ["x"]}, {"path": [RELAY, ""]}])
def test_routes_that_cannot_be_read_end_the_link(relay, changed):
    with neighbour(relay) as peer:
        say(peer, routes=[{**route("never"), **changed}])
        assert peer.closed()[0] == 1002


def test_a_neighbour_leads_to_so_many_servers_and_no_more(relay):
    with neighbour(relay) as peer:
        for start in range(0, 5000, 500):
            say(peer, routes=[route(number) for number in range(start, start + 500)])
        eventually(lambda: len(relay.listed("servers")) == 4096, "as many as may be are known")
        assert relay.resident_bytes < 200_000_000
    eventually(lambda: relay.listed("servers") == [], "all have gone")


def test_routes_that_change_all_the_time_cost_bounded_memory(relay):
    with neighbour(relay) as peer, neighbour(relay, OTHER) as other:
        before = relay.resident_bytes
        for number in range(20_000):
            say(peer, routes=[route("box", cost=number % 7)])
        hears(relay, peer)
        assert relay.resident_bytes < before + 60_000_000
        # And whoever listens hears the last of it, without having been told in vain in between.
        say(peer, routes=[route("box", cost=77)])
        while json.loads(other.message()).get("routes", [{}])[0].get("cost") != 78:
            pass


def test_what_changes_all_the_time_is_told_now_and_then(relay):
    with neighbour(relay) as peer, neighbour(relay, OTHER) as other:
        for number in range(3000):
            say(peer, routes=[route("box", cost=number % 2)])
        say(peer, routes=[route("box", cost=77)])
        told = 0
        while json.loads(other.message()).get("routes", [{}])[0].get("cost") != 78:
            told += 1
        assert told < 1000


def test_texts_of_a_link_are_short_and_none_of_a_client_s(make_relay):
    with listening(limits={"messagesPerSecond": "5"}) as relay:
        with neighbour(relay) as peer:
            for number in range(50):
                say(peer, routes=[route(f"s{number}")])
            leads(relay, "s49")
            peer.socket.send(json.dumps({"gone": ["x" * 65_000]}))
            hears(relay, peer)
            peer.socket.send(" " * 65_537)
            assert peer.closed()[0] == 1009


def test_of_two_links_to_one_neighbour_the_newer_is_taken(relay):
    with neighbour(relay) as dead, neighbour(relay) as alive:
        for peer in [dead, alive]:
            say(peer, routes=[route("box")])
        eventually(lambda: len(ways(relay, "box")) == 2, "both links lead there")
        dialling = dial(relay)
        channel = alive.opened().accept()
        with dialling.result(DEADLINE):
            assert channel.fields["server"] == "box"


def test_what_is_left_out_of_a_link_is_said_once(relay):
    before = relay.log.count("servers are left out")
    with neighbour(relay) as peer:
        for start in range(0, 4096, 512):
            say(peer, routes=[route(number) for number in range(start, start + 512)])
        for _ in range(50):
            say(peer, routes=[route("one"), route("more")])
        say(peer, gone=[0])
        say(peer, routes=[route("last")])
        leads(relay, "last")
        assert relay.log.count("servers are left out") == before + 1


def test_a_way_that_is_none_is_told_also_where_the_link_then_ends(relay):
    with neighbour(relay, OTHER) as other:
        with neighbour(relay) as peer:
            say(peer, routes=[route("box")])
            while "routes" not in json.loads(other.message()):
                pass
            say(peer, routes=[route("box", [OTHER]), route("box", ports="x")])
            assert peer.closed()[0] == 1002
        while "gone" not in json.loads(other.message()):
            pass


def test_65_an_open_that_has_been_here_goes_no_further(relay):
    with neighbour(relay) as peer, server(relay, "box"):
        with pytest.raises(Rejected) as refused:
            peer.open("box", via=f"{RELAY},{peer.id}").accepted()
        assert refused.value.code == 502
        assert "circle" in refused.value.reason


def test_65_an_open_has_sixteen_relays_at_most(relay):
    way = ",".join(f"{number:016x}" for number in range(16))
    with neighbour(relay, OTHER) as far, neighbour(relay) as peer:
        say(far, routes=[route("box", [OTHER])])
        leads(relay, "box")
        with pytest.raises(Rejected) as refused:
            peer.open("box", via=way).accepted()
        assert "16" in refused.value.reason
        near = peer.open("box", via=RELAY)
        opened = far.opened()
        assert opened.fields["via"] == f"{RELAY},{peer.id}"
        opened.accept()
        near.accepted()
    with neighbour(relay) as peer:
        peer.open("box", via=way + ",0000000000000010")
        assert peer.closed()[0] == 1002


def test_an_open_does_not_go_back_where_it_came_from(relay):
    with neighbour(relay) as peer:
        say(peer, routes=[route("box")])
        leads(relay, "box")
        with pytest.raises(Rejected) as refused:
            peer.open("box", via=RELAY).accepted()
        assert refused.value.code == 502


def test_metadata_that_is_too_long_for_a_link_is_refused(relay):
    with neighbour(relay, OTHER) as far, neighbour(relay) as peer:
        say(far, routes=[route("box", [OTHER])])
        leads(relay, "box")
        with pytest.raises(Rejected) as refused:
            peer.open("box", via=RELAY, metadata="x" * 9000).accepted()
        assert "metadata" in refused.value.reason
        peer.open("box", via=RELAY, metadata=["x" * 8000])
        assert far.opened().fields["metadata"] == ["x" * 8000]


def test_a_neighbour_that_drains_gets_nothing_new(relay):
    with neighbour(relay) as peer:
        say(peer, routes=[route("box")])
        leads(relay, "box")
        dialling = dial(relay)
        channel = peer.opened().accept()
        with dialling.result(DEADLINE) as connected:
            peer.send(DRAIN, 0, b'{"reconnectInMilliseconds":1000}')
            leads_nowhere(relay, "box")
            with pytest.raises(InvalidStatus):
                client(relay)
            connected.send("still here")
            assert channel.receive() == "still here"


def test_frames_that_break_relay_v1_end_the_link_too(relay):
    for data in [b"", b"\x00", encode(0x7F, 1), encode(OPEN, 2, b"{}"), encode(OPEN, 1, b"{"), encode(0x19, 0),
                 encode(DRAIN, 0, b"x" * 2000), encode(0x00, 0, b"x"), encode(CLOSE, 1, b"x")]:
        with neighbour(relay) as peer:
            peer.socket.send(data)
            assert peer.closed()[0] == 1002, data


def test_without_credential_or_token_there_is_no_link(relay):
    with pytest.raises(InvalidStatus) as refused:
        relay.connect("/", subprotocols=["relay.link.v1"])
    assert refused.value.response.status_code == 401


def test_a_token_is_worth_nothing_on_what_is_no_link(relay):
    with server(relay, "box"), pytest.raises(InvalidStatus) as refused:
        relay.connect(f"/c/box/22?auth={TOKEN}", url=relay.urls[1])
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        relay.connect(f"/s/box?auth={TOKEN}", url=relay.urls[1], subprotocols=["relay.v1"])
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("seed", range(20))
def test_random_frames_hurt_nobody_else(relay, seed):
    generator = random.Random(seed)
    pieces = [
        lambda: json.dumps({"routes": [route(generator.randrange(9), cost=generator.randrange(9))]}),
        lambda: json.dumps({"gone": [generator.randrange(9)]}),
        lambda: encode(generator.choice(range(0x10, 0x19)), generator.randrange(12), os.urandom(4)),
        lambda: encode(generator.choice([BINARY, TEXT, BINARY | MORE, TEXT | MORE]), generator.randrange(12), os.urandom(generator.randrange(300))),
        lambda: encode(OPEN, 2 * generator.randrange(20) + 1, json.dumps(
            {"server": generator.choice(["box", 3, "none"]), "port": 1, "via": generator.choice(["", RELAY, "x"])}).encode()),
        lambda: encode(0x11, 4 * generator.randrange(4), struct.pack("!I", generator.randrange(1 << 20))),
    ]
    with server(relay, "box"):
        for _ in range(10):
            with contextlib.suppress(Closed, AssertionError), neighbour(relay) as peer:
                for _ in range(30):
                    item = generator.choice(pieces)()
                    try:
                        peer.socket.send(item)
                    except Exception as end:
                        raise Closed(0) from end
    with server(relay, "fresh") as fresh:
        dialling = dial(relay, "fresh")
        fresh.opened().accept()
        dialling.result(DEADLINE).close()


# A listener that is no relay


def answering(answer):
    """What is dialled: reads the request, answers with what `answer` makes of it, and waits for the end."""
    def handle(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:
                return
            head += data
        connection.sendall(answer(head))
        while connection.recv(4096):
            pass
    return handle


def accepted(head, extra="Sec-WebSocket-Protocol: relay.link.v1\r\n"):
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key")).decode()
    return (f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{extra}"
            f"Sec-WebSocket-Accept: {wire.accept_value(key)}\r\n\r\n").encode()


@pytest.mark.parametrize("answer,words", [
    (lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200"),
    (lambda head: accepted(head).replace(b"Accept: ", b"Accept: x"), "handshake is wrong"),
    (lambda head: accepted(head, ""), "handshake is wrong"),
    (lambda head: b"nonsense\r\n\r\n", "not a relay"),
    (lambda head: accepted(head) + wire.frame(wire.TEXT, "{}"), "masked"),
    (lambda head: accepted(head) + wire.frame(wire.TEXT, "{}", key=None), "who is there"),
    (lambda head: accepted(head) + b"\xf2\x00", "reserved bit"),
], ids=["200", "wrong Accept", "no subprotocol", "no HTTP", "masked frames", "no hello", "garbage"])
def test_63_what_was_dialled_is_no_relay(make_relay, answer, words):
    with Target(answering(answer)) as target:
        relay = make_relay("--connect", f"ws://{target.address}")
        eventually(lambda: words in relay.listed("links")[0].get("failure", ""), lambda: relay.log)
        eventually(lambda: len(target.connections) >= 3, "it is tried again")
        assert relay.log.count("there is no link") == 1
        before = relay.descriptors
        eventually(lambda: len(target.connections) >= 4, "it is tried again")
        eventually(lambda: relay.descriptors <= before + 1, "no descriptor is left")


def test_the_diallers_frames_are_masked_with_keys_that_differ(make_relay):
    keys, told = [], set()
    received = threading.Event()

    def handle(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(accepted(head) + wire.frame(wire.TEXT, json.dumps({"hello": {"relay": RELAY}}), key=None))
        with contextlib.suppress(AssertionError, OSError):
            while len(keys) < 30:
                first, second = read_exactly(connection, 2)
                assert second & 0x80, "a frame is not masked"
                length = second & 0x7F
                if length == 126:
                    length = struct.unpack("!H", read_exactly(connection, 2))[0]
                key = read_exactly(connection, 4)
                payload = wire.masked(read_exactly(connection, length), key)
                keys.append((key, first & 0x0F, payload))
                if first & 0x0F == wire.TEXT:
                    told.update(entry["server"] for entry in json.loads(payload).get("routes", []))
        received.set()
        while connection.recv(4096):
            pass

    with Target(handle) as target:
        relay = make_relay("--connect", f"ws://{target.address}")
        is_linked(relay)
        for number in range(15):
            with server(relay, f"s{number}"):
                # One that is gone before the relay's next word to its neighbours is none of theirs.
                eventually(lambda: f"s{number}" in told, "it is told of")
        assert received.wait(DEADLINE)
    assert len({key for key, _, _ in keys}) == len(keys)
    texts = [json.loads(payload) for _, opcode, payload in keys if opcode == wire.TEXT]
    assert texts[0]["hello"]["cost"] == 1
    assert any("s3" == entry["server"] for text in texts for entry in text.get("routes", []))


def test_a_link_that_is_reset_while_it_carries_channels_leaves_nothing_behind(make_relay):
    with listening() as far:
        near = make_relay("--connect", to(far), loops=2)
        with server(far, "box") as host:
            leads(near, "box")
            before = near.descriptors
            for _ in range(5):
                dialling = dial(near)
                host.opened().accept()
                connected = dialling.result(DEADLINE)
                link = next(link["connection"] for link in near.listed("links"))
                near.invoke("close connection", named={"connection": link})
                assert connected.closed()[0] == 4004
                is_linked(near)
                leads(near, "box")
            eventually(lambda: near.descriptors <= before, "no descriptor is left")
            eventually(lambda: near.listed("channels") == far.listed("channels") == [], "no channel is left")
