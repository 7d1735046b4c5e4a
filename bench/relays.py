"""relayd and its peers as subjects: how each is set up. Why so: bench/README.md, "The peers"."""

import os
import shutil
from pathlib import Path

from subjects import Certificate, Place, Subject

ROOT = Path(__file__).resolve().parent.parent
NODE_PEERS = ROOT / "bench/peers"
PAIR_SCRIPT = ROOT / "bench/scripts/pair.lua"
TUNNEL_SCRIPT = ROOT / "scripts/tunnel.lua"
WEBHOOKS_SCRIPT = ROOT / "scripts/webhooks.lua"
CIPHER = "TLS_AES_128_GCM_SHA256"
# A proxied connection takes two open files, and 20 000 is a common hard limit; pipes of splice(2) come on top.
HAPROXY_CONNECTIONS, HAPROXY_PIPES = 9_000, 400
BIG_BUFFER_KIBIBYTES = 64


def relayd(binary: Path, name: str, what: str, script: Path, compared_with: tuple[str, ...] = (), io: str = "auto",
           query: str = "", certificate: Certificate | None = None, wrapper: tuple[str, ...] = (),
           address: str = "127.0.0.1:0", limits: tuple[str, ...] = (), arguments=lambda place: [], **more) -> Subject:
    """relayd with one loop; `wrapper` is a program that it runs under, `arguments` are further ones, given the place,
    `more` is of the subject."""

    def command(place: Place) -> list[str]:
        scheme = "wss" if certificate else "ws"
        tls = ["--tls-certificate", certificate.certificate, "--tls-key", certificate.key] if certificate else []
        where = address if place.port == 0 else f"127.0.0.1:{place.port}"
        return [*wrapper, binary, "serve", "--listen", f"{scheme}://{where}{query}", "--state",
                place.directory / "state", "--script", script, "--loops", "1", "--io", io,
                *(f"--limit={limit}" for limit in ("connectionsPerAddress=100000", *limits)), *tls, *arguments(place)]

    body = (ROOT / "scripts/tunnel/forward to server.lua").read_text().strip()
    return Subject(
        name, what, command, compared_with=compared_with,
        credential=lambda directory: directory / "state" / "admin.credential",
        # Two texts that do the same: every replacement is a change.
        bodies=(body, f"--[[ the other one ]] {body}"), **more)


def relayd_with_webhooks(binary: Path, name: str, what: str, io: str, **more) -> Subject:
    """relayd whose connections belong to the generator's back end."""
    return relayd(binary, name, what, WEBHOOKS_SCRIPT, io=io, query="?bearer=scripts", proxy_schemes=("ws", "tcp"),
                  arguments=lambda place: ["--set", f"target=http://127.0.0.1:{place.backend_port}",
                                           "--http-allow", f"127.0.0.1:{place.backend_port}"], **more)


def linked(binary: Path, name: str, what: str, io: str, **more) -> Subject:
    """Two relays: clients are at the first, which has linked itself to the second, where servers are."""

    def link(place: Place) -> list[str]:
        # One operator has both: what a credential allows at one it allows at the other.
        shutil.copytree(place.neighbour.directory / "state", place.directory / "state")
        secret = (place.directory / "state" / "admin.credential").read_text().strip()
        return ["--connect", f"{place.neighbour.url}?credential={secret}"]

    return relayd(binary, name, what, PAIR_SCRIPT, io=io, arguments=link, scenario="channel",
                  neighbour=relayd(binary, name, what, PAIR_SCRIPT, io=io), **more)


def haproxy(name: str, what: str, has_big_buffers: bool = False, certificate: Certificate | None = None,
            secures_backend: bool = False) -> Subject:
    """HAProxy in front of the generator's back end; with a certificate it terminates TLS."""

    def command(place: Place) -> list[str]:
        bind = f"ssl crt {certificate.both}" if certificate else ""
        server = f"ssl verify none ciphersuites {CIPHER} ssl-min-ver TLSv1.3" if secures_backend else ""
        path = place.directory / "haproxy.cfg"
        path.write_text(f"""global
    nbthread 1
    maxconn {HAPROXY_CONNECTIONS}
    maxpipes {HAPROXY_PIPES}
    ssl-default-bind-ciphersuites {CIPHER}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    {f"tune.bufsize {BIG_BUFFER_KIBIBYTES << 10}" if has_big_buffers else ""}
defaults
    mode http
    option http-no-delay
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
listen relay
    bind 127.0.0.1:{place.port} backlog 4096 {bind}
    server backend 127.0.0.1:{place.backend_port} {server}
""")
        return ["haproxy", "-q", "-db", "-f", path]

    schemes = ("wss" if certificate else "ws", "wss" if secures_backend else "ws")
    return Subject(name, what, command, proxy_schemes=schemes, certificate=certificate)


def nginx(name: str, what: str, has_big_buffers: bool = False) -> Subject:
    """nginx in front of the generator's back end, as https://nginx.org/en/docs/http/websocket.html has it."""

    def command(place: Place) -> list[str]:
        size = f"{BIG_BUFFER_KIBIBYTES}k"
        buffers = f"proxy_buffer_size {size}; proxy_buffers 8 {size};" if has_big_buffers else ""
        path = place.directory / "nginx.conf"
        # One process: the worker alone is measured, and ends with this program.
        path.write_text(f"""daemon off;
master_process off;
{"user root;" if os.geteuid() == 0 else ""}
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxied;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{place.port} backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{place.backend_port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            {buffers}
        }}
    }}
}}
""")
        return ["nginx", "-p", place.directory, "-c", path, "-e", "stderr"]

    return Subject(name, what, command, proxy_schemes=("ws", "ws"))


def node_pair(name: str, what: str, forward: str | None = None) -> Subject:
    """The Node relay of raw pairs; `forward` is what hands a message on, where it is not the usual."""
    options = ["--forward", forward] if forward else []
    return Subject(name, what, lambda place: ["node", NODE_PEERS / "node-pair.mjs", *options])


def node_channel(name: str, what: str, forward: str | None = None, options: tuple[str, ...] = ()) -> Subject:
    """The Node relay of channels; `forward` is what hands a piece of a message on, where it is not the usual."""
    faults = ["--forward", forward] if forward else []
    return Subject(name, what, lambda place: ["node", NODE_PEERS / "node-channel.mjs", *faults], scenario="channel",
                   options=options)


def node_webhook(name: str, what: str, forward: str | None = None) -> Subject:
    """The Node relay to a back end that speaks HTTP; `forward` is what hands a message on."""
    secret = "shared secret"
    faults = ["--forward", forward] if forward else []

    def command(place: Place) -> list[str]:
        (place.directory / "credential").write_text(secret)
        return ["node", NODE_PEERS / "node-webhook.mjs", "--port", str(place.port), "--to", str(place.backend_port),
                "--credential", secret, *faults]

    return Subject(name, what, command, proxy_schemes=("ws", "tcp"),
                   credential=lambda directory: directory / "credential")


def node_tcp(name: str, what: str, forward: str) -> Subject:
    """A Node proxy of TCP; `forward` is what hands a piece of a stream on."""
    return Subject(name, what, lambda place: [
        "node", NODE_PEERS / "node-tcp.mjs", "--port", str(place.port), "--to", str(place.backend_port),
        "--forward", forward], proxy_schemes=("tcp", "tcp"))


def node_livecode(name: str, what: str, log_lines: bool) -> Subject:
    """The Node relay of the tunnel's instructions, with or without node-livecode's log lines."""
    secret = "shared secret"

    def command(place: Place) -> list[str]:
        (place.directory / "credential").write_text(secret)
        return ["node", NODE_PEERS / "node-livecode.mjs", "--credential", secret, "--console", "/dev/null",
                "--log-lines", "on" if log_lines else "off"]

    return Subject(name, what, command, credential=lambda directory: directory / "credential")
