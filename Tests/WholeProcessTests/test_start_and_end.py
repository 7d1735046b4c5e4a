"""Starting, refusing to start, being told to reload, and ending (CASES 23, 27, 61, 67)."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest
from websockets.exceptions import ConnectionClosed

from certificates import Pair, openssl
from conditions import eventually
from relay import SCRIPTS, TEST_SCRIPTS, Relay, answer, ping_pong, run_relayd
from wire import CLOSE, TEXT, close_frame, frame, head, upgrade_head

ECHO = TEST_SCRIPTS / "echo.lua"


def refuses(*options, code=1, **keywords):
    """relayd does not start: it exits with `code` and says why in one sentence, which is returned."""
    with Relay(*options, starts=False, **keywords) as relay:
        relay.expected_exit = {code}
        assert relay.wait() == code, relay.log
        said = [line for line in relay.log.splitlines() if line.strip() and not line[:4].isdigit()]
        assert said, "nothing was said"
        if code == 1:
            assert len(said) == 1, said
    return "\n".join(said)


# Starting


def test_the_ready_lines_name_every_listener_with_its_port(tmp_path):
    listen = ["ws://127.0.0.1:0", "wss://127.0.0.1:0", f"unix:{tmp_path}/s", "ws://[::1]:0"]
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        listen.pop()
    with Relay("--tls-self-signed", listen=listen) as relay:
        for asked, told in zip(listen, relay.urls):
            assert told.startswith(asked.removesuffix(":0"))
            assert not told.endswith(":0")


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refuses(listen=[f"ws://127.0.0.1:{port}"])
        assert str(port) in said and "in use" in said
    with Relay() as first:
        assert str(first.port) in refuses(listen=[f"ws://127.0.0.1:{first.port}"])
        with first.raw(upgraded=True):
            pass


@pytest.mark.parametrize("loops", [1, 4])
def test_a_port_in_use_is_noticed_with_any_number_of_loops(loops):
    with Relay(loops=loops) as first:
        assert str(first.port) in refuses(listen=[f"ws://127.0.0.1:{first.port}"], loops=loops)


def test_an_address_that_is_not_ours_is_named():
    assert "192.0.2.1" in refuses(listen=["ws://192.0.2.1:0"])


@pytest.mark.parametrize("fault", ["missing", "directory", "text", "encrypted", "other", "empty"])
def test_a_key_that_cannot_be_used_is_named(tmp_path, fault):
    pair, other = Pair(tmp_path, "one"), Pair(tmp_path, "two")
    if fault == "missing":
        pair.key.unlink()
    elif fault == "directory":
        pair.key.unlink()
        pair.key.mkdir()
    elif fault == "text":
        pair.key.write_text("this is no key\n")
    elif fault == "empty":
        pair.key.write_text("")
    elif fault == "encrypted":
        openssl("ec", "-in", other.key, "-aes128", "-passout", "pass:secret", "-out", pair.key)
    elif fault == "other":
        pair.key.write_bytes(other.key.read_bytes())
    said = refuses("--tls-certificate", pair.certificate, "--tls-key", pair.key, listen=["wss://127.0.0.1:0"])
    assert str(pair.key) in said or (fault == "other" and str(pair.certificate) in said), said


def test_a_secure_listener_without_a_certificate_says_what_to_give():
    assert "--tls-self-signed" in refuses(listen=["wss://127.0.0.1:0"])


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refuses(state=file)
    assert str(file) in refuses(state=file / "below")


@pytest.mark.parametrize(
    "options",
    [
        ["--limit", "noSuchLimit=1"], ["--limit", "messageBytes=lots"], ["--limit", "messageBytes"],
        ["--limit", "messageBytes=1"], ["--limit", "burst=-1ms"], ["--loops", "0"], ["--loops", "many"],
        ["--listen", "http://127.0.0.1:0"], ["--listen", "ws://127.0.0.1:99999"], ["--listen", "ws://"],
        ["--listen", "ws://127.0.0.1:0?nothing=1"], ["--log-level", "loud"], ["--no-such-flag"],
        ["--allowed-origin", "example.com"], ["--drain-timeout", "soon"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_a_matter_of_usage(options, tmp_path):
    done = run_relayd("serve", "--state", tmp_path / "state", *options, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.split("[=?]", options[-1])[0].lstrip("-") in done.stderr
    assert not (tmp_path / "state").exists()


# Scripts at the start


@pytest.mark.parametrize(
    "source, line",
    [("\nx = = 1", 2), ("\n\nerror('stop')", 3), ("\nnone.x = 1", 2), ("while true do end", 1), ("x = 'unfinished", 1),
     ("relay.on('reload', function()\n  error('stop')\nend)", 2)],
    ids=repr,
)
def test_a_script_that_does_not_load_stops_the_start_with_file_and_line(tmp_path, source, line):
    script = tmp_path / "broken.lua"
    script.write_text(source)
    assert f"broken.lua:{line}:" in refuses(scripts=[ECHO, script])


@pytest.mark.parametrize("kind", ["missing", "FIFO", "device", "NUL", "UTF-8", "large", "symlink loop", "byte code",
                                  "directory of broken ones", "empty"])
def test_what_is_no_script_stops_the_start_with_a_sentence(tmp_path, kind):
    script = tmp_path / "script.lua"
    if kind == "FIFO":
        os.mkfifo(script)
    elif kind == "device":
        script.symlink_to("/dev/zero")
    elif kind == "NUL":
        script.write_bytes(b"x = 1\0")
    elif kind == "UTF-8":
        script.write_bytes(b"x = '\xff'")
    elif kind == "large":
        with open(script, "wb") as file:
            file.truncate(100 << 20)
    elif kind == "symlink loop":
        script.symlink_to(script)
    elif kind == "byte code":
        script.write_bytes(b"\x1bLuaT\0")
    elif kind == "directory of broken ones":
        script.mkdir()
        (script / "script.lua").write_text("x x")
    elif kind == "empty":
        script.write_text(" \n")
    assert "script.lua" in refuses(scripts=[script])


def test_scripts_with_a_byte_order_mark_or_crlf_load(tmp_path):
    first, second = tmp_path / "first.lua", tmp_path / "second.lua"
    first.write_bytes(b"\xef\xbb\xbfrelay.instruction { 'first', function() return 1 end }")
    second.write_bytes(b"relay.instruction {\r\n 'second',\r\n function() return 2 end }\r\n")
    with Relay(scripts=[first, second]) as relay, relay.connect() as client:
        assert [client.request("first"), client.request("second")] == [1, 2]


def test_a_directory_of_scripts_loads_in_the_order_of_their_names(tmp_path):
    for name in ["b.lua", "a.lua", "c.lua"]:
        (tmp_path / name).write_text(f"order = (order or '') .. '{name[0]}'")
    (tmp_path / "d.txt").write_text("this is no Lua")
    (tmp_path / ".hidden.lua").write_text("this is no Lua")
    with Relay(scripts=[tmp_path]) as relay:
        assert relay.evaluate("return order") == "abc"


def test_the_shipped_scripts_load(tmp_path):
    # With webhooks.lua among them who is no admin at the handshake is the back end's: the operator has a socket.
    listen = ["ws://127.0.0.1:0", f"unix:{tmp_path}/s"]
    with Relay("--set", "target=http://127.0.0.1:9", listen=listen, scripts=[SCRIPTS]) as relay:
        done = relay.run("list", "instructions", "--json", to=f"unix:{tmp_path}/s")
        assert done.returncode == 0, done.stderr
        assert {"install server", "forward to server"} <= {each["instruction"] for each in json.loads(done.stdout)}


# The configuration


def test_the_effective_configuration_is_printed_with_sources(tmp_path):
    config = tmp_path / "relayd.yaml"
    config.write_text("limits:\n  messageBytes: 2MiB\nlog:\n  level: warning\n")
    done = run_relayd(
        "serve", "--print-config", "--config", config, "--limit", "burst=7ms", cwd=tmp_path,
        environment={**os.environ, "RELAYD_LOOPS": "3"})
    assert done.returncode == 0, done.stderr
    for text, source in [("messageBytes: 2MiB", "file"), ("burst: 7ms", "flag"), ("loops: 3", "environment"),
                         ("idleTimeout: 90s", "default"), ("level: warning", "file")]:
        (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith(text)]
        assert source in line


def test_sighup_reads_limits_again_and_a_bad_file_changes_nothing(tmp_path):
    config = tmp_path / "relayd.yaml"
    config.write_text("limits:\n  messageBytes: 64KiB\n")
    with Relay("--config", config, scripts=[ECHO]) as relay, relay.connect() as client:
        client.send("x" * 60000)
        assert client.receive() == "x" * 60000
        for bad in ["limits:\n  messageBytes: 1KiB\n  burst: never\n", "limits: [", "nothing: 1\n"]:
            config.write_text(bad)
            before = relay.log.count("not reloaded")
            relay.signal(signal.SIGHUP)
            eventually(lambda: relay.log.count("not reloaded") > before, "the log says that it was not reloaded")
        client.send("y" * 60000)
        assert client.receive() == "y" * 60000
        config.write_text("limits:\n  messageBytes: 1KiB\n")
        before = relay.log.count("reloaded configuration")
        relay.signal(signal.SIGHUP)
        eventually(lambda: relay.log.count("reloaded configuration") > before, "the log says that it was reloaded")
        client.send("x" * 1024)
        assert client.receive() == "x" * 1024
        client.send("x" * 1025)
        assert client.closed()[0] == 1009


# Ending


@pytest.mark.parametrize("loops", [1, 2])
def test_sigterm_tells_everybody_1012_and_exits_with_0(loops):
    with Relay(scripts=[ECHO], loops=loops, drain="2s") as relay:
        clients = [relay.connect() for _ in range(20)]
        raw = relay.raw(upgraded=True)
        half = relay.raw()
        half.send(b"GET / HTTP/1.1\r\n")
        for client in clients:
            ping_pong(client)
        relay.signal(signal.SIGTERM)
        for client in clients:
            assert client.closed()[0] == 1012
        assert raw.read_close()[0] == 1012
        raw.send(close_frame(1012))
        raw.expect_end()
        half.read_to_end()
        assert relay.wait() == 0


def test_while_the_relay_drains_messages_still_flow_and_nobody_new_is_let_in():
    with Relay(scripts=[ECHO], drain="3s") as relay:
        clients = [relay.connect() for _ in range(30)]
        relay.signal(signal.SIGTERM)
        relay.logs("draining")

        status, received = answer(relay, upgrade_head())
        assert status == 503 and b"\r\nretry-after:" in received.lower()
        for path, expected in [("/readyz", 503), ("/healthz", 200)]:
            assert answer(relay, head(f"GET {path} HTTP/1.1", "Host: a"))[0] == expected
        for client in clients:
            try:
                ping_pong(client)
            except ConnectionClosed as end:
                assert end.rcvd.code == 1012
        assert relay.wait() == 0


def test_sigterm_does_not_wait_for_peers_that_never_answer():
    with Relay(scripts=[ECHO], drain="1s") as relay:
        silent = [relay.raw(upgraded=True) for _ in range(5)]
        half = relay.raw()
        half.send(b"GET")
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
        for raw in silent:
            assert raw.read_frame()[0] == CLOSE


def test_a_second_sigterm_ends_at_once():
    with Relay(scripts=[ECHO], drain="1h") as relay:
        relay.expected_exit = {0, 1, -signal.SIGTERM}
        with relay.raw(upgraded=True):
            relay.signal(signal.SIGTERM)
            relay.logs("draining")
            relay.signal(signal.SIGTERM)
            relay.wait()


def test_an_idle_relay_ends_at_once():
    with Relay(drain="1h") as relay:
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0


def test_close_hooks_run_while_the_relay_drains(tmp_path):
    with Relay(scripts=[TEST_SCRIPTS / "hooks.lua"], drain="1s") as relay:
        client = relay.connect()
        client.messages()
        relay.signal(signal.SIGTERM)
        assert client.closed()[0] == 1012
        assert relay.wait() == 0
        assert "closed" in relay.log and "code=1012" in relay.log


def test_sigpipe_is_ignored():
    with Relay(scripts=[ECHO]) as relay:
        relay.signal(signal.SIGPIPE)
        with relay.connect() as client:
            ping_pong(client)


# Case 61: where the log goes


def works(relay):
    with relay.connect() as client, relay.connect() as other:
        for number in range(200):
            client.send_json({"instruction": "print", "parameters": ["x" * 2000], "id": number})
            client.receive()
        other.messages()


def test_a_log_reader_that_goes_away_does_not_take_the_relay_along():
    with Relay(scripts=[TEST_SCRIPTS / "hooks.lua"], stderr=subprocess.PIPE) as relay:
        works_before = relay.connect()
        relay.process.stderr.close()
        works(relay)
        works_before.messages()
        works_before.close()


def test_a_log_reader_that_stalls_does_not_stall_the_relay():
    with Relay(scripts=[TEST_SCRIPTS / "hooks.lua"], stderr=subprocess.PIPE) as relay:
        works(relay)
        works(relay)
        relay.process.stderr.close()


def test_a_full_disk_does_not_stop_the_relay():
    with open("/dev/full", "w") as full, Relay(scripts=[TEST_SCRIPTS / "hooks.lua"], stderr=full) as relay:
        works(relay)


def test_a_closed_standard_error_is_no_connections_descriptor():
    wrapper = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    with Relay(scripts=[TEST_SCRIPTS / "hooks.lua"], wrapper=wrapper) as relay:
        works(relay)
        path = f"/proc/{relay.pid}/fd/2"
        assert not os.path.exists(path) or os.readlink(path) == "/dev/null", os.readlink(path)
        assert len(relay.admin.split()) == 1


def test_a_start_after_a_kill_finds_everything_as_it_was(tmp_path):
    state = tmp_path / "state"
    with Relay(state=state, scripts=[ECHO]) as relay:
        relay.expected_exit = {-signal.SIGKILL}
        secret = relay.admin
        relay.signal(signal.SIGKILL)
        relay.wait()
    with Relay(state=state, scripts=[ECHO]) as relay:
        assert relay.admin == secret
        assert relay.listed("instructions") == []


def test_a_peer_that_is_gone_while_the_relay_drains_is_no_trouble():
    with Relay(scripts=[ECHO], drain="1s") as relay:
        for number in range(20):
            raw = relay.raw(upgraded=True)
            raw.send(frame(TEXT, b"x" * 60000))
            raw.reset()
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
