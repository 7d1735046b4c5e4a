"""Where a relay is: the URL that a user gives, and the URLs that lie behind it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional, Union
from urllib.parse import quote, urlencode, urlsplit

from .frames import ServerID

Ports = Union[str, int, Iterable[int], None]


class Address(NamedTuple):
    """`base` has neither a slash at its end nor the query; `unix` is the path of a socket."""

    base: str
    query: str
    unix: Optional[str]

    @classmethod
    def parse(cls, url: str, app: Optional[str] = None) -> Address:
        """From `ws://HOST:PORT`, `wss://HOST:PORT` or `unix:PATH`, each with an optional query; the first two also with
        the path of an app."""
        if url.startswith("unix:"):
            unix, _, query = url[len("unix:"):].partition("?")
            if not unix:
                raise ValueError(f"no path of a socket: {url!r}")
            address = cls("ws://localhost", query, unix)
        else:
            parts = urlsplit(url)
            if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
                raise ValueError(f"the URL of a relay is ws://HOST:PORT, wss://HOST:PORT or unix:PATH: {url!r}")
            address = cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parts.query, None)
        return address if app is None else address._replace(base=f"{address.base}/app/{quote(app, safe='')}")

    def at(self, path: str, query: str = "") -> str:
        both = "&".join(part for part in (self.query, query) if part)
        return f"{self.base}{path}?{both}" if both else f"{self.base}{path}"

    def registration(self, server: ServerID, ports: Ports = None) -> str:
        """The path under which a server installs itself."""
        written = quote(str(server), safe="")
        if not written or written.isdigit() != isinstance(server, int):
            raise ValueError(f"not a server id in a path, where digits are a number and all else a name: {server!r}")
        return self.at(f"/s/{written}", "" if ports is None else urlencode({"ports": port_set(ports)}, safe=","))

    def dedicated(self, ticket: str) -> str:
        return self.at(f"/a/{quote(ticket, safe='')}")


def port_set(ports: Union[str, int, Iterable[int]]) -> str:
    """Ports as the relay reads them, `22,80-90`; text is taken as it is."""
    if isinstance(ports, str):
        return ports
    spans: list[list[int]] = []
    for port in sorted({ports} if isinstance(ports, int) else set(ports)):
        if not 0 <= port <= 65_535:
            raise ValueError(f"not a port: {port}")
        if spans and spans[-1][1] == port - 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    if not spans:
        raise ValueError("no ports; to offer all, leave them out")
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
