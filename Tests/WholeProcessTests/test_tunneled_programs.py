"""Programs that know nothing of relayd, through `relayd expose` and `relayd forward`: OpenSSH, curl and Redis."""

import concurrent.futures
import functools
import getpass
import hashlib
import http.server
import os
import pathlib
import shutil
import socket
import subprocess
import threading

import pytest

from conditions import DEADLINE, eventually
from relay import RELAYD, Relay
from tunnels import Expose, Forward, free_port


@pytest.fixture(scope="module")
def relay():
    with Relay(loops=2) as relay:
        yield relay


def program(name):
    """Where a program is that the tests need: `dev/setup --test` installs them all."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert found, f"{name} is not installed: run dev/setup --test"
    return found


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=4 * DEADLINE, **options)
    assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-3000:])
    return done.stdout


# OpenSSH


class SSHServer:
    """An sshd of this user's own: its host key, its configuration, and the one key that it lets in."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        for name in ("host_key", "user_key"):
            run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nSubsystem sftp internal-sftp\n")
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"box {host_key}")
        self.options = [
            "-F", "none", "-i", folder / "user_key", "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o",
            "HostKeyAlias=box", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]

    def __enter__(self):
        if os.getuid() == 0:
            # Where sshd puts itself before it knows who speaks; Debian makes it when it starts the service.
            pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.folder / "sshd.log", "wb") as log:
            self.process = subprocess.Popen(
                [program("sshd"), "-D", "-e", "-f", self.folder / "sshd_config"], stdin=subprocess.DEVNULL,
                stderr=log)
        eventually(lambda: listens(self.port), "sshd listens")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(DEADLINE)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    with SSHServer(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_scp_of_a_large_file_keeps_it_whole(relay, sshd, tmp_path):
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    with open(source, "wb") as file:
        for _ in range(200):
            file.write(os.urandom(1_000_000))
    with Expose(relay, (f"127.0.0.1:{sshd.port}", "box:22")), Forward(relay, "box:22") as forward:
        remote = f"{getpass.getuser()}@127.0.0.1"
        scp = [program("scp"), "-q", *sshd.options, "-P", str(forward.port)]
        run(*scp, source, f"{remote}:{there}")
        run(*scp, f"{remote}:{there}", back)
    assert digest(there) == digest(source)
    assert digest(back) == digest(source)


def test_ssh_goes_through_forward_as_its_proxy_command(relay, sshd):
    command = f"ProxyCommand={RELAYD} forward stdio box:22"
    environment = {**os.environ, "RELAYD_URL": relay.url, "RELAYD_CREDENTIAL": relay.admin}
    with Expose(relay, (f"127.0.0.1:{sshd.port}", "box:22")):
        output = run(
            program("ssh"), *sshd.options, "-o", command, f"{getpass.getuser()}@box", "cat; echo done",
            input=b"through standard input\n" * 10000, env=environment)
    assert output == b"through standard input\n" * 10000 + b"done\n"


# curl


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Site(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # With the five that are the default, connections that come at once are dropped by the kernel.
    request_queue_size = 1000


@pytest.fixture
def site(tmp_path):
    """A server of files over HTTP/1.1, which keeps connections, and its folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = Site(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], folder
    server.shutdown()
    thread.join(DEADLINE)
    server.server_close()


def test_curl_reads_files_over_one_kept_connection(relay, site):
    port, folder = site
    for name in ("one", "two", "three"):
        (folder / name).write_bytes(os.urandom(500_000))
    with Expose(relay, (f"http://127.0.0.1:{port}", "app")) as expose, Forward(relay, "app:80") as forward:
        base = f"http://{forward.address}/"
        output = run(program("curl"), "-sS", "--noproxy", "*", *(base + name for name in ("one", "two", "three")))
        assert output == b"".join((folder / name).read_bytes() for name in ("one", "two", "three"))
        assert expose.log.count("app:80: client from") - expose.log.count("ended after") == 1


def test_a_hundred_requests_at_once(relay, site, tmp_path):
    port, folder = site
    for number in range(100):
        (folder / f"{number}").write_bytes(os.urandom(20_000 + number))
    with Expose(relay, (f"http://127.0.0.1:{port}/", "app")), Forward(relay, "app:80") as forward:
        results = tmp_path / "results"
        results.mkdir()
        run(program("curl"), "-sS", "--noproxy", "*", "--parallel", "--parallel-immediate", "--parallel-max", "100",
            f"http://{forward.address}/[0-99]", "-o", f"{results}/#1")
        for number in range(100):
            assert (results / f"{number}").read_bytes() == (folder / f"{number}").read_bytes()


# Redis


@pytest.fixture
def redis(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    eventually(lambda: listens(port), "redis-server listens")
    yield port
    process.terminate()
    process.wait(DEADLINE)


def test_redis_answers_through_a_tunnel(relay, redis):
    with Expose(relay, (f"localhost:{redis}", "data:6379")), Forward(relay, "data:6379") as forward:
        cli = [program("redis-cli"), "-p", str(forward.port)]
        value = os.urandom(1_000_000).hex()
        assert run(*cli, "-x", "set", "key", input=value.encode()) == b"OK\n"
        assert run(*cli, "--raw", "get", "key") == value.encode() + b"\n"
        # A thousand commands without waiting for answers.
        commands = "".join("incr counter\n" for _ in range(1000))
        assert run(*cli, input=commands.encode()).split() == [b"%d" % number for number in range(1, 1001)]

        def count(_):
            return run(*cli, "incr", "shared")

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            assert sorted(map(int, pool.map(count, range(40)))) == list(range(1, 41))
