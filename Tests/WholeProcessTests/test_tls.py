"""wss:// listeners: versions, certificates and their reload, and peers that break TLS (CASES 39, 68 to 70)."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess

import pytest
import websockets.asyncio.client

from certificates import Pair, openssl
from conditions import DEADLINE, eventually
from relay import TEST_SCRIPTS, Relay, ping_pong, trusting_anything
from wire import BINARY, PING, PONG, TEXT, close_frame, frame, upgrade_head

ECHO = TEST_SCRIPTS / "echo.lua"


@pytest.fixture(scope="module")
def secure():
    """A relay that made its own certificate, with a plain listener beside the secure one."""
    options = ["--tls-self-signed"]
    with Relay(*options, listen=["wss://127.0.0.1:0", "ws://127.0.0.1:0"], scripts=[ECHO]) as relay:
        yield relay


def s_client(relay, *options, stdin="", name=("-servername", "localhost")):
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", *name, *options], input=stdin,
        capture_output=True, text=True, timeout=60)


def peer_name(relay):
    """The common name of the certificate that a new handshake is shown."""
    with relay.raw() as raw:
        der = raw.socket.getpeercert(binary_form=True)
    text = openssl("x509", "-noout", "-subject", stdin=ssl.DER_cert_to_PEM_cert(der)).stdout
    return re.search(r"CN\s*=\s*(\S+)", text).group(1)


def test_a_client_that_checks_certificates_is_content(secure):
    context = ssl.create_default_context(cafile=secure.state / "tls-certificate.pem")
    with secure.connect(ssl=context) as client:
        ping_pong(client, 10)
    assert (secure.state / "tls-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_client_that_does_not_know_the_certificate_refuses_it(secure):
    with pytest.raises(ssl.SSLCertVerificationError):
        secure.connect(ssl=ssl.create_default_context())


@pytest.mark.parametrize("version, name", [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_current_versions_are_spoken_and_http_1_1_is_agreed_on(secure, version, name):
    text = s_client(secure, version, "-alpn", "h2,http/1.1").stdout
    assert re.search(rf"^New, {name}, Cipher is (?!\(NONE\))", text, re.M), text
    assert "ALPN protocol: http/1.1" in text, text


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(secure, version):
    done = s_client(secure, version, "-cipher", "ALL:@SECLEVEL=0")
    assert done.returncode != 0
    assert "Cipher is (NONE)" in done.stdout


def test_a_client_without_alpn_or_server_name_is_served(secure):
    done = s_client(secure, name=["-noservername"])
    assert done.returncode == 0 and "No ALPN negotiated" in done.stdout


def test_a_client_that_speaks_only_http_2_gets_no_channel(secure):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with secure.raw(tls=context) as raw:
            assert raw.socket.selected_alpn_protocol() != "h2"
    except ssl.SSLError:
        pass  # "no application protocol" is as good.


def test_a_listener_speaks_tls_to_the_end(secure):
    with secure.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, "one") + frame(TEXT, "two") + frame(PING, "three"))
        assert [raw.read_message(), raw.read_message(), raw.read_frame()] == ["one", "two", (PONG, b"three")]
        raw.send(close_frame(1000))
        raw.expect_close(1000)  # With close_notify, or the end would be an error.


def test_bytes_may_come_in_records_of_one(secure):
    with secure.raw() as raw:
        for byte in upgrade_head():
            raw.send(bytes([byte]))
        assert raw.read_response().status == 101
        for byte in frame(TEXT, "hello"):
            raw.send(bytes([byte]))
        assert raw.read_message() == "hello"


def test_frames_behind_the_handshake_in_its_record_are_delivered(secure):
    with secure.raw() as raw:
        raw.send(upgrade_head() + frame(TEXT, "at once"))
        assert raw.read_response().status == 101
        assert raw.read_message() == "at once"


def test_frames_behind_the_handshake_are_delivered_across_loops():
    with Relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], scripts=[ECHO], loops=2) as relay:
        for number in range(20):
            with relay.raw() as raw:
                raw.send(upgrade_head() + frame(TEXT, f"{number}"))
                assert raw.read_response().status == 101
                assert raw.read_message() == str(number)


@pytest.mark.parametrize("length", [16384, 262144, 262145, 300000, 1048576])
def test_a_message_of_any_length_arrives_whole(secure, length):
    with secure.raw(upgraded=True) as raw:
        raw.send(frame(BINARY, b"x" * length))
        assert raw.read_frame() == (BINARY, b"x" * length)


def test_large_messages_both_ways_at_once_arrive_whole(secure):
    messages = [str(number) * (300000 // len(str(number))) for number in range(40)]

    async def exchange():
        options = {"ssl": trusting_anything(), "max_size": None, "compression": None}
        async with websockets.asyncio.client.connect(secure.url, **options) as client:
            async def send():
                for message in messages:
                    await client.send(message)

            sender = asyncio.create_task(send())
            for message in messages:
                assert await client.recv() == message
            await sender

    asyncio.run(asyncio.wait_for(exchange(), DEADLINE))


def test_renegotiation_is_refused(secure):
    done = s_client(secure, "-tls1_2", stdin="R\n")
    text = done.stdout + done.stderr
    assert "RENEGOTIATING" in text
    assert "no renegotiation" in text or "handshake failure" in text or done.returncode != 0, text


def test_a_session_ticket_of_an_earlier_connection_is_no_trouble(secure, tmp_path):
    ticket = tmp_path / "ticket"
    for version in ["-tls1_2", "-tls1_3"]:
        request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        first = s_client(secure, version, "-quiet", "-sess_out", str(ticket), stdin=request)
        assert "200 OK" in first.stdout
        if ticket.exists():
            second = s_client(secure, version, "-quiet", "-sess_in", str(ticket), stdin=request)
            assert "200 OK" in second.stdout


def test_early_data_is_not_taken(secure, tmp_path):
    ticket, early = tmp_path / "ticket", tmp_path / "early"
    early.write_text("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    s_client(secure, "-tls1_3", "-sess_out", str(ticket), stdin="Q\n")
    if ticket.exists():
        done = s_client(secure, "-tls1_3", "-sess_in", str(ticket), "-early_data", str(early), stdin="Q\n")
        assert "Early data was accepted" not in done.stdout


def test_plain_http_on_a_tls_port_is_ended(secure):
    with secure.raw(url=secure.url.replace("wss:", "ws:")) as raw:
        raw.send(upgrade_head())
        received = raw.read_to_end()
    assert b"101" not in received


def test_tls_on_a_plain_port_is_ended(secure):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        secure.raw(url=secure.urls[1], tls=trusting_anything())


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff" + b"\0" * 65535, b"\x15\x03\x03\x00\x02\x02\x28", b"\0" * 100,
    b"\x80\x2e\x01\x03\x01" + b"\0" * 41, b"\x17\x03\x03\x00\x10" + b"x" * 16,
], ids=["short hello", "large record", "alert", "zeros", "SSL 2", "data first"])
def test_broken_records_are_ended_and_nobody_else_notices(secure, data):
    with secure.connect() as client:
        ping_pong(client)
        with secure.raw(url=secure.url.replace("wss:", "ws:")) as raw:
            raw.try_send(data)
            raw.socket.shutdown(socket.SHUT_WR)
            raw.read_to_end()
        ping_pong(client)


def test_a_garbled_record_ends_an_open_connection_and_no_other(secure):
    with secure.connect() as client:
        raw = secure.raw(upgraded=True)
        # Below the TLS of this end: the relay gets a record that it cannot decrypt.
        with socket.socket(fileno=raw.socket.detach()) as plain:
            plain.settimeout(DEADLINE)
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            try:
                while plain.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        ping_pong(client)


def hello_bytes():
    """A whole ClientHello, as OpenSSL would send it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_half_a_tls_handshake_is_ended_by_the_handshake_timeout():
    options = ["--tls-self-signed"]
    with Relay(*options, listen=["wss://127.0.0.1:0"], limits={"handshakeTimeout": "500ms"}) as relay:
        plain = relay.url.replace("wss:", "ws:")
        hello = hello_bytes()
        for data in [b"", hello[:20], hello]:
            with relay.raw(url=plain) as raw:
                raw.send(data)
                raw.read_to_end()
        with relay.raw() as raw:  # TLS, then silence.
            received = raw.read_to_end()
        assert received == b"" or received.startswith(b"HTTP/1.1 408 ")


def test_two_hundred_handshakes_that_are_cut_off_leave_nothing_behind(secure):
    with secure.connect() as client:
        ping_pong(client)
        base = secure.descriptors
        plain, hello = secure.url.replace("wss:", "ws:"), hello_bytes()
        for number in range(200):
            raw = secure.raw(url=plain)
            raw.try_send(hello[: number * 3 + 1])
            raw.reset() if number % 2 else raw.socket.close()
        eventually(lambda: secure.descriptors <= base, "all descriptors are closed")
        ping_pong(client)


# Certificates


@pytest.fixture
def pairs(tmp_path):
    return Pair(tmp_path, "first"), Pair(tmp_path, "second")


@pytest.fixture
def served(tmp_path, pairs, make_relay):
    """A relay with certificate files of its own, showing the first pair."""
    certificate, key = tmp_path / "served.pem", tmp_path / "served.key"
    pairs[0].put(certificate, key)
    relay = make_relay(
        "--tls-certificate", certificate, "--tls-key", key, listen=["wss://127.0.0.1:0"], scripts=[ECHO])
    relay.certificate, relay.key = certificate, key
    assert peer_name(relay) == "first"
    return relay


def hang_up(relay):
    relay.signal(signal.SIGHUP)


def test_a_new_certificate_is_shown_after_sighup_and_open_connections_stay(served, pairs):
    with served.connect() as old:
        ping_pong(old)
        pairs[1].put(served.certificate, served.key)
        assert peer_name(served) == "first"  # Nothing changes by itself.
        hang_up(served)
        eventually(lambda: peer_name(served) == "second", "new handshakes see the new certificate")
        ping_pong(old, 10)
        with served.connect() as new:
            ping_pong(new)


@pytest.mark.parametrize("fault", ["other key", "no key", "no certificate", "empty", "truncated", "encrypted", "text",
                                   "directory"])
def test_a_pair_that_does_not_work_leaves_the_old_one_in_place(served, pairs, fault, tmp_path):
    with served.connect() as old:
        ping_pong(old)
        if fault == "other key":
            served.key.write_bytes(pairs[1].key.read_bytes())
        elif fault == "no key":
            served.key.unlink()
        elif fault == "no certificate":
            served.certificate.unlink()
        elif fault == "empty":
            served.certificate.write_bytes(b"")
        elif fault == "truncated":
            data = served.certificate.read_bytes()
            served.certificate.write_bytes(data[: len(data) // 2])
        elif fault == "encrypted":
            openssl("ec", "-in", pairs[0].key, "-aes128", "-passout", "pass:secret", "-out", served.key)
        elif fault == "text":
            served.key.write_text("no key at all\n")
        elif fault == "directory":
            served.key.unlink()
            served.key.mkdir()
        before = served.log.count("not reloaded")
        hang_up(served)
        eventually(lambda: served.log.count("not reloaded") > before, "the log says that it was not reloaded")
        assert peer_name(served) == "first"
        ping_pong(old)
        # Mended, it is taken.
        if served.key.is_dir():
            served.key.rmdir()
        pairs[1].put(served.certificate, served.key)
        hang_up(served)
        eventually(lambda: peer_name(served) == "second", "the mended pair is shown")
        ping_pong(old)


def test_a_storm_of_sighups_under_traffic_does_no_harm(served, pairs):
    with served.connect() as client:
        for number in range(100):
            pairs[number % 2].put(served.certificate, served.key)
            hang_up(served)
            ping_pong(client)
        hang_up(served)
        eventually(lambda: peer_name(served) == "second", "the last pair is shown")
        ping_pong(client)


def test_the_self_signed_pair_is_kept_between_starts(tmp_path):
    with Relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], state=tmp_path / "state") as relay:
        with relay.raw() as raw:
            first = raw.socket.getpeercert(binary_form=True)
    with Relay("--tls-self-signed", listen=["wss://127.0.0.1:0"], state=tmp_path / "state") as relay:
        with relay.raw() as raw:
            assert raw.socket.getpeercert(binary_form=True) == first
