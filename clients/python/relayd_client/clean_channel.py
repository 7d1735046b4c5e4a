"""A channel whose end here is a WebSocket of its own."""

from __future__ import annotations

from typing import Any, Optional, cast

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .channel import Channel, Sendable, check_code
from .errors import ChannelClosed
from .flow import Piece
from .options import close as close_socket


class CleanChannel(Channel):
    """A channel whose end here is a WebSocket of its own: its messages are those of the channel, and nothing else."""

    def __init__(self, socket: ClientConnection, *facts: Any) -> None:
        super().__init__(*facts)
        self._socket = socket

    @property
    def close_code(self) -> Optional[int]:
        return self._socket.protocol.close_code

    @property
    def close_reason(self) -> Optional[str]:
        return self._socket.protocol.close_reason

    async def send(self, message: Sendable) -> None:
        try:
            await self._socket.send(cast(Any, message))  # Not all versions say that they take all kinds of bytes.
        except ConnectionClosed as closed:
            raise self._closed from closed

    async def end(self) -> None:
        """Closes with 1000: a WebSocket cannot be closed by half."""
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_code(code, reason)
        await close_socket(self._socket, code, reason)

    async def _take(self) -> Piece:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as closed:
            raise self._closed from closed
        return Piece(True, message.encode(), False) if isinstance(message, str) else Piece(False, message, False)

    @property
    def _closed(self) -> ChannelClosed:
        return ChannelClosed(self._socket.protocol.close_code or 1006, self._socket.protocol.close_reason or "")
