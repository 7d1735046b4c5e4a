"""conn:pause and conn:resume: a client that a script does not want to hear for a while."""

import time

import pytest

from conditions import eventually
from wire import TEXT, close_frame, frame

SCRIPT = """
relay.on("open", function(conn) if conn.query == "held" then held, count, closes = conn, 0, 0 end end)
relay.on("message", function(conn, data)
  if conn ~= held then return end
  count = count + 1
  if data:find("pause") then conn:pause() conn:pause() end
  if data:find("resume") then conn:resume() end
  if data:find("close") then conn:close(1000, "") end
  conn:send(data)
  return true
end)
relay.on("close", function(conn) if conn == held then closes = closes + 1 end end)
"""


@pytest.fixture
def relay(make_relay, tmp_path):
    file = tmp_path / "pause.lua"
    file.write_text(SCRIPT)
    return make_relay(scripts=[file], limits={"idleTimeout": "1s", "pingInterval": "300ms"})


@pytest.fixture
def client(relay):
    with relay.connect("/?held") as client:
        yield client


def test_what_is_sent_meanwhile_waits_and_silence_is_forgiven(relay, client):
    client.send("pause")
    assert client.receive() == "pause"
    paused = time.monotonic()
    for number in range(100):
        client.send(str(number))
    eventually(lambda: time.monotonic() > paused + 2, "longer than the idleTimeout")
    assert relay.evaluate("return {count, held:isOpen()}") == [1, True]
    # It is counted neither how often it was paused nor how often it is resumed.
    assert relay.evaluate("return {held:resume(), held:resume()}") == [True, True]
    assert [client.receive() for _ in range(100)] == [str(number) for number in range(100)]
    client.send("pause and resume")
    client.send("on")
    assert [client.receive(), client.receive()] == ["pause and resume", "on"]


def test_a_paused_client_is_closed_as_any_other(relay):
    with relay.raw(upgraded=True, path="/?held") as raw:
        raw.send(frame(TEXT, "pause and close") + frame(TEXT, "never heard") + close_frame(1000))
        assert raw.read_to_end() == close_frame(1000, key=None)
    eventually(lambda: relay.evaluate("return closes") == 1, "its close is told")
    assert relay.evaluate("return {count, held:pause(), held:resume()}") == [1, False, False]


def test_a_client_that_goes_while_it_is_paused(relay, client):
    client.send("pause")
    assert client.receive() == "pause"
    client.send("last words")
    client.connection.socket.close()
    relay.evaluate("held:resume()")
    eventually(lambda: relay.evaluate("return closes") == 1, "its close is told")
    assert relay.evaluate("return count") <= 2


def test_a_relay_drains_with_a_paused_client(relay, client):
    client.send("pause")
    assert client.receive() == "pause"
    relay.stop()
    assert client.closed()[0] == 1012
