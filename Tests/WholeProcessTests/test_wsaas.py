"""contrib/wsaas: relayd from the variables of WebSocket as a service."""

import json
import os
import socket
import subprocess

import pytest
import websockets.sync.client

from conditions import DEADLINE
from relay import RELAYD, ROOT
from test_webhooks import SECRET, code, curl
from webhook_backend import Backend


@pytest.fixture
def backend():
    backend = Backend()
    yield backend
    backend.end()


@pytest.mark.parametrize("names", [("API_URI", "WS_HOSTNAME"), ("TARGET_ADDRESS", "LOCAL_ADDRESS")])
def test_the_variables_of_wsaas(backend, tmp_path, names):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    variables = {
        names[0]: f"localhost:{backend.port}/websocket", names[1]: f"localhost:{ports[1]}", "LOG_LEVEL": "DEBUG",
        "WS_TIMEOUT": "7000", "WS_PORT": str(ports[0]), "HTTP_PORT": str(ports[1]), "WEBHOOK_SECRET": f"whsec_{SECRET}",
        "RELAYD": str(RELAYD)}
    launched = subprocess.Popen(
        [ROOT / "contrib/wsaas", "--state", tmp_path / "state"], env={**os.environ, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert [launched.stdout.readline() for _ in ports] == [f"listening ws://0.0.0.0:{port}\n" for port in ports]
        with websockets.sync.client.connect(f"ws://127.0.0.1:{ports[0]}/") as client:
            place = json.loads(backend.of("POST")[0]["body"])["ws_uri"]
            assert place.startswith(f"localhost:{ports[1]}/")
            admin = (tmp_path / "state/admin.credential").read_text().strip()
            assert code(curl("-X", "PUT", f"http://{place}", credential=admin, body=b"pushed")) == (200, "OK")
            assert client.recv(timeout=DEADLINE) == "pushed"
            assert backend.of("POST")[0]["headers"]["webhook-signature"].startswith("v1,")
    finally:
        launched.terminate()
        _, log = launched.communicate(timeout=DEADLINE)
    assert launched.returncode == 0, log
    assert len(backend.of("DELETE")) == 1


def test_stars_are_no_files(tmp_path):
    (tmp_path / "a.example").touch()
    done = subprocess.run(
        [ROOT / "contrib/wsaas"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "RELAYD": "echo", "API_URI": "b.example/x", "HTTP_ALLOW": "*.example ::1"})
    assert "--http-allow b.example:80 " in done.stdout
    assert done.stdout.endswith("--http-allow *.example --http-allow ::1\n")


@pytest.mark.parametrize("variables", [{}, {"API_URI": "x", "LOG_LEVEL": "LOUD"}, {"API_URI": "x", "WS_TIMEOUT": "1s"}])
def test_variables_of_wsaas_that_are_wrong(variables):
    done = subprocess.run(
        [ROOT / "contrib/wsaas"], env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("wsaas: ")
