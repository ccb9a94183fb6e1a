"""Header hygiene, both ways: what of a request a function may see, what of its answer a client may.

Pure functions over raw header lists; they run on the hot path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from core.limits import REQUEST_ID_LENGTH_MAX

RawHeaders = Iterable[tuple[bytes, bytes]]
HeaderList = list[tuple[bytes, bytes]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % REQUEST_ID_LENGTH_MAX)
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{1,256})?")
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"trailers transfer-encoding upgrade".split()
)
_FORWARDED = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-forwarded-server x-real-ip".split()
)
_DASHBOARD_COOKIE = "hearth_"
_IDS_AT_ONCE = 256
_UNREAD_BYTES_MAX = 64 * 1024  # of a body that is not worth a connection


def new_id() -> str:
    """A random UUID (version 4) as text; half the price of str(uuid.uuid4())."""
    return _as_uuid(os.urandom(16).hex())


def new_ids() -> Iterator[str]:
    """The same without end; the kernel is asked for many at a time."""
    while True:
        digits = os.urandom(16 * _IDS_AT_ONCE).hex()
        for at in range(0, len(digits), 32):
            yield _as_uuid(digits[at : at + 32])


def _as_uuid(h: str) -> str:
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def request_id(sent: bytes | None) -> str | None:
    """The caller's own id if it is one that can stand in logs and headers, else None."""
    return sent.decode() if sent is not None and _REQUEST_ID.fullmatch(sent) else None


def trace_parent(sent: bytes | None) -> str | None:
    """The caller's W3C traceparent if it is one, else None."""
    return sent.decode("latin-1") if sent is not None and _TRACEPARENT.fullmatch(sent) else None


def has_much_body(head: Mapping[bytes, bytes]) -> bool:
    """Whether so much may follow the head that not reading it is worth closing the connection."""
    return b"transfer-encoding" in head or int(head.get(b"content-length", 0)) > _UNREAD_BYTES_MAX


def for_function(
    headers: Sequence[tuple[bytes, bytes]], forwarded: Sequence[list[str]], *, consumed: bool
) -> list[list[str]]:
    """A request's headers as a function sees them: without hop-by-hop and X-Hearth-* headers, the
    dashboard's cookie, and (`consumed`) the Authorization that was ours. X-Forwarded-* is what we
    know (`forwarded`), never what the client claims."""
    dropped = _HOP_BY_HOP
    for name, value in headers:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named = {token.strip().lower() for token in value.split(b",")}
            dropped = dropped | named
    seen: list[list[str]] = []
    for name, value in headers:
        if name in dropped or name in _FORWARDED or name.startswith(b"x-hearth-"):
            continue
        if name == b"authorization" and consumed:
            continue
        text = value.decode("latin-1")
        if name == b"cookie" and _DASHBOARD_COOKIE in text.lower():
            text = _without_ours(text)
            if not text:
                continue
        seen.append([name.decode("latin-1"), text])
    seen.extend(forwarded)
    return seen


def for_client(headers: Sequence[tuple[str, str]]) -> str:
    """A function's response headers as lines. Names in lower case, values in Latin-1 and nothing
    that is not the function's to say: executor/response.py has seen to that."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    assert lines.count("\n") == len(headers), "a header with a line break"
    return lines


def _without_ours(cookies: str) -> str:
    kept = [
        cookie
        for cookie in cookies.split(";")
        if not cookie.strip().lower().startswith(_DASHBOARD_COOKIE)
    ]
    return ";".join(kept).strip()
