"""Whether to connect again, and when. Pure: time and randomness come in."""

from __future__ import annotations

import random
from typing import Callable

# Codes that another attempt would meet again; the relay's registry is Sources/Relay/WebSocket/CloseCode.swift. A code
# that nobody registered says nothing, so trying again is right.
FINAL_CLOSE_CODES = frozenset({1000, 1002, 1003, 1007, 1008, 1009, 1010, 1015, 4001, 4002, 4005, 4007})


class Backoff:
    """Pauses that grow from attempt to attempt and are drawn at random from nothing up to that, so that those who lost
    the same relay do not come back at the same moment. In seconds."""

    def __init__(
        self, shortest: float = 0.5, longest: float = 30.0, draw: Callable[[], float] = random.random
    ) -> None:
        if not 0 < shortest <= longest:
            raise ValueError("a back-off goes from a positive number of seconds to one that is not less")
        self._shortest = shortest
        self._longest = longest
        self._draw = draw
        self._ceiling = shortest

    def failed(self) -> float:
        """The pause after an attempt that failed."""
        pause = self._draw() * self._ceiling
        self._ceiling = min(self._longest, 2 * self._ceiling)
        return pause

    def lost(self, lived: float) -> float:
        """The pause after a connection that lasted for `lived` seconds; one that lasted long starts anew."""
        if lived >= self._longest:
            self._ceiling = self._shortest
        return self.failed()

    def drains(self, milliseconds: float, lived: float) -> float:
        """When to connect anew while the old connection still works: within the time that the relay gave, but for what
        a handshake takes. A connection that drains when it has just been made counts as one that failed."""
        within = self._draw() * min(milliseconds / 1000, self._longest) / 2
        return within if lived >= self._longest else max(within, self.failed())
