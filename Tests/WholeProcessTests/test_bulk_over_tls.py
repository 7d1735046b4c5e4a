"""Messages that are larger than what is encrypted at a time, and than a socket takes at once."""

import pytest

from relay import TEST_SCRIPTS


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_message_larger_than_every_buffer_comes_back_whole(make_relay, scheme):
    relay = make_relay(
        "--tls-self-signed", listen=[f"{scheme}://127.0.0.1:0"], scripts=[TEST_SCRIPTS / "echo.lua"],
        limits={"messageBytes": "8MiB"})
    text = "0123456789abcdef" * (4 << 16)
    with relay.connect(max_size=None) as client:
        for _ in range(3):
            client.send(text)
            assert client.receive() == text
