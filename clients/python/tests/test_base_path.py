"""A relay below a path: `wss://host/relay/` behind a proxy."""

import pytest
from fake_relay import AT_ONCE, soon
from test_relayd import echo, serving

from relayd_client import HandshakeRefused, Relay


@pytest.mark.parametrize("path", ["/relay", "/relay/"])
async def test_servers_clients_and_requests_work_below_a_path(make_relay, path):
    process = make_relay("--base-path", "/relay")
    options = {"credential": process.admin, "reconnect": AT_ONCE}
    async with await soon(Relay.open(process.url + path, **options)) as relay:
        assert await soon(relay.invoke("eval", body="return 6 * 7")) == 42
        async with serving(relay, "box", echo), await soon(relay.connect("box", 22)) as channel:
            await soon(channel.send("hello"))
            assert await soon(channel.receive()) == "hello"
        await soon(relay.invoke("create app", app="other"))
    async with await soon(Relay.open(process.url + path, app="other", **options)) as relay:
        assert await soon(relay.invoke("eval", body="return 1")) == 1
    with pytest.raises(HandshakeRefused):
        await soon(Relay.open(process.url, **options))
