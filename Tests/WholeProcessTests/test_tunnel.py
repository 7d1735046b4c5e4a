"""The tunnel: six functions sent one by one into an empty relay, and the script that is the same in one piece."""

import asyncio

import pytest

import readme_tunnel
from conditions import DEADLINE, eventually
from relay import SCRIPTS, Refused, Relay
from wire import TEXT, frame

D = "\x1f"
TUNNEL = SCRIPTS / "tunnel.lua"
BODIES = sorted((SCRIPTS / "tunnel").glob("*.lua"))
NAMES = [
    "connect to server", "create server credential", "forward to client", "forward to server", "initialize",
    "install server",
]


def test_six_bodies_sent_one_by_one_tunnel_text_both_ways_over_tls():
    async def tunnel(relay):
        certificate = relay.state / "tls-certificate.pem"
        done = await readme_tunnel.make_tunnel(relay.url, certificate, relay.admin, SCRIPTS / "tunnel")
        assert done == "initialized tunnel relay"
        request = readme_tunnel.request
        async with readme_tunnel.open_socket(relay.url, certificate) as server, \
                readme_tunnel.open_socket(relay.url, certificate) as client:
            made = await request(server, "create server credential")
            installed = await request(server, "install server", made["server"], made["credential"])
            assert installed == {"installed": True, "server": 0}
            connected = await request(client, "connect to server", 0, 80)
            channel = connected["channel"]
            assert await server.recv() == f"connected:atPort:for: {channel}{D}80{D}127.0.0.1"
            for number in range(100):
                text = f"to the server {number} κόσμε"
                assert (await request(client, "forward to server", channel, text))["forwarded"] is True
                assert await server.recv() == f"from:data: {channel}{D}{text}"
                text = f"to the client {number} 🦊"
                assert (await request(server, "forward to client", channel, text))["forwarded"] is True
                assert await client.recv() == f"from:data: 0{D}{text}"

    with Relay("--tls-self-signed", listen=["wss://localhost:0"]) as relay:
        asyncio.run(asyncio.wait_for(tunnel(relay), 3 * DEADLINE))


@pytest.fixture(scope="module", params=["bodies", "script"])
def made(request):
    """A tunnel in each of its two forms; tests that close sockets want the script and make their own."""
    with Relay(scripts=[TUNNEL] if request.param == "script" else []) as relay:
        if request.param == "bodies":
            for file in BODIES:
                relay.add(file.stem, file.read_text(), public=file.stem != "initialize")
            assert relay.invoke("initialize") == "initialized tunnel relay"
        yield relay


def install(client):
    """Makes the client a server, as node-livecode's clients do: without ids, reading the messages. Its id."""
    client.send_json({"instruction": "create server credential"})
    server_id, credential = client.receive().split(" ")
    client.send_json({"instruction": "install server", "parameters": [int(server_id), credential]})
    assert client.receive() == "1"
    return int(server_id)


def connect(client, server, server_id, port=80):
    """Connects the client to the server; returns the channel that the server is told."""
    client.send_json({"instruction": "connect to server", "parameters": [server_id, port]})
    assert client.receive() == "1"
    text, told_port, address = server.receive().split(D)
    assert text.startswith("connected:atPort:for: ")
    assert (told_port, address) == (str(port), "127.0.0.1")
    return int(text.removeprefix("connected:atPort:for: "))


def test_both_forms_define_the_six_instructions(made):
    listed = {entry["instruction"]: entry["public"] for entry in made.listed("instructions")}
    assert sorted(listed) == NAMES
    assert [name for name, public in listed.items() if not public] == ["initialize"]


def test_messages_without_ids_work_as_they_did_in_node_livecode(made):
    with made.connect() as server, made.connect() as client:
        server_id = install(server)
        channel = connect(client, server, server_id, 5900)
        client.send_json({"instruction": "forward to server", "parameters": [channel, "hello"]})
        assert client.receive() == "1"
        assert server.receive() == f"from:data: {channel}{D}hello"
        server.send_json({"instruction": "forward to client", "parameters": [channel, "hi"]})
        assert server.receive() == "1"
        assert client.receive() == f"from:data: {server_id}{D}hi"
        client.send_json({"instruction": "forward to server", "parameters": [channel, ""]})
        assert client.receive() == "1"
        assert server.receive() == f"from:data: {channel}{D}"


def test_with_an_id_the_same_facts_come_as_a_structured_result(made):
    with made.connect() as server, made.connect() as client:
        made_credential = server.request("create server credential")
        assert set(made_credential) == {"server", "credential"}
        server_id = made_credential["server"]
        assert server.receive() == f"{server_id} {made_credential['credential']}"
        assert server.request("install server", server_id, made_credential["credential"]) == \
            {"installed": True, "server": server_id}
        assert server.receive() == "1"
        connected = client.request("connect to server", server_id, 443)
        channel = connected["channel"]
        assert connected == {"connected": True, "channel": channel, "server": server_id, "port": 443}
        assert client.request("forward to server", channel, "x") == {"forwarded": True, "channel": channel}
        server.receive()
        assert server.receive() == f"from:data: {channel}{D}x"
        assert server.request("forward to client", channel, "y") == {"forwarded": True, "channel": channel}
        reply = client.request("forward to server", channel + 1000, "x")
        assert reply["forwarded"] is False and reply["reason"]


def test_credentials_are_128_random_bits_and_ids_count_up(made):
    with made.connect() as client:
        made_credentials = [client.request("create server credential") for _ in range(20)]
    assert len({entry["credential"] for entry in made_credentials}) == 20
    assert all(len(bytes.fromhex(entry["credential"])) == 16 for entry in made_credentials)
    ids = [entry["server"] for entry in made_credentials]
    assert ids == list(range(ids[0], ids[0] + 20))


@pytest.mark.parametrize("wrong", ["", "0", None, 7, [], "x" * 32, "0" * 32])
def test_a_wrong_server_credential_is_refused(made, wrong):
    with made.connect() as client, made.connect() as other:
        good = client.request("create server credential")
        client.receive()
        assert client.request("install server", good["server"], wrong) == \
            {"installed": False, "reason": "bad credential"}
        assert client.receive() == "0"
        for server_id in [good["server"] + 1000, -1, "box", None, 1.5]:
            assert client.request("install server", server_id, good["credential"])["installed"] is False
        assert other.request("connect to server", good["server"], 80)["connected"] is False


def test_connecting_to_nobody_or_to_a_bad_port_is_refused(made):
    with made.connect() as server, made.connect() as client:
        server_id = install(server)
        for target, port in [(server_id + 1000, 80), ("box", 80), (None, 80), (server_id, -1), (server_id, 65536),
                             (server_id, "80"), (server_id, 1.5), (server_id, None)]:
            client.send_json({"instruction": "connect to server", "parameters": [target, port]})
            assert client.receive() == "0", (target, port)
        for port in [0, 65535]:
            connect(client, server, server_id, port)


def test_nobody_can_forward_on_a_channel_that_is_not_theirs(made):
    with made.connect() as server, made.connect() as other_server, made.connect() as client, \
            made.connect() as other_client, made.connect() as stranger:
        server_id, other_id = install(server), install(other_server)
        channel = connect(client, server, server_id)
        other_channel = connect(other_client, other_server, other_id)
        for thief in [other_client, stranger, server, other_server]:
            assert thief.request("forward to server", channel, "stolen")["forwarded"] is False
            assert thief.receive() == "0"
        for thief in [other_server, stranger, client, other_client]:
            assert thief.request("forward to client", channel, "stolen")["forwarded"] is False
            assert thief.receive() == "0"
        assert client.request("forward to server", other_channel, "stolen")["forwarded"] is False
        assert client.receive() == "0"
        assert [receiver.messages() for receiver in (server, other_server, client, other_client)] == [[]] * 4


def test_initialize_is_for_the_admin_alone(made):
    with made.connect() as client:
        with pytest.raises(Refused) as refused:
            client.request("initialize")
        assert refused.value.code == "forbidden"


def test_initialize_takes_a_delimiter_and_forgets_what_was(make_relay):
    relay = make_relay(scripts=[TUNNEL])
    with relay.connect() as server, relay.connect() as client:
        server_id = install(server)
        old = connect(client, server, server_id)
        assert relay.invoke("initialize", "|") == "initialized tunnel relay"
        assert client.request("forward to server", old, "x")["forwarded"] is False
        assert client.request("connect to server", server_id, 80)["connected"] is False
        assert relay.listed("servers") == []
        client.waiting.clear()
        assert install(server) == 0
        client.send_json({"instruction": "connect to server", "parameters": [0, 80]})
        assert client.receive() == "1"
        channel, port, address = server.receive().removeprefix("connected:atPort:for: ").split("|")
        assert (port, address) == ("80", "127.0.0.1") and int(channel) > old
    for wrong in ["", 7, {}]:
        with pytest.raises(Refused) as refused:
            relay.invoke("initialize", wrong)
        assert refused.value.code == "script_error"


def test_a_server_that_closes_is_forgotten_and_its_clients_are_told(tunnel):
    with tunnel.connect() as client, tunnel.connect() as bystander:
        with tunnel.connect() as server:
            server_id = install(server)
            channels = [connect(client, server, server_id, port) for port in (1, 2, 3)]
        assert sorted(client.receive() for _ in channels) == [f"disconnected: {channel}" for channel in channels]
        assert client.request("forward to server", channels[0], "x")["forwarded"] is False
        assert client.request("connect to server", server_id, 80)["connected"] is False
        assert tunnel.listed("servers") == []
        assert bystander.messages() == []


def test_a_client_that_closes_is_forgotten_and_its_server_is_told(tunnel):
    with tunnel.connect() as server:
        server_id = install(server)
        with tunnel.connect() as client:
            channel = connect(client, server, server_id)
        assert server.receive() == f"disconnected: {channel}"
        assert server.request("forward to client", channel, "x")["forwarded"] is False
        assert server.receive() == "0"
        assert tunnel.evaluate("local n = 0 for _ in pairs(clients) do n = n + 1 end return n") == 0
        # Whoever vanishes without a word counts as well.
        raw = tunnel.raw(upgraded=True)
        raw.send(frame(TEXT, f'{{"instruction": "connect to server", "parameters": [{server_id}, 9]}}'))
        assert raw.read_message() == "1"
        next_channel = int(server.receive().split(D)[0].removeprefix("connected:atPort:for: "))
        raw.reset()
        assert server.receive() == f"disconnected: {next_channel}"


def test_channel_numbers_are_never_used_again(tunnel):
    seen = []
    with tunnel.connect() as server:
        server_id = install(server)
        for _ in range(20):
            with tunnel.connect() as client:
                seen.append(connect(client, server, server_id))
            assert server.receive() == f"disconnected: {seen[-1]}"
    with tunnel.connect() as server, tunnel.connect() as client:
        server_id = install(server)
        seen.append(connect(client, server, server_id))
    assert seen == sorted(set(seen))


def test_installing_again_replaces_the_old_server_and_keeps_its_channels(tunnel):
    with tunnel.connect() as old, tunnel.connect() as client:
        made = old.request("create server credential")
        assert old.request("install server", made["server"], made["credential"])["installed"]
        old.waiting.clear()
        channel = connect(client, old, made["server"])
        with tunnel.connect() as new:
            assert new.request("install server", made["server"], made["credential"])["installed"]
            assert old.closed()[0] == 4005
            old.close()
            eventually(lambda: len(tunnel.listed("connections")) == 3, "the old one is gone")
            assert client.request("forward to server", channel, "still here")["forwarded"]
            new.receive()
            assert new.receive() == f"from:data: {channel}{D}still here"
            assert client.messages() == ["1"]


def test_reloading_the_script_keeps_servers_and_channels(tunnel):
    with tunnel.connect() as server, tunnel.connect() as client:
        server_id = install(server)
        channel = connect(client, server, server_id)
        for _ in range(3):
            loaded = tunnel.load("tunnel.lua", TUNNEL.read_text())
            assert sorted(loaded["instructions"]) == NAMES
            assert client.request("forward to server", channel, "x")["forwarded"] is True
            client.waiting.clear()
            assert server.receive() == f"from:data: {channel}{D}x"
        # The hooks of the new generation know the old connections.
        client.close()
        assert server.receive() == f"disconnected: {channel}"


def test_an_instruction_of_the_script_can_be_replaced_by_itself(tunnel):
    with tunnel.connect() as server, tunnel.connect() as client:
        server_id = install(server)
        channel = connect(client, server, server_id)
        body = (SCRIPTS / "tunnel" / "forward to server.lua").read_text()
        replaced = body.replace('server:send("from:data: "', 'server:send("replaced: "')
        assert replaced != body
        assert tunnel.add("forward to server", replaced)["version"] == 2
        client.send_json({"instruction": "forward to server", "parameters": [channel, "x"]})
        assert client.receive() == "1"
        assert server.receive() == f"replaced: {channel}{D}x"
        client.close()
        assert server.receive() == f"disconnected: {channel}"


def test_livecode_lines_are_those_of_the_original(make_relay):
    relay = make_relay()
    expected = []
    with relay.connect(subprotocols=["livecode.v0"]) as admin:
        for file in [*BODIES[4:5], *BODIES[:4], *BODIES[5:]]:
            admin.send_json({"instruction": "add instruction", "credential": relay.admin, "parameters": {
                "instructionToAdd": file.stem, "body": file.read_text(), "public": file.stem != "initialize"}})
            expected += ["server: received command 'add instruction'", f"server: adding instruction '{file.stem}'"]
            if file.stem == "initialize":
                admin.send_json({"instruction": "initialize", "credential": relay.admin})
                expected += [
                    "server: received command 'initialize'", "server: evaluating added instruction 'initialize'",
                    "server: initialized tunnel relay"]
        assert [admin.receive() for _ in expected] == expected


@pytest.mark.parametrize("loops", [2])
def test_a_tunnel_works_on_several_loops(make_relay, loops):
    relay = make_relay(scripts=[TUNNEL], loops=loops)
    with relay.connect() as server:
        server_id = install(server)
        clients = [relay.connect() for _ in range(20)]
        channels = [connect(client, server, server_id) for client in clients]
        assert len(set(channels)) == 20
        for client, channel in zip(clients, channels):
            assert client.request("forward to server", channel, str(channel))["forwarded"] is True
        assert sorted(server.receive() for _ in channels) == sorted(
            f"from:data: {channel}{D}{channel}" for channel in channels)
        for client in clients:
            client.close()
        assert sorted(server.receive() for _ in channels) == sorted(
            f"disconnected: {channel}" for channel in channels)
