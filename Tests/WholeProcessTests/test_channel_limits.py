"""Channels that are not to be, or not any longer: servers that say no or nothing, limits, and a relay that leaves."""

import contextlib
import json
import signal

import pytest
from websockets.exceptions import InvalidStatus

from channels import (
    CLOSE, DRAIN, Closed, Rejected, channels, clean, coded, dial, joined, knock, let_in, no_channel_is_left, peer,
    raw_clean, server)
from conditions import DEADLINE, eventually
from echoes import Bystander
from relay import Relay
from wire import TEXT, frame


def status_of(dialling):
    with pytest.raises(InvalidStatus) as failure:
        dialling.result(DEADLINE)
    return failure.value.response.status_code


def rejection_of(channel):
    with pytest.raises(Rejected) as failure:
        channel.accepted()
    return failure.value.code, failure.value.reason


@pytest.fixture(scope="module")
def strict():
    with Relay(loops=2, limits={"handshakeTimeout": "400ms", "channelsPerConnection": "3"}) as relay:
        yield relay
        no_channel_is_left(relay)


# Servers that say no, or nothing


@pytest.mark.parametrize("code, status", [
    (400, 400), (403, 403), (404, 404), (418, 418), (451, 451), (500, 500), (503, 503), (599, 599), (200, 502),
    (101, 502), (302, 502), (399, 502), (600, 502), (1000, 502), (4321, 502), (0, 502), (65535, 502)])
def test_the_code_of_a_reject_is_the_status_where_it_is_one(strict, code, status):
    with server(strict) as host, peer(strict) as client, knock(strict) as raw:
        host.opened().reject(code, "not today: κ")
        response = raw.read_response()
        assert response.status == status
        if code == status:
            assert "not today: κ" in response.body.decode()
        raw.expect_end()
        waiting = client.open("box")
        host.opened().reject(code, "not today: κ")
        assert rejection_of(waiting) == (code, "not today: κ")


def test_a_reason_cannot_break_out_of_a_response(strict):
    with server(strict) as host, knock(strict) as raw:
        host.opened().reject(403, "no\r\nSet-Cookie: a=b\r\n\r\n<html>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        response = raw.read_response()
        assert response.status == 403
        assert response.values("Set-Cookie") == []
        raw.expect_end()


def test_a_server_that_does_not_answer_in_time_is_504_and_is_told(strict):
    with server(strict) as host, Bystander(strict), knock(strict) as raw:
        opened = host.opened()
        assert raw.read_response().status == 504
        raw.expect_end()
        assert opened.closed()[0] == 504
        opened.accept()  # Too late.
        host.settle()
        assert not host.strays and not opened.inbox
        with pytest.raises(InvalidStatus, match="404"):
            strict.connect(f"/a/{opened.fields['ticket']}")


@pytest.mark.timeout(180)
def test_a_server_has_thirty_seconds_where_the_client_has_more(make_relay):
    relay = make_relay(limits={"handshakeTimeout": "1h", "pingInterval": "1h", "idleTimeout": "2h"})
    with server(relay, raw=True) as host, peer(relay, raw=True) as client, Bystander(relay):
        host.raw.socket.settimeout(60)
        client.raw.socket.settimeout(60)
        with knock(relay) as raw:
            raw.socket.settimeout(60)
            far_raw = host.opened()
            near = client.open("box")
            far = host.opened()
            assert rejection_of(near)[0] == 504
            assert far.closed()[0] == 504
            assert far_raw.closed()[0] == 504
            assert raw.read_response().status == 504
            for opened in (far, far_raw):
                with pytest.raises(InvalidStatus, match="404"):
                    relay.connect(f"/a/{opened.fields['ticket']}")
        joined(client, host)


def test_a_client_that_gives_up_before_the_answer_is_told_to_the_server(strict):
    with server(strict) as host, peer(strict) as client:
        near = client.open("box")
        far = host.opened()
        near.close(4321, "never mind")
        assert far.closed() == (4321, "never mind")
        far.accept()  # They cross.
        host.settle()
        client.settle()
        assert not near.inbox and not host.strays
        near, far = joined(client, host)
        near.send("the next")
        assert far.receive() == "the next"


def test_an_absent_server_is_502(strict):
    with peer(strict) as client:
        for name in ["absent", 0, -1, 2 ** 53, "x" * 255, "κ\u0000"]:
            code, reason = rejection_of(client.open(name))
            assert (code, bool(reason)) == (502, True), name
    assert status_of(dial(strict, "absent")) == 502


# How many


def test_a_server_has_as_many_channels_as_it_may(strict):
    with server(strict) as host, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw_clean(strict, host)) for _ in range(2)]
        with knock(strict) as waiting, peer(strict) as client:
            opened = host.opened()  # One that is not accepted yet counts.
            assert status_of(dial(strict)) == 503
            assert rejection_of(client.open("box"))[0] == 503
            host.settle()
            assert not host.new
            opened.reject(403)
            assert waiting.read_response().status == 403
            near, far = joined(client, host)
            assert status_of(dial(strict)) == 503
            clients[0][0].reset()
            assert clients[0][1].closed()[0] == 1006
            with clean(strict, host):
                assert status_of(dial(strict)) == 503
            near.send("all the time")
            assert far.receive() == "all the time"


def test_a_client_has_as_many_channels_as_it_may(strict):
    with peer(strict) as client, contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(server(strict, f"box-{index}")) for index in range(4)]
        ends = [joined(client, host, f"box-{index}") for index, host in enumerate(hosts[:3])]
        assert rejection_of(client.open("box-3"))[0] == 503
        hosts[3].settle()
        assert not hosts[3].new
        ends[1][0].end()
        ends[1][1].ended()
        ends[1][1].end()
        ends[1][0].ended()
        near, far = joined(client, hosts[3], "box-3")
        near.send("fits")
        assert far.receive() == "fits"


def test_what_is_open_at_a_server_is_listed(make_relay):
    relay = make_relay(loops=2)
    with server(relay) as host, peer(relay) as client:
        assert channels(relay) == []
        joined(client, host, port=80)
        with clean(relay, host, port=22):
            listed = channels(relay)
            assert len(listed) == 2
            assert {entry["server"] for entry in listed} == {"box"}
            assert {entry["port"] for entry in listed} == {22, 80}
            assert [entry["server"] for entry in relay.listed("servers")] == ["box"]
    no_channel_is_left(relay)


# A relay, an app or a silence that ends everything


def test_a_relay_that_drains_says_so_and_closes_with_1012(make_relay):
    relay = make_relay(loops=2, drain="2s")
    with server(relay) as host, peer(relay) as client, clean(relay, host) as (plain, _):
        near, far = joined(client, host)
        far.send("before")
        assert near.receive() == "before"
        pending = knock(relay)
        host.opened()
        relay.signal(signal.SIGTERM)
        for end in (host, client):
            hint = end.stray()
            assert (hint.kind, hint.channel) == (DRAIN, 0)
            milliseconds = json.loads(hint.payload)["reconnectInMilliseconds"]
            assert 0 <= milliseconds <= 2000
        for end in (client, host):
            assert end.closed()[0] == 1012
        assert plain.closed()[0] == 1012
        assert pending.read_response().status == 503
        for channel in (near, far):
            assert all((step.kind, step.payload[:2]) == (CLOSE, coded(1012)) for step in channel.inbox)
    assert relay.wait() == 0


def test_a_channel_goes_on_while_the_relay_drains(make_relay):
    relay = make_relay(drain="3s")
    with server(relay) as host, peer(relay) as client:
        near, far = joined(client, host)
        relay.signal(signal.SIGTERM)
        assert (host.stray().kind, client.stray().kind) == (DRAIN, DRAIN)
        near.send("still")  # Either arrives or ends with 1012; nothing else is answered.
        try:
            step = far.frame()
            assert step.payload == b"still" or (step.kind, step.payload[:2]) == (CLOSE, coded(1012))
        except Closed as end:
            assert end.code == 1012
    assert relay.wait() == 0


def test_an_app_that_is_removed_closes_every_end_with_1001(make_relay):
    relay = make_relay(loops=2)
    relay.invoke("create app", named={"app": "gone"})
    with Bystander(relay), server(relay, path="/app/gone") as host, peer(relay, "/app/gone") as client, \
            clean(relay, host, path="/app/gone") as (plain, _):
        near, far = joined(client, host)
        near.send("before")
        assert far.receive() == "before"
        with knock(relay, path="/app/gone") as pending:
            host.opened()
            relay.invoke("remove app", named={"app": "gone"})
            assert (host.closed()[0], client.closed()[0], plain.closed()[0]) == (1001, 1001, 1001)
            assert pending.read_response().status in (404, 502)
        assert status_of(dial(relay, path="/app/gone")) == 404


@pytest.mark.parametrize("silent", ["server", "multiplexed", "clean"])
def test_who_is_silent_for_too_long_is_closed_with_4008_and_the_other_end_hears(make_relay, silent):
    relay = make_relay(limits={"pingInterval": "100ms", "idleTimeout": "700ms"})
    host = server(relay, raw=silent == "server")
    if silent == "server":
        with peer(relay) as client:
            near, _ = joined(client, host)
            with host:
                assert near.closed()[0] == 4004  # The package answers pings meanwhile.
                assert host.closed()[0] == 4008
        return
    with host:
        if silent == "clean":
            with raw_clean(relay, host) as (raw, far):
                assert far.closed()[0] == 4008
                assert raw.read_close()[0] == 4008
        else:
            with peer(relay, raw=True) as client:
                _, far = joined(client, host)
                assert far.closed()[0] == 4008
                assert client.closed()[0] == 4008


def test_messages_per_second_hold_for_the_ends_of_channels(make_relay):
    relay = make_relay(limits={"messagesPerSecond": "100"})
    with server(relay) as host, raw_clean(relay, host) as (client, far), bystander_at_ease(relay):
        client.send(frame(TEXT, "x") * 1000)
        count = 0
        while (step := far.frame()).is_data:
            count += 1
        assert (step.kind, int.from_bytes(step.payload[:2], "big")) == (CLOSE, 4006)
        assert count < 300
        assert client.read_close()[0] == 4006


@contextlib.contextmanager
def bystander_at_ease(relay):
    """One that stays below the limit itself."""
    with server(relay, "quiet") as host, clean(relay, host, "quiet") as (client, far):
        yield
        client.send("still")
        assert far.receive() == "still"


def test_let_in_after_all(strict):
    """Limits leave nothing behind: after everything above a client meets a server at once."""
    with server(strict) as host, knock(strict) as raw:
        host.opened().accept()
        let_in(raw)
        eventually(lambda: len(channels(strict)) == 1, "it is the only channel")
