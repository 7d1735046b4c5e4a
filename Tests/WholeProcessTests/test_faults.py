"""Limits, slow and silent peers, storms, and a kernel that has nothing left (CASES 52 to 59)."""

import json
import random
import socket
import threading

import pytest

from conditions import eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import PING, PONG, TEXT, Ended, close_frame, frame, upgrade_head

ECHO = TEST_SCRIPTS / "echo.lua"
FEED = TEST_SCRIPTS / "feed.lua"


# Limits


def test_one_message_too_many_in_a_second_closes_with_4006():
    with Relay(scripts=[ECHO], limits={"messagesPerSecond": 50}) as relay, relay.connect() as other:
        ping_pong(other)
        with relay.raw(upgraded=True) as raw:
            raw.send(b"".join(frame(TEXT, str(number)) for number in range(200)))
            for number in range(50):
                assert raw.read_message() == str(number)
            code, reason = raw.read_close()
            assert code == 4006 and "50" in reason
        ping_pong(other)


def test_a_connection_that_answers_no_ping_is_closed_with_4008_and_one_that_does_stays():
    limits = {"pingInterval": "100ms", "idleTimeout": "400ms"}
    with Relay(scripts=[ECHO], limits=limits) as relay, relay.connect() as answering:
        with relay.raw(upgraded=True) as silent:
            assert silent.read_frame() == (PING, b"")
            assert silent.read_close()[0] == 4008
        with relay.raw(upgraded=True) as half:
            half.send(frame(TEXT, "an unfinished frame")[:-3])
            assert half.read_close()[0] == 4008
        ping_pong(answering)
        assert len(relay.listed("connections")) >= 2  # The answering one and the one that lists.


def test_a_connection_that_never_closes_its_end_is_cut_off():
    with Relay(scripts=[ECHO], limits={"pingInterval": "100ms", "idleTimeout": "400ms"}) as relay:
        with relay.connect() as client:
            ping_pong(client)
        base = relay.descriptors
        with relay.raw(upgraded=True) as silent:
            silent.read_to_end()  # 4008, and then the end, without an answer from here.
        eventually(lambda: relay.descriptors <= base, "the descriptor is closed")


# Cases 52 and 53: receivers that do not read


class Feeder(threading.Thread):
    """Sends numbered messages of 32 KiB to the connection that is fed; blocks when the relay does not read."""

    PADDING = "x" * (32 << 10)

    def __init__(self, relay, count):
        super().__init__()
        self.client = relay.connect()
        self.count = count
        self.failure = None

    def run(self):
        try:
            for number in range(self.count):
                self.client.send_json({"instruction": "feed", "parameters": [f"{number} {self.PADDING}"]})
        except BaseException as failure:
            self.failure = failure

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        if kind is not None:  # The test has failed; whoever waits for the relay waits in vain.
            self.client.connection.socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self.client.close()


def is_waiting(admin):
    return any(entry["waiting"] for entry in admin.request("connections"))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_sender_waits_for_its_receiver_and_nothing_is_lost(scheme):
    limits = {"slowConsumerDeadline": "1h", "pingInterval": "1h", "idleTimeout": "2h"}
    options = ["--tls-self-signed"]
    with Relay(*options, listen=[f"{scheme}://127.0.0.1:0"], scripts=[FEED], limits=limits) as relay:
        with relay.operator() as admin, relay.raw(upgraded=True) as fed, relay.connect() as other:
            fed.send(frame(TEXT, '{"instruction": "be fed", "id": 1}'))
            fed.read_message()
            before = relay.resident_bytes
            with Feeder(relay, 2000) as feeder:  # 64 MB, and the receiver does not read.
                eventually(lambda: is_waiting(admin), "the sender is read no further")
                ping_pong(other, 20)
                assert relay.peak_bytes - before < 16 << 20
                for number in range(2000):
                    message = fed.read_message()
                    assert message.startswith(f"{number} "), message[:20]
                    assert len(message) == len(f"{number} ") + len(Feeder.PADDING)
                    if number % 100 == 0:
                        ping_pong(other)
            assert feeder.failure is None
            assert relay.peak_bytes - before < 16 << 20
            assert not is_waiting(admin)


def test_a_receiver_that_never_reads_is_closed_with_4003_and_its_sender_goes_on():
    with Relay(scripts=[FEED], limits={"slowConsumerDeadline": "300ms"}) as relay, relay.connect() as other:
        with relay.raw(upgraded=True) as fed:
            fed.send(frame(TEXT, '{"instruction": "be fed", "id": 1}'))
            fed.read_message()
            before = relay.resident_bytes
            with Feeder(relay, 1000) as feeder:
                relay.logs("slow consumer")
                ping_pong(other, 20)
                assert fed.read_close()[0] == 4003  # Once it reads, it is told.
            assert feeder.failure is None
            assert relay.peak_bytes - before < 16 << 20
        ping_pong(other)


def test_a_receiver_that_reads_byte_by_byte_is_closed_too():
    with Relay(scripts=[FEED], limits={"slowConsumerDeadline": "300ms"}) as relay:
        with relay.raw(upgraded=True) as fed:
            fed.send(frame(TEXT, '{"instruction": "be fed", "id": 1}'))
            fed.read_message()
            with Feeder(relay, 1000) as feeder:
                eventually(lambda: fed.socket.recv(1) and "slow consumer" in relay.log, "the slow one is closed")
                fed.socket.close()
            assert feeder.failure is None


def test_an_echo_that_is_not_read_stops_the_reading_of_its_own_connection():
    limits = {"slowConsumerDeadline": "1h", "pingInterval": "1h", "idleTimeout": "2h"}
    with Relay(scripts=[ECHO], limits=limits) as relay, relay.operator() as admin, relay.connect() as other:
        before = relay.resident_bytes
        with relay.raw(upgraded=True) as raw:
            count, payload = 1000, b"x" * (64 << 10)
            sender = threading.Thread(target=lambda: all(raw.try_send(frame(TEXT, payload)) for _ in range(count)))
            sender.start()
            eventually(lambda: is_waiting(admin), "the connection is read no further")
            ping_pong(other, 20)
            for _ in range(count):
                assert raw.read_frame() == (TEXT, payload)
            sender.join()
        assert relay.peak_bytes - before < 16 << 20


def test_a_reset_receiver_frees_its_sender():
    with Relay(scripts=[FEED], limits={"slowConsumerDeadline": "1h"}) as relay, relay.operator() as admin:
        fed = relay.raw(upgraded=True)
        fed.send(frame(TEXT, '{"instruction": "be fed", "id": 1}'))
        fed.read_message()
        with Feeder(relay, 500) as feeder:
            eventually(lambda: is_waiting(admin), "the sender is read no further")
            fed.reset()
        assert feeder.failure is None
        eventually(lambda: not is_waiting(admin), "nobody waits any more")


# Case 58: descriptors


def test_running_out_of_descriptors_hurts_nobody_who_is_connected():
    with Relay(scripts=[ECHO], wrapper=["prlimit", "--nofile=64:64"], log_level="info") as relay:
        with relay.connect() as client:
            ping_pong(client)
            base = relay.descriptors
            crowd = [relay.raw() for _ in range(150)]
            relay.logs("cannot accept connections")
            ping_pong(client, 200)
            for raw in crowd:
                raw.try_send(upgrade_head())
            ping_pong(client, 200)
            for raw in crowd:
                raw.socket.close()

            def lets_in():
                try:
                    with relay.raw(upgraded=True) as raw:
                        raw.send(frame(TEXT, "in"))
                        return raw.read_message() == "in"
                except (Ended, OSError):
                    return False

            eventually(lets_in, "new connections are let in again")
            eventually(lambda: relay.descriptors <= base, "all descriptors are closed")
            ping_pong(client)
            assert relay.log.count("cannot accept connections") < 500


# Cases 55 and 59: storms


@pytest.mark.parametrize("loops", [1, 2])
def test_a_storm_of_connections_leaves_everything_as_it_was(loops):
    with Relay(scripts=[ECHO], loops=loops, limits={"connectionsPerAddress": 10000}) as relay:
        with relay.connect() as client:
            ping_pong(client)
            base = relay.descriptors
            choose = random.Random(59)
            for _ in range(1000):
                raw = relay.raw()
                way = choose.randrange(6)
                if way == 1:
                    raw.send(upgrade_head()[: choose.randrange(1, 100)])
                elif way >= 2:
                    raw.send(upgrade_head())
                if way == 3:
                    raw.send(frame(TEXT, b"x" * 5000)[: choose.randrange(1, 5000)])
                elif way == 4:
                    raw.send(frame(TEXT, b"x" * 60000) * 3)
                elif way == 5:
                    raw.send(frame(PING, "x") + close_frame(1000))
                raw.reset() if choose.randrange(2) else raw.socket.close()
            ping_pong(client, 50)
            eventually(lambda: relay.descriptors <= base, "all descriptors are closed")
            eventually(lambda: len(relay.listed("connections")) == 2, "only the living are listed")
            ping_pong(client)


def test_five_hundred_idle_connections_are_kept_and_found():
    with Relay(scripts=[ECHO], loops=2) as relay:
        crowd = [relay.raw() for _ in range(500)]
        for raw in crowd:
            raw.send(upgrade_head())
        for raw in crowd:
            assert raw.read_response().status == 101
        assert len(relay.listed("connections")) == 501
        for number, raw in enumerate(crowd):
            raw.send(frame(TEXT, str(number)) + frame(PING, "p"))
        for number, raw in enumerate(crowd):
            assert raw.read_frame() == (TEXT, str(number).encode())
            assert raw.read_frame() == (PONG, b"p")
            raw.socket.close()
        eventually(lambda: len(relay.listed("connections")) == 1, "all are gone")


# Several loops


def test_connections_of_every_loop_work_and_can_be_kicked():
    with Relay(scripts=[FEED], loops=2) as relay, relay.operator() as admin:
        clients = [relay.connect() for _ in range(24)]
        ids = [client.request("be fed") for client in clients]
        assert len(set(ids)) == 24
        for client, identifier in zip(clients, ids):
            ping_pong(client)
            assert relay.run("kick", identifier).returncode == 0
            assert client.closed()[0] == 4007
        eventually(lambda: len(admin.request("connections")) == 1, "all are gone")


def test_connections_of_apps_on_every_loop_can_be_kicked_by_the_relays_admin():
    with Relay(scripts=[FEED], loops=2) as relay, relay.operator() as admin:
        for app in ["a", "b", "c"]:
            admin.request("create app", named={"app": app})
            relay.load("feed.lua", FEED.read_text(), path=f"/app/{app}")
        assert {entry["loop"] for entry in admin.request("apps")} == {0, 1}
        for app in ["a", "b", "c"]:
            with relay.connect(f"/app/{app}") as client:
                identifier = client.request("be fed")
                ping_pong(client)
                assert admin.request("close connection", named={"connection": identifier}) == {"closed": True}
                assert client.closed()[0] == 4007


def test_messages_between_connections_of_different_loops_arrive_in_order():
    with Relay(scripts=[FEED], loops=2) as relay:
        fed = relay.connect()
        fed.request("be fed")
        feeders = [relay.connect() for _ in range(8)]

        def feed(name, client):
            for number in range(200):
                client.send(json.dumps({"instruction": "feed", "parameters": [f"{name} {number}"]}))

        threads = [threading.Thread(target=feed, args=item) for item in enumerate(feeders)]
        for thread in threads:
            thread.start()
        last = {}
        for _ in range(8 * 200):
            name, number = map(int, fed.receive().split())
            assert number == last.get(name, -1) + 1
            last[name] = number
        for thread in threads:
            thread.join()
        for client in [fed, *feeders]:
            client.close()
