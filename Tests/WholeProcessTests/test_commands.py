"""The command line (DESIGN §10): what it prints, and its exit codes: 0 done, 1 refused, 2 usage, 3 no relay."""

import json
import os
import signal
import socket
import subprocess
import threading

import pytest

from conditions import DEADLINE, eventually
from relay import RELAYD, SCRIPTS, TEST_SCRIPTS, Relay, ping_pong, run_relayd

TUNNEL = SCRIPTS / "tunnel.lua"


@pytest.fixture(scope="module")
def relay():
    with Relay(scripts=[TEST_SCRIPTS / "feed.lua"]) as relay:
        relay.add("greet", "function(conn, name) return 'hello ' .. tostring(name) end")
        relay.add("named", "function(conn, p) conn:send('on the way') return {x = p.x} end", public=False)
        relay.add("raise", "function(conn)\n  error('no such thing')\nend")
        yield relay


def succeeds(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(done, code=1):
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr.strip(), "nothing was said"
    if code != 2:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def lua(folder, name, text):
    file = folder / name
    file.write_text(text)
    return file


# invoke and eval


def test_invoke_prints_what_was_returned(relay):
    assert succeeds(relay.run("invoke", "greet", "you")) == "hello you\n"
    assert succeeds(relay.run("invoke", "greet", "7")) == "hello 7\n"
    assert succeeds(relay.run("invoke", "--json", "greet", "you")) == '"hello you"\n'
    assert succeeds(relay.run("invoke", "greet", "you", credential=False)) == "hello you\n"


def test_invoke_takes_named_parameters_and_shows_messages_on_the_way(relay):
    lines = succeeds(relay.run("invoke", "--json", "named", '{"x": 5}')).splitlines()
    assert [json.loads(line) for line in lines] == ["on the way", {"x": 5}]


def test_invoke_says_why_it_was_refused(relay):
    assert "no such thing" in fails(relay.run("invoke", "raise"))
    assert "none" in fails(relay.run("invoke", "none"))
    fails(relay.run("invoke", "named", credential=False))
    fails(relay.run("invoke", "greet", environment={"RELAYD_CREDENTIAL": "wrong"}))


def test_eval_runs_lua(relay):
    assert succeeds(relay.run("eval", "return 6 * 7")) == "42\n"
    assert succeeds(relay.run("eval", "--json", "return {1, 'x'}")) == '[1,"x"]\n'
    assert succeeds(relay.run("eval", "-", stdin="return 'from standard input'")) == "from standard input\n"
    assert "eval:2:" in fails(relay.run("eval", "\nreturn +"))
    assert "2" in fails(relay.run("eval", "\nerror('no')"))


# push, check, list


def test_push_loads_files_and_refuses_what_does_not_load(relay, tmp_path):
    good = lua(tmp_path, "pushed.lua", "relay.instruction { 'pushed', function() return 1 end }")
    assert "pushed" in succeeds(relay.run("push", good))
    assert succeeds(relay.run("invoke", "pushed")) == "1\n"
    good.write_text("relay.instruction { 'pushed', function() return 2 end }\n\nx = = 1")
    assert "pushed.lua:3:" in fails(relay.run("push", good))
    assert succeeds(relay.run("invoke", "pushed")) == "1\n"
    good.write_text("relay.instruction { 'pushed', function() return 3 end }")
    succeeds(relay.run("push", "--dry-run", good))
    assert succeeds(relay.run("invoke", "pushed")) == "1\n"
    generation = json.loads(succeeds(relay.run("push", "--json", good)))["generation"]
    assert succeeds(relay.run("invoke", "pushed")) == "3\n"
    fails(relay.run("push", "--if-generation", generation - 1, good))
    relay.invoke("unload script", named={"name": "pushed.lua"})


@pytest.mark.parametrize("kind", ["missing", "directory", "FIFO", "NUL", "UTF-8", "device", "large"])
def test_push_refuses_what_is_no_script(relay, tmp_path, kind):
    file = tmp_path / "script.lua"
    if kind == "directory":
        file.mkdir()
    elif kind == "FIFO":
        os.mkfifo(file)
    elif kind == "NUL":
        file.write_bytes(b"x\0")
    elif kind == "UTF-8":
        file.write_bytes(b"x = '\xff'")
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "large":
        with open(file, "wb") as opened:
            opened.truncate(100 << 20)
    assert str(file) in fails(relay.run("push", file))


def test_check_needs_no_relay(tmp_path):
    assert "forward to server" in succeeds(run_relayd("check", TUNNEL))
    broken = lua(tmp_path, "broken.lua", "\n\nx = = 1")
    assert "broken.lua:3:" in fails(run_relayd("check", broken))
    done = run_relayd("check", TUNNEL, broken)
    assert done.returncode == 1 and "forward to server" in done.stdout
    assert "loop.lua:1:" in fails(run_relayd("check", lua(tmp_path, "loop.lua", "while true do end")))
    fails(run_relayd("check", tmp_path / "none.lua"))


def test_lists_are_tables_or_json(relay):
    assert "greet" in succeeds(relay.run("list", "instructions"))
    listed = json.loads(succeeds(relay.run("list", "--json", "instructions")))
    assert {"greet", "named", "raise"} <= {entry["instruction"] for entry in listed}
    for kind in ["servers", "connections", "channels", "apps", "modules"]:
        succeeds(relay.run("list", kind))
        assert isinstance(json.loads(succeeds(relay.run("list", "--json", kind))), list)
    fails(relay.run("list", "unicorns"), 2)
    fails(relay.run("list", "apps", credential=False))


def test_kick_closes_a_connection(relay):
    with relay.connect() as client:
        identifier = client.request("be fed")
        succeeds(relay.run("kick", identifier, "--reason", "go away"))
        assert client.closed() == (4007, "go away")
    fails(relay.run("kick", identifier))
    fails(relay.run("kick", "first"), 2)


def test_an_app_is_named_with_a_flag(relay):
    relay.invoke("create app", named={"app": "other"})
    assert succeeds(relay.run("eval", "--app", "other", "where = 'other' return where")) == "other\n"
    assert succeeds(relay.run("eval", "return where == nil")) == "true\n"
    fails(relay.run("eval", "--app", "none", "return 1"), 1)
    relay.invoke("remove app", named={"app": "other"})


# explain


def test_explain_knows_every_code(relay):
    for code in [
        "malformed", "unauthorized", "forbidden", "unknown_instruction", "bad_parameters", "compile_error",
        "script_error", "budget_exceeded", "memory_exceeded", "output_exceeded", "not_found", "conflict", "limit",
        "unavailable", "timeout", "internal", "1000", "1012", "1013", *map(str, range(4001, 4009)), "messageBytes",
    ]:
        assert len(succeeds(run_relayd("explain", code))) > 20, code
    overview = succeeds(run_relayd("explain"))
    assert "budget_exceeded" in overview and "4003" in overview
    fails(run_relayd("explain", "no_such_code"))


# Where the relay is and whether it answers


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_a_relay_that_is_not_there_is_exit_code_3(tmp_path):
    url = f"ws://127.0.0.1:{unused_port()}"
    for command in [["eval", "return 1"], ["list", "apps"], ["push", TUNNEL], ["kick", "1"], ["invoke", "x"]]:
        done = run_relayd(*command, "--to", url, environment={"RELAYD_CREDENTIAL": "x"}, cwd=tmp_path)
        assert url.removeprefix("ws://") in fails(done, 3)


def test_a_server_that_is_no_relay_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            connected, _ = server.accept()
            with connected:
                connected.recv(65536)
                connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"ws://127.0.0.1:{server.getsockname()[1]}"
        done = run_relayd("eval", "return 1", "--to", url, environment={"RELAYD_CREDENTIAL": "x"}, cwd=tmp_path)
        thread.join()
        assert done.returncode in (1, 3) and done.stderr.strip()


def test_wrong_usage_is_exit_code_2():
    for arguments in [["push"], ["eval"], ["no-such-command"], ["list"], ["eval", "--no-such-flag", "x"],
                      ["kick", "1", "--code", "many"], ["invoke"]]:
        fails(run_relayd(*arguments), 2)
    assert "serve" in succeeds(run_relayd("--help"))


def test_the_credential_is_found_where_it_is_said_to_be(relay, tmp_path):
    file = tmp_path / "credential"
    file.write_text(relay.admin + "\n")
    options = {"environment": {"RELAYD_URL": relay.url}, "cwd": tmp_path}
    assert succeeds(run_relayd("eval", "return 1", "--credential-file", file, **options)) == "1\n"
    assert succeeds(run_relayd("eval", "return 1", "--state", relay.state, **options)) == "1\n"
    fails(run_relayd("eval", "return 1", **options))
    fails(run_relayd("eval", "return 1", "--credential-file", tmp_path / "none", **options))


def test_commands_work_over_tls_and_unix_sockets(tmp_path):
    listen = ["wss://127.0.0.1:0", f"unix:{tmp_path}/socket", "ws://127.0.0.1:0?auth=1234"]
    with Relay("--tls-self-signed", listen=listen) as relay:
        secure, local, guarded = relay.urls
        assert succeeds(relay.run("eval", "return 1", "--ca", relay.state / "tls-certificate.pem", to=secure)) == "1\n"
        assert succeeds(relay.run("eval", "return 1", "--insecure", to=secure)) == "1\n"
        assert succeeds(relay.run("eval", "return 1", to=local)) == "1\n"
        assert succeeds(relay.run("eval", "return 1", to=guarded + "?auth=1234")) == "1\n"
        fails(relay.run("eval", "return 1", environment={"RELAYD_CREDENTIAL": "wrong"}, to=guarded))
        done = relay.run("eval", "return 1", to=secure)
        assert done.returncode in (1, 3) and "certificate" in done.stderr


# watch


def test_watch_pushes_what_was_saved_and_goes_on_after_what_was_not_good(relay, tmp_path):
    file = lua(tmp_path, "watched.lua", "relay.instruction { 'watched', function() return 1 end }")
    environment = {**relay.environment, "RELAYD_URL": relay.url, "RELAYD_CREDENTIAL": relay.admin}
    output = open(tmp_path / "output", "w+")
    with output, relay.connect() as client:
        watch = subprocess.Popen(
            [str(RELAYD), "watch", "--push-first", str(file)], env=environment, stdout=output,
            stderr=subprocess.STDOUT)
        try:
            eventually(lambda: client.ask("watched").get("result") == 1, "the file is pushed")
            file.write_text("relay.instruction { 'watched', function() return 2 end }")
            eventually(lambda: client.ask("watched").get("result") == 2, "the saved file is pushed")
            file.write_text("\n\nx = = 1")
            eventually(lambda: "watched.lua:3:" in (tmp_path / "output").read_text(), "the broken file is reported")
            assert client.request("watched") == 2
            replacement = lua(tmp_path, "other", "relay.instruction { 'watched', function() return 3 end }")
            replacement.rename(file)
            eventually(lambda: client.ask("watched").get("result") == 3, "the renamed file is pushed")
            assert watch.poll() is None
        finally:
            watch.send_signal(signal.SIGINT)
            watch.wait(DEADLINE)
    relay.invoke("unload script", named={"name": "watched.lua"})


# demo


def test_the_demo_loses_nothing_and_closes_nothing(relay):
    with relay.connect() as bystander:
        ping_pong(bystander)
        done = relay.run("demo", "--json")
        report = json.loads(succeeds(done))
        assert (report["lost"], report["reordered"], report["refused"], report["socketsClosed"]) == (0, 0, 0, 0)
        for way in ["clientToServer", "serverToClient"]:
            assert report[way]["sent"] == report[way]["received"] > 0
        assert report["replacedAfter"] is not None and report["newVersion"] > report["oldVersion"]
        ping_pong(bystander)
    assert [entry["app"] for entry in relay.listed("apps")] == ["default"]  # It leaves nothing behind.


def test_the_demo_starts_a_relay_of_its_own_where_there_is_none(tmp_path):
    done = run_relayd("demo", "--to", f"ws://127.0.0.1:{unused_port()}", cwd=tmp_path)
    output = succeeds(done)
    assert "lost      0" in output and "closed    0 sockets" in output
    assert list(tmp_path.iterdir()) == []
