"""One channel as a state machine: who may send how much, what waits to be taken, who has ended. Pure."""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from . import frames
from .errors import ChannelClosed

if TYPE_CHECKING:
    from .multiplexer import Multiplexer

# Empty messages use no credit and small ones little, so their number has a limit too; 65 536 of one byte take 8 MiB.
MAXIMUM_WAITING_MESSAGES = 65_536


class Phase(enum.Enum):
    OPENING = "we have asked for it: accepted or rejected next"
    OFFERED = "the relay asks for it: we accept or reject next"
    OPEN = "data flows"
    OVER = "nothing is sent any more, and what still comes is ignored"


class Violation(Exception):
    """The other end broke a rule of this channel, which is closed; the connection goes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Piece(NamedTuple):
    """A part of a message, or all of it."""

    is_text: bool
    payload: bytes
    more: bool


class Outgoing(NamedTuple):
    is_text: bool
    payload: memoryview
    more: bool


class Flow:
    """`multiplexer` is where its frames go: those of control at once, data when it is its turn."""

    def __init__(self, multiplexer: Multiplexer, number: int, phase: Phase, *, credit: int = 0) -> None:
        self.number = number
        self.phase = phase
        self.credit = credit  # Bytes that we may send.
        self.window = multiplexer.window  # Bytes that the other side may send.
        self.has_ended = False
        self.other_has_ended = False
        self.is_in_line = False
        self.was_accepted = False
        self.was_rejected = False
        self.is_within_message = False  # Of a message that goes, a part is sent and a part is not.
        self.closed: Optional[tuple[int, str]] = None
        self._multiplexer = multiplexer
        self._taken = 0  # Bytes that were taken and are not granted again yet.
        self._waiting: deque[tuple[bool, Union[bytes, bytearray], bool]] = deque()
        self._inside: Optional[bool] = None  # Within a message that comes: whether it is text.
        self._outgoing: Optional[Outgoing] = None

    # What comes

    def accepted(self, credit: int) -> None:
        if self.phase is not Phase.OPENING:
            raise Violation(1002, "an accept that nobody waits for")
        self.phase = Phase.OPEN
        self.was_accepted = True
        self.credit = credit

    def rejected(self, code: int, reason: str) -> None:
        if self.phase is not Phase.OPENING:
            raise Violation(1002, "a reject that nobody waits for")
        self.was_rejected = True
        self._finish(code, reason)

    def received(self, is_text: bool, payload: bytes, more: bool) -> None:
        if self.phase is not Phase.OPEN:
            raise Violation(1002, "data before the acceptance")
        if self.other_has_ended:
            raise Violation(1002, "data after the end")
        if self._inside is not None and self._inside != is_text:
            raise Violation(1002, "the type changed within a message")
        if len(payload) > self.window:
            raise Violation(4006, "credit exceeded")
        self.window -= len(payload)
        self._inside = is_text if more else None
        if self._waiting and self._waiting[-1][2]:
            # Of the message that already waits. A byte array, because bytes would be copied for each frame.
            gathered = self._waiting.pop()[1]
            gathered = gathered if isinstance(gathered, bytearray) else bytearray(gathered)
            gathered += payload
            self._waiting.append((is_text, gathered, more))
        elif payload or not more:
            if len(self._waiting) >= MAXIMUM_WAITING_MESSAGES:
                raise Violation(4006, "too many messages wait")
            self._waiting.append((is_text, payload, more))

    def credited(self, granted: int) -> None:
        if self.phase is not Phase.OPEN:
            raise Violation(1002, "credit before the acceptance")
        self.credit += granted
        self._multiplexer.turns.line_up(self, is_fresh=False)

    def ended(self) -> None:
        if self.phase is not Phase.OPEN or self.other_has_ended:
            raise Violation(1002, "an end out of turn")
        if self._inside is not None:
            raise Violation(1002, "an end within a message")
        self.other_has_ended = True
        self._over_if_both_ended()

    def broken(self, code: int, reason: str) -> None:
        """The other end closed, or the connection is gone. What came before can still be taken."""
        if self.phase is not Phase.OVER:
            self._finish(code, reason)

    # What goes

    def accept(self) -> None:
        if self.phase is Phase.OFFERED:
            self.phase = Phase.OPEN
            self._multiplexer.control.append(frames.accept(self.number, self.window))

    def reject(self, code: int, reason: str) -> None:
        """Says no to an open; one that is over already needs no answer."""
        if self.phase not in (Phase.OFFERED, Phase.OVER):
            raise RuntimeError("only a channel that was not accepted yet can be rejected")
        if self.phase is Phase.OFFERED:
            self._multiplexer.control.append(frames.reject(self.number, code, reason))
            self._finish(code, reason)

    def abandon(self) -> None:
        """The open is answered on a connection of its own: this number means nothing any more."""
        if self.phase is not Phase.OVER:
            self._finish(1000, "")

    @property
    def can_offer(self) -> bool:
        return self.phase is Phase.OPEN and self._outgoing is None

    def offer(self, is_text: bool, payload: Union[bytes, memoryview], more: bool) -> None:
        """A piece of a message, to be sent as turns and credit allow; it is gone when `can_offer` is true again."""
        self.check_sending()
        assert self._outgoing is None, "a piece is offered when the one before it is gone"
        self._outgoing = Outgoing(is_text, memoryview(payload), more)
        self._multiplexer.turns.line_up(self, is_fresh=True)

    def withdraw(self) -> None:
        """What of the offered piece was not sent will not be; `is_within_message` says whether half a message was."""
        self._outgoing = None

    def check_sending(self) -> None:
        if self.closed is not None:
            raise ChannelClosed(*self.closed)
        if self.has_ended:
            raise RuntimeError("nothing can be sent after the end")

    def end(self) -> None:
        if self.phase is Phase.OPEN and not self.has_ended:
            self.has_ended = True
            self._multiplexer.control.append(frames.end(self.number))
            self._over_if_both_ended()

    def close(self, code: int, reason: str) -> None:
        if self.phase is not Phase.OVER:
            self._multiplexer.control.append(frames.close(self.number, code, reason))
            self._finish(code, reason)

    def drop_waiting(self) -> None:
        self._waiting.clear()

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def take(self) -> Piece:
        """The next piece that waits, and so many bytes granted again once half of the window has been taken."""
        is_text, payload, more = self._waiting.popleft()
        if self.phase is Phase.OPEN and not self.other_has_ended:
            self._taken += len(payload)
            if self._taken * 2 >= self._multiplexer.window:
                self.window += self._taken
                self._multiplexer.control.append(frames.credit(self.number, self._taken))
                self._taken = 0
        return Piece(is_text, bytes(payload), more)

    # Turns

    @property
    def can_send(self) -> bool:
        outgoing = self._outgoing
        return outgoing is not None and (self.credit > 0 or not outgoing.payload)

    def next_frame(self, maximum: int) -> bytes:
        """The next frame of the offered piece, with so many bytes at most; `can_send` says that there is one."""
        assert self._outgoing is not None, "`can_send` was asked"
        is_text, payload, more = self._outgoing
        count = min(len(payload), self.credit, maximum)
        self.credit -= count
        rest = payload[count:]
        self.is_within_message = more or bool(rest)
        self._outgoing = Outgoing(is_text, rest, more) if rest else None
        return frames.data(self.number, is_text, self.is_within_message, payload[:count])

    # The end

    def _over_if_both_ended(self) -> None:
        if self.has_ended and self.other_has_ended:
            self._finish(1000, "")

    def _finish(self, code: int, reason: str) -> None:
        self.phase = Phase.OVER
        self.closed = (code, reason)
        self._outgoing = None
        self._multiplexer.flows.pop(self.number, None)
