"""Reading a request's body, bounded. A pause of the client is the connection's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive

from core.errors import PayloadTooLarge


class ClientGone(Exception):
    """The client hung up before its request was whole: there is nobody to answer."""


async def read_body(
    receive: Receive, head: Mapping[bytes, bytes], bytes_max: int, *, what: str = "the body"
) -> bytes:
    """The whole body. PayloadTooLarge as early as that is known; ClientGone."""
    length = head.get(b"content-length")
    if length is None:
        if b"transfer-encoding" not in head:
            return b""
    elif int(length) > bytes_max:
        raise _too_large(what, bytes_max)
    message = await receive()
    if message["type"] == "http.request" and not message["more_body"]:
        body: bytes = message["body"]
        if len(body) > bytes_max:
            raise _too_large(what, bytes_max)
        return body
    chunks = bytearray()
    while message["type"] == "http.request":
        chunks += message["body"]
        if len(chunks) > bytes_max:
            raise _too_large(what, bytes_max)
        if not message["more_body"]:
            return bytes(chunks)
        message = await receive()
    raise ClientGone


async def stream_body(receive: Receive) -> AsyncIterator[bytes]:
    """The body in chunks as they come, unbounded. ClientGone."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        if message["body"]:
            yield message["body"]
        if not message["more_body"]:
            return


def _too_large(what: str, bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"{what} is over {bytes_max} bytes", limit=bytes_max)
