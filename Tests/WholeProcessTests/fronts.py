"""HAProxy, nginx and Caddy before relays, each with a configuration of its own folder."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess

from conditions import DEADLINE, eventually
from wire import Raw


def program(name):
    """Where a program is that the tests need: `dev/setup --test` installs them all."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert found, f"{name} is not installed: run dev/setup --test"
    return found


def substituted(text, replaced):
    """The text with each of `replaced` in place of what has to be in it; what was put in stays as it is."""
    for old in replaced:
        assert old in text, f"{old} is not there"
    anything = "|".join(re.escape(old) for old in sorted(replaced, key=len, reverse=True))
    return re.sub(anything, lambda found: str(replaced[found[0]]), text)


class Front:
    """A proxy that listens at `port`; it ends with the block."""

    def __init__(self, command, folder, port, environment=None):
        self.command, self.port, self.log_file = command, port, folder / "front.log"
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self):
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True)
        eventually(lambda: self.process.poll() is not None or listens(self.port), f"it listens: {self.log}")
        assert self.process.poll() is None, self.log
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            # Its workers belong to its session, which nobody else does.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def haproxy(folder, text, port):
    path = folder / "haproxy.cfg"
    path.write_text(text)
    checked = subprocess.run([program("haproxy"), "-c", "-f", path], capture_output=True, text=True, timeout=DEADLINE)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return Front([program("haproxy"), "-db", "-f", path], folder, port)


def nginx(folder, text, port):
    """`text` stands in nginx.conf's block `http`, as the files of conf.d do."""
    (folder / "site.conf").write_text(text)
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\n"
        f"    access_log off;\n{temporary}    include {folder}/site.conf;\n}}\n")
    return Front([program("nginx"), "-e", "stderr", "-p", folder, "-c", path], folder, port)


def caddy(folder, text, port):
    path = folder / "Caddyfile"
    path.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text)
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return Front([program("caddy"), "run", "--adapter", "caddyfile", "--config", path], folder, port, homes)


def reached(front, source="127.0.0.1", certificate=None):
    """A connection to the proxy, from an address of one's own; over TLS, checked against `certificate`."""
    connected = socket.create_connection(("127.0.0.1", front.port), DEADLINE, source_address=(source, 0))
    return Raw(connected, ssl.create_default_context(cafile=certificate) if certificate else None, "localhost")


@contextlib.contextmanager
def through(front, source="127.0.0.1", certificate=None, host="localhost", **options):
    """A WebSocket through the proxy."""
    with reached(front, source, certificate) as raw:
        raw.handshake(host=host, **options)
        yield raw
