"""What the frames say: heads of INIT and CALL, and what an answer means. Pure; what a sandbox says
is hostile, and cut to size here.
"""

from __future__ import annotations

import time
from typing import Any

from core.errors import (
    FunctionFault,
    FunctionInitFailed,
    FunctionOutOfMemory,
    FunctionTimeout,
    ResponseInvalid,
)
from core.model import Version
from executor.call import Call, Failure, Outcome, Stream, Timing, Usage
from executor.response import check_response
from executor.wire import Frame, FrameType, head_of, to_json

_CODES = (ResponseInvalid.code, FunctionOutOfMemory.code)  # that a shim may say
_TEXT_MAX = 16 * 1024  # as the shims cut it
_LOGGED_LINES_MAX, _LOGGED_LENGTH_MAX = 64, 2048
_TRACE_LINES_MAX = 256  # a shim sends 201 at most, and the last ones matter most


def init_head(version: Version, payload_bytes_max: int) -> dict[str, Any]:
    """The head of INIT."""
    config = version.config
    return {
        "handler": config.handler,
        "env": dict(config.env),
        "function": version.name,
        "namespace": version.namespace,
        "version": str(version.number),
        "memory_mb": config.memory_mb,
        "timeout_s": config.timeout_s,
        "payload_bytes_max": payload_bytes_max,
        "per_sandbox": config.per_sandbox,
        "isolation": config.isolation,
    }


def call_head_json(call: Call, timeout_s: float) -> bytes:
    """The head of CALL as it travels. That of a plain event is put together by hand, which costs a
    sixth of the encoder: its id is the platform's own."""
    if call.http is None and call.trace is None:
        deadline_ms = int((time.time() + timeout_s) * 1000)
        return f'{{"id":"{call.id}","kind":"event","deadline_ms":{deadline_ms}}}'.encode()
    return to_json(call_head(call, timeout_s))


def call_head(call: Call, timeout_s: float) -> dict[str, Any]:
    """The head of CALL."""
    head: dict[str, Any] = {
        "id": call.id,
        "kind": call.kind,
        "deadline_ms": int((time.time() + timeout_s) * 1000),
    }
    if call.trace:
        head["trace"] = call.trace
    if call.http is not None:
        head["http"] = call.http
    return head


def outcome_of(frame: Frame, call: Call, timing: Timing, usage: Usage | None) -> Outcome:
    """What RESULT or ERROR means for the call. A response that cannot be one is the function's
    error, a value like its others. WireError when the frame cannot be read at all."""
    if frame.type is FrameType.RESULT and call.kind == "event":
        return Outcome(200, (), frame.body, cold=False, timing=timing, usage=usage)
    try:
        head = head_of(frame)
        if frame.type is FrameType.ERROR:
            return _failed(_failure(head), timing, usage)
        status, headers = check_response(head)
    except ResponseInvalid as error:
        return _failed(_invalid(error), timing, usage)
    return Outcome(status, headers, frame.body, cold=False, timing=timing, usage=usage)


def opening_of(frame: Frame, timing: Timing, stream: Stream) -> Outcome:
    """What the first CHUNK of a streamed answer means. WireError as `outcome_of`."""
    try:
        status, headers = check_response(head_of(frame))
    except ResponseInvalid as error:
        return _failed(_invalid(error), timing, None)
    return Outcome(status, headers, b"", cold=False, timing=timing, stream=stream)


def stream_error(frame: Frame) -> tuple[FunctionFault | None, bool]:
    """What END says that went wrong in the middle of a stream, None when all was said; and whether
    the shim ends with it."""
    head = head_of(frame)
    if not head:
        return None, False
    failure = _failure(head)
    kind = ResponseInvalid if failure.code == ResponseInvalid.code else FunctionFault
    return kind(failure.message, type=failure.type, trace=logged(failure)), failure.is_last


def logged(failure: Failure) -> list[str]:
    """What the function's log says of its own error: the trace's end, or all there is to say."""
    trace = failure.trace[-_LOGGED_LINES_MAX:]
    return [line[:_LOGGED_LENGTH_MAX] for line in trace or (f"{failure.type}: {failure.message}",)]


def init_failure(head: dict[str, Any]) -> FunctionInitFailed:
    """What INIT_ERROR means."""
    details: dict[str, Any] = {"type": _text(head.get("type"), "Error")}
    if trace := _lines(head.get("trace")):
        details["trace"] = list(trace)
    if isinstance(head.get("found"), list):
        details["found"] = list(_lines(head["found"]))
    return FunctionInitFailed(_text(head.get("message"), "the code could not be loaded"), **details)


def timeout_error(timeout_s: float) -> FunctionTimeout:
    """What a call ends with when its time is over."""
    text = f"the function ran longer than its timeout of {timeout_s:g} s and was stopped"
    return FunctionTimeout(text, timeout_s=timeout_s)


def _failed(failure: Failure, timing: Timing, usage: Usage | None) -> Outcome:
    return Outcome(502, (), b"", cold=False, timing=timing, failure=failure, usage=usage)


def _invalid(error: ResponseInvalid) -> Failure:
    return Failure(ResponseInvalid.code, "Runtime.ResponseInvalid", error.message)


def _failure(head: dict[str, Any]) -> Failure:
    code = head.get("code")
    return Failure(
        code=code if code in _CODES else FunctionFault.code,
        type=_text(head.get("type"), "Error"),
        message=_text(head.get("message"), ""),
        trace=_lines(head.get("trace")),
        is_last=head.get("last") is True,
    )


def _text(value: Any, default: str) -> str:
    return value[:_TEXT_MAX] if isinstance(value, str) else default


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(_text(line, "") for line in value[-_TRACE_LINES_MAX:])
