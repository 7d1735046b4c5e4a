"""What README shows is run as it stands there."""

import re
import subprocess
import sys

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
    script.write_text(block("lua"))
    checked = subprocess.run([RELAYD, "check", script], capture_output=True, text=True, timeout=DEADLINE)
    assert checked.returncode == 0, checked.stderr
    with relay.connect() as client:
        client.request(
            "load script", credential=relay.admin, named={"name": "greet.lua", "source": script.read_text()})
        assert client.request("greet", "stranger") == 1
        assert client.request("greet", "stranger") == 2
        assert client.receive() == "hello, stranger"


def test_the_second_lua_example_joins_two_connections(make_relay):
    relay = make_relay()
    relay.load("join.lua", block("lua", 1))
    with relay.connect() as one, relay.connect() as other:
        one.request("wait", "here")
        assert other.request("join", "here") is True
        for source, target in [(one, other), (other, one)]:
            source.send("hello")
            assert target.receive() == "hello"


def test_every_command_that_readme_names_is_there():
    named = set(re.findall(r"relayd (serve|push|watch|invoke|eval|list|kick|check|explain|demo|credential)\b", README))
    for command in sorted(named):
        shown = subprocess.run([RELAYD, command, "--help"], capture_output=True, text=True, timeout=DEADLINE)
        assert shown.returncode == 0 and f"relayd {command}" in shown.stdout, command
