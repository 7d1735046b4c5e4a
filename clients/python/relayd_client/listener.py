"""A server: what installs itself at the relay, and gets the channels that clients ask for."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Callable, Optional

from .address import Ports
from .channel import Channel
from .connection import Connection
from .frames import ServerID
from .link import Link
from .multiplexed_channel import MultiplexedChannel
from .options import Options

logger = logging.getLogger("relayd_client")

Handler = Callable[[Channel], Awaitable[None]]

# Channels that wait for `async for`; a client that asks beyond them is told to come later.
MAXIMUM_WAITING = 1_024


class Listener:
    """Installed while it is entered, also after a reconnection: `async with` it, then `async for channel in` it."""

    def __init__(self, options: Options, server: ServerID, ports: Ports) -> None:
        uri = options.address.registration(server, ports)
        self._link = Link(lambda: Connection.open(options, uri, self), options.backoff())
        self._waiting: deque[MultiplexedChannel] = deque()

    async def __aenter__(self) -> Listener:
        await self._link.start()
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leaves the relay; every channel of this server ends."""
        await self._link.close()

    def __aiter__(self) -> AsyncIterator[Channel]:
        return self

    async def __anext__(self) -> Channel:
        """The next channel that a client asks for. Raises what has ended the registration for good: `ConnectionLost`
        with 4005 when another has taken over, say. Stops after `close`."""
        link = self._link
        while True:
            await link.changed.wait_until(lambda: bool(self._waiting) or link.failure is not None)
            if link.failure is not None:
                if link.is_closed:
                    raise StopAsyncIteration
                raise link.failure
            channel = self._waiting.popleft()
            if channel.close_code is None:
                return channel

    async def serve(self, handler: Handler) -> None:
        """Calls the handler for each channel, all at the same time, until the registration has ended."""
        handlers = Handlers()
        try:
            async for channel in self:
                handlers.start(handler, channel)
        finally:
            await handlers.cancel()

    def message_received(self, text: str) -> None:
        logger.debug("a server has no use for a text message of %d characters", len(text))

    def channel_offered(self, channel: MultiplexedChannel) -> None:
        if len(self._waiting) >= MAXIMUM_WAITING:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.close_code is None)
        if len(self._waiting) >= MAXIMUM_WAITING:
            return channel.reject(503, "too many clients wait")
        self._waiting.append(channel)
        self._link.changed.wake()


class Handlers:
    """The handlers that run: one task for each channel, which is closed when its handler has returned."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, handler: Handler, channel: Channel) -> None:
        task = asyncio.create_task(self._run(handler, channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    async def _run(handler: Handler, channel: Channel) -> Any:
        try:
            async with channel:
                await handler(channel)
        except ConnectionError as gone:
            logger.info("a channel of server %s ended: %s", channel.server, gone)
        except Exception:
            logger.exception("the handler of a channel of server %s failed", channel.server)
