"""Relays that are linked, and what the tests of links ask of them."""

import contextlib

from channels import bearer
from conditions import DEADLINE, eventually
from relay import Relay

TOKEN = "1234"


def listening(*arguments, port=0, **options):
    """A relay with a listener for the tests, and one that takes links with the token, as the document starts it."""
    return Relay(*arguments, listen=["ws://127.0.0.1:0", f"ws://127.0.0.1:{port}?auth={TOKEN}"], **options)


def to(relay, items=""):
    """The URL of a link to a relay."""
    return f"{relay.urls[-1]}?auth={TOKEN}{items}"


@contextlib.contextmanager
def linked(count, edges, loops=1, **options):
    """`count` relays; of each pair in `edges` the first dials the second, which has to be the one with the lower
    number."""
    with contextlib.ExitStack() as stack:
        relays = []
        for number in range(count):
            arguments = []
            for dialling, dialled, *items in edges:
                assert dialled < dialling
                if dialling == number:
                    arguments += ["--connect", to(relays[dialled], *items)]
            relays.append(stack.enter_context(listening(*arguments, loops=loops, **options)))
        yield relays


def ways(relay, server):
    """The ways to a server of other relays, as they are listed."""
    return [entry for entry in relay.listed("servers") if entry["server"] == server and "path" in entry]


def leads(relay, server, hops=None):
    """Waits until the relay knows a way to the server (the best one has so many relays)."""
    def way():
        found = sorted(ways(relay, server), key=lambda way: (way["cost"], len(way["path"])))
        return found and (hops is None or len(found[0]["path"]) == hops) and found[0]
    return eventually(way, f"{server} is reachable over links")


def leads_nowhere(relay, server):
    eventually(lambda: not ways(relay, server), f"{server} is reachable no more")


def is_linked(relay, count=1):
    eventually(
        lambda: sum("relay" in link for link in relay.listed("links")) == count,
        f"the relay has {count} links: {relay.log[-2000:]}")


def client(relay, server="box", port=22, **options):
    return relay.connect(f"/c/{server}/{port}", additional_headers=bearer(relay), **options)


__all__ = [
    "TOKEN", "DEADLINE", "client", "is_linked", "leads", "leads_nowhere", "linked", "listening", "to", "ways"]
