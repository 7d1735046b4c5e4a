"""What every channel does: one client and one server, and the messages between them."""

from __future__ import annotations

import abc
import asyncio
import codecs
from collections.abc import AsyncIterable, AsyncIterator, Container, Iterable
from types import TracebackType
from typing import Any, Optional, Union

from .errors import NORMAL_CLOSE_CODES, ChannelClosed
from .flow import Piece
from .frames import MAXIMUM_REASON_BYTES, ServerID

Bytes = Union[bytes, bytearray, memoryview]
Message = Union[str, Bytes]
Sendable = Union[Message, Iterable[Message], AsyncIterable[Message]]

# What a close frame may carry (RFC 6455 §7.4), and so what a clean end can be told.
CLOSE_CODES = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
REJECT_CODES = range(400, 5000)  # HTTP statuses, and a server's own.
GOING_AWAY = 1001
INVALID_TEXT = 1007
INTERNAL_ERROR = 1011
LIMIT = 4006


class Channel(abc.ABC):
    """Messages come by `receive`, by `async for`, in pieces by `pieces`, or as bytes without bounds by `read`; they go
    by `send`. Only so much comes before it is taken, and `send` waits until the other end has taken enough.

    A channel that a client has asked for is accepted by the first of these, or by `accept`; until then it can be
    rejected. `server`, `port` are what the client asked for, `remote_address` is the client's, `metadata` what a script
    of the relay has added."""

    def __init__(
        self, maximum_message_bytes: int, server: Optional[ServerID], port: Optional[int],
        remote_address: Optional[str], metadata: Any,
    ) -> None:
        self.server = server
        self.port = port
        self.remote_address = remote_address
        self.metadata = metadata
        self._maximum_message_bytes = maximum_message_bytes
        self._gathered = bytearray()  # By a `receive` that waits for the rest, or was cancelled.
        self._more_comes = False  # Some of it has been given out by `pieces` or `read`.

    # The answer to a client

    def accept(self) -> None:
        """Accepts a channel that a client has asked for; does nothing where that has been done."""

    def reject(self, code: int = 403, reason: str = "") -> None:
        """Says no. A code that is an HTTP status is the answer that a client gets who waits for one."""
        raise RuntimeError("only a channel that a client has asked for can be rejected")

    async def dedicated(self) -> Channel:
        """Accepts with a WebSocket of its own, which shares neither credit nor turns with other channels; the result
        takes this channel's place. When that fails, this channel still waits for an answer."""
        raise RuntimeError("only a channel that was not accepted yet can have a connection of its own")

    # What each kind of channel does in its own way

    @property
    @abc.abstractmethod
    def close_code(self) -> Optional[int]:
        """Why the channel is over; None while it is not. 1000 also when both sides have ended."""

    @property
    @abc.abstractmethod
    def close_reason(self) -> Optional[str]:
        """What the side that closed has added."""

    @abc.abstractmethod
    async def send(self, message: Sendable) -> None:
        """Sends text or bytes as one message, or an iterable of either, whose items together are one message (none for
        no item). Returns when the last of it has been handed to the connection.

        A message that is cut short, because the iterable raises or the task is cancelled, closes the channel: half a
        message cannot be taken back."""

    @abc.abstractmethod
    async def end(self) -> None:
        """No more is sent from here; what comes can still be received. Over, once both sides have ended."""

    @abc.abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends both directions. What `send` has sent is still delivered; what waits here is dropped."""

    @abc.abstractmethod
    async def _take(self) -> Piece:
        """The next piece; raises `ChannelClosed` when none will come."""

    # Receiving

    async def receive(self) -> Union[str, bytes]:
        """The next message. Raises `ChannelClosed` when none will come; with 1000 also when the other side has ended.
        Cancelling it loses nothing."""
        while self._more_comes:
            await self._next_piece()
        while True:
            piece = await self._take_of_message()
            if len(self._gathered) + len(piece.payload) > self._maximum_message_bytes:
                self._gathered.clear()
                raise await self._failed(LIMIT, f"a message of more than {self._maximum_message_bytes} bytes")
            if not piece.more:
                break
            self._gathered += piece.payload
        payload = piece.payload
        if self._gathered:
            payload = bytes(self._gathered + payload)
            self._gathered.clear()
        if not piece.is_text:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise await self._failed(INVALID_TEXT, "a text is not UTF-8") from None

    async def pieces(self) -> AsyncIterator[Union[str, bytes]]:
        """The next message in pieces as they come, so that it may have any size; the rest of one that is left before
        its end is passed over."""
        while self._more_comes:
            await self._next_piece()
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            piece = await self._next_piece()
            try:
                part = decoder.decode(piece.payload, not piece.more) if piece.is_text else piece.payload
            except UnicodeDecodeError:
                raise await self._failed(INVALID_TEXT, "a text is not UTF-8") from None
            if part:
                yield part
            if not piece.more:
                return

    async def read(self) -> bytes:
        """The next bytes, whatever message they belong to; none at the end. For tunnels, where bounds mean nothing."""
        while True:
            try:
                piece = await self._next_piece()
            except ChannelClosed as closed:
                if closed.code in NORMAL_CLOSE_CODES and closed.code != GOING_AWAY:  # Who may have had more to say.
                    return b""
                raise
            if piece.payload:
                return piece.payload

    def __aiter__(self) -> AsyncIterator[Union[str, bytes]]:
        return self

    async def __anext__(self) -> Union[str, bytes]:
        """As `receive`, but stops when the other side has ended or closed normally."""
        try:
            return await self.receive()
        except ChannelClosed as closed:
            if closed.code in NORMAL_CLOSE_CODES:
                raise StopAsyncIteration from None
            raise

    async def _next_piece(self) -> Piece:
        """The next piece that is given out as it is."""
        piece = await self._take_of_message()
        if self._gathered:
            piece = piece._replace(payload=bytes(self._gathered + piece.payload))
            self._gathered.clear()
        self._more_comes = piece.more
        return piece

    async def _take_of_message(self) -> Piece:
        try:
            return await self._take()
        except ChannelClosed as closed:
            if (self._gathered or self._more_comes) and closed.code in NORMAL_CLOSE_CODES:
                raise ChannelClosed(1006, "closed within a message") from closed
            raise

    async def _failed(self, code: int, reason: str) -> ChannelClosed:
        await self.close(code, reason)
        return ChannelClosed(code, reason)

    # As a context

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.close(GOING_AWAY if issubclass(kind, asyncio.CancelledError) else INTERNAL_ERROR)


def check_code(code: int, reason: str, codes: Container[int] = CLOSE_CODES) -> None:
    if code not in codes:
        raise ValueError(f"not a code for this: {code}")
    if len(reason.encode()) > MAXIMUM_REASON_BYTES:
        raise ValueError(f"a reason has at most {MAXIMUM_REASON_BYTES} bytes: {reason!r}")
