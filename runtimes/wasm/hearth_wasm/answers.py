"""What a call came to, as a frame: the module's output as a result, or what went wrong."""

from __future__ import annotations

from typing import Any

from .instance import Call
from .shared import ERROR, RESULT, Invalid, check_body, check_head, http_response, loads, refusal

SHOWN_CHARS_MAX = 60
NEAR_LIMIT_SHARE = 4  # memory that failed to grow was asked for in steps of this part at most

Answer = tuple[int, dict[str, Any], bytes]


def answer_of(call: Call, kind: str) -> Answer:
    """RESULT or ERROR."""
    if call.over == "too large":
        least = max(call.out_bytes, call.out_bytes_max + 1)
        return _refused(_too_large(least, call.out_bytes_max))
    if call.over:
        return _error("function_error", "Interrupted", f"the call was ended: {call.over}", [])
    if call.failure or call.status:
        return _failed(call)
    text = b"".join(call.out)
    if not text.strip():
        text = b"null"
    return _result(text, kind, call.out_bytes_max)


def _result(text: bytes, kind: str, most: int) -> Answer:
    try:
        value = loads(text.decode())
    except (ValueError, RecursionError) as error:
        shown = text[:SHOWN_CHARS_MAX].decode("utf-8", "replace")
        message = f"the output is not JSON: {error}; it begins with {shown!r}"
        return _refused(Invalid(message))
    if kind != "http":
        return RESULT, {}, text
    try:
        head, body = http_response(value)
        check_body(body, most)
        check_head(head)
    except Exception as error:  # whatever the module said, it is refused and nothing else ends
        return _refused(error)
    return RESULT, head, body


def _failed(call: Call) -> Answer:
    trace = call.failure[2] if call.failure else []
    trace = [*call.tail.lines(), *trace]
    if ran_out_of_memory(call):
        limit = call.memory_bytes >> 20
        message = f"the module could not grow its memory: its limit is {limit} MB (memory_mb)"
        return _error("function_out_of_memory", "OutOfMemory", message, trace)
    if call.failure:
        return _error("function_error", call.failure[0], call.failure[1], trace)
    return _error("function_error", "Runtime.ExitError", f"exit status {call.status}", trace)


def ran_out_of_memory(call: Call) -> bool:
    """wasmtime does not say that growth was refused. A module that failed did so for want of memory
    when what it had left was little, when it began with more than it may have, or when its last
    words say so, as those of C, Rust, Go and Zig do."""
    if call.failure and "memory limits" in call.failure[1]:
        return True
    left = call.memory_bytes - call.memory_used
    if call.memory_used and left < call.memory_bytes // NEAR_LIMIT_SHARE:
        return True
    words = " ".join(call.tail.lines()[-5:]).lower()
    return any(sign in words for sign in ("out of memory", "outofmemory", "memory allocation of"))


def _too_large(size: int, most: int) -> Invalid:
    message = f"the response has at least {size} bytes; {most} are allowed"
    return Invalid(message, "Function.ResponseSizeTooLarge")


def _refused(error: Exception) -> Answer:
    return ERROR, refusal(error), b""


def _error(code: str, kind: str, message: str, trace: list[str]) -> Answer:
    return ERROR, {"code": code, "type": kind, "message": message, "trace": trace}, b""
