"""Peers that go away, stop reading or ask for too much at the very moment that hurts most: what one connection causes
stays with it, and what it holds is bounded."""

import contextlib
import json
import pathlib
import random
import signal
import socket
import ssl
import threading
import unicodedata

import pytest

from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, ping_pong, refusal, trusting_anything
from wire import CONTINUATION, PING, PONG, TEXT, Ended, Raw, close_frame, frame, upgrade_head

ECHO = TEST_SCRIPTS / "echo.lua"


@contextlib.contextmanager
def paused(relay):
    """Nothing of the process runs: what is sent meanwhile is all there at once when it goes on."""
    relay.signal(signal.SIGSTOP)
    tasks = pathlib.Path(f"/proc/{relay.pid}/task")
    try:
        eventually(
            lambda: all((task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for task in tasks.iterdir()),
            "every thread has stopped")
        yield
    finally:
        relay.signal(signal.SIGCONT)


def request(instruction, *positional, identifier=None, credential=None, named=None):
    """A text frame with a request."""
    message = {"instruction": instruction, "parameters": list(positional) if named is None else named}
    if identifier is not None:
        message["id"] = identifier
    if credential is not None:
        message["credential"] = credential
    return frame(TEXT, json.dumps(message))


def narrow(relay, **options):
    """An upgraded connection for which the kernel keeps little, so that the relay has to."""
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.settimeout(DEADLINE)
    connected.connect(("127.0.0.1", relay.port))
    raw = Raw(connected)
    raw.handshake(**options)
    return raw


# A message outlives its connection


def test_a_message_in_pieces_is_there_until_it_is_answered_though_its_connection_is_gone(make_relay):
    # Memory that has been freed is unmapped (or overwritten) at once, so that a use of it cannot go unnoticed.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_PERTURB_": "165"}
    relay = make_relay(scripts=[ECHO], environment=environment, limits={"burst": "5s"}, log_level="info")
    relay.load("flood.lua", """
      ended = 0
      local chunk = ("x"):rep(64 << 10)
      relay.instruction {
        "flood",
        function(conn)
          for i = 1, 200 do
            conn:send(chunk)
            if not conn:isOpen() then break end
            local start = os.clock()
            while os.clock() < start + 0.001 do end
          end
          ended = ended + 1
        end
      }
    """)
    message = json.dumps({"instruction": "flood", "parameters": ["y" * (900 << 10)], "id": "i" * 1000}).encode()
    with relay.operator() as admin, relay.connect() as other:
        for number in range(10):
            raw = relay.raw(upgraded=True)
            raw.send(frame(TEXT, message[:-10], fin=False) + frame(PING, b"read"))
            assert raw.read_frame() == (PONG, b"read")
            raw.send(frame(CONTINUATION, message[-10:]))
            raw.reset()
            eventually(lambda: admin.request("eval", named={"body": "return ended"}) == number + 1,
                       "the handler has ended")
            ping_pong(other)


# Server ids and events


def test_the_server_ids_of_one_connection_are_bounded_and_each_has_its_events(make_relay):
    relay = make_relay(scripts=[ECHO], limits={"callTime": "60s", "burst": "5s"}, log_level="info")
    relay.load("count.lua", """
      created, destroyed = 0, 0
      relay.on("event:server.created", function() created = created + 1 end)
      relay.on("event:server.destroyed", function() destroyed = destroyed + 1 end)
      relay.instruction {
        "install many",
        function(conn, first, last)
          local installed, refusals = 0, {}
          for id = first, last do
            local ok, code = relay.install(id, conn)
            if ok then installed = installed + 1 else refusals[code or "none"] = true end
          end
          return { installed = installed, refusals = refusals }
        end
      }
    """)
    counts = "return { created, destroyed }"
    with relay.operator() as admin, relay.connect() as other:
        for _ in range(2):  # What one connection held is free for the next.
            admin.request("eval", named={"body": "created, destroyed = 0, 0"})
            with relay.raw(upgraded=True) as raw:
                installed = 0
                for first in range(0, 40_000, 4_000):
                    raw.send(request("install many", first, first + 3_999, identifier=first))
                    result = json.loads(raw.read_message())["result"]
                    installed += result["installed"]
                    if first >= 8_000:
                        assert result["installed"] == 0 and set(result["refusals"]) == {"limit"}
                assert installed == 4_096
                assert admin.request("eval", named={"body": counts}) == [4_096, 0]
                assert len(admin.request("servers")) == 4_096
            eventually(lambda: admin.request("eval", named={"body": counts}) == [4_096, 4_096],
                       "every event was delivered")
            assert admin.request("servers") == []
        ping_pong(other)


# Calls that sleep

NAP = """
  started, ended, released = 0, 0, 0
  result = "awake"
  relay.instruction {
    "nap",
    function(conn, number)
      started = started + 1
      while released < number do relay.sleep(0.02) end
      ended = ended + 1
      return result
    end
  }
"""


def started(admin):
    return admin.request("eval", named={"body": "return started"})


def test_a_connection_with_256_sleeping_calls_is_read_no_further_until_some_have_ended(make_relay):
    relay = make_relay(scripts=[ECHO])
    relay.load("nap.lua", NAP)
    with relay.operator() as admin, relay.connect() as other, relay.raw(upgraded=True) as raw:
        raw.send(b"".join(request("nap", number, identifier=number) for number in range(1, 301)))
        # 256 sleep; then as many begin as have ended.
        for begun, released, answered in [(256, 10, range(1, 11)), (266, 300, range(11, 301))]:
            eventually(lambda: started(admin) >= begun, f"{begun} calls have begun")
            ping_pong(other, 20)
            assert started(admin) == begun
            admin.request("eval", named={"body": f"released = {released}"})
            answers = [json.loads(raw.read_message()) for _ in answered]
            assert sorted(answer["id"] for answer in answers) == list(answered)
        raw.send(request("nap", 1, identifier="again"))
        assert raw.read_message() == '{"id":"again","result":"awake"}'


def test_an_id_has_at_most_1024_bytes(make_relay):
    relay = make_relay(scripts=[ECHO])
    relay.load("nap.lua", NAP)
    with relay.raw(upgraded=True) as raw:
        for text in ["i" * 1022, "i" * 1023, "i" * 500_000]:  # And its quotation marks.
            raw.send(request("nap", 0, identifier=text))
            answer = json.loads(raw.read_message())
            if len(text) + 2 <= 1024:
                assert answer == {"id": text, "result": "awake"}
            else:
                assert (answer["id"], answer["error"]["code"]) == (None, "limit")
        assert relay.evaluate("return started") == 1
        raw.send(request("nap", 0, identifier=[1, {"of": "any kind"}]))
        assert json.loads(raw.read_message()) == {"id": [1, {"of": "any kind"}], "result": "awake"}


def test_answers_of_sleeping_calls_that_nobody_reads_end_the_connection_and_hold_little(make_relay):
    limits = {"outputBytesPerCall": "1MiB", "scriptMemory": "16MiB", "slowConsumerDeadline": "1h"}
    relay = make_relay(scripts=[ECHO], limits=limits)
    relay.load("nap.lua", NAP)
    relay.evaluate("result = ('x'):rep(400000)")
    with relay.operator() as admin, relay.connect() as other, narrow(relay) as raw:
        raw.send(b"".join(request("nap", 1, identifier=number) for number in range(255)))
        eventually(lambda: started(admin) == 255, "all calls sleep")
        before = relay.resident_bytes
        relay.forget_peak()
        admin.request("eval", named={"body": "released = 1"})
        eventually(lambda: admin.request("eval", named={"body": "return ended"}) == 255, "all calls have ended")
        assert relay.peak_bytes - before < 48 << 20  # Of 100 MB that were answered.
        ping_pong(other)
        assert raw.read_close() == (4003, "answers were not read")


# A receiver between the two marks


@pytest.mark.parametrize("reads", [False, True], ids=["and reads nothing", "and stops between the marks"])
def test_who_waits_for_a_receiver_that_does_not_read_waits_for_its_deadline_and_no_longer(make_relay, reads):
    relay = make_relay(limits={
        "slowConsumerDeadline": "4s" if reads else "1s", "outboundHighBytes": "8MiB", "outboundLowBytes": "64KiB",
        "outputBytesPerCall": "64MiB",
    })
    relay.load("forward.lua", """
      targets, gone = {}, 0
      relay.instruction { "be", function(conn, name) targets[name] = conn return conn.id end }
      relay.instruction { "forward", function(conn, name, text) targets[name]:send(text) return gone end }
      relay.on("close", function(conn) if conn == targets.slow then gone = gone + 1 end end)
    """)
    with relay.operator() as admin, narrow(relay) as slow, relay.connect() as quick, relay.raw(upgraded=True) as source:
        slow.send(request("be", "slow", identifier=1))
        identifier = json.loads(slow.read_message())["result"]
        quick.request("be", "quick")

        def queued():
            return sum(entry["queuedBytes"] for entry in admin.request("connections")
                       if entry["connection"] == identifier)

        flood = request("forward", "slow", "q" * 100_000) * 400
        flood += request("forward", "quick", "through", identifier="last")
        sender = threading.Thread(target=source.try_send, args=[flood])
        sender.start()
        try:
            eventually(lambda: any(entry["waiting"] for entry in admin.request("connections")), "the source waits")
            assert queued() > 8 << 20
            if reads:
                while queued() > 8 << 20:
                    slow.buffer += slow.socket.recv(1 << 16)
                assert queued() > 64 << 10
                slow.send(frame(PONG, b"alive"))  # That is all that it does from here on.
            assert quick.receive() == "through"
            # Nobody was gone when the last message was forwarded: the slow one's goodbye was not waited for.
            assert json.loads(source.read_message()) == {"id": "last", "result": 0}
            assert slow.read_close()[0] == 4003
        finally:
            with contextlib.suppress(OSError):
                source.socket.shutdown(socket.SHUT_RDWR)
            sender.join()


# Turns

BUSY = """
  spun = 0
  relay.instruction { "spin", function() spun = spun + 1 while true do end end }
  relay.instruction { "how many", function() return spun end }
  relay.instruction {
    "start timers",
    function(conn, count)
      local function work()
        spun = spun + 1
        local start = os.clock()
        while os.clock() < start + 0.002 do end
      end
      for i = 1, count do relay.after(0.001, work) end
      return count
    end
  }
"""


def test_a_thousand_slow_requests_in_one_segment_take_turns_with_everybody_else(make_relay):
    relay = make_relay(limits={"burst": "2ms"}, log_level="warning")
    relay.load("busy.lua", BUSY)
    with relay.raw(upgraded=True) as busy, relay.connect() as other:
        assert other.request("how many") == 0
        with paused(relay):
            busy.send(frame(TEXT, '{"instruction":"spin","id":1}') * 1000)
            other.send_json({"instruction": "how many", "id": "first"})
        assert other.reply("first")["result"] < 500
        answers = [json.loads(busy.read_message()) for _ in range(1000)]
        assert {answer["error"]["code"] for answer in answers} == {"budget_exceeded"}
        assert other.request("how many") == 1000


def test_a_thousand_timers_that_are_due_at_once_take_turns_with_everybody_else(make_relay):
    relay = make_relay(log_level="warning")
    relay.load("busy.lua", BUSY)
    with relay.raw(upgraded=True) as busy, relay.connect() as other:
        assert other.request("how many") == 0
        with paused(relay):
            # The request behind it lasts for a burst: when it has ended, all the timers are due.
            busy.send(request("start timers", 1500, identifier=1) + request("spin", identifier=2))
        assert json.loads(busy.read_message()) == {"id": 1, "result": 1500}
        assert json.loads(busy.read_message())["error"]["code"] == "budget_exceeded"
        seen = eventually(lambda: max(0, other.request("how many") - 1), "the first timers have fired")
        assert seen < 750
        eventually(lambda: other.request("how many") == 1501, "all timers have fired")


# Who is not let in


def test_what_is_no_tls_is_dropped_though_it_never_stops_sending(make_relay):
    relay = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"])
    with relay.connect() as client:
        client.ask("nothing")
        base = relay.descriptors
        with relay.raw(tls=False) as raw:
            raw.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
            raw.socket.settimeout(0.05)

            def is_dropped():
                if not raw.try_send(b"x"):
                    return True
                try:
                    return not raw.socket.recv(1 << 16)
                except TimeoutError:
                    return False
                except OSError:
                    return True

            eventually(is_dropped, "the connection is dropped")
            eventually(lambda: relay.descriptors <= base, "its descriptor is closed")
        assert len(relay.listed("connections")) == 2  # The client, and the one that lists.


def test_a_tls_session_that_breaks_is_told_why_though_an_answer_was_on_its_way(make_relay):
    relay = make_relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], scripts=[ECHO])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = trusting_anything().wrap_bio(incoming, outgoing)
    with relay.raw(tls=False) as raw:

        def until(step):
            """The answer of `step`, which is given what arrives until it needs no more."""
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        raw.send(outgoing.read())
                    received = raw.socket.recv(1 << 16)
                    incoming.write(received) if received else incoming.write_eof()

        until(session.do_handshake)
        session.write(upgrade_head())
        assert until(lambda: session.read(1 << 16)).startswith(b"HTTP/1.1 101 ")
        session.write(frame(TEXT, "hello"))
        raw.send(outgoing.read() + b"\x17\x03\x03\x00\x40" + bytes(64))  # A record that nobody has encrypted.
        with pytest.raises(ssl.SSLError, match="(?i)alert"):
            while until(lambda: session.read(1 << 16)):
                pass
        raw.expect_end()


def test_connections_beyond_the_limit_are_refused_and_hold_little(make_relay):
    relay = make_relay(scripts=[ECHO], limits={"connections": 5})
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(relay.connect()) for _ in range(5)]
        base, refusals = relay.descriptors, []
        with contextlib.ExitStack() as crowd:
            outside = [crowd.enter_context(relay.raw()) for _ in range(400)]
            for raw in outside:
                # Each is answered or closed at once; none of them goes away by itself.
                try:
                    refusals.append(raw.read(len("HTTP/1.1 503 ")))
                except Ended:
                    refusals.append(raw.buffer)
            # All have their answer. Those that were told why are waited for, up to 64; the others are closed.
            assert relay.descriptors <= base + 64 + 2
            assert b"HTTP/1.1 503 " in refusals and set(refusals) <= {b"HTTP/1.1 503 ", b""}
            for client in inside:
                ping_pong(client)
        inside.pop().close()

        def lets_in():
            try:
                with relay.raw(upgraded=True) as raw:
                    raw.send(frame(TEXT, "in"))
                    return raw.read_message() == "in"
            except (AssertionError, Ended, OSError):
                return False

        eventually(lets_in, "a new connection is let in")
        eventually(lambda: relay.descriptors <= base, "all descriptors are closed")


# Two loops


def two_loops(relay):
    """Makes an app on each of two loops; returns their names, the one of loop 0 first."""
    for name in ["even", "odd"]:
        relay.invoke("create app", named={"app": name})
    homes = {entry["loop"]: entry["app"] for entry in relay.listed("apps") if entry["app"] != "default"}
    return homes[0], homes[1]


def test_an_app_that_two_make_at_the_same_time_is_made_once_and_is_there(make_relay):
    relay = make_relay(loops=2, log_level="warning")
    here, there = two_loops(relay)
    with relay.raw(upgraded=True, path=f"/app/{here}") as first, \
            relay.raw(upgraded=True, path=f"/app/{there}") as second:
        for number in range(120):
            making = request(
                "create app", named={"app": f"app-{number}"}, identifier=number, credential=relay.admin)
            first.send(making)
            second.send(making)
            answers = [json.loads(raw.read_message()) for raw in (first, second)]
            assert sum("result" in answer for answer in answers) == 1, answers
            assert [answer["error"]["code"] for answer in answers if "error" in answer] == ["conflict"]
        apps = [entry["app"] for entry in relay.listed("apps")]
        assert len(apps) == 123
        for app in apps:
            relay.raw(upgraded=True, path=f"/app/{app}").socket.close()


def test_a_revoked_credential_leaves_no_connection_open_that_moves_between_loops(make_relay):
    relay = make_relay(loops=2, log_level="error")
    apps = two_loops(relay)
    choose = random.Random(8)
    with relay.operator() as admin:
        for _ in range(60):
            made = admin.request("create credential", named={"rights": ["connect:*:*"]})
            bearer = [f"Authorization: Bearer {made['credential']}"]
            with contextlib.ExitStack() as stack:
                raws = [stack.enter_context(relay.raw()) for _ in range(16)]
                cut = choose.randrange(4, 17)
                heads = [upgrade_head(f"/app/{choose.choice(apps)}", extra=bearer) for _ in raws]
                for raw, head in zip(raws[:cut], heads):
                    raw.send(head)
                admin.send_json({"instruction": "revoke credential", "parameters": {"id": made["id"]}, "id": "r"})
                for raw, head in zip(raws[cut:], heads[cut:]):
                    raw.send(head)
                assert admin.reply("r")["result"] == {"revoked": True}
                for raw in raws:
                    # It was let in and is closed, or was not let in; one that stays open is found by the deadline.
                    with contextlib.suppress(Ended):
                        response = raw.read_response()
                        if response.status == 101:
                            assert raw.read_close()[0] == 4002
                            raw.send(close_frame(4002))
                        else:
                            assert response.status == 401
                        assert raw.read_to_end() == b""


# Apps that go


def test_an_app_that_is_removed_runs_no_timer_any_more(make_relay):
    relay = make_relay()
    relay.evaluate("ticks = 0 relay.every(0.01, function() ticks = ticks + 1 end)")
    relay.invoke("create app", named={"app": "gone"})
    with relay.operator() as admin, relay.connect("/app/gone") as client:
        relay.load("gone.lua", """
          relay.on("reload", function()
            relay.every(0.01, function() relay.log("info", "a timer of before") end)
          end)
          relay.on("close", function(conn, code)
            if code ~= 1001 then return end
            pcall(relay.every, 0.01, function() relay.log("info", "a timer of afterwards") end)
            pcall(relay.after, 0.01, function() relay.log("info", "a timer of afterwards") end)
            relay.log("info", "the connection has closed")
          end)
        """, path="/app/gone")
        relay.logs("a timer of before")
        admin.request("remove app", named={"app": "gone"})
        assert client.closed()[0] == 1001
        relay.logs("the connection has closed")
        fired = relay.log.count("a timer of before")
        ticks = admin.request("eval", named={"body": "return ticks"})
        # A clock of another app says that there has been time for them.
        eventually(lambda: admin.request("eval", named={"body": "return ticks"}) > ticks + 20, "time goes on")
        assert relay.log.count("a timer of before") == fired
        assert "a timer of afterwards" not in relay.log


def test_who_waits_at_the_door_of_an_app_that_is_removed_is_told_404(make_relay):
    relay = make_relay()
    with relay.operator() as admin:
        admin.request("create app", named={"app": "gone"})
        relay.load("door.lua", """
          relay.on("handshake", function(request)
            if request.query ~= "wait" then return end
            relay.log("info", "somebody waits")
            relay.sleep(25)
          end)
        """, path="/app/gone")
        with relay.connect("/app/gone") as inside, relay.raw() as first, relay.raw() as second:
            for raw in (first, second):
                raw.send(upgrade_head("/app/gone?wait"))
            eventually(lambda: relay.log.count("somebody waits") == 2, "both wait")
            admin.request("remove app", named={"app": "gone"})
            for raw in (first, second):
                response = raw.read_response()
                assert response.status == 404
                raw.expect_end()
            assert inside.closed()[0] == 1001
        admin.request("create app", named={"app": "gone"})
        relay.raw(upgraded=True, path="/app/gone?wait").socket.close()  # It is another app, without that hook.


# Names, and one's own end


def test_names_that_differ_only_by_unicode_normalisation_are_two_instructions(relay):
    composed = unicodedata.normalize("NFC", "caf\u00e9 \u212b")
    decomposed = unicodedata.normalize("NFD", composed)
    names = [composed, decomposed]
    assert composed != decomposed
    with relay.operator() as admin:
        for name in names:
            admin.request("add instruction", named={
                "instructionToAdd": name, "body": f"function() return {len(name.encode())} end"})
        listed = [entry["instruction"] for entry in admin.request("instructions")]
        assert sorted(listed) == sorted(names)
        for name in names:
            assert admin.request(name) == len(name.encode())
        admin.request("remove instruction", named={"instruction": composed})
        assert refusal(admin, composed)["code"] == "unknown_instruction"
        assert admin.request(decomposed) == len(decomposed.encode())
        for name, body in zip(names, ["return 'composed'", "return 'decomposed'"]):
            admin.request("require", named={"module": name, "source": body})
        assert len(admin.request("modules")) == 2


def test_who_closes_ones_own_connection_is_answered_first(relay):
    relay.add("who am I", "function(conn) return conn.id end")
    for code, reason in [(None, None), (4000, "enough")]:
        with relay.operator() as admin:
            named = {"connection": admin.request("who am I")}
            if code:
                named.update(code=code, reason=reason)
            assert admin.request("close connection", named=named) == {"closed": True}
            assert admin.closed()[0] == (code or 4007)
            assert admin.waiting == []
