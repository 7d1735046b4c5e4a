"""Linked relays: a server of one is reached from another by the same name, whoever has dialled whom."""

import hashlib
import os
import signal
import threading

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from certificates import Pair
from channels import Rejected, dial, joined, no_channel_is_left, peer, raw_clean, server
from conditions import DEADLINE, eventually
from links import client, is_linked, leads, leads_nowhere, linked, listening, to, ways
from relay import SCRIPTS
from tunnels import free_port


@pytest.fixture(scope="module", params=[1, 2], ids=["one loop", "two loops"])
def pair(request):
    """The relay that was dialled, and the one that has dialled it."""
    with linked(2, [(1, 0)], loops=request.param) as relays:
        yield relays
        for relay in relays:
            no_channel_is_left(relay)


# Which way the link was dialled, and which way the channel goes.
both_ways = pytest.mark.parametrize("near,far", [(0, 1), (1, 0)], ids=["to the dialler", "from the dialler"])


def reach(near, host, far_relay, name="box", port=22):
    """A clean client at one relay, and its channel at a server of the other."""
    leads(near, name)
    dialling = dial(near, name, port)
    channel = host.opened().accept()
    return dialling.result(DEADLINE), channel


@both_ways
def test_a_server_is_reached_by_its_name_from_the_other_relay(pair, near, far):
    with server(pair[far]) as host:
        connected, channel = reach(pair[near], host, pair[far])
        with connected:
            assert (channel.fields["server"], channel.fields["port"]) == ("box", 22)
            assert channel.fields["remoteAddress"] == "127.0.0.1"
            for message in ["", "text", b"", b"binary", "ü" * 1000, os.urandom(125), os.urandom(65_530), "x" * 200_000]:
                connected.send(message)
                assert channel.receive() == message
                channel.send(message)
                assert connected.receive() == message
    leads_nowhere(pair[near], "box")


@both_ways
def test_a_multiplexed_client_has_many_channels_over_the_link(pair, near, far):
    with server(pair[far]) as host, peer(pair[near]) as caller:
        leads(pair[near], "box")
        ends = [joined(caller, host, port=port) for port in range(40)]
        for number, (mine, theirs) in enumerate(ends):
            mine.send(f"question {number}")
            theirs.send(b"answer %d" % number)
        for number, (mine, theirs) in enumerate(ends):
            assert theirs.receive() == f"question {number}"
            assert mine.receive() == b"answer %d" % number
            assert theirs.fields["port"] == number


@both_ways
def test_large_messages_stay_whole_and_small_ones_in_order(pair, near, far):
    with server(pair[far]) as host:
        connected, channel = reach(pair[near], host, pair[far])
        with connected:
            large = os.urandom(8_000_000)
            sender = threading.Thread(target=connected.send, args=(large,))
            sender.start()
            assert hashlib.sha256(channel.receive()).digest() == hashlib.sha256(large).digest()
            sender.join(DEADLINE)
            receiver = threading.Thread(target=channel.send, args=(large,))
            receiver.start()
            assert hashlib.sha256(connected.receive()).digest() == hashlib.sha256(large).digest()
            receiver.join(DEADLINE)
            small = [os.urandom(number % 130) for number in range(5000)]
            for message in small:
                connected.send(message)
            assert [channel.receive() for _ in small] == small
            for message in small:
                channel.send(message)
            assert [connected.receive() for _ in small] == small


@both_ways
def test_closes_keep_their_codes(pair, near, far):
    with server(pair[far]) as host:
        connected, channel = reach(pair[near], host, pair[far])
        channel.close(4321, "the server is done")
        assert connected.closed() == (4321, "the server is done")
        connected, channel = reach(pair[near], host, pair[far])
        connected.connection.close(4322, "the client is done")
        assert channel.closed() == (4322, "the client is done")


@both_ways
def test_half_closes_cross_the_link(pair, near, far):
    with server(pair[far]) as host, peer(pair[near]) as caller:
        leads(pair[near], "box")
        mine, theirs = joined(caller, host)
        mine.send(b"last")
        mine.end()
        assert theirs.receive() == b"last"
        theirs.ended()
        theirs.send(b"answer")
        theirs.end()
        assert mine.receive() == b"answer"
        mine.ended()


@both_ways
def test_who_does_not_read_stops_the_sender_at_the_other_relay(pair, near, far):
    with server(pair[far]) as host:
        leads(pair[near], "box")
        before = [relay.resident_bytes for relay in pair]
        with raw_clean(pair[near], host, credit=64 << 10) as (sender, channel):
            channel.grants = False
            sender.socket.settimeout(1)
            sent = 0
            from wire import BINARY, frame
            try:
                while sent < 60_000_000:
                    sender.socket.sendall(frame(BINARY, os.urandom(60_000)))
                    sent += 60_000
            except TimeoutError:
                pass
            assert sent < 30_000_000, "nobody was stopped"
            grown = [relay.resident_bytes - was for relay, was in zip(pair, before)]
            assert max(grown) < 16_000_000, grown


def test_a_rejected_open_keeps_its_code(pair):
    with server(pair[0]) as host, peer(pair[1]) as caller:
        leads(pair[1], "box")
        channel = caller.open("box", 1)
        host.opened().reject(418, "a teapot")
        with pytest.raises(Rejected) as refused:
            channel.accepted()
        assert (refused.value.code, refused.value.reason) == (418, "a teapot")


def test_offered_ports_are_known_at_the_other_relay(pair):
    with peer(pair[0], "/s/box?ports=22,80-90"):
        # It may have heard of others by that name before.
        eventually(lambda: leads(pair[1], "box")["ports"] == "22,80-90", "the ports are known")
        with pytest.raises(InvalidStatus) as refused:
            client(pair[1], port=23)
        assert refused.value.response.status_code == 404


def test_metadata_and_address_of_the_client_arrive(make_relay):
    with listening() as far:
        near = make_relay("--connect", to(far), loops=2)
        near.load("m", 'relay.on("connect", function(conn, server, port) return true, nil, {who = "me"} end)')
        with server(far) as host:
            leads(near, "box")
            dialling = dial(near)
            channel = host.opened().accept()
            with dialling.result(DEADLINE):
                assert channel.fields["metadata"] == {"who": "me"}


def test_rights_are_decided_where_the_client_is(pair):
    with server(pair[0]) as host:
        leads(pair[1], "box")
        with pytest.raises(InvalidStatus) as refused:
            pair[1].connect("/c/box/22?auth=1234", url=pair[1].urls[1])
        assert refused.value.response.status_code == 401
        assert not host.new


# The end of a link


@pytest.mark.parametrize("loops", [1, 2])
def test_a_relay_that_is_killed_takes_its_servers_along_and_they_come_back(make_relay, loops):
    far = listening(loops=loops)
    with far:
        near = make_relay("--connect", to(far), loops=loops)
        with server(near, "here") as here:
            with server(far) as host:
                connected, _ = reach(near, host, far)
                leads(far, "here")
                other = dial(far, "here")
                theirs = here.opened().accept()
                other.result(DEADLINE)
                far.signal(signal.SIGKILL)
                far.wait()
                assert connected.closed()[0] == 4004
                assert theirs.closed()[0] == 4004
                leads_nowhere(near, "box")
                with pytest.raises(InvalidStatus):
                    client(near)
            far.process.stdout.close()
            port = far.port_of(far.urls[1])
            with listening(port=port, loops=loops) as again, server(again) as host:
                leads(near, "box")
                connected, channel = reach(near, host, again)
                with connected:
                    connected.send("back")
                    assert channel.receive() == "back"
                leads(again, "here")


def test_a_relay_that_drains_is_left(make_relay):
    with listening(drain="5s") as far:
        near = make_relay("--connect", to(far))
        with server(far) as host:
            connected, _ = reach(near, host, far)
            far.signal(signal.SIGTERM)
            leads_nowhere(near, "box")
            assert connected.closed()[0] in (4004, 1012)
        far.wait()


# What cannot be


def test_a_link_to_itself_is_refused_with_one_line(make_relay):
    port = free_port()
    relay = listening("--connect", f"ws://127.0.0.1:{port}?auth=1234", port=port)
    with relay:
        relay.logs("leads back to this relay itself")
        eventually(lambda: any("itself" in link.get("failure", "") for link in relay.listed("links")), "it is listed")
        assert relay.log.count("there is no link") == 1


@pytest.mark.parametrize("url,words", [
    ("?auth=wrong", "401"), ("", "401"), ("/app/none?auth=1234", "404")], ids=["wrong", "none", "no app"])
def test_a_wrong_token_is_said_once(make_relay, url, words):
    with listening() as far:
        near = make_relay("--connect", far.urls[1] + url)
        near.logs("there is no link")
        near.logs(words)
        assert "wrong" not in near.log.replace("the answer is wrong", "")
        # It is tried again, and not said again.
        eventually(lambda: far.log.count("refused a request") + far.log.count("unauthorized") >= 2, "it tries again")
        assert near.log.count("there is no link") == 1
        assert near.listed("links")[0]["failure"]


def test_a_listener_can_refuse_links(make_relay):
    far = make_relay(listen=["ws://127.0.0.1:0?auth=1234&link=0"])
    near = make_relay("--connect", to(far))
    near.logs("401")


def test_a_listener_without_a_token_takes_no_link(make_relay):
    far = make_relay()
    near = make_relay("--connect", far.url)
    near.logs("401")


def test_a_link_is_no_client_of_webhooks(make_relay):
    far = listening(
        "--set", f"target=http://127.0.0.1:{free_port()}", "--http-allow", "127.0.0.1", scripts=[SCRIPTS / "webhooks.lua"])
    with far:
        near = make_relay("--connect", to(far))
        is_linked(near)
        # Who is one needs the back end.
        with pytest.raises(InvalidStatus) as refused:
            far.connect("/")
        assert refused.value.response.status_code == 403


def test_a_credential_bounds_what_a_link_may(make_relay):
    far = make_relay()
    secret = far.invoke("create credential", named={"rights": ["listen:lab-*", "connect:box:22"]})["credential"]
    near = make_relay("--connect", f"{far.url}?credential={secret}")
    is_linked(near)
    with server(near, "lab-1") as lab, server(near, "other"), server(far) as host, server(far, "secret") as hidden:
        leads(far, "lab-1")
        assert not ways(far, "other")
        connected, channel = reach(near, host, far)
        connected.close()
        for name, port in [("box", 23), ("secret", 22)]:
            leads(near, name)
            with pytest.raises(InvalidStatus) as refused:
                client(near, name, port)
            assert refused.value.response.status_code == 403
        assert not hidden.new
        dialling = dial(far, "lab-1")
        lab.opened().accept()
        dialling.result(DEADLINE).close()


# TLS


def test_a_link_over_tls_checks_the_certificate(make_relay, tmp_path):
    pair = Pair(tmp_path, "relay")
    far = make_relay(
        "--tls-certificate", pair.certificate, "--tls-key", pair.key, listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0?auth=1234"])
    near = make_relay("--connect", f"{to(far)}&ca={pair.certificate}", loops=2)
    stranger = make_relay("--connect", to(far))
    stranger.logs("certificate")
    with server(near, "here") as host:
        leads(far, "here")
        dialling = dial(far, "here")
        channel = host.opened().accept()
        with dialling.result(DEADLINE) as connected:
            data = os.urandom(3_000_000)
            sender = threading.Thread(target=connected.send, args=(data,))
            sender.start()
            assert channel.receive() == data
            sender.join(DEADLINE)
            receiver = threading.Thread(target=channel.send, args=(data,))
            receiver.start()
            assert connected.receive() == data
            receiver.join(DEADLINE)
