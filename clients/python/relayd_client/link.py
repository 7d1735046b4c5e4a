"""A connection that comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Callable, Optional

from .connection import Connection
from .errors import ConnectionLost, HandshakeRefused
from .reconnecting import FINAL_CLOSE_CODES, Backoff
from .signal import Signal

logger = logging.getLogger("relayd_client")


class Link:
    """Keeps one connection up. `failure` is set once it gives up: the credential is refused, say."""

    def __init__(self, dial: Callable[[], Awaitable[Connection]], backoff: Backoff) -> None:
        self.failure: Optional[Exception] = None
        self.is_closed = False
        self.changed = Signal()
        self._dial = dial
        self._backoff = backoff
        self._current: Optional[Connection] = None
        self._connections: set[Connection] = set()  # The current one, and those that end because the relay drains.
        self._task: Optional[asyncio.Task[None]] = None

    async def start(self) -> None:
        """Connects; a first attempt that fails is not repeated."""
        connection = await self._connect()
        self._task = asyncio.create_task(self._keep(connection))

    async def ready(self) -> Connection:
        """The connection, as soon as there is one."""
        await self.changed.wait_until(lambda: self._usable is not None or self.failure is not None)
        if self._usable is None:
            assert self.failure is not None, "one of both was waited for"
            raise self.failure
        return self._usable

    async def close(self) -> None:
        self.is_closed = True
        self._fail(ConnectionLost(1000, "closed here"))
        if self._task is not None:
            self._task.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))

    @property
    def _usable(self) -> Optional[Connection]:
        current = self._current
        return current if self.failure is None and current is not None and current.outcome is None else None

    async def _connect(self) -> Connection:
        connection = await self._dial()
        self._connections = {known for known in self._connections if known.outcome is None}
        self._connections.add(connection)
        self._current = connection
        self.changed.wake()
        return connection

    async def _keep(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await connection.changed.wait_until(lambda: connection.is_leaving)
            lived = loop.time() - connection.began
            if connection.outcome is None:
                assert connection.drain is not None, "one of both was waited for"
                pause = self._backoff.drains(connection.drain, lived)
                logger.info("the relay drains: connecting anew in %.1f s", pause)
            elif connection.outcome[0] in FINAL_CLOSE_CODES:
                return self._fail(ConnectionLost(*connection.outcome))
            else:
                pause = self._backoff.lost(lived)
                logger.info("the connection is lost (%d %s): again in %.1f s", *connection.outcome, pause)
            anew = await self._again(pause)
            if anew is None:
                return
            connection = anew

    async def _again(self, pause: float) -> Optional[Connection]:
        while True:
            await asyncio.sleep(pause)
            try:
                return await self._connect()
            except OSError as failure:
                if isinstance(failure, HandshakeRefused) and failure.is_final:
                    self._fail(failure)
                    return None
                if isinstance(failure, ConnectionLost) and failure.code in FINAL_CLOSE_CODES:
                    self._fail(failure)
                    return None
                pause = self._backoff.failed()
                logger.info("no connection to the relay (%s): again in %.1f s", failure, pause)

    def _fail(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
        self.changed.wake()
