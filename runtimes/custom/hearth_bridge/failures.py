"""What a frame says of an error: words of the function's own, cut until they fit."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from hearth_shim.values import MESSAGE_CHARS_MAX, Invalid, dumps, loads
from hearth_shim.wire import HEAD_BYTES_MAX

HEADER_CHARS_FINE = 4 * 1024  # fewer cannot exceed a head, whatever JSON makes of them
TYPE_CHARS_MAX = 256
TRACE_LINES_MAX = 200
TRACE_CHARS_MAX = 1000  # of a line
NO_RESPONSE = "Runtime.MarshalError"
# A client that finds that its result cannot be said reports these itself.
RESPONSE_KINDS = (NO_RESPONSE, "Function.ResponseSizeTooLarge")


def failure(kind: str, message: str, trace: Any = ()) -> dict[str, Any]:
    """The head of an ERROR, or of an END."""
    code = "function_response_invalid" if kind in RESPONSE_KINDS else "function_error"
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[:MESSAGE_CHARS_MAX] + "…"
    return {
        "code": code,
        "type": kind[:TYPE_CHARS_MAX],
        "message": message,
        "trace": trace_lines(trace),
    }


def refusal(message: str, kind: str = NO_RESPONSE) -> dict[str, Any]:
    """The head that says that a response is none."""
    return failure(kind, message) | {"code": "function_response_invalid"}


def reported(body: bytes, kind: str) -> dict[str, Any]:
    """The failure that an error's body describes; ValueError when it is no JSON object. `kind`
    is what the request's header says, the body's word goes before it."""
    try:
        said = loads(str(body, "utf-8")) if body else {}
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deep") from None
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    kind = as_text(said.get("errorType")) or kind or "Runtime.Unknown"
    return failure(kind, as_text(said.get("errorMessage")), said.get("stackTrace"))


def reported_by_trailers(kind: bytes, body: bytes) -> dict[str, Any]:
    """The failure that a stream's trailers describe: its body is JSON in base64."""
    name = kind.decode("latin-1")
    try:
        return reported(base64.b64decode(body, validate=True), name)
    except (ValueError, binascii.Error):
        return failure(name, "")


def check_size(head: dict[str, Any], body: bytes, most: int) -> None:
    """Refuse what the executor would have to answer by closing the sandbox."""
    if len(body) > most:
        raise Invalid(too_large(len(body), most), "Function.ResponseSizeTooLarge")
    chars = sum(len(name) + len(value) for name, value in head.get("headers", ()))
    if chars > HEADER_CHARS_FINE and len(dumps(head).encode()) > HEAD_BYTES_MAX:
        raise Invalid("the response's headers are too large", "Function.ResponseSizeTooLarge")


def too_large(size: int, most: int) -> str:
    """What is said of a response over the limit."""
    return f"the response has {size} bytes; {most} are allowed"


def as_text(value: Any) -> str:
    """Text as it is, nothing for nothing, anything else as its JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else dumps(value)


def trace_lines(trace: Any) -> list[str]:
    """A stack trace as lines, whether it came as lines, as entries of several, or as objects."""
    if not isinstance(trace, (list, tuple)):
        return as_text(trace).splitlines()[:TRACE_LINES_MAX]
    lines = [line for entry in trace[:TRACE_LINES_MAX] for line in as_text(entry).splitlines()]
    if len(lines) > TRACE_LINES_MAX:
        lines[TRACE_LINES_MAX // 2 : -TRACE_LINES_MAX // 2] = ["…"]
    return [line[:TRACE_CHARS_MAX] for line in lines]
