"""`relayd expose ws://…`: a local WebSocket service behind the relay keeps its messages, their kinds and its closes."""

import contextlib
import hashlib
import os
import ssl
import threading

import pytest
import websockets.sync.server
from websockets.exceptions import ConnectionClosed, InvalidStatus

from certificates import Pair
from channels import bearer
from conditions import DEADLINE, eventually
from relay import Relay
from tunnels import Expose, Target, free_port
from wire import frame


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def relay(request):
    with Relay(loops=request.param) as relay:
        yield relay


@contextlib.contextmanager
def service(handle, **options):
    """A WebSocket server of the `websockets` package; its port."""
    with websockets.sync.server.serve(
            handle, "127.0.0.1", 0, max_size=None, ping_interval=None, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join(DEADLINE)


def echo(connection):
    for message in connection:
        connection.send(message)


def client(relay, name="studio", port=9000):
    return relay.connect(f"/c/{name}/{port}", additional_headers=bearer(relay))


def closed(connection):
    """Code and reason with which the other side closes."""
    with pytest.raises(ConnectionClosed) as end:
        while True:
            connection.connection.recv(timeout=DEADLINE)
    return (end.value.rcvd.code, end.value.rcvd.reason) if end.value.rcvd else (1006, "")


def test_messages_keep_their_bounds_and_kinds(relay):
    with service(echo) as port, Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")), client(relay) as near:
        messages = ["", "text", b"", b"binary", "ü" * 40_000, os.urandom(125), os.urandom(126), os.urandom(65_536)]
        for message in messages:
            near.send(message)
        assert [near.receive() for _ in messages] == messages


def test_the_port_is_the_targets_own_and_the_path_is_kept(relay):
    def tell(connection):
        connection.send(connection.request.path)

    with service(tell) as port, Expose(relay, (f"ws://127.0.0.1:{port}/deep/path?x=1", "studio")):
        with client(relay, port=port) as near:
            assert near.receive() == "/deep/path?x=1"


def test_fifty_megabytes_each_way_stay_whole(relay):
    data = os.urandom(50_000_000)
    with service(echo) as port, Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")) as expose:
        with client(relay) as near:
            sender = threading.Thread(target=near.send, args=(data,))
            sender.start()
            assert hashlib.sha256(near.receive()).digest() == hashlib.sha256(data).digest()
            sender.join(DEADLINE)
        # The message was never held whole.
        assert expose.resident_bytes() < 40_000_000


def test_who_does_not_read_stops_the_service_and_costs_bounded_memory(relay):
    sent = []

    def flood(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                connection.send(os.urandom(1 << 16))
                sent.append(1)

    with service(flood) as port, Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")) as expose:
        with relay.raw() as near:
            near.handshake(path="/c/studio/9000", extra=[f"Authorization: Bearer {relay.admin}"])
            eventually(lambda: len(sent) > 16 and len(sent) == (eventually_same(sent)), "the service is stopped")
            assert expose.resident_bytes() < 40_000_000
            assert len(sent) * (1 << 16) < 40_000_000


def eventually_same(sent):
    """How many there are once none has come for a while: the length of that decides nothing but how long is waited."""
    threading.Event().wait(0.3)
    return len(sent)


@pytest.mark.parametrize("code,reason", [(1000, "done"), (1011, ""), (4321, "studio is closed")])
def test_a_close_keeps_its_code_both_ways(relay, code, reason):
    ends = []

    def handle(connection):
        if connection.recv() == "close":
            connection.close(code, reason)
        else:
            with pytest.raises(ConnectionClosed) as end:
                connection.recv()
            ends.append((end.value.rcvd.code, end.value.rcvd.reason))

    with service(handle) as port, Expose(relay, (f"ws://127.0.0.1:{port}", "studio:9000")):
        with client(relay) as near:
            near.send("close")
            assert closed(near) == (code, reason)
        with client(relay) as near:
            near.send("wait")
            near.connection.close(code, reason)
            eventually(lambda: ends == [(code, reason)], f"the service hears of it: {ends}")


def test_a_service_with_tls(make_relay, tmp_path):
    pair = Pair(tmp_path, "service")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    relay = make_relay()
    data = os.urandom(3_000_000)
    with service(echo, ssl=context) as port:
        address = f"wss://127.0.0.1:{port}"
        with Expose(relay, (address, "studio:9000"), options=["--ca", str(pair.certificate)]), client(relay) as near:
            sender = threading.Thread(target=near.send, args=(data,))
            sender.start()
            assert near.receive() == data
            sender.join(DEADLINE)
        with Expose(relay, (address, "studio:9000")) as expose:
            assert status(relay) == 502
            expose.says("certificate")


def status(relay):
    """What a client's handshake is answered with."""
    with pytest.raises(InvalidStatus) as refused:
        client(relay)
    return refused.value.response.status_code


def answering(answer):
    """A target that reads the request and answers with bytes."""
    def handle(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(answer(head))
        while connection.recv(4096):
            pass
    return handle


def accept(head):
    import base64
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n")


# Case 63: a service that refuses, answers wrongly, or breaks the protocol.


def test_63_a_service_that_is_not_there(relay):
    with Expose(relay, (f"ws://127.0.0.1:{free_port()}", "studio:9000")) as expose:
        assert status(relay) == 502
        expose.says("Connection refused")


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 401 Unauthorized\r\n\r\n", b"garbage\r\n\r\n", b"\x16\x03\x01",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"x" * 20_000,
], ids=["200", "401", "no HTTP", "TLS", "wrong Accept", "no fields", "no end"])
def test_63_a_service_that_answers_wrongly(relay, answer):
    with Target(answering(lambda head: answer)) as target:
        with Expose(relay, (f"ws://{target.address}", "studio:9000")):
            assert status(relay) == 502


def test_63_a_service_that_goes_away_before_it_answers(relay):
    with Target(lambda connection: connection.recv(4096)) as target:
        with Expose(relay, (f"ws://{target.address}", "studio:9000")):
            assert status(relay) == 502


@pytest.mark.parametrize("after", [
    frame(2, b"masked"), b"\x82\xff" + b"\xff" * 8, b"\xf2\x00", b"\x80\x00", b"\x81\x01\xff", b"\x09\x00"],
    ids=["masked", "huge", "reserved bits", "no message to continue", "no UTF-8", "control in pieces"])
def test_63_a_service_that_breaks_the_protocol(relay, after):
    with Target(answering(lambda head: accept(head) + after)) as target:
        with Expose(relay, (f"ws://{target.address}", "studio:9000")) as expose, client(relay) as near:
            assert closed(near)[0] == 1014
            before = expose.descriptors()
            with client(relay) as another:
                assert closed(another)[0] == 1014
            eventually(lambda: expose.descriptors() <= before, "no descriptor is left")


def test_63_a_service_that_vanishes(relay):
    with Target(lambda connection: connection.sendall(accept(connection.recv(4096)))) as target:
        with Expose(relay, (f"ws://{target.address}", "studio:9000")), client(relay) as near:
            assert closed(near)[0] == 1014


def test_what_comes_with_the_answer_is_not_lost(relay):
    with Target(answering(lambda head: accept(head) + b"\x81\x05hello\x82\x03abc")) as target:
        with Expose(relay, (f"ws://{target.address}", "studio:9000")), client(relay) as near:
            assert [near.receive(), near.receive()] == ["hello", b"abc"]


def test_frames_to_the_service_are_masked_with_changing_keys(relay):
    received = []

    def handle(connection):
        connection.sendall(accept(connection.recv(4096)))
        data = b""
        while len(data) < 200:
            data += connection.recv(4096)
        received.append(data)

    with Target(handle) as target, Expose(relay, (f"ws://{target.address}", "studio:9000")), client(relay) as near:
        for _ in range(20):
            near.send(b"same")
        eventually(lambda: received, "all have come")
        frames = [received[0][at:at + 10] for at in range(0, 200, 10)]
        assert all(piece[:2] == b"\x82\x84" for piece in frames)
        keys = {piece[2:6] for piece in frames}
        assert len(keys) == 20
        assert all(bytes(a ^ b for a, b in zip(piece[6:], piece[2:6])) == b"same" for piece in frames)
