"""Frames, messages and the close handshake: RFC 6455 §5 to §8, and CASES 42 to 57. Case 50 (compression) does
not apply: no extension is agreed to, as `test_handshake.py` shows; a frame with RSV1 set is a protocol error here."""

import struct
import threading

import pytest

from conditions import eventually
from relay import TEST_SCRIPTS, Relay, ping_pong
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

ECHO = TEST_SCRIPTS / "echo.lua"
LIMIT = 64 << 10  # messageBytes of the relay that these tests share.


def closes(relay, data, *codes):
    """The relay answers `data` with a close frame that has one of `codes`, then ends TCP itself."""
    with relay.raw(upgraded=True) as raw:
        raw.send(data)
        return raw.expect_close(*codes)


@pytest.fixture(autouse=True)
def others_notice_nothing(echo):
    """Whatever a test does, a connection of somebody else keeps working."""
    with echo.connect() as client:
        ping_pong(client, tag="before")
        yield
        ping_pong(client, tag="after")


# Messages


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536])
def test_messages_of_every_form_of_length_come_back(echo, length):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, b"x" * length))
        assert raw.read_frame() == (TEXT, b"x" * length)
        raw.send(frame(BINARY, b"\xff" * length))
        assert raw.read_frame() == (BINARY, b"\xff" * length)


def test_a_proper_client_exchanges_text_and_binary_messages(echo):
    with echo.connect() as client:
        for message in ["", "text", "κόσμε 🦊", b"", b"\x00\xff", "x" * 50000, b"\x80" * 50000]:
            client.send(message)
            assert client.receive() == message


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\2\3\4"])
def test_any_masking_key_works(echo, key):
    with echo.raw(upgraded=True) as raw:
        for length in range(20):
            raw.send(frame(TEXT, "0123456789abcdefghij"[:length], key=key))
            assert raw.read_message() == "0123456789abcdefghij"[:length]


def test_a_frame_may_come_byte_by_byte(echo):
    with echo.raw(upgraded=True) as raw:
        for byte in frame(TEXT, "κόσμε" * 40):
            raw.send(bytes([byte]))
        assert raw.read_message() == "κόσμε" * 40


def test_many_frames_may_come_in_one_segment(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(b"".join(frame(TEXT, str(number)) for number in range(1000)))
        for number in range(1000):
            assert raw.read_message() == str(number)


def test_fragments_make_one_message_and_control_frames_may_come_between(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, "frag", fin=False) + frame(PING, "1") + frame(CONTINUATION, "", fin=False))
        assert raw.read_frame() == (PONG, b"1")
        raw.send(frame(CONTINUATION, "men", fin=False) + frame(PING, "2") + frame(PONG, "?"))
        assert raw.read_frame() == (PONG, b"2")
        raw.send(frame(CONTINUATION, "ted"))
        assert raw.read_frame() == (TEXT, b"fragmented")


def test_twenty_thousand_empty_messages_come_back(echo):
    with echo.raw(upgraded=True) as raw:
        sender = threading.Thread(target=raw.try_send, args=(frame(TEXT, b"") * 20000,))
        sender.start()
        for _ in range(20000):
            assert raw.read_frame() == (TEXT, b"")
        sender.join()


# Cases 42 to 45: frames that break the RFC


@pytest.mark.parametrize(
    "name, data",
    [
        ("unmasked text", frame(TEXT, "hello", key=None)),
        ("unmasked empty text", frame(TEXT, "", key=None)),
        ("unmasked ping", frame(PING, "", key=None)),
        ("unmasked close", close_frame(1000, key=None)),
        ("length with its highest bit set", frame(BINARY, b"0123456789", length_bytes=8, length=1 << 63)),
        ("length of 2^64-1", frame(BINARY, b"0123456789", length_bytes=8, length=(1 << 64) - 1)),
        ("5 as 16 bits", frame(TEXT, "hello", length_bytes=2)),
        ("125 as 16 bits", frame(TEXT, b"x" * 125, length_bytes=2)),
        ("5 as 64 bits", frame(TEXT, "hello", length_bytes=8)),
        ("65535 as 64 bits", frame(TEXT, b"x" * 65535, length_bytes=8)),
        ("ping of 126 bytes", frame(PING, b"x" * 126)),
        ("pong of 126 bytes", frame(PONG, b"x" * 126)),
        ("close of 126 bytes", close_frame(1000, b"x" * 124)),
        ("ping of 64-bit length", frame(PING, b"x", length_bytes=8)),
        ("fragmented ping", frame(PING, "x", fin=False)),
        ("fragmented pong", frame(PONG, "x", fin=False)),
        ("fragmented close", close_frame(1000, fin=False)),
        ("RSV1", frame(TEXT, "x", rsv=4)),
        ("RSV2", frame(TEXT, "x", rsv=2)),
        ("RSV3", frame(TEXT, "x", rsv=1)),
        ("all RSV", frame(TEXT, "x", rsv=7)),
        ("RSV1 on a ping", frame(PING, "x", rsv=4)),
        ("RSV1 on a close", close_frame(1000, rsv=4)),
        ("RSV1 on a continuation", frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b", rsv=4)),
        *[(f"opcode {opcode}", frame(opcode, "x")) for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]],
        ("continuation first", frame(CONTINUATION, "x")),
        ("continuation after a whole message", frame(PING, "a") + frame(CONTINUATION, "x")),
        ("text within fragments", frame(TEXT, "a", fin=False) + frame(TEXT, "b")),
        ("binary within fragments", frame(TEXT, "a", fin=False) + frame(BINARY, b"b")),
        ("a first fragment twice", frame(TEXT, "a", fin=False) + frame(TEXT, "b", fin=False)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_frame_that_breaks_the_rfc_closes_with_1002(echo, name, data):
    _, reason = closes(echo, data, 1002)
    assert reason


def test_a_declared_length_beyond_the_limit_closes_with_1009_at_once(echo):
    before = echo.resident_bytes
    for length in [(1 << 63) - 1, 2 << 30, 1 << 40, LIMIT + 1]:
        for opcode in [TEXT, BINARY]:
            closes(echo, frame(opcode, b"0123456789", length_bytes=8, length=length), 1009)
    assert echo.resident_bytes - before < 8 << 20


def test_a_broken_frame_behind_good_ones_does_not_hide_them(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, "good") + frame(TEXT, "bad", key=None) + frame(TEXT, "late"))
        assert raw.read_message() == "good"
        raw.expect_close(1002)


# Case 46: UTF-8

INVALID = [
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xe0\x80\xaf", b"\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf8\x88\x80\x80\x80", b"\xc3(", b"\xe2\x82",
]


@pytest.mark.parametrize("text", INVALID, ids=lambda text: text.hex())
def test_text_that_is_no_utf_8_closes_with_1007_at_every_split(echo, text):
    text = b"ok " + text
    closes(echo, frame(TEXT, text), 1007)
    for position in range(1, len(text)):
        closes(echo, frame(TEXT, text[:position], fin=False) + frame(CONTINUATION, text[position:]), 1007)
    whole = frame(TEXT, text)
    for position in range(6, len(whole)):
        with echo.raw(upgraded=True) as raw:
            raw.send(whole[:position])
            raw.try_send(whole[position:])
            raw.expect_close(1007)


def test_text_that_is_utf_8_arrives_whole_at_every_split(echo):
    text = "aß€🦊\U0010ffff"
    encoded = text.encode()
    with echo.raw(upgraded=True) as raw:
        for position in range(len(encoded) + 1):
            raw.send(frame(TEXT, encoded[:position], fin=False) + frame(CONTINUATION, encoded[position:]))
            assert raw.read_frame() == (TEXT, encoded)
        whole = frame(TEXT, encoded)
        for position in range(1, len(whole)):
            raw.send(whole[:position])
            raw.send(whole[position:])
            assert raw.read_frame() == (TEXT, encoded)


def test_bytes_that_cannot_become_utf_8_are_refused_before_the_message_ends(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, b"ok \xff", fin=False))
        raw.expect_close(1007)


def test_binary_messages_are_not_read_as_utf_8(echo):
    with echo.raw(upgraded=True) as raw:
        for data in INVALID:
            raw.send(frame(BINARY, data))
            assert raw.read_frame() == (BINARY, data)


# Case 47: the close handshake


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_a_valid_close_code_is_echoed_and_the_relay_ends_tcp(echo, code):
    closes(echo, close_frame(code, "so long"), code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_may_not_be_sent_is_a_protocol_error(echo, code):
    closes(echo, close_frame(code), 1002)


def test_an_empty_close_is_answered_with_an_empty_one(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(close_frame())
        assert raw.read_frame() == (CLOSE, b"")
        raw.expect_end()


def test_a_close_of_one_byte_is_a_protocol_error(echo):
    closes(echo, frame(CLOSE, b"\x03"), 1002)


@pytest.mark.parametrize("text", INVALID, ids=lambda text: text.hex())
def test_a_close_reason_that_is_no_utf_8_closes_with_1007(echo, text):
    closes(echo, close_frame(1000, b"ok " + text), 1007)


def test_a_close_reason_may_have_123_bytes(echo):
    closes(echo, close_frame(1000, b"x" * 123), 1000)


def test_a_proper_client_sees_its_own_close_code(echo):
    client = echo.connect()
    client.connection.close(4321, "done")
    assert client.closed()[0] == 4321


# Case 48: after the end


def test_data_behind_a_close_frame_is_ignored(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(close_frame(1000) + frame(TEXT, "late") + frame(PING, "late") + frame(TEXT, "x", key=None))
        assert raw.read_frame() == (CLOSE, struct.pack("!H", 1000))
        assert raw.read_to_end() == b""


def test_a_thousand_close_frames_get_one_answer(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(close_frame(1000) * 1000)
        assert raw.read_frame() == (CLOSE, struct.pack("!H", 1000))
        assert raw.read_to_end() == b""


def test_both_sides_may_close_at_once(make_relay):
    relay = make_relay()
    relay.add("close me", "function(conn) conn:close(4100, 'bye') conn:close(4101, 'again') return conn:isOpen() end")
    for _ in range(20):
        with relay.raw(upgraded=True) as raw:
            raw.send(frame(TEXT, '{"instruction": "close me"}') + close_frame(4200))
            raw.expect_close(4100)


def test_what_is_sent_behind_the_relays_close_is_read_and_ignored(make_relay):
    relay = make_relay()
    relay.add("close me", "function(conn) conn:close(4100, 'bye') end")
    relay.add("count", "function(conn) calls = (calls or 0) + 1 return calls end")
    with relay.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, '{"instruction": "close me"}') + frame(TEXT, '{"instruction": "count"}') * 10)
        assert raw.read_close() == (4100, "bye")
        raw.send(frame(TEXT, '{"instruction": "count"}') * 10 + close_frame(4100))
        raw.expect_end()
    with relay.connect() as client:
        assert client.request("count") == 1


# Cases 49 and 51: floods


def test_empty_fragments_without_end_are_stopped_and_cost_no_memory(echo):
    before = echo.resident_bytes
    echo.forget_peak()
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, "start", fin=False))
        block = frame(CONTINUATION, b"", fin=False) * 1000
        sender = threading.Thread(target=lambda: all(raw.try_send(block) for _ in range(300)))
        sender.start()
        code, _ = raw.read_close()
        assert code in (1008, 1009)
        sender.join()
    assert echo.peak_bytes - before < 16 << 20


def test_one_byte_fragments_stop_at_the_limit_of_the_message(echo):
    before = echo.resident_bytes
    echo.forget_peak()
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, "start", fin=False))
        block = frame(CONTINUATION, b"x", fin=False) * 1000
        sender = threading.Thread(target=lambda: all(raw.try_send(block) for _ in range(300)))
        sender.start()
        assert raw.read_close()[0] in (1008, 1009)
        sender.join()
    assert echo.peak_bytes - before < 16 << 20


def test_a_flood_of_pings_whose_pongs_nobody_reads_costs_no_memory(echo):
    before = echo.resident_bytes
    echo.forget_peak()
    with echo.raw(upgraded=True) as raw:
        numbers = iter(range(200000))
        for _ in range(200):
            raw.send(b"".join(frame(PING, struct.pack("!I", next(numbers)) + b"x" * 100) for _ in range(1000)))
        assert echo.peak_bytes - before < 16 << 20
        # Those that are answered are answered in order, and the connection still works.
        sender = threading.Thread(target=raw.send, args=(frame(TEXT, "still here"),))
        sender.start()
        last = -1
        while True:
            opcode, payload = raw.read_frame()
            if opcode == TEXT:
                break
            (number,) = struct.unpack("!I", payload[:4])
            assert opcode == PONG and number > last
            last = number
        sender.join()
        assert payload == b"still here"


def test_pongs_that_nobody_asked_for_are_ignored(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(PONG, "unasked") * 10000 + frame(TEXT, "next"))
        assert raw.read_frame() == (TEXT, b"next")


@pytest.mark.parametrize("length", [0, 1, 125])
def test_a_ping_is_answered_with_its_payload(echo, length):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(PING, b"\xff" * length))
        assert raw.read_frame() == (PONG, b"\xff" * length)


# Case 56: limits of a message


def test_a_message_at_the_limit_is_taken_and_one_byte_more_closes_with_1009(echo):
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, b"x" * LIMIT))
        assert raw.read_frame() == (TEXT, b"x" * LIMIT)
        raw.send(frame(BINARY, b"x" * LIMIT))
        assert raw.read_frame() == (BINARY, b"x" * LIMIT)
        raw.send(frame(TEXT, b"x" * (LIMIT + 1)))
        raw.expect_close(1009)


def test_fragments_count_together_against_the_limit(echo):
    half = b"x" * (LIMIT // 2)
    with echo.raw(upgraded=True) as raw:
        raw.send(frame(TEXT, half, fin=False) + frame(CONTINUATION, half))
        assert raw.read_frame() == (TEXT, half * 2)
        raw.send(frame(TEXT, half, fin=False) + frame(CONTINUATION, half, fin=False) + frame(CONTINUATION, b"x"))
        raw.expect_close(1009)


def test_many_messages_at_the_limit_come_back_in_order(echo):
    with echo.raw(upgraded=True) as raw:
        def send():
            for number in range(100):
                raw.send(frame(BINARY, struct.pack("!I", number) + b"x" * (LIMIT - 4)))

        sender = threading.Thread(target=send)
        sender.start()
        for number in range(100):
            opcode, payload = raw.read_frame()
            assert (opcode, len(payload), payload[:4]) == (BINARY, LIMIT, struct.pack("!I", number))
        sender.join()


def test_without_a_script_for_messages_a_binary_message_closes_with_1003():
    with Relay() as relay, relay.raw(upgraded=True) as raw:
        raw.send(frame(BINARY, b"x"))
        assert raw.read_close()[0] == 1003
        raw.send(close_frame(1003))
        raw.expect_end()


# Case 55: connections that vanish


def test_connections_that_vanish_leave_nothing_behind(echo):
    with echo.connect() as client:
        ping_pong(client)
        base = echo.descriptors
        for number in range(200):
            raw = echo.raw(upgraded=True)
            way = number % 4
            if way == 0:
                raw.send(frame(TEXT, "half a frame")[:9])
                raw.reset()
            elif way == 1:
                raw.send(frame(TEXT, b"x" * LIMIT) * 4)  # The echo meets a reset.
                raw.reset()
            elif way == 2:
                raw.socket.close()
            else:
                raw.send(frame(TEXT, "a", fin=False))
                raw.socket.shutdown(1)
                raw.read_to_end()
                raw.socket.close()
        eventually(lambda: echo.descriptors <= base, "all descriptors are closed")
        ping_pong(client)
