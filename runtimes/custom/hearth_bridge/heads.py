"""The head of a request: what it asks and how long its body is, or why it is none."""

from __future__ import annotations

import re
from functools import lru_cache

HEADERS_MAX = 100
REMEMBERED_BYTES_MAX = 2048
REMEMBERED_MAX = 16
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LENGTH = re.compile(rb"[0-9]{1,18}")

Headers = dict[bytes, bytes]


class Refusal(Exception):
    """A request that is not done: status, and the API's errorType and errorMessage."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Request:
    """The head of a request."""

    __slots__ = ("expects", "headers", "is_chunked", "is_last", "length", "method", "path")

    def __init__(self, head: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        words = line.split(b" ")
        if len(words) != 3 or not TOKEN.fullmatch(words[0]) or words[1][:1] != b"/":
            raise Refusal(400, "BadRequest", "this is not HTTP")
        if words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise Refusal(505, "BadRequest", "HTTP/1.1 is spoken here")
        self.method = words[0]
        self.path = words[1].partition(b"?")[0]
        is_small = len(rest) <= REMEMBERED_BYTES_MAX
        self.headers = headers = remembered(rest) if is_small else read_headers(rest)
        connection = headers.get(b"connection", b"").lower()
        is_old = words[2] == b"HTTP/1.0"
        self.is_last = b"keep-alive" not in connection if is_old else b"close" in connection
        self.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        coding = headers.get(b"transfer-encoding", b"").lower()
        length = headers.get(b"content-length")
        self.is_chunked = coding == b"chunked"
        if coding and not self.is_chunked:
            raise Refusal(501, "BadRequest", "of transfer codings only chunked is known")
        if length is not None and (coding or not LENGTH.fullmatch(length)):
            raise Refusal(400, "BadRequest", "content-length cannot be believed")
        self.length = int(length or 0)


def read_headers(text: bytes) -> Headers:
    """Names in lower case. Refusal when a line is none, or there are too many."""
    headers: Headers = {}
    lines = text.split(b"\r\n") if text else ()
    if len(lines) > HEADERS_MAX:
        raise Refusal(431, "BadRequest", f"more than {HEADERS_MAX} headers")
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Refusal(400, "BadRequest", "a header is no name and value")
        name, value = name.lower(), value.strip(b" \t")
        if name in headers:
            if name in (b"content-length", b"transfer-encoding"):
                raise Refusal(400, "BadRequest", "the body's length is said twice")
            value = headers[name] + b", " + value
        headers[name] = value
    return headers


# A client says the same headers with each of its requests. Nobody changes what is returned.
remembered = lru_cache(REMEMBERED_MAX)(read_headers)
