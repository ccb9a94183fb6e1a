"""What a sandbox says its HTTP response is, checked before anyone believes it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.errors import ResponseInvalid
from core.limits import RESPONSE_HEADERS_BYTES_MAX, RESPONSE_HEADERS_MAX

# RFC 9110: a field name is a token; a value is visible text, blanks and obs-text, nothing else.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}", re.ASCII)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Belong to the connection, not to the message (RFC 9110 section 7.6.1), or are the gateway's.
_DROPPED = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "date",
        "server",
        "server-timing",
        "x-cold-start",
        "x-cold-start-reason",
        "x-request-id",
    )
)


def check_response(head: Mapping[str, Any]) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers (names in lower case) of a RESULT head. ResponseInvalid otherwise."""
    status = head.get("status")
    if type(status) is not int or not 200 <= status <= 599:
        raise ResponseInvalid(f"the function answered status {_shown(status)}; use 200 to 599")
    raw = head.get("headers", [])
    if not isinstance(raw, list) or len(raw) > RESPONSE_HEADERS_MAX:
        raise ResponseInvalid(f"the function may answer {RESPONSE_HEADERS_MAX} headers at most")
    headers: list[tuple[str, str]] = []
    total = 0
    for item in raw:
        if not (isinstance(item, list) and len(item) == 2):
            raise ResponseInvalid("the function answered a header that is not a name and a value")
        name, value = _checked(item[0], item[1])
        total += len(name) + len(value)
        if not _is_ours(name, value):
            headers.append((name, value))
    if total > RESPONSE_HEADERS_BYTES_MAX:
        raise ResponseInvalid(
            f"the function's headers take {total} bytes; {RESPONSE_HEADERS_BYTES_MAX} are allowed"
        )
    return status, headers


def _checked(name: Any, value: Any) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ResponseInvalid(f"the function answered a header named {_shown(name)}")
    if isinstance(value, str) and not value.isascii():
        # Headers are bytes on the wire; text beyond Latin-1 is sent as UTF-8, as browsers read it.
        value = value.encode("utf-8", "surrogatepass").decode("latin-1")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ResponseInvalid(f"the function answered header {name!r} with characters not allowed")
    return name.lower(), value.strip(" \t")


def _is_ours(name: str, value: str) -> bool:
    if name in _DROPPED or name.startswith("x-hearth-"):
        return True
    return name == "set-cookie" and value.lower().startswith("hearth_")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
