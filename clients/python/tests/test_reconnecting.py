"""When to connect again, and where."""

import re

import pytest

from conftest import ROOT
from relayd_client.address import Address, port_set
from relayd_client.reconnecting import FINAL_CLOSE_CODES, Backoff


def test_pauses_grow_to_a_limit_and_are_drawn_from_nothing_up():
    backoff = Backoff(0.5, 3.0, draw=lambda: 1.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert Backoff(0.5, 3.0, draw=lambda: 0.0).failed() == 0.0


def test_only_a_connection_that_lasted_starts_anew():
    backoff = Backoff(0.5, 3.0, draw=lambda: 1.0)
    assert [backoff.lost(0.1), backoff.lost(2.9), backoff.lost(3.0), backoff.lost(0.0)] == [0.5, 1.0, 0.5, 1.0]


def test_a_drain_is_obeyed_within_its_time():
    backoff = Backoff(0.5, 3.0, draw=lambda: 1.0)
    assert backoff.drains(200, lived=3.0) == 0.1
    assert backoff.drains(4e9, lived=3.0) == 1.5, "whatever the relay says"


def test_a_relay_that_always_drains_is_not_met_ever_faster():
    backoff = Backoff(0.5, 3.0, draw=lambda: 1.0)
    assert [backoff.drains(0, lived=0.1) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("shortest, longest", [(0, 1), (-1, 1), (2, 1)])
def test_a_backoff_that_is_none_is_refused(shortest, longest):
    with pytest.raises(ValueError):
        Backoff(shortest, longest)


def test_the_final_close_codes_are_those_of_the_relays_registry():
    source = (ROOT / "Sources/Relay/WebSocket/CloseCode.swift").read_text()
    numbers = {name: int(number) for name, number in re.findall(
        r"static var (\w+): CloseCode \{ CloseCode\((\d+)\) \}", source)}
    registered = dict(re.findall(r"code: \.(\w+), name: \"[^\"]*\", shouldReconnect: (true|false)", source))
    assert set(registered) == set(numbers) and len(numbers) > 20
    assert {numbers[name] for name, again in registered.items() if again == "false"} == FINAL_CLOSE_CODES


@pytest.mark.parametrize("url, app, path, whole", [
    ("ws://127.0.0.1:8087", None, "", "ws://127.0.0.1:8087"),
    ("wss://example.org/", None, "", "wss://example.org"),
    ("wss://example.org/app/one/", None, "/a/t", "wss://example.org/app/one/a/t"),
    ("ws://[::1]:80?auth=x%20y", "two words", "", "ws://[::1]:80/app/two%20words?auth=x%20y"),
    ("unix:/run/relayd.sock", None, "/s/a", "ws://localhost/s/a"),
    ("unix:relayd.sock?auth=t", "one", "", "ws://localhost/app/one?auth=t"),
])
def test_the_urls_behind_a_url(url, app, path, whole):
    assert Address.parse(url, app).at(path) == whole


def test_a_socket_has_a_path():
    assert Address.parse("unix:/run/relayd.sock?auth=t").unix == "/run/relayd.sock"
    assert Address.parse("ws://h").unix is None


@pytest.mark.parametrize("url", ["", "127.0.0.1:8087", "http://127.0.0.1", "ws://", "ws:///path", "unix:", "ws://h/#f"])
def test_what_is_no_url_of_a_relay_is_refused(url):
    with pytest.raises(ValueError):
        Address.parse(url)


@pytest.mark.parametrize("server, ports, whole", [
    ("box", None, "ws://h/s/box?a=1"),
    (7, "22,80-90", "ws://h/s/7?a=1&ports=22,80-90"),
    ("a/b c?ä", [22], "ws://h/s/a%2Fb%20c%3F%C3%A4?a=1&ports=22"),
    ("007a", range(80, 91), "ws://h/s/007a?a=1&ports=80-90"),
])
def test_the_url_of_a_registration(server, ports, whole):
    assert Address.parse("ws://h?a=1").registration(server, ports) == whole


@pytest.mark.parametrize("server", ["", "7", "007", -1])
def test_an_id_that_a_path_would_change_is_refused(server):
    with pytest.raises(ValueError):
        Address.parse("ws://h").registration(server)


def test_ports_are_written_as_spans():
    assert port_set([90, 22, 80, 81, 82, 22]) == "22,80-82,90"
    assert port_set(22) == "22"
    assert port_set(range(0, 65_536)) == "0-65535"
    assert port_set("1-2,x") == "1-2,x", "text is the relay's to judge"
    for ports in ([], [-1], [65_536], -1):
        with pytest.raises(ValueError):
            port_set(ports)
