"""A channel as frames of a connection that carries others too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Union

from .channel import INTERNAL_ERROR, REJECT_CODES, Channel, Message, Sendable, check_code
from .clean_channel import CleanChannel
from .errors import ChannelClosed
from .flow import Flow, Phase, Piece
from .frames import Open, ServerID
from .signal import Signal

if TYPE_CHECKING:
    from .connection import Connection


class MultiplexedChannel(Channel):
    """A channel as frames of a connection that carries others too."""

    def __init__(
        self, connection: Connection, flow: Flow, server: Optional[ServerID] = None, port: Optional[int] = None,
        asked: Optional[Open] = None,
    ) -> None:
        super().__init__(
            connection.options.maximum_message_bytes, server, port,
            asked.remote_address if asked else None, asked.metadata if asked else None)
        self.flow = flow
        self.changed = Signal()
        self._connection = connection
        self._ticket = asked.ticket if asked else None
        self._sending = asyncio.Lock()
        self._is_taking = False

    @property
    def close_code(self) -> Optional[int]:
        return self.flow.closed[0] if self.flow.closed else None

    @property
    def close_reason(self) -> Optional[str]:
        return self.flow.closed[1] if self.flow.closed else None

    # The answer to a client

    def accept(self) -> None:
        if self.flow.phase is Phase.OFFERED:
            self.flow.accept()
            self._connection.touched(self)

    def reject(self, code: int = 403, reason: str = "") -> None:
        check_code(code, reason, REJECT_CODES)
        self.flow.reject(code, reason)
        self._connection.touched(self)

    async def dedicated(self) -> Channel:
        if self.flow.phase is not Phase.OFFERED or self._ticket is None:
            return await super().dedicated()
        options = self._connection.options
        opened = await options.dial(options.address.dedicated(self._ticket), multiplexed=False)
        self.flow.abandon()
        self._connection.touched(self)
        return CleanChannel(
            opened, options.maximum_message_bytes, self.server, self.port, self.remote_address, self.metadata)

    # Sending

    async def send(self, message: Sendable) -> None:
        async with self._sending:
            self.accept()
            self.flow.check_sending()
            try:
                if isinstance(message, str):
                    await self._put(True, message.encode(), False)
                elif isinstance(message, (bytes, bytearray, memoryview)):
                    await self._put(False, memoryview(message).cast("B"), False)
                else:
                    await self._put_all(message)
            except BaseException:
                self.flow.withdraw()
                if self.flow.is_within_message:
                    await self.close(INTERNAL_ERROR, "a message was cut short")
                raise

    async def _put_all(self, pieces: Union[Iterable[Message], AsyncIterable[Message]]) -> None:
        is_text: Optional[bool] = None
        async for piece in _each(pieces):
            kind = isinstance(piece, str)
            if is_text not in (None, kind):
                raise TypeError("a message is either text or binary, and so are all of its pieces")
            is_text = kind
            payload = piece.encode() if isinstance(piece, str) else memoryview(piece).cast("B")
            if payload:
                await self._put(kind, payload, True)
        if is_text is not None:
            await self._put(is_text, b"", False)

    async def _put(self, is_text: bool, payload: Union[bytes, memoryview], more: bool) -> None:
        flow = self.flow
        flow.offer(is_text, payload, more)
        self._connection.touched(self)
        await self.changed.wait_until(lambda: flow.can_offer or flow.closed is not None)
        if flow.closed is not None:
            raise ChannelClosed(*flow.closed)

    async def end(self) -> None:
        async with self._sending:
            self.accept()
            self.flow.end()
            self._connection.touched(self)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_code(code, reason)
        self.flow.close(code, reason)
        self.flow.drop_waiting()
        self._connection.touched(self)

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.flow.phase is Phase.OFFERED:
            self.reject(500 if kind is not None and issubclass(kind, Exception) else 503)
        await super().__aexit__(kind, error, trace)

    # Receiving

    async def _take(self) -> Piece:
        flow = self.flow
        self.accept()
        if self._is_taking:
            raise RuntimeError("two tasks receive from one channel")
        self._is_taking = True
        try:
            await self.changed.wait_until(
                lambda: flow.has_waiting or flow.other_has_ended or flow.closed is not None)
        finally:
            self._is_taking = False
        if not flow.has_waiting:
            raise ChannelClosed(*(flow.closed or (1000, "")))
        piece = flow.take()
        self._connection.touched(self)
        return piece


async def _each(pieces: Union[Iterable[Message], AsyncIterable[Message]]) -> AsyncIterator[Message]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece
