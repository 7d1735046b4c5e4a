"""One WebSocket with the subprotocol relay.v1: requests and their replies as text, channels as binary frames."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import Any, Optional, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from . import frames
from .errors import ChannelClosed, ChannelRejected, ConnectionLost, ProtocolError, RelayError
from .flow import Flow, Phase
from .multiplexed_channel import MultiplexedChannel
from .multiplexer import Begun, Event, Multiplexer
from .options import Options
from .options import close as close_socket
from .signal import Signal

logger = logging.getLogger("relayd_client")

# Answers that wait while the relay does not read; nothing more is read from it until they are fewer.
MAXIMUM_ANSWERS = 1_024
# Channels that a script of the relay has begun and nobody here has asked for.
MAXIMUM_UNCLAIMED = 256
# Writing may find room each time and never wait, so that nothing else would run.
FRAMES_BEFORE_A_BREAK = 16


class Owner(Protocol):
    """Who is told what the relay begins."""

    def message_received(self, text: str) -> None:
        """A text message that is no reply: a script has sent it."""

    def channel_offered(self, channel: MultiplexedChannel) -> None:
        """A client asks for a channel to us; it waits for `accept` or `reject`."""


class Connection:
    """`outcome` is the close code and reason once it is over, `drain` the time that a draining relay gave."""

    def __init__(self, socket: ClientConnection, options: Options, owner: Owner) -> None:
        self.options = options
        self.multiplexer = Multiplexer(options.window)
        self.outcome: Optional[tuple[int, str]] = None
        self.drain: Optional[float] = None
        self.changed = Signal()
        self.began = asyncio.get_running_loop().time()
        self._socket = socket
        self._owner = owner
        self._channels: dict[int, MultiplexedChannel] = {}
        self._unclaimed: dict[int, MultiplexedChannel] = {}
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._work = asyncio.Event()
        self._writer = asyncio.create_task(self._write())
        self._writer.add_done_callback(lambda _: self.changed.wake())
        self._task = asyncio.create_task(self._run())

    @classmethod
    async def open(cls, options: Options, uri: str, owner: Owner) -> Connection:
        return cls(await options.dial(uri, multiplexed=True), options, owner)

    # Requests

    async def request(self, instruction: str, parameters: Any) -> Any:
        if self.outcome is not None:
            raise ConnectionLost(*self.outcome)
        identifier = next(self._ids)
        asked = {"instruction": instruction, "parameters": parameters, "id": identifier}
        message = json.dumps(asked, allow_nan=False)
        reply = self._replies[identifier] = asyncio.get_running_loop().create_future()
        self.multiplexer.control.append(message)
        self._work.set()
        try:
            return await reply
        finally:
            del self._replies[identifier]

    # Channels

    async def connect(self, server: frames.ServerID, port: int) -> MultiplexedChannel:
        if self.outcome is not None:
            raise ConnectionLost(*self.outcome)
        flow = self.multiplexer.open(server, port)
        channel = self._channels[flow.number] = MultiplexedChannel(self, flow, server, port)
        self.touched(channel)
        return await self._accepted(channel)

    async def channel(self, number: int) -> MultiplexedChannel:
        """The channel that a script of the relay begins under this number, once it has been accepted."""
        await self.changed.wait_until(lambda: number in self._unclaimed or self.outcome is not None)
        channel = self._unclaimed.pop(number, None)
        if channel is None:
            raise ConnectionLost(*self._ended)
        return await self._accepted(channel)

    async def _accepted(self, channel: MultiplexedChannel) -> MultiplexedChannel:
        flow = channel.flow
        try:
            await channel.changed.wait_until(lambda: flow.was_accepted or flow.closed is not None)
        except asyncio.CancelledError:
            await channel.close()
            raise
        if flow.closed is not None and not flow.was_accepted:
            raise (ChannelRejected if flow.was_rejected else ChannelClosed)(*flow.closed)
        return channel

    def touched(self, channel: MultiplexedChannel) -> None:
        """Something of the channel has changed: whoever waits there looks again, and what it has to say is sent."""
        number = channel.flow.number
        if channel.flow.phase is Phase.OVER and self._channels.get(number) is channel:
            del self._channels[number]
        channel.changed.wake()
        self._work.set()

    # The end

    async def close(self) -> None:
        """Sends the answers that wait, then closes with 1000; does not wait for long."""
        timer = asyncio.get_running_loop().call_later(self.options.close_timeout, self._socket.transport.abort)
        try:
            await self.changed.wait_until(lambda: not self.multiplexer.control or self.outcome is not None)
            await close_socket(self._socket, 1000, "")
            await self.changed.wait_until(lambda: self.outcome is not None)
        finally:
            timer.cancel()

    @property
    def is_leaving(self) -> bool:
        return self.outcome is not None or self.drain is not None

    @property
    def _ended(self) -> tuple[int, str]:
        return self.outcome or (1006, "")

    # Reading and writing

    async def _run(self) -> None:
        try:
            self.outcome = await self._read()
        finally:
            self._writer.cancel()
            code, reason = self._ended
            self.outcome = code, reason
            for channel in list(self._channels.values()):
                channel.flow.broken(1006, reason or "the connection to the relay is gone")
                self.touched(channel)
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(ConnectionLost(code, reason))
            self.changed.wake()

    async def _read(self) -> tuple[int, str]:
        control = self.multiplexer.control
        try:
            while True:
                message = await self._socket.recv()
                if isinstance(message, str):
                    self._text_received(message)
                else:
                    self._handle(self.multiplexer.received(message))
                    self._work.set()
                    if len(control) > MAXIMUM_ANSWERS:
                        await self.changed.wait_until(lambda: not control or self._writer.done())
                        control.clear()
        except ConnectionClosed:
            return self._socket.protocol.close_code or 1006, self._socket.protocol.close_reason or ""
        except ProtocolError as error:
            logger.warning("the relay broke the protocol: %s", error)
            await close_socket(self._socket, 1002, str(error))
            return 1002, str(error)

    async def _write(self) -> None:
        multiplexer, transport = self.multiplexer, self._socket.transport
        loop = asyncio.get_running_loop()
        limit = self.options.stall_timeout
        for count in itertools.count(1):
            step = multiplexer.next_frame()
            while step is None:
                self._work.clear()
                await self._work.wait()
                step = multiplexer.next_frame()
            frame, flow = step
            if flow is not None:
                self._wake(flow)
            elif not multiplexer.control:
                self.changed.wake()
            # Pings wait behind what the transport holds, and so cannot see that it is stuck.
            began = loop.time()
            watch = loop.call_later(limit, transport.abort) if limit is not None else None
            try:
                await self._socket.send(frame)
            except ConnectionClosed:
                return  # The reader gets it too.
            finally:
                if watch is not None:
                    watch.cancel()
            multiplexer.turns.took(len(frame), loop.time() - began)
            if count % FRAMES_BEFORE_A_BREAK == 0:
                await asyncio.sleep(0)

    def _wake(self, flow: Flow) -> None:
        channel = self._channels.get(flow.number)
        if channel is not None:
            channel.changed.wake()

    def _handle(self, event: Optional[Event]) -> None:
        if event is None:
            return
        if isinstance(event, frames.Drain):
            self.drain = event.milliseconds
            self.changed.wake()
        elif isinstance(event, Begun):
            self._begun(event)
        else:
            channel = self._channels.get(event.flow.number)
            if channel is not None:
                self.touched(channel)

    def _begun(self, event: Begun) -> None:
        flow, asked = event
        if asked is not None:
            channel = MultiplexedChannel(self, flow, asked.server, asked.port, asked)
            self._channels[flow.number] = channel
            self._owner.channel_offered(channel)
            return
        channel = MultiplexedChannel(self, flow)
        if flow.phase is not Phase.OVER:
            self._channels[flow.number] = channel
        if len(self._unclaimed) >= MAXIMUM_UNCLAIMED:
            self._unclaimed = {n: waiting for n, waiting in self._unclaimed.items() if waiting.close_code is None}
        if len(self._unclaimed) < MAXIMUM_UNCLAIMED:
            self._unclaimed[flow.number] = channel
            self.changed.wake()
        else:
            flow.close(4006, "too many channels that nobody asked for")
            self.touched(channel)

    def _text_received(self, text: str) -> None:
        value: Any = None
        if text.startswith("{"):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                pass  # A script may send what it likes.
        reply = self._replies.get(value["id"]) if _is_reply(value) else None
        if reply is None:
            self._owner.message_received(text)
        elif not reply.done():
            error = value.get("error")
            if error is None:
                reply.set_result(value.get("result"))
            elif isinstance(error, dict):
                reply.set_exception(
                    RelayError(str(error.get("code")), str(error.get("message", "")), error.get("data")))
            else:
                reply.set_exception(RelayError("malformed", "the relay's reply has an error that is no object"))


def _is_reply(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("id")) is int and ("result" in value or "error" in value)
