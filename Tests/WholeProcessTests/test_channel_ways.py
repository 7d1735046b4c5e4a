"""The ways into a channel (docs/relay.v1.md, "Paths", "Opening", "Rendezvous"): what each end is told, and when."""

import json
import struct

import pytest
from websockets.exceptions import InvalidStatus

from channels import (
    ACCEPT, REJECT, WINDOW, Rejected, bearer, clean, coded, dial, joined, knock, let_in, no_channel_is_left, number,
    peer, server)
from conditions import DEADLINE
from relay import TEST_SCRIPTS, Relay
from wire import TEXT, close_frame, frame

CONNECT = TEST_SCRIPTS / "connect.lua"


@pytest.fixture(scope="module", params=[1, 3], ids=["one loop", "three loops"])
def meeting(request):
    with Relay(scripts=[CONNECT], loops=request.param) as relay:
        yield relay
        no_channel_is_left(relay)


def both_ways(one, other):
    for message in ["hello", b"\x00\xff", "", b"", "κόσμε 🦊", "x" * 70_000]:
        one.send(message)
        assert other.receive() == message
        other.send(message)
        assert one.receive() == message


def refused(relay, path, **options):
    """(status, body) of a WebSocket that is not to be."""
    with pytest.raises(InvalidStatus) as failure:
        relay.connect(path, **options).close()
    response = failure.value.response
    return response.status_code, (response.body or b"").decode()


# Clean clients


def test_a_clean_client_meets_a_registered_server(meeting):
    with server(meeting) as host, clean(meeting, host) as (client, channel):
        both_ways(client, channel)


def test_a_server_is_told_who_comes_and_to_which_port(meeting):
    with server(meeting) as host, knock(meeting, port=65535) as raw:
        channel = host.opened()
        ticket = channel.fields.pop("ticket")
        assert isinstance(ticket, str) and len(ticket) >= 16
        assert channel.fields == {
            "server": "box", "port": 65535, "remoteAddress": "127.0.0.1", "metadata": None, "credit": WINDOW}
        channel.accept()
        let_in(raw)


def test_the_101_of_a_clean_client_waits_for_the_server_and_carries_on_with_what_came_along(meeting):
    with server(meeting) as host, knock(meeting) as raw:
        raw.send(frame(TEXT, "sent before the answer"))
        channel = host.opened()
        host.settle()
        raw.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            raw.socket.recv(1)
        raw.socket.settimeout(DEADLINE)
        channel.accept()
        assert channel.receive() == "sent before the answer"
        let_in(raw)


@pytest.mark.parametrize("offered, echoed", [
    ([], None), (["chat"], "chat"), (["mqtt", "chat"], "mqtt"), (["relay.v1"], "relay.v1"),
    (["bearer.CREDENTIAL", "chat"], "chat"), (["chat", "bearer.CREDENTIAL"], "chat"), (["bearer.CREDENTIAL"], None),
])
@pytest.mark.parametrize("end", ["client", "dedicated"])
def test_a_clean_end_is_given_the_first_subprotocol_that_it_offers(meeting, offered, echoed, end):
    offered = [each.replace("CREDENTIAL", meeting.admin) for each in offered]
    extra = [f"Sec-WebSocket-Protocol: {', '.join(offered)}"] if offered else []
    with server(meeting) as host, knock(meeting, extra=extra if end == "client" else ()) as raw:
        channel = host.opened()
        if end == "client":
            channel.accept()
            assert raw.read_response().value("Sec-WebSocket-Protocol") == echoed
        else:
            with meeting.raw() as other:
                path = f"/a/{channel.fields['ticket']}"
                assert other.handshake(path=path, extra=extra).value("Sec-WebSocket-Protocol") == echoed
                let_in(raw)


@pytest.mark.parametrize("way", ["header", "subprotocol", "auth=", "credential="])
def test_a_token_is_taken_from_each_of_its_places(meeting, way):
    admin = meeting.admin
    query = f"?{way}{admin}" if way.endswith("=") else ""
    headers = {"Authorization": f"Bearer {admin}"} if way == "header" else {}
    token = [f"bearer.{admin}"] if way == "subprotocol" else []
    host = meeting.connect(f"/s/box{query}", subprotocols=["relay.v1", *token], additional_headers=headers)
    assert host.connection.subprotocol == "relay.v1"
    with host, knock(meeting):
        opened = host.receive()
        assert opened[0] == 0x10
        host.send(struct.pack("!BI", REJECT, int.from_bytes(opened[1:5], "big")) + coded(418))
        # And for the client.
        assert refused(meeting, f"/c/nobody/1{query}", subprotocols=token or None, additional_headers=headers)[0] == 502


@pytest.mark.parametrize("path, opened_as", [("0", 0), ("42", 42), ("007", "007"), ("a%20b", "a b"), ("%CE%BA", "κ")])
def test_digits_in_a_path_are_a_number_and_all_else_is_a_name(meeting, path, opened_as):
    with server(meeting, path) as host, peer(meeting) as client:
        near, far = joined(client, host, opened_as)
        assert far.fields["server"] == opened_as and type(far.fields["server"]) is type(opened_as)
        both_ways(near, far)
        with clean(meeting, host, path) as ends:
            both_ways(*ends)
        other = str(opened_as) if isinstance(opened_as, int) else 7
        with pytest.raises(Rejected) as absent:
            client.open(other).accepted()
        assert absent.value.code == 502


# Multiplexed clients


def test_a_multiplexed_client_meets_a_registered_server(meeting):
    with server(meeting) as host, peer(meeting) as client:
        near, far = joined(client, host, port=80)
        ticket = far.fields.pop("ticket")
        assert isinstance(ticket, str) and len(ticket) >= 16
        assert far.fields == {
            "server": "box", "port": 80, "remoteAddress": "127.0.0.1", "metadata": None, "credit": WINDOW}
        assert near.credit == WINDOW
        both_ways(near, far)


def test_an_open_may_say_more_than_the_relay_knows(meeting):
    with server(meeting) as host, peer(meeting) as client:
        near, far = joined(client, host, later=[{"versions": None}], metadata="mine", remoteAddress="10.0.0.1")
        assert far.fields["metadata"] is None and far.fields["remoteAddress"] == "127.0.0.1"
        assert "later" not in far.fields
        both_ways(near, far)


def test_a_registered_server_is_a_client_of_others_and_of_itself(meeting):
    with server(meeting, "one") as one, server(meeting, "other") as other:
        near, far = joined(one, other, "other")
        both_ways(near, far)
        back, there = joined(other, one, "one")
        both_ways(back, there)
        near, far = joined(one, one, "one")
        both_ways(near, far)


def test_one_client_has_channels_to_servers_wherever_they_are(meeting):
    names = [f"box {index}" for index in range(8)]
    hosts = [server(meeting, name.replace(" ", "%20")) for name in names]
    with peer(meeting) as client, peer(meeting) as second:
        pairs = [joined(end, host, name) for end in (client, second) for host, name in zip(hosts, names)]
        for near, far in pairs:
            both_ways(near, far)
        # It is an instruction connection as before, wherever it is now.
        assert client.request("connect me", "nobody", 1)["result"]["code"] == "not_found"
        for near, far in reversed(pairs):
            both_ways(far, near)
    for host in hosts:
        host.socket.close()


# Scripts


def test_a_script_opens_a_channel_on_a_multiplexed_connection(meeting):
    with server(meeting) as host, peer(meeting) as client:
        for turn in range(1, 4):
            channel = client.request("connect me", "box", 22, {"turn": turn})["result"]["channel"]
            far = host.opened().accept(1000)
            assert (far.fields["server"], far.fields["port"], far.fields["metadata"]) == ("box", 22, {"turn": turn})
            near = client.opened().accepted()
            assert near.number == channel and channel % 2 == 0
            assert (near.credit, far.fields["credit"]) == (1000, WINDOW)
            near.data(b"to you")
            assert far.receive() == b"to you"
            far.send("and back")
            assert near.receive() == "and back"


def test_a_number_is_used_for_one_channel_only_whoever_opens_it(meeting):
    with server(meeting) as host:
        opened = []
        for _ in range(10):  # It is a server, and the client of another one by its own wish and by a script's.
            client = peer(meeting)
            far = joined(client, host)[1]
            own = joined(host, host)[1]
            assert host.request("connect me", "box", 22)["result"]["channel"]
            scripted_far = host.opened().accept()
            scripted = host.opened().accepted()
            opened += [far.number, own.number, scripted_far.number, scripted.number]
            client.socket.close()
        assert len(set(opened)) == len(opened) and not any(each % 2 for each in opened)


def test_a_channel_of_a_script_that_is_rejected_begins_and_ends_with_that(meeting):
    with server(meeting) as host, peer(meeting) as client:
        channel = client.request("connect me", "box", 22)["result"]["channel"]
        host.opened().reject(4321, "not today")
        near = client.opened()
        assert near.number == channel
        with pytest.raises(Rejected, match="4321 not today"):
            near.accepted()


def test_a_script_makes_a_plain_connection_the_clean_end_of_a_channel(meeting):
    with server(meeting) as host, meeting.connect() as client:
        made = client.request("connect me", "box", 22, {"who": "a tab"})
        assert made == {"channel": True}
        far = host.opened().accept()
        assert far.fields["metadata"] == {"who": "a tab"}
        both_ways(client, far)
        client.send('{"instruction": "connect me", "id": 1}')  # It is nobody's instruction any more.
        assert far.receive() == '{"instruction": "connect me", "id": 1}'
        far.close(4321, "enough")
        assert client.closed() == (4321, "enough")


def test_what_a_plain_connection_sends_behind_the_instruction_is_the_channels(meeting):
    with server(meeting) as host, meeting.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, json.dumps({"instruction": "connect me", "parameters": ["box", 1], "id": 1}))
                 + frame(TEXT, "first") + frame(TEXT, "second"))
        far = host.opened().accept()
        assert [far.receive(), far.receive()] == ["first", "second"]
        assert json.loads(raw.read_message())["result"]["channel"]
        raw.send(close_frame(1000))
        assert far.closed()[0] == 1000


def test_a_plain_connection_whose_server_rejects_is_closed(meeting):
    with server(meeting) as host, meeting.connect() as client:
        client.request("connect me", "box", 22)
        host.opened().reject(404, "no such thing")
        assert client.closed()[0] not in (1000, 1005)


@pytest.mark.parametrize("kind", ["multiplexed", "plain"])
def test_a_script_is_told_that_a_server_is_absent(meeting, kind):
    with (peer(meeting) if kind == "multiplexed" else meeting.connect()) as client:
        reply = client.request("connect me", "nobody", 22)
        reply = reply["result"] if kind == "multiplexed" else reply
        assert reply == {"code": "not_found"}
        assert meeting.evaluate("return 1") == 1


@pytest.mark.parametrize("ports, refused_port", [("", None), (", { ports = '22,80-90' }", 23)])
def test_a_script_installs_a_multiplexed_connection_as_a_server(meeting, ports, refused_port):
    meeting.add("install me", f"function(conn, id) return relay.install(id, conn{ports}) end")
    with peer(meeting) as host, peer(meeting) as client:
        assert host.request("install me", "scripted")["result"] is True
        assert host.request("install me", 7)["result"] is True
        for name in ["scripted", 7]:
            near, far = joined(client, host, name)
            assert far.fields["server"] == name
            both_ways(near, far)
            with clean(meeting, host, name) as ends:
                both_ways(*ends)
        if refused_port:
            with pytest.raises(Rejected) as rejection:
                client.open(7, refused_port).accepted()
            assert rejection.value.code == 404


def test_a_plain_connection_that_a_script_installs_cannot_be_the_server_of_a_channel(meeting):
    meeting.add("install me plainly", "function(conn, id) return relay.install(id, conn) end")
    with meeting.connect() as plain, peer(meeting) as client:
        assert plain.request("install me plainly", "plain") is True
        with pytest.raises(Rejected) as rejection:
            client.open("plain").accepted()
        assert rejection.value.code == 502
        assert plain.messages() == []


# Rendezvous


@pytest.mark.parametrize("kind", ["clean", "multiplexed"])
def test_a_server_meets_a_client_on_a_connection_of_its_own(meeting, kind):
    with server(meeting) as host, peer(meeting) as client:
        waiting = dial(meeting) if kind == "clean" else client.open("box")
        opened = host.opened()
        with meeting.connect(f"/a/{opened.fields['ticket']}") as dedicated:
            if kind == "multiplexed":
                both_ways(waiting.accepted(), dedicated)
                return
            with waiting.result(DEADLINE) as near:
                both_ways(near, dedicated)
                near.connection.close(4321, "bye")
                assert dedicated.closed() == (4321, "bye")


def test_after_a_rendezvous_the_number_means_nothing(meeting):
    with server(meeting) as host:
        waiting = dial(meeting)
        opened = host.opened()
        with meeting.connect(f"/a/{opened.fields['ticket']}") as dedicated, waiting.result(DEADLINE) as near:
            host.send(ACCEPT, opened.number, number(1000))
            opened.data(b"for nobody")
            opened.close(4444, "for nobody")
            host.settle()
            both_ways(near, dedicated)


def test_a_dedicated_connection_outlives_the_registration(meeting):
    with server(meeting) as host:
        waiting = dial(meeting)
        dedicated = meeting.connect(f"/a/{host.opened().fields['ticket']}")
    with dedicated, waiting.result(DEADLINE) as near:
        with pytest.raises(InvalidStatus, match="502"):
            dial(meeting).result(DEADLINE)
        both_ways(near, dedicated)


def test_between_two_clean_ends_frames_stay_as_they_are(meeting):
    with server(meeting) as host, knock(meeting) as client, meeting.raw() as dedicated:
        dedicated.handshake(path=f"/a/{host.opened().fields['ticket']}")
        let_in(client)
        for one, other in [(client, dedicated), (dedicated, client)]:
            one.send(frame(TEXT, "frag", fin=False) + frame(0, "", fin=False) + frame(0, "x" * 70_000))
            assert [other.read_fragment() for _ in range(3)] == [
                (TEXT, b"frag", False), (0, b"", False), (0, b"x" * 70_000, True)]


@pytest.mark.parametrize("why", [
    "unknown", "used", "after accept", "after reject", "client has gone", "server has left", "of another app"])
def test_a_ticket_that_does_not_hold_is_404(meeting, why):
    with server(meeting) as host, knock(meeting) as raw:
        opened = host.opened()
        path = f"/a/{opened.fields['ticket']}"
        if why == "unknown":
            assert refused(meeting, path[:-1] + ("0" if path[-1] != "0" else "1"))[0] == 404
            assert refused(meeting, "/a/" + "x" * 1000)[0] == 404
            opened.accept()
            let_in(raw)
            return
        if why == "used":
            with meeting.connect(path) as dedicated:
                let_in(raw)
                assert refused(meeting, path)[0] == 404
                dedicated.send("still")
                assert raw.read_message() == "still"
            return
        if why == "after accept":
            opened.accept()
            let_in(raw)
        elif why == "after reject":
            opened.reject(403)
            assert raw.read_response().status == 403
        elif why == "client has gone":
            raw.reset()
            assert opened.closed()[0] == 1006
        elif why == "server has left":
            host.socket.close()
            assert raw.read_response().status == 502
        else:
            meeting.invoke("create app", named={"app": "elsewhere"})
            assert refused(meeting, f"/app/elsewhere{path}")[0] == 404
            meeting.invoke("remove app", named={"app": "elsewhere"})
            opened.accept()
            let_in(raw)
        assert refused(meeting, path)[0] == 404


# Apps


def test_servers_of_one_app_are_not_another_apps(meeting):
    with server(meeting) as here:
        for app in ["blue", "red"]:
            meeting.invoke("create app", named={"app": app})
        with server(meeting, path="/app/blue") as blue, peer(meeting, "/app/blue") as client:
            both_ways(*joined(client, blue))
            with clean(meeting, blue, path="/app/blue") as ends:
                both_ways(*ends)
            with clean(meeting, here) as ends:
                both_ways(*ends)
            options = {"additional_headers": bearer(meeting)}
            assert refused(meeting, "/app/red/c/box/22", **options)[0] == 502
            assert refused(meeting, "/app/green/c/box/22", **options)[0] == 404
            assert refused(meeting, "/app/green/s/box", subprotocols=["relay.v1"], **options)[0] == 404
        for app in ["blue", "red"]:
            meeting.invoke("remove app", named={"app": app})


def test_channels_go_over_tls_too():
    with Relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], loops=2) as relay:
        with server(relay) as host, clean(relay, host) as (client, channel), peer(relay) as multiplexed:
            both_ways(client, channel)
            near, far = joined(multiplexed, host)
            both_ways(near, far)
            for index in range(100):
                client.send(str(index))
                channel.send(channel.receive())
                assert client.receive() == str(index)
