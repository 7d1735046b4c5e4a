"""Requests of HTTP, as bytes, and a relay whose script answers them."""

from relay import TEST_SCRIPTS
from wire import head

SCRIPT = TEST_SCRIPTS / "requests.lua"
HOST = "Host: relay.test"


def get(path, *fields, method="GET", version="HTTP/1.1"):
    return head(f"{method} {path} {version}", HOST, *fields)


def put(path, body, *fields):
    body = body.encode() if isinstance(body, str) else body
    return head(f"PUT {path} HTTP/1.1", HOST, f"Content-Length: {len(body)}", *fields) + body


def chunked(path, *chunks, trailer=b"", fields=()):
    start = head(f"POST {path} HTTP/1.1", HOST, "Transfer-Encoding: chunked", *fields)
    return start + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"


def one(relay, data, **options):
    """The response to one request, on a connection of its own."""
    with relay.raw(**options) as raw:
        raw.send(data)
        return raw.read_response(has_body=not data.startswith(b"HEAD"))
