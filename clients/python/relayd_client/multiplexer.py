"""The channels of one connection: frames in, events out, and what is to be sent next. Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Optional, Union

from . import frames
from .errors import ProtocolError
from .flow import Flow, Phase, Violation
from .turns import Turns


class Begun(NamedTuple):
    """The relay began a channel: a client asks for it (`open`), or a script has connected us to a server."""

    flow: Flow
    open: Optional[frames.Open]


class Changed(NamedTuple):
    flow: Flow


Event = Union[Begun, Changed, frames.Drain]


class Multiplexer:
    """`window` is how many bytes each channel may have on their way to us."""

    def __init__(self, window: int = frames.DEFAULT_WINDOW) -> None:
        self.window = window
        self.flows: dict[int, Flow] = {}
        self.control: deque[Union[bytes, str]] = deque()  # Requests, as text, among them.
        self.turns = Turns()
        self._next_number = 1
        self._highest_of_relay = 0

    def open(self, server: frames.ServerID, port: int) -> Flow:
        flow = Flow(self, self._next_number, Phase.OPENING)
        self.control.append(frames.open_(flow.number, server, port, self.window))
        self.flows[flow.number] = flow
        self._next_number += 2
        return flow

    def next_frame(self) -> Optional[tuple[Union[bytes, str], Optional[Flow]]]:
        """What to send next; for data with the channel whose turn it was. All else is small and goes first."""
        return (self.control.popleft(), None) if self.control else self.turns.next_frame()

    def received(self, message: bytes) -> Optional[Event]:
        """Takes a binary message; raises `ProtocolError` where the connection must be closed with 1002."""
        frame = frames.parse(message)
        if isinstance(frame, frames.Drain):
            return frame
        if isinstance(frame, frames.Pong):
            return None
        if isinstance(frame, frames.Open):
            if frame.number % 2 or frame.number in self.flows:
                raise ProtocolError(f"the relay cannot open a channel {frame.number}")
            flow = self._begin(frame.number, Phase.OFFERED)
            flow.credit = frame.credit
            return Begun(flow, frame)
        found = self.flows.get(frame.number)
        if found is not None:
            try:
                self._deliver(found, frame)
            except Violation as violation:
                found.close(violation.code, violation.reason)
            return Changed(found)
        if frame.number % 2 == 0 and isinstance(frame, (frames.Accept, frames.Reject)):
            # A script has asked for it.
            flow = self._begin(frame.number, Phase.OPENING)
            self._deliver(flow, frame)
            return Begun(flow, None)
        # A channel that is over, where frames may still be under way; or one that never was.
        if not self._has_been(frame.number) and not isinstance(frame, (frames.Close, frames.Reject)):
            self.control.append(frames.close(frame.number, 1002, "no such channel"))
        return None

    def broken(self, code: int, reason: str) -> None:
        """The connection is gone, and every channel with it."""
        for flow in list(self.flows.values()):
            flow.broken(code, reason)

    def _begin(self, number: int, phase: Phase) -> Flow:
        self._highest_of_relay = max(self._highest_of_relay, number)
        flow = self.flows[number] = Flow(self, number, phase)
        return flow

    def _has_been(self, number: int) -> bool:
        return number < self._next_number if number % 2 else number <= self._highest_of_relay

    @staticmethod
    def _deliver(flow: Flow, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Data):
            flow.received(frame.is_text, frame.payload, frame.more)
        elif isinstance(frame, frames.Credit):
            flow.credited(frame.credit)
        elif isinstance(frame, frames.Accept):
            flow.accepted(frame.credit)
        elif isinstance(frame, frames.Reject):
            flow.rejected(frame.code, frame.reason)
        elif isinstance(frame, frames.End):
            flow.ended()
        elif isinstance(frame, frames.Close):
            flow.broken(frame.code, frame.reason)
