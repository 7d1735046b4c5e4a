"""Who may install itself and who may be connected: credentials, offered ports, and scripts that know better."""

import contextlib

import pytest
from websockets.exceptions import InvalidStatus

from channels import Rejected, clean, dial, joined, knock, let_in, no_channel_is_left, peer, server
from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay
from wire import upgrade_head

ADMISSION = TEST_SCRIPTS / "admission.lua"


@pytest.fixture(scope="module")
def door():
    with Relay(loops=2) as relay:
        yield relay
        no_channel_is_left(relay)


@pytest.fixture(scope="module", params=[1, 3], ids=["one loop", "three loops"])
def guarded(request):
    with Relay(scripts=[ADMISSION], loops=request.param) as relay, server(relay, "other") as other:
        relay.other = other
        yield relay
        no_channel_is_left(relay)


def credential(relay, *rights, **more):
    made = relay.invoke("create credential", named={"rights": list(rights), **more})
    return made["credential"], made["id"]


def registration(relay, path, secret=None):
    """The status that a registration is answered with, and the connection where that is 101."""
    fields = ["Sec-WebSocket-Protocol: relay.v1", *([f"Authorization: Bearer {secret}"] if secret else [])]
    raw = relay.raw()
    raw.send(upgrade_head(path, extra=fields))
    return raw.read_response().status, raw


def client_status(relay, name, port, secret=None):
    """How a clean client is refused."""
    with relay.raw() as raw:
        raw.send(upgrade_head(f"/c/{name}/{port}", extra=[f"Authorization: Bearer {secret}"] if secret else []))
        response = raw.read_response()
        raw.expect_end()
        return response.status


def reject_code(client, name, port):
    with pytest.raises(Rejected) as rejection:
        client.open(name, port).accepted()
    return rejection.value.code


# Registering


def test_the_right_to_listen_is_a_glob_of_server_ids(door):
    secret, _ = credential(door, "listen:box*", "listen:7")
    for name, expected in [("box", 101), ("box-1", 101), ("7", 101), ("bo", 403), ("other", 403), ("77", 403)]:
        status, raw = registration(door, f"/s/{name}", secret)
        assert status == expected, name
        raw.socket.close()


def test_a_registration_needs_a_credential_that_is_one(door):
    assert registration(door, "/s/box")[0] == 401
    assert registration(door, "/s/box", "wrong.credential")[0] == 401
    connects, _ = credential(door, "connect:*:*", "invoke:*")
    assert registration(door, "/s/box", connects)[0] == 403
    elsewhere = door.invoke("create app", named={"app": "elsewhere"})["app"]
    theirs, _ = credential(door, "admin", app=elsewhere)
    assert registration(door, "/s/box", theirs)[0] == 401
    assert registration(door, "/app/elsewhere/s/box", theirs)[0] == 101


@pytest.mark.parametrize("offered", [None, "chat", "relay.v2", "RELAY.V1", "xrelay.v1"])
def test_a_registration_that_does_not_offer_relay_v1_is_400(door, offered):
    extra = [f"Authorization: Bearer {door.admin}", *([f"Sec-WebSocket-Protocol: {offered}"] if offered else [])]
    with door.raw() as raw:
        raw.send(upgrade_head("/s/box", extra=extra))
        assert raw.read_response().status == 400


@pytest.mark.parametrize("ports", [
    "x", "22x", "-1", "65536", "70000", "90-80", "1,,2", ",", "1-", "-", "1-2-3", "22;23", "99999999999999999999", ""])
def test_ports_that_cannot_be_read_are_400(door, ports):
    assert registration(door, f"/s/box?ports={ports}", door.admin)[0] == 400


def test_a_name_that_another_credential_holds_is_409(door):
    one, _ = credential(door, "listen:*")
    two, _ = credential(door, "listen:*")
    status, raw = registration(door, "/s/taken", one)
    assert status == 101
    with raw:
        for other in (two, door.admin):
            assert registration(door, "/s/taken", other)[0] == 409
        with peer(door) as client:  # The one that holds it still does.
            client.open("taken")
            assert raw.read_message()[0] == 0x10
    eventually(lambda: registration(door, "/s/taken", two)[0] == 101, "the name is free")


# Ports


@pytest.mark.parametrize("ports, offered, others", [
    ("22,80-90", [22, 80, 85, 90], [0, 21, 23, 79, 91, 65535]), ("0", [0], [1]), ("65535", [65535], [65534]),
    ("0-65535", [0, 1, 65535], []), (None, [0, 22, 65535], []),
])
def test_a_port_that_the_server_does_not_offer_is_404(door, ports, offered, others):
    with server(door, "box" + (f"?ports={ports}" if ports else "")) as host, peer(door) as client:
        for port in offered:
            near, far = joined(client, host, port=port)
            assert far.fields["port"] == port
            with clean(door, host, port=port):
                pass
        for port in others:
            assert reject_code(client, "box", port) == 404
            assert client_status(door, "box", port, door.admin) == 404


def test_offered_ports_hold_for_channels_that_are_opened_from_then_on(door):
    with server(door, "box?ports=22") as first, peer(door) as client, peer(door) as late:
        joined(client, first)
        with server(door, "box?ports=23") as second:
            assert reject_code(late, "box", 22) == 404
            joined(late, second, port=23)


# Connecting


def test_the_right_to_connect_is_a_glob_and_a_set_of_ports(door):
    secret, _ = credential(door, "connect:box*:22,80-90", "connect:db:*")
    with server(door) as host, server(door, "db") as database, peer(door, credential=secret) as client:
        for port in [22, 80, 90]:
            joined(client, host, port=port)
            with clean(door, host, port=port, credential=secret):
                pass
        joined(client, database, "db", 5432)
        for name, port in [("box", 23), ("box", 91), ("bo", 22), ("other", 22), ("boxes", 23)]:
            assert reject_code(client, name, port) == 403, (name, port)
            assert client_status(door, name, port, secret) == 403, (name, port)
        # Whoever may not connect is not told whether there is somebody.
        assert reject_code(client, "absent", 22) == 403
        assert reject_code(client, "boxes", 22) == 502


def test_a_client_needs_a_credential_that_is_one(door):
    with server(door):
        assert client_status(door, "box", 22) == 401
        assert client_status(door, "box", 22, "wrong.credential") == 401
        listens, _ = credential(door, "listen:*", "invoke:*")
        assert client_status(door, "box", 22, listens) == 403
        with peer(door, credential=listens) as client:
            assert reject_code(client, "box", 22) == 403
        with door.connect(subprotocols=["relay.v1"]) as anonymous:
            anonymous.send(b"\x10\0\0\0\x01" + b'{"server": "box", "port": 22}')
            assert anonymous.receive()[:7] == b"\x12\0\0\0\x01" + (401).to_bytes(2, "big")
        expired, _ = credential(door, "admin", expires=1)
        assert client_status(door, "box", 22, expired) == 401


def test_the_token_of_a_listener_alone_gives_no_right(make_relay):
    relay = make_relay(listen=["ws://127.0.0.1:0?auth=1234", "ws://127.0.0.1:0"])
    unguarded = {"url": relay.urls[1]}
    with server(relay, **unguarded) as host:
        assert registration(relay, "/s/other", "1234")[0] in (401, 403)
        assert client_status(relay, "box", 22, "1234") in (401, 403)
        with relay.connect("/?auth=1234", subprotocols=["relay.v1"]) as client:
            client.send(b"\x10\0\0\0\x01" + b'{"server": "box", "port": 22}')
            assert client.receive()[:5] == b"\x12\0\0\0\x01"
        host.settle()
        assert not host.new


def test_a_revoked_credential_takes_its_channels_along_and_the_other_end_hears(door):
    for revoked in ["client", "server"]:
        secret, identifier = credential(door, "connect:*:*", "listen:*")
        mine = {"client": {}, "server": {}, revoked: {"credential": secret}}
        with server(door, **mine["server"]) as host, peer(door, **mine["client"]) as client, \
                clean(door, host, **mine["client"]) as (quiet, far_quiet):
            near, far = joined(client, host)
            far.send("it works")
            assert near.receive() == "it works"
            door.invoke("revoke credential", named={"id": identifier})
            if revoked == "client":
                assert client.closed()[0] == 4002
                assert quiet.closed()[0] == 4002
                assert {far.closed()[0], far_quiet.closed()[0]} == {4002}
                host.settle()
            else:
                assert host.closed()[0] == 4002
                assert (near.closed()[0], quiet.closed()[0]) == (4004, 4004)
                assert reject_code(client, "box", 22) == 502


def test_a_credential_that_is_revoked_while_its_client_waits_opens_nothing(door):
    secret, identifier = credential(door, "connect:*:*")
    with server(door) as host, knock(door, credential=secret) as raw:
        opened = host.opened()
        door.invoke("revoke credential", named={"id": identifier})
        assert opened.closed()
        assert raw.read_response().status in (401, 403)
        opened.accept()
        host.settle()


# Scripts that decide


@contextlib.contextmanager
def waiting(relay, kind, port, name="box", **options):
    """A client that asks for a port: yields a function that is its answer, `None` or (status, reason)."""
    if kind == "clean":
        dialling = dial(relay, name, port, **options)

        def answer():
            try:
                dialling.result(DEADLINE).close()
            except InvalidStatus as failure:
                return failure.response.status_code, (failure.response.body or b"").decode()

        yield answer
        return
    with peer(relay, **options) as client:
        near = client.open(name, port)

        def answer():
            try:
                near.accepted().close()
            except Rejected as rejection:
                return rejection.code, rejection.reason

        yield answer


KINDS = ["clean", "multiplexed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port", [1, 0], ids=["says yes", "says nothing"])
def test_a_hook_lets_in(guarded, kind, port):
    with server(guarded) as host, waiting(guarded, kind, port) as answer:
        far = host.opened().accept()
        assert (far.fields["server"], far.fields["port"], far.fields["metadata"]) == ("box", port, None)
        assert answer() is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port, status, reason", [
    (2, 403, ""), (3, 451, "for legal reasons"), (7, 429, "slept"), (8, 500, ""), (9, 500, ""), (10, 502, ""),
    (11, 500, ""), (12, 500, ""), (13, 403, "no refusal")])
def test_a_hook_refuses_or_fails_with_a_status(guarded, kind, port, status, reason):
    with server(guarded) as host, waiting(guarded, kind, port) as answer:
        refusal = answer()
        assert refusal[0] == status
        assert reason in refusal[1]
        assert "no rule" not in refusal[1]  # What a script's error says is not for strangers.
        host.settle()
        assert not host.new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port, name, opened_port, metadata", [
    (4, "other", 44, None), (5, "box", 5, {"from": "box", "list": [1, "two", True]}), (6, "other", 6, ["slept"])])
def test_a_hook_chooses_another_server_and_adds_what_it_knows(guarded, kind, port, name, opened_port, metadata):
    with server(guarded) as host, waiting(guarded, kind, port) as answer:
        far = (guarded.other if name == "other" else host).opened().accept()
        assert far.fields["metadata"] == metadata
        assert (far.fields["server"], far.fields["port"]) == (name, opened_port)
        assert answer() is None
        assert far.closed()
        host.settle()
        assert not host.new


def test_a_hook_is_given_the_connection_the_server_and_the_request(guarded):
    guarded.evaluate("seen = {}")
    with server(guarded, "7") as host, knock(guarded, "7", "1?who=me", extra=["X-Agent: tests"]) as raw:
        host.opened().accept()
        let_in(raw)
        with peer(guarded, "/?and=you") as client:
            joined(client, host, 7, 1)
            first, second = guarded.evaluate("return seen")
    assert type(first.pop("connection")) is int and type(second.pop("connection")) is int
    assert first == {"server": 7, "port": 1, "path": "/c/7/1", "query": "who=me", "agent": "tests"}
    assert second == {"server": 7, "port": 1, "path": "/", "query": "and=you"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_says_yes_needs_no_credential_and_one_that_says_nothing_leaves_it_to_it(guarded, kind):
    weak, _ = credential(guarded, "listen:nothing")
    with server(guarded) as host:
        with waiting(guarded, kind, 1, credential=weak) as answer:
            host.opened().accept()
            assert answer() is None
        with waiting(guarded, kind, 0, credential=weak) as answer:
            assert answer()[0] == 403
        with waiting(guarded, kind, 2) as answer:  # Not even an admin.
            assert answer()[0] == 403


@pytest.mark.parametrize("leaves", ["clean", "multiplexed", "closes the channel"])
def test_a_client_may_leave_while_a_hook_sleeps(guarded, leaves):
    with server(guarded) as host:
        before = len(guarded.evaluate("return seen"))
        asked = lambda: len(guarded.evaluate("return seen")) > before  # noqa: E731
        if leaves == "clean":
            with knock(guarded, port=14) as raw:
                eventually(asked, "the hook sleeps")
                raw.reset()
        else:
            with peer(guarded) as client:
                near = client.open("box", 14)
                eventually(asked, "the hook sleeps")
                if leaves == "closes the channel":
                    near.close()
                    client.settle()
        host.settle()
        assert not host.new
        no_channel_is_left(guarded)


def test_a_server_that_leaves_while_a_hook_sleeps_is_502(guarded):
    guarded.load("slow.lua", """
      relay.on("connect", function(conn, server, port)
        while port == 15 and not go do relay.sleep(0.01) end
      end)
    """)
    try:
        for kind in KINDS:
            guarded.evaluate("go = false")
            with server(guarded) as host, waiting(guarded, kind, 15) as answer:
                host.socket.close()
                eventually(lambda: "box" not in [e["server"] for e in guarded.listed("servers")], "the server has left")
                guarded.evaluate("go = true")
                assert answer()[0] == 502
    finally:
        guarded.invoke("unload script", named={"name": "slow.lua"})


def test_a_hook_that_is_replaced_or_removed_is_the_one_that_counts(make_relay):
    relay = make_relay()
    with server(relay) as host, peer(relay) as client:
        joined(client, host)
        for status in (451, 429):
            relay.load("hook.lua", f"relay.on('connect', function() return false, {status} end)")
            assert reject_code(client, "box", 22) == status
            assert client_status(relay, "box", 22, relay.admin) == status
        relay.invoke("unload script", named={"name": "hook.lua"})
        joined(client, host)
