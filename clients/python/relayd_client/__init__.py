"""A client of relayd: call instructions, reach servers, and be one. See `Relay.open`."""

from .channel import Channel
from .errors import ChannelClosed, ChannelRejected, ConnectionLost, HandshakeRefused, RelayError
from .listener import Listener
from .relay import Relay

__all__ = [
    "Channel", "ChannelClosed", "ChannelRejected", "ConnectionLost", "HandshakeRefused", "Listener", "Relay",
    "RelayError",
]
