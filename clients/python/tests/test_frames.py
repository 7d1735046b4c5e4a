"""The codec: what each frame is on the wire, and that nothing else is taken for one."""

import json
import random

import pytest

from relayd_client import frames
from relayd_client.errors import ProtocolError


def open_bytes(number=2, **changes):
    asked = {"server": "box", "port": 22, "remoteAddress": "127.0.0.1", "metadata": None, "credit": 9, "ticket": "t"}
    asked.update(changes)
    asked = {name: value for name, value in asked.items() if value is not ...}
    return b"\x10" + number.to_bytes(4, "big") + json.dumps(asked).encode()


@pytest.mark.parametrize("hexadecimal, frame", [
    ("00 00000001", frames.Data(1, False, False, b"")),
    ("01 00000002 6869", frames.Data(2, True, False, b"hi")),
    ("80 00000003 ff", frames.Data(3, False, True, b"\xff")),
    ("81 fffffffe c3", frames.Data(0xFFFF_FFFE, True, True, b"\xc3")),
    ("11 00000001 00040000", frames.Accept(1, 262_144)),
    ("12 00000001 01f6", frames.Reject(1, 502, "")),
    ("12 00000001 0194 6e6f", frames.Reject(1, 404, "no")),
    ("13 00000002 ffffffff", frames.Credit(2, 0xFFFF_FFFF)),
    ("14 00000002", frames.End(2)),
    ("15 00000002 03e8 c3a4", frames.Close(2, 1000, "ä")),
    ("16 00000000" + b'{"reconnectInMilliseconds":200}'.hex(), frames.Drain(200.0)),
    ("16 00000000" + b'{"reconnectInMilliseconds":0.5,"more":1}'.hex(), frames.Drain(0.5)),
    ("18 00000000" + "61" * 125, frames.Pong(b"a" * 125)),
])
def test_a_frame_is_read(hexadecimal, frame):
    assert frames.parse(bytes.fromhex(hexadecimal)) == frame


def test_an_open_is_read():
    assert frames.parse(open_bytes()) == frames.Open(2, "box", 22, "127.0.0.1", None, 9, "t")
    opened = frames.parse(open_bytes(server=-7, port=0, remoteAddress=..., metadata={"a": [1]}, credit=..., ticket=...))
    assert opened == frames.Open(2, -7, 0, None, {"a": [1]}, 262_144, None)


def test_what_is_sent_is_what_the_document_says():
    assert frames.data(1, False, True, b"\x00\x01") == bytes.fromhex("80 00000001 0001")
    assert frames.data(1, True, False, memoryview(b"abc")[1:]) == bytes.fromhex("01 00000001 6263")
    assert frames.accept(2, 262_144) == bytes.fromhex("11 00000002 00040000")
    assert frames.reject(2, 403, "no") == bytes.fromhex("12 00000002 0193 6e6f")
    assert frames.credit(1, 131_072) == bytes.fromhex("13 00000001 00020000")
    assert frames.end(0xFFFF_FFFF) == bytes.fromhex("14 ffffffff")
    assert frames.close(3, 1000, "ä") == bytes.fromhex("15 00000003 03e8 c3a4")
    sent = frames.open_(5, "bäx", 80, 1024)
    assert sent[:5] == bytes.fromhex("10 00000005")
    assert json.loads(sent[5:]) == {"server": "bäx", "port": 80, "credit": 1024}


@pytest.mark.parametrize("message", [
    bytes.fromhex(text) for text in [
        "", "00", "00000000", "02 00000001", "0f 00000001", "19 00000001", "7f 00000001", "ff 00000001", "82 00000001",
        "90 00000001", "94 00000001",  # The bit "more" belongs to data.
        "17 00000000",  # Pings go to the relay only.
        "00 00000000 61", "11 00000000 00000001", "14 00000000", "16 00000001 7b7d", "18 00000001",
        "11 00000001", "11 00000001 000000", "11 00000001 0000000000", "13 00000001 0000",
        "12 00000001", "12 00000001 01", "15 00000001 03", "15 00000001 03e8 ff", "12 00000001 0194 c3",
        "14 00000001 00", "18 00000000" + "61" * 126,
        "16 00000000", "16 00000000 7b7d",
    ]
] + [b"\x16\0\0\0\0" + text for text in [
    b"[]", b"1", b'"a"', b"{", b"\xff", b'{"reconnectInMilliseconds":-1}', b'{"reconnectInMilliseconds":true}',
    b'{"reconnectInMilliseconds":1e999}', b'{"reconnectInMilliseconds":NaN}', b'{"reconnectInMilliseconds":"1"}',
    b'{"reconnectInMilliseconds":4294967296}', b'{"reconnectInMilliseconds":' + b"9" * 5000 + b"}",
]] + [
    open_bytes(server=...), open_bytes(server=None), open_bytes(server=1.5), open_bytes(server=True),
    open_bytes(server=["box"]), open_bytes(port=...), open_bytes(port=-1), open_bytes(port=65_536),
    open_bytes(port="22"), open_bytes(port=22.0), open_bytes(port=True), open_bytes(credit=-1), open_bytes(credit=None),
    open_bytes(credit=1 << 32), open_bytes(credit=False), open_bytes(ticket=1), open_bytes(remoteAddress=[]),
    open_bytes(metadata="a" * 16_384), open_bytes(number=0), open_bytes(metadata=float("nan")),
    open_bytes(metadata=[-float("inf")]), b"\x10\0\0\0\x02" + b"[" * 16_000,
    b"\x10\0\0\0\x02" + b'{"a":' * 3_000,
])
def test_what_is_no_frame_is_refused(message):
    with pytest.raises(ProtocolError):
        frames.parse(message)


def test_every_cut_of_a_frame_is_a_frame_or_refused():
    for message in (open_bytes(), frames.accept(1, 7), frames.close(1, 1000, "bye"), b"\x16\0\0\0\0{}"):
        for length in range(len(message)):
            try:
                frames.parse(message[:length])
            except ProtocolError:
                pass


def test_random_bytes_are_a_frame_or_refused():
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    kinds = [0x00, 0x01, 0x80, 0x81, *range(0x10, 0x1A)]
    for _ in range(20_000):
        message = bytes([draw.choice(kinds)]) + draw.choice([b"\0\0\0\0", draw.randbytes(4)])
        message += draw.randbytes(draw.randrange(8))
        try:
            frames.parse(message)
        except ProtocolError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}: {message.hex()}") from error


def test_an_open_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="16384"):
        frames.open_(1, "a" * 16_384, 1, 1)
