"""How connections to one relay are made."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
from dataclasses import dataclass
from typing import Any, Optional

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from .address import Address
from .errors import ConnectionLost, HandshakeRefused
from .frames import HEAD_BYTES
from .reconnecting import Backoff

SUBPROTOCOL = "relay.v1"

# What waits unsent in the kernel, which would take megabytes, goes before a small message that is sent now; and so does
# a frame of which more than the second waits in this process. On a link of 10 Mbit/s full of bulk the small one then
# takes 13 ms (the median of 100); with what kernel and `websockets` would keep, 190 ms.
UNSENT_BYTES_IN_KERNEL = 8_192
WRITE_LIMIT_BYTES = 4_096


@dataclass(frozen=True)
class Options:
    """`Relay.open` says what each is."""

    address: Address
    credential: Optional[str]
    ssl: Optional[tls.SSLContext]
    window: int
    maximum_message_bytes: int
    ping_interval: Optional[float]
    ping_timeout: Optional[float]
    open_timeout: float
    close_timeout: float
    reconnect: tuple[float, float]

    @property
    def stall_timeout(self) -> Optional[float]:
        """For how long a connection may take nothing of one frame."""
        if self.ping_interval is None or self.ping_timeout is None:
            return None
        return self.ping_interval + self.ping_timeout

    def backoff(self) -> Backoff:
        return Backoff(*self.reconnect)

    async def dial(self, uri: str, *, multiplexed: bool) -> ClientConnection:
        """A WebSocket that is open; raises `HandshakeRefused` or another `OSError`."""
        options: dict[str, Any] = {
            "compression": None, "ping_interval": self.ping_interval, "ping_timeout": self.ping_timeout,
            "open_timeout": self.open_timeout, "close_timeout": self.close_timeout,
            "max_size": self.maximum_message_bytes, "write_limit": WRITE_LIMIT_BYTES,
        }
        if self.credential is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {self.credential}"}
        if self.ssl is not None:
            options["ssl"] = self.ssl
        if multiplexed:
            options["subprotocols"] = [Subprotocol(SUBPROTOCOL)]
            options["max_size"] = max(self.maximum_message_bytes, HEAD_BYTES + self.window)
        try:
            if self.address.unix is not None:
                opened = await unix_connect(self.address.unix, uri, **options)
            else:
                opened = await connect(uri, **options)
        except InvalidStatus as refused:
            response = refused.response
            reason = (response.body or b"").decode(errors="replace").strip() or response.reason_phrase
            raise HandshakeRefused(response.status_code, reason) from refused
        except (WebSocketException, asyncio.TimeoutError) as failure:
            raise ConnectionError(f"no WebSocket to the relay: {failure}") from failure
        if multiplexed and opened.subprotocol != SUBPROTOCOL:
            await opened.close()
            raise ConnectionLost(1002, f"what answers there does not speak {SUBPROTOCOL}")
        _keep_little_unsent(opened)
        return opened


async def close(opened: ClientConnection, code: int, reason: str) -> None:
    """Closes although messages wait that nobody will take: they would keep the close frame behind them from arriving,
    because `websockets` reads nothing more while many wait."""
    closing = asyncio.ensure_future(opened.close(code, reason))
    with contextlib.suppress(ConnectionClosed, RuntimeError):  # The latter when another task takes them.
        while True:
            await opened.recv()
    await closing


def _keep_little_unsent(opened: ClientConnection) -> None:
    connected = opened.transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # tcp(7); not on every system.
    if option is not None and connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES_IN_KERNEL)
