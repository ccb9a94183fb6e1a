"""What a frame says of a result or of an error: heads and bodies, within the limits."""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from typing import Any

from .responses import http_response
from .values import Invalid, describe, dumps, encode
from .wire import ERROR, HEAD_BYTES_MAX, RESULT

HEADER_CHARS_FINE = 4 * 1024  # fewer cannot exceed a head, whatever JSON makes of them
TYPE_CHARS_MAX = 256
TRACE_FRAMES_MAX = 60
TRACE_LINES_MAX = 200
TRACE_CHARS_MAX = 1000  # of a line
INTERNAL = (
    os.path.dirname(__file__),
    "<frozen importlib",
    str(importlib.__file__),
    os.path.dirname(asyncio.__file__),
)

Answer = tuple[int, dict[str, Any], bytes]  # type, head, body of a frame


def answer_of(kind: str, result: Any, body_bytes_max: int) -> Answer:
    """The RESULT of a handler that returned, or the ERROR that its result is."""
    try:
        head, body = http_response(result) if kind == "http" else ({}, encode(result))
        check_body(body, body_bytes_max)
        check_head(head)
        return RESULT, head, body
    except BaseException as error:  # the result's own methods may raise anything
        return ERROR, refusal(error), b""


def check_body(body: bytes, most: int) -> None:
    """Refuse what the executor would have to answer by closing the sandbox."""
    if len(body) > most:
        message = f"the response has {len(body)} bytes; {most} are allowed"
        raise Invalid(message, "Function.ResponseSizeTooLarge")


def check_head(head: dict[str, Any]) -> None:
    """The same of headers."""
    chars = sum(len(name) + len(value) for name, value in head.get("headers", ()))
    if chars > HEADER_CHARS_FINE and len(dumps(head).encode()) > HEAD_BYTES_MAX:
        raise Invalid("the response's headers are too large", "Function.ResponseSizeTooLarge")


def refusal(error: BaseException) -> dict[str, Any]:
    """The head that says that a result is none."""
    kind = error.kind if isinstance(error, Invalid) else "Runtime.MarshalError"
    return failure("function_response_invalid", error, kind) | {"trace": []}


def failure(code: str, error: BaseException, kind: str = "") -> dict[str, Any]:
    """The head of an ERROR: type, message and the user's part of the traceback, bounded."""
    message = describe(error)
    if isinstance(error, SystemExit):
        kind, message = kind or "Runtime.ExitError", f"the handler called sys.exit({message})"
    try:
        trace = user_trace(error)
    except BaseException:  # formatting runs user code (__str__, __notes__) and takes memory
        trace = []
    return {"code": code, "type": kind or type_of(error), "message": message, "trace": trace}


def type_of(error: BaseException) -> str:
    """The name of an error's class, whose metaclass may be the user's."""
    try:
        return str(type(error).__name__)[:TYPE_CHARS_MAX]
    except BaseException:
        return "Exception"


def user_trace(error: BaseException) -> list[str]:
    """The lines of the traceback from the first frame that is the user's."""
    frame = error.__traceback__
    while frame and frame.tb_frame.f_code.co_filename.startswith(INTERNAL):
        frame = frame.tb_next
    formatted = traceback.TracebackException(
        type(error), error, frame, limit=-TRACE_FRAMES_MAX, compact=True
    )
    lines = "".join(formatted.format()).splitlines()
    if len(lines) > TRACE_LINES_MAX:
        lines[TRACE_LINES_MAX // 2 : -TRACE_LINES_MAX // 2] = ["…"]
    return [line[:TRACE_CHARS_MAX] for line in lines]
