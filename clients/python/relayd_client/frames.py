"""The frames of relay.v1, `[type: u8][channel: u32][payload]`: bytes to values and back. Pure."""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple, NoReturn, Optional, Union

from .errors import ProtocolError

DEFAULT_WINDOW = 262_144  # What an open grants that does not say.
MAXIMUM_OPEN_BYTES = 16_384
MAXIMUM_REASON_BYTES = 123  # As in a close frame (RFC 6455 §5.5), which it may become.
MAXIMUM_PONG_BYTES = 125
MAXIMUM_U32 = 0xFFFF_FFFF

BINARY, TEXT, MORE = 0x00, 0x01, 0x80
OPEN, ACCEPT, REJECT, CREDIT, END, CLOSE, DRAIN, PONG = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x18

_HEAD = struct.Struct(">BI")
HEAD_BYTES = _HEAD.size
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")

ServerID = Union[str, int]


class Data(NamedTuple):
    number: int
    is_text: bool
    more: bool
    payload: bytes


class Open(NamedTuple):
    number: int
    server: ServerID
    port: int
    remote_address: Optional[str]
    metadata: Any
    credit: int
    ticket: Optional[str]


class Accept(NamedTuple):
    number: int
    credit: int


class Reject(NamedTuple):
    number: int
    code: int
    reason: str


class Credit(NamedTuple):
    number: int
    credit: int


class End(NamedTuple):
    number: int


class Close(NamedTuple):
    number: int
    code: int
    reason: str


class Drain(NamedTuple):
    milliseconds: float


class Pong(NamedTuple):
    payload: bytes


Frame = Union[Data, Open, Accept, Reject, Credit, End, Close, Drain, Pong]


def data(number: int, is_text: bool, more: bool, payload: Union[bytes, memoryview]) -> bytes:
    return b"".join((_HEAD.pack((TEXT if is_text else BINARY) | (MORE if more else 0), number), payload))


def open_(number: int, server: ServerID, port: int, credit: int) -> bytes:
    asked = json.dumps({"server": server, "port": port, "credit": credit}, ensure_ascii=False).encode()
    if len(asked) > MAXIMUM_OPEN_BYTES:
        raise ValueError(f"the server id is too long: an open has at most {MAXIMUM_OPEN_BYTES} bytes")
    return _HEAD.pack(OPEN, number) + asked


def accept(number: int, credit: int) -> bytes:
    return _HEAD.pack(ACCEPT, number) + _U32.pack(credit)


def reject(number: int, code: int, reason: str) -> bytes:
    return _HEAD.pack(REJECT, number) + _U16.pack(code) + reason.encode()


def credit(number: int, granted: int) -> bytes:
    return _HEAD.pack(CREDIT, number) + _U32.pack(granted)


def end(number: int) -> bytes:
    return _HEAD.pack(END, number)


def close(number: int, code: int, reason: str) -> bytes:
    return _HEAD.pack(CLOSE, number) + _U16.pack(code) + reason.encode()


def parse(message: bytes) -> Frame:
    """The frame that a binary message is; raises `ProtocolError` where it is none that a relay may send."""
    if len(message) < _HEAD.size:
        raise ProtocolError("a frame is shorter than its head")
    kind, number = _HEAD.unpack_from(message)
    payload = message[_HEAD.size:]
    if kind & ~MORE <= TEXT:
        frame: Frame = Data(number, bool(kind & TEXT), bool(kind & MORE), payload)
    elif kind == OPEN:
        frame = _open(number, payload)
    elif kind == ACCEPT:
        frame = Accept(number, _u32(payload))
    elif kind == REJECT:
        frame = Reject(number, *_code_and_reason(payload))
    elif kind == CREDIT:
        frame = Credit(number, _u32(payload))
    elif kind == END:
        if payload:
            raise ProtocolError("an end has a payload")
        frame = End(number)
    elif kind == CLOSE:
        frame = Close(number, *_code_and_reason(payload))
    elif kind == DRAIN:
        frame = Drain(_milliseconds(payload))
    elif kind == PONG:
        if len(payload) > MAXIMUM_PONG_BYTES:
            raise ProtocolError("a pong is too long")
        frame = Pong(payload)
    else:
        raise ProtocolError(f"no frame has the type 0x{kind:02x}")
    if (number == 0) != (kind in (DRAIN, PONG)):
        raise ProtocolError(f"a frame of type 0x{kind:02x} has the channel number {number}")
    return frame


def _u32(payload: bytes) -> int:
    if len(payload) != _U32.size:
        raise ProtocolError("a number of bytes is not a u32")
    value: int = _U32.unpack(payload)[0]
    return value


def _code_and_reason(payload: bytes) -> tuple[int, str]:
    if len(payload) < _U16.size:
        raise ProtocolError("a code is missing")
    try:
        return _U16.unpack_from(payload)[0], payload[_U16.size:].decode()
    except UnicodeDecodeError:
        raise ProtocolError("a reason is not UTF-8") from None


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("a payload is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("a payload is not a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # Which Python's parser would take (RFC 8259 §6 has no NaN, no Infinity).


def _open(number: int, payload: bytes) -> Open:
    if len(payload) > MAXIMUM_OPEN_BYTES:
        raise ProtocolError("an open is too long")
    asked = _object(payload)
    server: Any = asked.get("server")
    port: Any = asked.get("port")
    granted: Any = asked.get("credit", DEFAULT_WINDOW)
    address, ticket = asked.get("remoteAddress"), asked.get("ticket")
    if not (isinstance(server, str) or _is_int(server)):
        raise ProtocolError("the server of an open is neither a string nor an integer")
    if not (_is_int(port) and 0 <= port <= 65_535):
        raise ProtocolError("the port of an open is none")
    if not (_is_int(granted) and 0 <= granted <= MAXIMUM_U32):
        raise ProtocolError("the credit of an open is not a u32")
    if not all(text is None or isinstance(text, str) for text in (address, ticket)):
        raise ProtocolError("an address or a ticket of an open is not a string")
    return Open(number, server, port, address, asked.get("metadata"), granted, ticket)


def _milliseconds(payload: bytes) -> float:
    milliseconds: Any = _object(payload).get("reconnectInMilliseconds")
    if not (_is_int(milliseconds) or isinstance(milliseconds, float)) or not 0 <= milliseconds <= MAXIMUM_U32:
        raise ProtocolError("a drain does not say in how many milliseconds")
    return float(milliseconds)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
