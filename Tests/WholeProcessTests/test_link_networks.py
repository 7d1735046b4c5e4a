"""More than two linked relays: in a line, in a ring, with names that are there twice; and nginx between two."""

import contextlib
import os
import signal
import subprocess

import pytest
from websockets.exceptions import InvalidStatus

from certificates import Pair
from channels import TEXT, dial, joined, no_channel_is_left, peer, server
from conditions import DEADLINE, eventually
from links import client, leads, leads_nowhere, linked, listening, to, ways
from tunnels import free_port

LINE = [(1, 0), (2, 1)]
RING = [(1, 0), (2, 1), (2, 0)]


def meets(near, host, name="box"):
    """A client at `near` is connected to `host`; bytes go both ways."""
    dialling = dial(near, name)
    channel = host.opened().accept()
    with dialling.result(DEADLINE) as connected:
        data = os.urandom(300_000)
        connected.send(data)
        assert channel.receive() == data
        channel.send(data)
        assert connected.receive() == data
        # Many in one segment: they move in a pass of their own.
        small = [bytes([number % 251]) * (number % 130) for number in range(400)]
        for messages, sending, receiving in [(small, connected, channel), (small, channel, connected)]:
            for message in messages:
                sending.send(message)
            assert [receiving.receive() for _ in messages] == messages
    assert channel.closed()[0] == 1000


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("near,far", [(0, 2), (2, 0), (1, 2), (1, 0)])
def test_three_in_a_line(loops, near, far):
    with linked(3, LINE, loops=loops) as relays, server(relays[far]) as host:
        leads(relays[near], "box", abs(near - far))
        meets(relays[near], host)
        for relay in relays:
            no_channel_is_left(relay)


@pytest.mark.parametrize("loops", [1, 2])
def test_two_that_were_dialled_by_a_third(loops):
    with linked(3, [(2, 0), (2, 1)], loops=loops) as relays, server(relays[0]) as host:
        leads(relays[1], "box", 2)
        meets(relays[1], host)
        with peer(relays[1]) as caller:
            mine, theirs = joined(caller, host)
            for number in range(300):
                mine.data(b"%d" % number)
                theirs.data(b"%d" % -number, TEXT)
            assert [theirs.receive() for _ in range(300)] == [b"%d" % number for number in range(300)]
            assert [mine.receive() for _ in range(300)] == ["%d" % -number for number in range(300)]


@pytest.mark.parametrize("loops", [1, 2])
def test_three_in_a_ring_settle_and_go_round_what_is_cut(loops):
    with linked(3, RING, loops=loops) as relays:
        with server(relays[2]) as host:
            leads(relays[0], "box", 1)
            eventually(lambda: len(ways(relays[0], "box")) == 2, "both ways are known")
            meets(relays[0], host)
        for relay in relays[:2]:
            leads_nowhere(relay, "box")


def test_65_a_ring_whose_middle_is_killed_leads_the_other_way():
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(listening()) for _ in range(2)]
        middle = listening("--connect", to(relays[0]), "--connect", to(relays[1]))
        with middle:
            # The direct way is dear.
            last = stack.enter_context(listening("--connect", to(relays[0], "&cost=50"), "--connect", to(middle)))
            with server(relays[0]) as host:
                assert leads(last, "box", 2)["cost"] == 2
                meets(last, host)
                middle.signal(signal.SIGKILL)
                middle.wait()
                assert leads(last, "box", 1)["cost"] == 50
                meets(last, host)
            middle.process.stdout.close()


def test_of_two_servers_with_one_name_the_nearer_serves_and_the_other_takes_over():
    with linked(3, LINE) as relays:
        with server(relays[0]) as first:
            leads(relays[2], "box", 2)
            meets(relays[2], first)
            with server(relays[2]) as second:
                # A relay's own goes before all others, and of others the nearer one.
                meets(relays[2], second)
                meets(relays[0], first)
            meets(relays[2], first)
            with server(relays[1]) as between:
                leads(relays[2], "box", 1)
                meets(relays[2], between)
            leads(relays[2], "box", 2)
            meets(relays[2], first)


def test_what_does_not_speak_relay_v1_hides_no_server_of_another_relay():
    with linked(3, LINE) as relays, server(relays[0]) as host:
        relays[1].add("install", "function(conn, name) return relay.install(name, conn) end")
        with relays[1].connect("/") as script:
            assert script.request("install", "box") is True
            leads(relays[2], "box", 2)
            for near in [1, 2]:
                meets(relays[near], host)


def test_the_cheaper_way_is_taken():
    with linked(3, [(1, 0), (2, 1), (2, 0, "&cost=10")]) as relays, server(relays[0]) as host:
        eventually(lambda: len(ways(relays[2], "box")) == 2, "both ways are known")
        assert leads(relays[2], "box")["cost"] == 2
        meets(relays[2], host)


def test_servers_that_come_and_go_are_followed_through_a_ring():
    with linked(3, RING) as relays:
        for _ in range(10):
            with contextlib.ExitStack() as stack:
                for number in range(20):
                    stack.enter_context(peer(relays[number % 3], f"/s/s{number}"))
                for relay_number, relay in enumerate(relays):
                    for number in range(20):
                        if number % 3 != relay_number:
                            leads(relay, f"s{number}", 1)
        for relay in relays:
            eventually(lambda relay=relay: relay.listed("servers") == [], "all have gone")


def test_a_thousand_servers_are_told_at_once():
    install = """function(conn) for i = 1, 1000 do relay.install("s" .. i, conn) end end"""
    with linked(2, [(1, 0)]) as relays:
        relays[0].add("install all", install)
        with peer(relays[0]) as many:
            assert "result" in many.request("install all")
            eventually(lambda: len(relays[1].listed("servers")) == 1000, "all are known")
            dialling = dial(relays[1], "s1000")
            many.opened().accept()
            dialling.result(DEADLINE).close()
        eventually(lambda: relays[1].listed("servers") == [], "all have gone")


# nginx, as the document has it.

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    # SSL Configuration
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{
      proxy_pass http://127.0.0.1:{target};
      # Proxy headers for WebSocket
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
      # Other proxy headers (optional)
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder, pair, target):
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(
        folder=folder, port=port, target=target, certificate=pair.certificate, key=pair.key))
    process = subprocess.Popen(
        ["/usr/sbin/nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE)


@pytest.mark.skipif(not os.path.exists("/usr/sbin/nginx"), reason="there is no nginx: apt-get install nginx-light")
def test_nginx_with_tls_between_two_relays(tmp_path):
    pair = Pair(tmp_path, "nginx")
    with listening(loops=2) as far, nginx(tmp_path, pair, far.port_of(far.urls[1])) as port:
        link = f"wss://localhost:{port}?auth=1234&ca={pair.certificate}"
        with listening("--connect", link, loops=2) as near, server(near, "here") as here, server(far) as host:
            leads(near, "box")
            leads(far, "here")
            meets(near, host)
            meets(far, here, "here")


def test_channels_of_many_clients_over_one_link_all_arrive():
    with linked(2, [(1, 0)], loops=2) as relays, server(relays[0]) as host:
        leads(relays[1], "box")
        diallings = [dial(relays[1]) for _ in range(60)]
        channels = [host.opened().accept() for _ in diallings]
        clients = [dialling.result(DEADLINE) for dialling in diallings]
        for number, connected in enumerate(clients):
            for _ in range(20):
                connected.send(b"%03d" % number * 100)
        received = sorted(channel.receive() for channel in channels for _ in range(20))
        assert received == [b"%03d" % number * 100 for number in range(60) for _ in range(20)]
        for connected in clients:
            connected.close()


def test_a_client_cannot_ask_for_what_no_relay_has():
    with linked(2, [(1, 0)]) as relays:
        with pytest.raises(InvalidStatus) as refused:
            client(relays[1], "nobody")
        assert refused.value.response.status_code == 502
