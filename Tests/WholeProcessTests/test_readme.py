"""What README shows is run as it stands there."""

import json
import os
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import threading

import pytest

from browser import Browser
from channels import knock, let_in, server
from conditions import DEADLINE
from relay import ROOT, RELAYD, SCRIPTS

README = (ROOT / "README.md").read_text()


def block(language, index=0):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)[index]


def test_the_python_example_makes_a_tunnel_and_talks_through_it(make_relay):
    relay = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"])
    (relay.directory / "relayd-state").symlink_to(relay.state)
    (relay.directory / "scripts").symlink_to(SCRIPTS)
    program = block("python")
    assert program.count("wss://127.0.0.1:8087") == 1
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("wss://127.0.0.1:8087", relay.url)],
        cwd=relay.directory, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line for line in lines if "error" in line] == []
    # What the comments beside the prints promise, with the delimiter that they show as a picture of it.
    promised = [line.replace("␟", "\x1f") for line in re.findall(r"print\(.*?recv\(\)\) +# (.*)", program)]
    assert len(promised) == 3 and lines[-3:] == promised


def test_the_lua_example_is_a_script(make_relay):
    relay = make_relay()
    script = relay.directory / "greet.lua"
    script.write_text(block("lua", 1))
    checked = subprocess.run([RELAYD, "check", script], capture_output=True, text=True, timeout=DEADLINE)
    assert checked.returncode == 0, checked.stderr
    with relay.connect() as client:
        client.request(
            "load script", credential=relay.admin, named={"name": "greet.lua", "source": script.read_text()})
        assert client.request("greet", "stranger") == 1
        assert client.request("greet", "stranger") == 2
        assert client.receive() == "hello, stranger"


def test_the_lua_example_of_pipes_joins_two_connections(make_relay):
    relay = make_relay()
    relay.load("join.lua", block("lua", 2))
    with relay.connect() as one, relay.connect() as other:
        one.request("wait", "here")
        assert other.request("join", "here") is True
        for source, target in [(one, other), (other, one)]:
            source.send("hello")
            assert target.receive() == "hello"


def test_every_command_that_readme_names_is_there():
    commands = "serve|push|watch|invoke|eval|list|kick|check|explain|demo|credential|expose|forward"
    named = set(re.findall(rf"relayd ({commands})\b", README))
    for command in sorted(named):
        shown = subprocess.run([RELAYD, command, "--help"], capture_output=True, text=True, timeout=DEADLINE)
        assert shown.returncode == 0 and f"relayd {command}" in shown.stdout, command


# Five systems on one core


def test_the_ways_to_run_the_five_systems_are_commands(tmp_path):
    rows = [row for row in README.splitlines() if row.startswith("| ") and row.count("|") == 5]
    commands = [re.findall(r"`([^`]*)`", row.split("|")[3])[-1] for row in rows[-5:]]
    assert len(commands) == 5
    for command in commands:
        # The configuration is read and checked as it would be; nothing listens, nothing is dialled.
        command = command.replace("haproxy -f", "haproxy -c -f")
        if "haproxy" not in command:
            command += " --print-config"
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE,
            env={**os.environ, "PATH": f"{RELAYD.parent}:{os.environ['PATH']}:/usr/sbin", "RELAYD_STATE": str(tmp_path)})
        # HAProxy finds no certificate where the file expects it, and nothing else to object to.
        objections = [line for line in done.stderr.splitlines() if ": parsing [" in line]
        is_only_the_certificate = objections and all("/etc/haproxy/relay.pem" in line for line in objections)
        assert done.returncode == 0 or is_only_the_certificate, (command, done.stderr)


# Reach what cannot be reached


def created(relay, line):
    """The secret that README's line makes."""
    made = subprocess.run(
        [RELAYD, *shlex.split(line, comments=True)[1:], "--to", relay.url, "--state", relay.state, "--json"],
        capture_output=True, text=True, timeout=DEADLINE)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["credential"]


def environment(relay, credential):
    return os.environ | {"RELAYD_URL": relay.url, "RELAYD_CREDENTIAL": credential}


@pytest.fixture
def credentials(make_relay):
    relay = make_relay()
    listen, connect = block("sh").splitlines()
    return relay, created(relay, listen), created(relay, connect)


class Upper(socketserver.StreamRequestHandler):
    """Answers once its client has said that no more comes."""

    def handle(self):
        self.wfile.write(self.rfile.read().upper())


def started(line, relay, credential):
    return subprocess.Popen(
        [RELAYD, *shlex.split(line, comments=True)[1:]], env=environment(relay, credential), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)


def test_the_shell_example_reaches_a_program_that_knows_nothing_of_relayd(credentials):
    relay, listen, connect = credentials
    expose, forward = block("sh", 1).splitlines()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upper) as target:
        threading.Thread(target=target.serve_forever).start()
        assert expose.count("127.0.0.1:22 ") == 1 and forward.count("127.0.0.1:2222 ") == 1
        server = started(expose.replace("127.0.0.1:22 ", "127.0.0.1:%d " % target.server_address[1]), relay, listen)
        client = None
        try:
            assert "installed as box:22" in server.stderr.readline()
            client = started(forward.replace("127.0.0.1:2222 ", "127.0.0.1:0 "), relay, connect)
            port = int(client.stdout.readline().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as local:
                local.sendall(b"hello")
                local.shutdown(socket.SHUT_WR)
                assert local.makefile("rb").read() == b"HELLO"
        finally:
            for process in filter(None, [server, client]):
                process.terminate()
                process.communicate(timeout=DEADLINE)
            target.shutdown()


def test_the_browser_example_makes_two_tabs_talk(make_relay):
    relay = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"])
    site = relay.url.removeprefix("wss://").rstrip("/")
    serving, asking = [block("js", index).replace("relay.example", site) for index in (0, 1)]
    browser = Browser(relay.state / "tls-certificate.pem")
    try:
        tabs = [browser.tab(f"https://{site}/healthz") for _ in range(2)]
        given = "const { credential } = given\n"
        tabs[0].run(given + serving, credential=relay.admin)
        assert tabs[1].run(given + asking + "return heard", credential=relay.admin) == "heard hello"
    finally:
        browser.close()


def test_the_python_example_talks_to_a_server(credentials):
    relay, listen, connect = credentials
    with server(relay, "box", credential=listen) as host:
        program = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", block("python", 1)],
            env=environment(relay, connect) | {"PYTHONPATH": str(ROOT / "clients" / "python")}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        far = host.opened().accept()
        far.send(f"heard {far.receive()}")
        out, err = program.communicate(timeout=DEADLINE)
        assert (out, err) == ("heard hello\n", "")


def test_the_lua_example_of_channels_decides_who_meets_whom(make_relay):
    relay = make_relay()
    relay.load("connect.lua", block("lua"))
    with server(relay, "night-box") as night, server(relay, "box"):
        raw = knock(relay, port=80, extra=["X-Team: night"])
        assert night.opened().accept().fields["metadata"] == {"from": "127.0.0.1"}
        let_in(raw).socket.close()
