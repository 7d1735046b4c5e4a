"""`relayd expose` and `relayd forward`: bytes, ends and resets in both directions, and what happens when something of
the way goes."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading

import pytest

from conditions import DEADLINE, eventually
from relay import Relay
from tunnels import (
    Expose, Forward, Target, Tunnel, echo, free_port, is_over, read_all, read_exactly, reset)


@pytest.fixture(scope="module")
def relay():
    with Relay(loops=2) as relay:
        yield relay


@pytest.fixture
def echoing():
    with Target(echo) as target:
        yield target


@pytest.fixture
def tunnel(relay, echoing):
    """An echo at the other end of a tunnel."""
    with Expose(relay, (echoing.address, "box:7")) as expose, Forward(relay, "box:7") as forward:
        forward.expose = expose
        yield forward


def exchange(forward, data):
    """Sends all of it, and returns everything that comes back."""
    with forward.connect() as client:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        received = read_all(client)
        sender.join(DEADLINE)
    return received


def ends_at_once(forward):
    """Whether a new connection is ended by the other side; a reset can come before the connecting call returns."""
    try:
        with forward.connect() as client:
            return is_over(client)
    except ConnectionError:
        return True


# Bytes


@pytest.mark.parametrize("size", [0, 1, 119, 120, 121, 125, 126, 4096, 65530, 65531, 262144, 1000003])
def test_what_goes_in_comes_out(tunnel, size):
    data = os.urandom(size)
    assert exchange(tunnel, data) == data


def test_a_small_write_is_not_kept_back(tunnel):
    with tunnel.connect() as client:
        for number in range(200):
            message = f"line {number}\n".encode()
            client.sendall(message)
            assert read_exactly(client, len(message)) == message


@pytest.mark.parametrize("listen", ["ws://127.0.0.1:0", "wss://127.0.0.1:0", "unix"])
def test_a_large_stream_stays_whole_whatever_the_relay_listens_on(make_relay, echoing, tmp_path, listen):
    url = f"unix:{tmp_path}/relay" if listen == "unix" else listen
    relay = make_relay(*(["--tls-self-signed"] if listen.startswith("wss") else []), listen=[url])
    options = ["--state", relay.state]
    with Expose(relay, (echoing.address, "box:7"), options=options) as _, \
            Forward(relay, "box:7", options=options) as forward:
        data = os.urandom(30_000_000)
        received = exchange(forward, data)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_unix_sockets_at_both_ends(relay, tmp_path):
    with Target(echo, path=tmp_path / "target") as target, \
            Expose(relay, (target.address, "box:5432")), \
            Forward(relay, "box:5432", local=f"unix:{tmp_path}/local") as forward:
        assert os.stat(tmp_path / "local").st_mode & 0o777 == 0o600
        assert exchange(forward, b"over unix sockets") == b"over unix sockets"
    assert not (tmp_path / "local").exists()


def test_several_targets_in_one_command(relay, tmp_path):
    with Target(lambda connection: connection.sendall(b"one")) as one, \
            Target(lambda connection: connection.sendall(b"two"), path=tmp_path / "two") as two, \
            Target(lambda connection: connection.sendall(b"three")) as three, \
            Expose(relay, (one.address, "many:1"), (two.address, "many:2"), (three.address, "0:3")):
        for destination, answer in [("many:1", b"one"), ("many:2", b"two"), ("0:3", b"three")]:
            with Forward(relay, destination) as forward, forward.connect() as client:
                assert read_all(client) == answer


def test_five_hundred_connections_at_once(tunnel):
    before = (tunnel.descriptors(), tunnel.expose.descriptors())
    clients = [tunnel.connect() for _ in range(500)]
    try:
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number * 1000)
        for number, client in enumerate(clients):
            client.shutdown(socket.SHUT_WR)
        for number, client in enumerate(clients):
            assert read_all(client) == b"%d" % number * 1000
    finally:
        for client in clients:
            client.close()
    eventually(
        lambda: (tunnel.descriptors(), tunnel.expose.descriptors()) == before, "the descriptors are given back")


# Ends and resets


def test_a_target_that_speaks_and_leaves_at_once_is_heard(relay):
    with Target(lambda connection: connection.sendall(b"hello")) as target, \
            Expose(relay, (target.address, "box:7")), Forward(relay, "box:7") as forward:
        for _ in range(200):
            with forward.connect() as client:
                assert read_all(client) == b"hello"


def test_a_client_that_has_said_everything_still_gets_the_answer(relay):
    def answer(connection):
        question = read_all(connection)
        connection.sendall(b"you said " + question)
        connection.shutdown(socket.SHUT_WR)

    with Target(answer) as target, Expose(relay, (target.address, "box:7")), Forward(relay, "box:7") as forward:
        with forward.connect() as client:
            client.sendall(b"everything")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"you said everything"


def test_a_target_that_has_said_everything_still_hears_the_client(relay):
    heard = []

    def speak(connection):
        connection.sendall(b"greetings")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))

    with Target(speak) as target, Expose(relay, (target.address, "box:7")), Forward(relay, "box:7") as forward:
        with forward.connect() as client:
            assert read_all(client) == b"greetings"
            client.sendall(b"thanks")
            client.shutdown(socket.SHUT_WR)
            eventually(lambda: heard == [b"thanks"], "the target hears what comes after its own end")


def test_a_reset_goes_through_in_both_directions(relay):
    outcome = []

    def hold(connection):
        connection.sendall(b"held")
        try:
            outcome.append(connection.recv(1))
        except ConnectionResetError:
            outcome.append("reset")

    with Target(hold) as target, Expose(relay, (target.address, "box:7")) as expose, \
            Forward(relay, "box:7") as forward:
        client = forward.connect()
        assert read_exactly(client, 4) == b"held"
        reset(client)
        eventually(lambda: outcome == ["reset"], "the target sees the client's reset")
        forward.says("ended after")
        target.handle = reset
        with pytest.raises(ConnectionResetError), forward.connect() as client:
            client.recv(1)
        expose.says("ended after", times=2)


def test_a_target_that_refuses_ends_the_client_and_says_so(relay):
    target = f"127.0.0.1:{free_port()}"
    with Expose(relay, (target, "box:9")) as expose, Forward(relay, "box:9") as forward:
        assert ends_at_once(forward)
        expose.says(f"{target}: Connection refused")
        forward.says("Connection refused")


def test_what_is_not_there_ends_the_client_and_says_so(relay, echoing):
    with Forward(relay, "nobody:7") as forward:
        assert ends_at_once(forward)
        forward.says("502")
    with Expose(relay, (echoing.address, "box:7")), Forward(relay, "box:8") as forward:
        assert ends_at_once(forward)
        forward.says("404")


def test_a_target_that_never_reads_stops_its_own_channel_only(relay):
    release = threading.Event()
    stuck = []

    def sink(connection):
        if connection.recv(1) == b"s":
            stuck.append(connection)
            release.wait(DEADLINE)
            return
        connection.sendall(b"%d" % len(read_all(connection)))
        connection.shutdown(socket.SHUT_WR)

    with Target(sink) as target, Expose(relay, (target.address, "box:7")) as expose, \
            Forward(relay, "box:7") as forward:
        memory = (expose.resident_bytes(), forward.resident_bytes())
        stopped = forward.connect()
        stopped.sendall(b"s")
        stopped.setblocking(False)
        sent = 0

        def is_full():
            nonlocal sent
            try:
                sent += stopped.send(bytes(1 << 20))
                return False
            except BlockingIOError:
                return True

        eventually(lambda: all(is_full() for _ in range(20)), "the channel takes no more")
        assert sent < 64 << 20
        with forward.connect() as client:
            count = 200 << 20
            client.sendall(b"f")
            for _ in range(count >> 20):
                client.sendall(bytes(1 << 20))
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"%d" % count
        assert max(expose.resident_bytes() - memory[0], forward.resident_bytes() - memory[1]) < 32 << 20
        release.set()
        stopped.close()


# The way goes


def test_a_relay_that_starts_anew_is_found_again(make_relay, echoing):
    port = free_port()
    relay = make_relay(listen=[f"ws://127.0.0.1:{port}"], drain="1ms")
    with Expose(relay, (echoing.address, "box:7")) as expose, Forward(relay, "box:7") as forward:
        client = forward.connect()
        client.sendall(b"before")
        assert read_exactly(client, 6) == b"before"
        relay.stop()
        assert is_over(client)
        client.close()
        expose.says("Reconnecting in")
        forward.says("Reconnecting in")
        # It waits for the relay.
        with forward.connect() as waiting:
            relay.start()
            expose.says("installed as", times=2)
            forward.says("forwarding", times=2)
            if not is_answered(waiting):
                # It was taken before the server was there again.
                forward.says("502")
        assert exchange(forward, b"after") == b"after"


def is_answered(client):
    try:
        client.sendall(b"x")
        return client.recv(1) == b"x"
    except ConnectionError:
        return False


def test_connections_are_reset_when_the_relay_stays_away(make_relay, echoing):
    relay = make_relay(drain="1ms")
    with Expose(relay, (echoing.address, "box:7")), Forward(relay, "box:7") as forward:
        relay.stop()
        forward.says("Reconnecting in")
        # Some seconds of patience, then a reset.
        assert ends_at_once(forward)


def test_clients_end_when_the_exposing_side_is_killed(relay):
    def pour(connection):
        while True:
            connection.sendall(bytes(1 << 16))

    with Target(pour) as target, Expose(relay, (target.address, "box:7")) as expose, \
            Forward(relay, "box:7") as forward:
        with forward.connect() as client:
            read_exactly(client, 1 << 20)
            expose.process.kill()
            expose.expected_exit = {-signal.SIGKILL}
            with pytest.raises(ConnectionResetError):
                read_all(client)
        forward.says("ended after")
        with Expose(relay, (target.address, "box:7")), forward.connect() as client:
            read_exactly(client, 1 << 20)


def test_targets_end_when_the_forwarding_side_is_killed(relay, echoing):
    with Expose(relay, (echoing.address, "box:7")), Forward(relay, "box:7") as forward:
        client = forward.connect()
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        forward.process.kill()
        forward.expected_exit = {-signal.SIGKILL}
        eventually(
            lambda: not any(thread.is_alive() for thread in echoing.threads), "the target's connection ends")
        client.close()


def test_a_name_that_is_taken_over_ends_the_command(relay, echoing):
    with Expose(relay, (echoing.address, "box:7")) as first:
        with Expose(relay, (echoing.address, "box:7")):
            assert first.wait() == 1
            first.says("4005")


# Starting and ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_either_side_with_0(relay, echoing, number):
    with Expose(relay, (echoing.address, "box:7")) as expose, Forward(relay, "box:7") as forward:
        client = forward.connect()
        client.sendall(b"x")
        assert read_exactly(client, 1) == b"x"
        forward.process.send_signal(number)
        assert forward.wait() == 0
        expose.process.send_signal(number)
        assert expose.wait() == 0
        assert is_over(client)
        client.close()


def test_no_relay_is_exit_code_3(relay, echoing):
    nowhere = f"ws://127.0.0.1:{free_port()}"
    for arguments in [("expose", echoing.address, "--as", "box:7"), ("forward", "127.0.0.1:0", "box:7"),
                      ("forward", "stdio", "box:7")]:
        done = relay.run(*arguments, to=nowhere)
        assert done.returncode == 3, done.stderr
        assert "Cannot reach a relay" in done.stderr


def test_with_retry_the_relay_may_come_later(make_relay, echoing):
    port = free_port()
    relay = make_relay(listen=[f"ws://127.0.0.1:{port}"])
    relay.stop()
    expose = Expose(relay, (echoing.address, "box:7"), options=["--retry"])
    expose.servers = 0
    with expose:
        expose.says("Reconnecting in")
        relay.start()
        expose.says("installed as box:7")


def test_what_the_relay_refuses_is_exit_code_1(relay, echoing):
    secret = relay.run("credential", "create", "--json", "listen:mine", "connect:mine:7")
    secret = json.loads(secret.stdout)["credential"]
    with Expose(relay, (echoing.address, "mine:7"), credential=secret), \
            Forward(relay, "mine:7", credential=secret) as forward:
        assert exchange(forward, b"allowed") == b"allowed"
    for credential, target in [("wrong", "mine:7"), (secret, "other:7")]:
        with Tunnel(relay, "expose", echoing.address, "--as", target, credential=credential) as tunnel:
            assert tunnel.wait() == 1
            tunnel.says("refused")


def test_a_name_that_another_credential_holds_is_refused(relay, echoing):
    secret = json.loads(relay.run("credential", "create", "--json", "listen:box").stdout)["credential"]
    with Expose(relay, (echoing.address, "box:7")):
        with Tunnel(relay, "expose", echoing.address, "--as", "box:7", credential=secret) as tunnel:
            assert tunnel.wait() == 1
            tunnel.says("409")


def test_a_quiet_tunnel_says_nothing(relay, echoing):
    with Expose(relay, (echoing.address, "quiet:7"), options=["--quiet"]) as expose:
        eventually(lambda: any(s["server"] == "quiet" for s in relay.listed("servers")), "it is installed")
        with Forward(relay, "quiet:7", options=["--quiet"]) as forward:
            assert exchange(forward, b"quiet") == b"quiet"
            assert forward.log == expose.log == ""


@pytest.mark.parametrize("arguments,code,words", [
    (("expose", "127.0.0.1:1"), 2, "--as"),
    (("expose", "127.0.0.1:1", "127.0.0.1:2", "--as", "a:1"), 2, "Each target"),
    (("expose", "ws://127.0.0.1:x", "--as", "a:1"), 1, "ws://HOST:PORT"),
    (("expose", "https://127.0.0.1:1", "--as", "a:1"), 1, "TLS"),
    (("expose", "gopher://127.0.0.1:1", "--as", "a:1"), 1, "gopher"),
    (("expose", "127.0.0.1", "--as", "a:1"), 1, "HOST:PORT"),
    (("expose", "127.0.0.1:70000", "--as", "a:1"), 1, "HOST:PORT"),
    (("expose", "unix:/tmp/x", "--as", "a"), 1, "NAME:PORT"),
    (("expose", "127.0.0.1:1", "--as", "a:70000"), 1, "NAME:PORT"),
    (("expose", "127.0.0.1:1", "127.0.0.1:2", "--as", "a:1", "--as", "a:1"), 1, "twice"),
    (("expose", "no.such.name.invalid:1", "--as", "a:1"), 1, "resolve"),
    (("forward", "127.0.0.1:0", "box"), 1, "NAME:PORT"),
    (("forward", "somewhere", "box:1"), 1, "stdio"),
    (("forward", "127.0.0.1:0"), 2, "name:port"),
])
def test_what_cannot_be_meant_is_refused(relay, arguments, code, words):
    done = relay.run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_an_address_in_use_is_refused(relay):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = relay.run("forward", "127.0.0.1:%d" % taken.getsockname()[1], "box:1")
    assert done.returncode == 1 and "in use" in done.stderr


# Standard input and output


def test_standard_input_and_output_are_a_client(relay, echoing, tmp_path):
    with Expose(relay, (echoing.address, "box:7")):
        done = relay.run("forward", "stdio", "box:7", stdin="through a pipe")
        assert (done.returncode, done.stdout, done.stderr) == (0, "through a pipe", "")
        source = tmp_path / "source"
        source.write_bytes(os.urandom(3_000_000))
        result = tmp_path / "result"
        with open(source, "rb") as stdin, Tunnel(relay, "forward", "stdio", "box:7", stdin=stdin) as tunnel:
            result.write_bytes(tunnel.process.stdout.read())
            assert tunnel.wait() == 0
        assert result.read_bytes() == source.read_bytes()


def test_standard_input_and_output_tell_why_they_ended(relay, echoing):
    done = relay.run("forward", "stdio", "nobody:7", stdin="x")
    assert done.returncode == 1 and "502" in done.stderr
    with Expose(relay, (echoing.address, "box:7")) as expose, \
            Tunnel(relay, "forward", "stdio", "box:7", stdin=subprocess.PIPE) as tunnel:
        tunnel.process.stdin.write(b"x")
        tunnel.process.stdin.flush()
        assert tunnel.process.stdout.read(1) == b"x"
        expose.process.kill()
        expose.expected_exit = {-signal.SIGKILL}
        assert tunnel.wait() == 1
        tunnel.says("box:7:")
        tunnel.process.stdin.close()
