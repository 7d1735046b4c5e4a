"""Turns an empty relay into a tunnel, as somebody would who has read README and nothing else."""

import itertools
import json
import pathlib
import ssl

from websockets.asyncio.client import connect

numbers = itertools.count()


async def request(socket, instruction, *parameters, credential=None, named=None):
    """Sends one instruction and returns its result; what the relay says meanwhile is passed over."""
    message = {"instruction": instruction, "parameters": named or list(parameters), "id": next(numbers)}
    if credential:
        message["credential"] = credential
    await socket.send(json.dumps(message))
    async for text in socket:
        reply = json.loads(text) if text.startswith("{") else {}
        if reply.get("id") == message["id"]:
            if "error" in reply:
                raise RuntimeError(reply["error"]["message"])
            return reply["result"]


def open_socket(url, certificate):
    return connect(url, ssl=ssl.create_default_context(cafile=certificate))


async def make_tunnel(url, certificate, credential, folder):
    """Sends the six functions of `folder` to the relay, one by one, and initializes."""
    async with open_socket(url, certificate) as admin:
        for file in sorted(pathlib.Path(folder).glob("*.lua")):
            added = {"instructionToAdd": file.stem, "body": file.read_text(), "public": file.stem != "initialize"}
            await request(admin, "add instruction", credential=credential, named=added)
        return await request(admin, "initialize", credential=credential)
