"""Requests and replies, against a relay that a test plays."""

import asyncio
import json

import pytest

from fake_relay import FakeRelay, soon, until
from relayd_client import ConnectionLost, Relay, RelayError


async def test_a_request_and_its_reply():
    async with FakeRelay() as fake, await fake.relay(credential="secret", app="one") as relay:
        end = await fake.next()
        assert fake.requests[0].path == "/app/one"
        assert fake.requests[0].headers["Authorization"] == "Bearer secret"
        for arguments, named in [((), {}), ((1, "a"), {}), ((), {"instruction": 1, "id": 2})]:
            asked = asyncio.create_task(relay.invoke("greet", *arguments, **named))
            request = json.loads(await end.receive())
            assert request == {"instruction": "greet", "parameters": named or list(arguments), "id": request["id"]}
            await end.send(json.dumps({"id": request["id"], "result": {"said": [None]}}))
            assert await soon(asked) == {"said": [None]}


async def test_replies_in_any_order():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = [asyncio.create_task(relay.invoke("number", number)) for number in range(5)]
        requests = [json.loads(await end.receive()) for _ in asked]
        for request in reversed(requests):
            await end.send(json.dumps({"id": request["id"], "result": request["parameters"][0]}))
        assert await soon(asyncio.gather(*asked)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error, expected", [
    ({"code": "forbidden", "message": "no", "data": {"line": 3}}, ("forbidden", "no", {"line": 3})),
    ({"code": 7}, ("7", "", None)),
    ("text", ("malformed", "the relay's reply has an error that is no object", None)),
])
async def test_an_error_is_raised(error, expected):
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.invoke("greet"))
        request = json.loads(await end.receive())
        await end.send(json.dumps({"id": request["id"], "error": error}))
        with pytest.raises(RelayError) as raised:
            await soon(asked)
        assert (raised.value.code, raised.value.message, raised.value.data) == expected


async def test_parameters_are_of_one_kind_and_of_json():
    async with FakeRelay() as fake, await fake.relay() as relay:
        with pytest.raises(TypeError):
            await relay.invoke("greet", 1, name=2)
        for parameter, error in [(float("nan"), ValueError), (b"bytes", TypeError)]:
            with pytest.raises(error):
                await relay.invoke("greet", parameter)


async def test_what_is_no_reply_is_a_message():
    texts = [
        "", "hello", "{", "[]", '{"id":1}', '{"id":99,"result":1}', '{"id":true,"result":1}', '{"id":[1],"result":1}',
        '{"id":"1","result":1}', "{" * 100_000, '{"a":' * 100_000, '{"id":' + "9" * 5000 + ',"result":1}',
    ]
    received = []

    def on_message(text):
        received.append(text)
        raise ValueError("as a user's function may")

    async with FakeRelay() as fake, await fake.relay(on_message=on_message) as relay:
        end = await fake.next()
        asked = asyncio.create_task(relay.invoke("greet"))
        request = json.loads(await end.receive())
        await end.send(*texts, json.dumps({"id": request["id"], "result": 1}))
        assert await soon(asked) == 1
        assert received == texts


async def test_a_connection_that_breaks_fails_what_waits_for_a_reply():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        asked = [asyncio.create_task(relay.invoke("greet")) for _ in range(3)]
        for _ in asked:
            await end.receive()
        await end.vanish()
        for request in asked:
            with pytest.raises(ConnectionLost) as raised:
                await soon(request)
            assert raised.value.code == 1006


async def test_a_request_waits_for_the_next_connection():
    async with FakeRelay() as fake, await fake.relay() as relay:
        end = await fake.next()
        fake.refusals = [503, 503]
        await end.vanish()
        await until(lambda: len(fake.requests) == 2)
        asked = asyncio.create_task(relay.invoke("greet"))
        end = await fake.next()
        request = json.loads(await end.receive())
        await end.send(json.dumps({"id": request["id"], "result": "back"}))
        assert await soon(asked) == "back"
        assert len(fake.requests) == 4


async def test_a_relay_that_does_not_speak_the_subprotocol_is_refused():
    async with FakeRelay(speaks=None) as fake:
        with pytest.raises(ConnectionLost, match="relay.v1"):
            await soon(Relay.open(fake.url))


async def test_a_closed_relay_answers_nothing():
    async with FakeRelay() as fake:
        relay = await fake.relay()
        end = await fake.next()
        await relay.close()
        assert await end.closed() == (1000, "")
        with pytest.raises(ConnectionLost):
            await relay.invoke("greet")
        with pytest.raises(ConnectionLost):
            await relay.connect("box", 1)
        await relay.close()
