"""What the event loop's backends must both do, whichever RELAYD_IO chooses: give everything back, and lose nothing."""

import json
import pathlib
import random
import socket
import sys
import threading

import pytest

from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from test_faults import is_waiting
from test_pressure import narrow, paused
from test_start_and_end import refuses
from wire import BINARY, TEXT, close_frame, frame, upgrade_head

ECHO, FEED, PIPE = (TEST_SCRIPTS / f"{name}.lua" for name in ["echo", "feed", "pipe"])
WITHOUT_URING = [sys.executable, str(pathlib.Path(__file__).resolve().parent / "without_uring.py")]


# A kernel that refuses io_uring


@pytest.mark.parametrize("loops", [1, 2])
def test_where_io_uring_is_refused_auto_is_epoll_and_says_so_once(loops):
    with Relay("--io", "auto", scripts=[ECHO], loops=loops, wrapper=WITHOUT_URING) as relay:
        relay.logs("io_uring")
        said = [line for line in relay.log.splitlines() if "io_uring" in line]
        assert len(said) == 1 and "using epoll" in said[0] and "Operation not permitted" in said[0]
        clients = [relay.connect() for _ in range(8)]
        for client in clients:
            ping_pong(client, 10)
            client.close()
        assert [line for line in relay.log.splitlines() if "io_uring" in line] == said


def test_where_io_uring_is_refused_who_asks_for_it_is_told():
    said = refuses("--io", "io_uring", wrapper=WITHOUT_URING)
    assert "io_uring cannot be used" in said and "Operation not permitted" in said and "--io epoll" in said


def test_epoll_needs_no_io_uring():
    with Relay("--io", "epoll", scripts=[ECHO], wrapper=WITHOUT_URING) as relay, relay.connect() as client:
        ping_pong(client)
        assert "io_uring" not in relay.log


# Leaks


def request(instruction, *positional):
    return frame(TEXT, json.dumps({"instruction": instruction, "parameters": positional, "id": 1}))


def storm(relay, seed):
    """Connections that end in every way, at every point."""
    choose = random.Random(seed)
    data = frame(BINARY, b"x" * 20_000)
    for number in range(1200):
        raw = relay.raw()
        way = choose.randrange(6)
        if way == 1:
            raw.send(upgrade_head()[:choose.randrange(1, 100)])
        elif way == 2:
            raw.send(upgrade_head() + data[:choose.randrange(len(data))])
        elif way == 3:
            raw.send(upgrade_head() + data * 3)
        elif way == 4:
            raw.send(upgrade_head() + data + close_frame(1000))
        elif way == 5:
            raw.send(upgrade_head("/app/none"))
        if choose.random() < 0.5:
            raw.reset()
        else:
            raw.socket.close()
        if number % 30 == 0:
            with relay.raw(upgraded=True) as one, relay.raw(upgraded=True) as other:
                other.send(request("wait", "storm"))
                other.read_message()
                one.send(request("join", "storm"))
                one.read_message()
                one.try_send(data * 2 + data[:choose.randrange(len(data))])
                if choose.random() < 0.5:
                    other.reset()
                elif choose.random() < 0.5:
                    one.reset()


@pytest.mark.parametrize("loops", [1, 2])
def test_a_second_storm_takes_no_more_than_the_first(loops):
    with Relay(scripts=[PIPE], loops=loops, limits={"connectionsPerAddress": 10000}, log_level="error") as relay:
        with relay.operator() as admin:
            descriptors = relay.descriptors

            def is_over():
                return len(admin.request("connections")) == 1 and relay.descriptors <= descriptors

            resident = []
            for seed in range(3):
                storm(relay, seed)
                eventually(is_over, "every connection is gone, and its descriptor closed")
                resident.append(relay.resident_bytes)
            # The first storm fills the pools.
            assert resident[2] - resident[1] < 2 << 20, resident


# Resets


def test_a_peer_may_reset_at_any_point_of_a_send():
    size = 2 << 20
    with Relay(scripts=[ECHO], limits={"messageBytes": "4MiB"}, log_level="info") as relay:
        relay.load("large.lua", f"""
          local message = ("x"):rep({size})
          relay.instruction {{ "large", function(conn) conn:send(message) conn:send(message) end }}
        """)
        with relay.connect() as client:
            ping_pong(client)
            descriptors = relay.descriptors
            choose = random.Random(3)
            points = [0, 1, 2, 9, 10, 11, 4095, 4096, 65535, 65536, size, size + 10, size + 11, 2 * size]
            for point in points + [choose.randrange(2 * size) for _ in range(30)]:
                raw = narrow(relay) if choose.random() < 0.5 and point < 100_000 else relay.raw(upgraded=True)
                raw.send(frame(TEXT, json.dumps({"instruction": "large"})))
                raw.read(point)
                raw.reset()
                ping_pong(client)
            eventually(lambda: relay.descriptors <= descriptors, "all descriptors are closed")
            assert len(relay.listed("connections")) == 2


def test_what_a_peer_sent_before_its_end_arrives_though_it_was_not_read_then():
    with Relay(scripts=[FEED], limits={"slowConsumerDeadline": "1h"}) as relay, relay.operator() as admin:
        with narrow(relay) as slow, relay.raw(upgraded=True) as source:
            slow.send(request("be fed"))
            slow.read_message()

            def feed(number):
                message = f"{number} " + "y" * (60 << 10)
                source.send(frame(TEXT, json.dumps({"instruction": "feed", "parameters": [message]})))

            count = 0
            while not is_waiting(admin):
                feed(count)
                count += 1
            for number in range(count, count + 3):
                feed(number)
            source.socket.shutdown(socket.SHUT_WR)
            admin.request("connections")
            for number in range(count + 3):
                assert slow.read_message().startswith(f"{number} ")


# Peers that do not read


@pytest.mark.parametrize("script", [FEED, PIPE], ids=["scripted", "piped"])
@pytest.mark.parametrize("loops", [1, 2])
def test_a_peer_that_never_reads_costs_little_and_ends_with_4003(script, loops):
    limits = {"slowConsumerDeadline": "300ms"}
    with Relay(scripts=[script], limits=limits, loops=loops) as relay, relay.connect() as other:
        with narrow(relay) as slow, relay.raw(upgraded=True) as source:
            slow.send(request("be fed") if script is FEED else request("wait", "slow"))
            slow.read_message()
            if script is PIPE:
                source.send(request("join", "slow"))
                source.read_message()
            data = request("feed", "z" * 30_000) if script is FEED else frame(BINARY, b"z" * 30_000)
            is_over = threading.Event()

            def send():
                while not is_over.is_set() and source.try_send(data):
                    pass

            before = relay.resident_bytes
            relay.forget_peak()
            sender = threading.Thread(target=send)
            sender.start()
            while "slow consumer" not in relay.log:
                other.send("are you there?")
                assert "are you there?" in other.receive()
            is_over.set()
            assert slow.read_close()[0] == 4003  # Once it reads, it is told.
            source.socket.shutdown(socket.SHUT_RDWR)
            sender.join(DEADLINE)
            assert not sender.is_alive()
            assert relay.peak_bytes - before < 16 << 20


# More at once than there are buffers for


@pytest.mark.parametrize("loops", [1, 2])
def test_three_hundred_who_send_at_once_are_all_answered(loops):
    with Relay(scripts=[ECHO], loops=loops, log_level="info") as relay:
        crowd = [relay.raw(upgraded=True) for _ in range(300)]
        payloads = [f"{number:03} ".encode() * (16 << 10) for number in range(300)]
        with paused(relay):
            for raw, payload in zip(crowd, payloads):
                raw.send(frame(TEXT, payload, key=b"\0\0\0\0"))
        for raw, payload in zip(crowd, payloads):
            assert raw.read_frame() == (TEXT, payload)
        for raw in crowd:
            raw.socket.close()
