"""A WebSocket client that can do what a proper one refuses to do: send broken heads and broken frames."""

import base64
import hashlib
import os
import socket
import ssl
import struct

from conditions import DEADLINE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# The key and the answer to it that RFC 6455 §1.3 works through.
SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SAMPLE_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def accept_value(key):
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


def masked(payload, key):
    if key == b"\0\0\0\0":
        return payload
    whole = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


def frame(opcode, payload=b"", fin=True, rsv=0, key=b"\x37\xfa\x21\x3d", length_bytes=None, length=None):
    """One frame. `key=None` leaves the mask out; `length_bytes` (0, 2 or 8) forces a form of the length field, and
    `length` a value that is not the payload's."""
    if isinstance(payload, str):
        payload = payload.encode()
    length = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    mask_bit = 0 if key is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length_bytes == 0:
        head += bytes([mask_bit | length])
    elif length_bytes == 2:
        head += bytes([mask_bit | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", length)
    if key is None:
        return head + payload
    return head + key + masked(payload, key)


def close_frame(code=None, reason=b"", **options):
    if isinstance(reason, str):
        reason = reason.encode()
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, **options)


def upgrade_head(path="/", host="relay.test", key=SAMPLE_KEY, extra=(), version="HTTP/1.1", method="GET"):
    lines = [
        f"{method} {path} {version}",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *extra,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def head(*lines):
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request(without=(), replaced=None, added=(), first="GET / HTTP/1.1"):
    """A proper handshake, but for what the test changes."""
    fields = {
        "Host": "relay.test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": SAMPLE_KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields.update(replaced or {})
    return head(first, *(f"{name}: {value}" for name, value in fields.items() if name not in without), *added)


class Response:
    """The head of an HTTP response, and its body where one was announced."""

    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        self.status = int(status)
        self.fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:]]
        self.body = body

    def values(self, name):
        return [value for field, value in self.fields if field.lower() == name.lower()]

    def value(self, name):
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class Ended(Exception):
    """The relay ended the stream (in an orderly way, or by a reset) where more was expected."""


class Raw:
    """A TCP (or TLS, or Unix) connection, byte by byte."""

    def __init__(self, connected, tls=None, server_name=None):
        connected.settimeout(DEADLINE)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            # An end without close_notify is an error, so that a cut stream and an ended one can be told apart.
            connected = tls.wrap_socket(connected, server_hostname=server_name, suppress_ragged_eofs=False)
        self.socket = connected
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def try_send(self, data):
        """Sends to a peer that may be gone already."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def reset(self):
        """Ends with an RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Reading

    def _more(self):
        try:
            data = self.socket.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError) as error:
            raise Ended(str(error)) from error
        if not data:
            raise Ended("end of stream")
        self.buffer += data

    def read(self, count):
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_to_end(self):
        """Everything until the relay ends the stream."""
        try:
            while True:
                self._more()
        except Ended:
            data, self.buffer = self.buffer, b""
            return data

    def expect_end(self):
        """The stream ends here, in an orderly way and with nothing more in it."""
        try:
            self._more()
        except Ended as end:
            assert str(end) == "end of stream", end
            return
        raise AssertionError(f"more came: {self.buffer[:100]!r}")

    def read_response(self, has_body=True):
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        response = Response(head, b"")
        length = response.value("Content-Length")
        if length is not None and has_body:
            response.body = self.read(int(length))
        return response

    def handshake(self, **options):
        """A handshake that succeeds."""
        self.send(upgrade_head(**options))
        response = self.read_response()
        assert response.status == 101, (response.status, response.body)
        assert response.value("Sec-WebSocket-Accept") == accept_value(options.get("key", SAMPLE_KEY))
        return response

    def read_fragment(self):
        """(opcode, payload, whether it is the last) of the next frame, which is checked to be one that a server may
        send."""
        first, second = self.read(2)
        assert first & 0x70 == 0, "a reserved bit is set"
        assert second & 0x80 == 0, "a server's frame is masked"
        length = second
        if length == 126:
            (length,) = struct.unpack("!H", self.read(2))
            assert length >= 126
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read(8))
            assert length >= 65536
        return first & 0x0F, self.read(length), bool(first & 0x80)

    def read_frame(self):
        """(opcode, payload) of the next frame, which is a whole message or a control frame."""
        opcode, payload, is_final = self.read_fragment()
        assert is_final, "the relay does not fragment"
        return opcode, payload

    def read_message(self):
        """The next data message; pings and pongs on the way are passed over."""
        while True:
            opcode, payload = self.read_frame()
            if opcode in (TEXT, BINARY):
                return payload.decode() if opcode == TEXT else payload
            assert opcode in (PING, PONG), f"opcode {opcode:#x}: {payload!r}"

    def read_streamed_message(self):
        """The next message of a channel, which comes in as many fragments as the relay received it in."""
        opcode, message, is_final = self.read_fragment()
        assert opcode in (TEXT, BINARY), f"opcode {opcode:#x}: {message!r}"
        while not is_final:
            continuation, payload, is_final = self.read_fragment()
            assert continuation == CONTINUATION, f"opcode {continuation:#x}: {payload!r}"
            message += payload
        return message.decode() if opcode == TEXT else message

    def read_close(self):
        """(code, reason) of the close frame, whatever comes before it; code is None for an empty one."""
        while True:
            opcode, payload = self.read_frame()
            if opcode == CLOSE:
                if not payload:
                    return None, ""
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def expect_close(self, *codes):
        """The relay closes with one of `codes`, then ends the stream. Returns code and reason."""
        code, reason = self.read_close()
        assert code in codes, f"closed with {code} ({reason}), not {codes}"
        self.expect_end()
        return code, reason


def random_key():
    return base64.b64encode(os.urandom(16)).decode()
