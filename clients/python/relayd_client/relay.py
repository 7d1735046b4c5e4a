"""The relay, as a program sees it."""

from __future__ import annotations

import logging
import ssl as tls
from types import TracebackType
from typing import Any, Callable, Optional

from . import frames
from .address import Address, Ports
from .channel import Channel
from .connection import Connection
from .frames import ServerID
from .link import Link
from .listener import Handler, Handlers, Listener
from .multiplexed_channel import MultiplexedChannel
from .options import Options

logger = logging.getLogger("relayd_client")


class Relay:
    """An instruction connection, made anew whenever it is lost. What is asked for meanwhile waits."""

    def __init__(
        self, options: Options, on_message: Optional[Callable[[str], None]], on_channel: Optional[Handler]
    ) -> None:
        self._options = options
        self._on_message = on_message
        self._on_channel = on_channel
        self._handlers = Handlers()
        self._link = Link(lambda: Connection.open(options, options.address.at(""), self), options.backoff())

    @classmethod
    async def open(
        cls, url: str, *,
        credential: Optional[str] = None,
        app: Optional[str] = None,
        ssl: Optional[tls.SSLContext] = None,
        on_message: Optional[Callable[[str], None]] = None,
        on_channel: Optional[Handler] = None,
        window: int = frames.DEFAULT_WINDOW,
        maximum_message_bytes: int = 64 << 20,
        ping_interval: Optional[float] = 20.0,
        ping_timeout: Optional[float] = 20.0,
        open_timeout: float = 10.0,
        close_timeout: float = 10.0,
        reconnect: tuple[float, float] = (0.5, 30.0),
    ) -> Relay:
        """Connects to `ws://HOST:PORT`, `wss://HOST:PORT` or `unix:PATH`. Times are in seconds.

        - `ssl` is for certificates that the system does not trust; `app` for another than the default one.
        - `on_message` gets the text messages that scripts send; `on_channel` handles the channels that clients ask for
          when a script has installed this connection as a server.
        - `window` is how many bytes of each channel may wait here; `maximum_message_bytes` is the most that `receive`
          puts together (`pieces` and `read` know no limit).
        - A relay from which no pong comes within `ping_timeout` is taken for gone.
        - `reconnect` is the shortest and the longest pause between attempts to connect again.

        Raises `HandshakeRefused` or another `OSError` when the first attempt fails; later ones are repeated."""
        if not 1 <= window <= frames.MAXIMUM_U32:
            raise ValueError(f"a window is a number of bytes that fits into a u32: {window}")
        options = Options(
            address=Address.parse(url, app), credential=credential, ssl=ssl, window=window,
            maximum_message_bytes=maximum_message_bytes, ping_interval=ping_interval, ping_timeout=ping_timeout,
            open_timeout=open_timeout, close_timeout=close_timeout, reconnect=reconnect)
        relay = cls(options, on_message, on_channel)
        await relay._link.start()
        return relay

    async def __aenter__(self) -> Relay:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection, and so every channel that was opened here. Listeners have their own."""
        self._on_channel = None
        await self._handlers.cancel()
        await self._link.close()

    async def invoke(self, instruction: str, /, *parameters: Any, **named: Any) -> Any:
        """What the instruction returns, given parameters either by position or by name. Raises `RelayError` when the
        relay answers with an error, `ConnectionLost` when the connection breaks before it has answered."""
        if parameters and named:
            raise TypeError("parameters are given either by position or by name")
        connection = await self._link.ready()
        return await connection.request(instruction, named or list(parameters))

    async def connect(self, server: ServerID, port: int) -> Channel:
        """A channel to a server. Raises `ChannelRejected` with the server's code, or with the relay's HTTP status."""
        if not 0 <= port <= 65_535:
            raise ValueError(f"not a port: {port}")
        connection = await self._link.ready()
        return await connection.connect(server, port)

    async def channel(self, number: int) -> Channel:
        """The channel that a script has begun with `relay.connect(conn, …)`, which has returned the number."""
        if not isinstance(number, int) or number % 2:
            raise ValueError(f"not the number of a channel of a script: {number}")
        connection = await self._link.ready()
        return await connection.channel(number)

    def listen(self, server: ServerID, *, ports: Ports = None) -> Listener:
        """Installs a server, on a connection of its own, while the result is entered:
        `async with relay.listen("box", ports=[22]) as listener: async for channel in listener: …`"""
        return Listener(self._options, server, ports)

    async def serve(self, server: ServerID, handler: Handler, *, ports: Ports = None) -> None:
        """Installs a server and calls the handler for each channel, until it is cancelled or the registration is lost
        for good. A channel is closed when its handler has returned; rejected, when the handler made no use of it."""
        async with self.listen(server, ports=ports) as listener:
            await listener.serve(handler)

    def message_received(self, text: str) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(text)
        except Exception:
            logger.exception("on_message failed")

    def channel_offered(self, channel: MultiplexedChannel) -> None:
        if self._on_channel is None:
            return channel.reject(404, "nothing is served here")
        self._handlers.start(self._on_channel, channel)
