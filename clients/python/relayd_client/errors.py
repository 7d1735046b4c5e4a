"""What can go wrong, by what dies of it: a request, a channel, a connection."""

from __future__ import annotations

from typing import Any

# RFC 6455 §7.4.1: the other side was done, has gone away, or has closed without giving a code; nothing broke.
NORMAL_CLOSE_CODES = frozenset({1000, 1001, 1005})


def with_reason(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


class RelayError(Exception):
    """A request was answered with an error; `code` is one of the relay's stable codes, such as `unauthorized`."""

    def __init__(self, code: str, message: str, data: Any = None) -> None:
        super().__init__(with_reason(code, message))
        self.code = code
        self.message = message
        self.data = data


class ChannelRejected(Exception):
    """The server said no, or the relay did: then `code` is an HTTP status (502 is "no such server")."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(with_reason(f"rejected with {code}", reason))
        self.code = code
        self.reason = reason


class ChannelClosed(ConnectionError):
    """The channel is over, or the other side has ended (1000): no message comes, or none can be sent."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(with_reason(f"the channel is closed with {code}", reason))
        self.code = code
        self.reason = reason


class HandshakeRefused(ConnectionError):
    """The relay answered the WebSocket handshake with an HTTP status: 401, 403, 404, 409, 503…"""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(with_reason(f"the relay refused the connection with {status}", reason))
        self.status = status
        self.reason = reason

    @property
    def is_final(self) -> bool:
        """Whether the same attempt would be refused again: the request or its credential is wrong."""
        return self.status in (400, 401, 403, 426)


class ConnectionLost(ConnectionError):
    """The connection to the relay was closed with a code after which one does not connect again, or by `close()`; or
    it broke while a reply was awaited, so that nobody knows whether the instruction has run."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(with_reason(f"the connection to the relay was closed with {code}", reason))
        self.code = code
        self.reason = reason


class ProtocolError(Exception):
    """The relay sent what relay.v1 does not have; the connection is closed with 1002."""
