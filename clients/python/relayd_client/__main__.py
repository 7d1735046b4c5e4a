"""`python -m relayd_client connect URL SERVER PORT`: standard input and output as one channel."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading

from . import Channel, ChannelClosed, ChannelRejected, HandshakeRefused, Relay

REFUSED, UNREACHABLE = 1, 3  # As the commands of relayd itself.


def send_input(channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread, because files cannot be waited for; a daemon, so that a terminal does not hold up the end."""
    def run(coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()  # type: ignore[arg-type]

    try:
        while data := os.read(sys.stdin.fileno(), 65_536):
            run(channel.send(data))
        run(channel.end())
    except (OSError, RuntimeError):
        pass  # The channel is over, and whoever receives says so.


async def connect(url: str, server: str, port: int) -> int:
    async with await Relay.open(url, credential=os.environ.get("RELAYD_CREDENTIAL")) as relay:
        async with await relay.connect(int(server) if server.isdigit() else server, port) as channel:
            arguments = channel, asyncio.get_running_loop()
            threading.Thread(target=send_input, args=arguments, daemon=True).start()
            while data := await channel.read():
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m relayd_client")
    commands = parser.add_subparsers(required=True, metavar="connect")
    command = commands.add_parser("connect", help="standard input and output as one channel")
    command.add_argument("url", help="ws://HOST:PORT, wss://HOST:PORT or unix:PATH; $RELAYD_CREDENTIAL is presented")
    command.add_argument("server")
    command.add_argument("port", type=int)
    given = parser.parse_args()
    try:
        return asyncio.run(connect(given.url, given.server, given.port))
    except (ChannelClosed, ChannelRejected, HandshakeRefused) as refused:
        print(f"{given.server}:{given.port}: {refused}", file=sys.stderr)
        return REFUSED
    except OSError as failure:
        print(f"{given.url}: {failure}", file=sys.stderr)
        return UNREACHABLE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
