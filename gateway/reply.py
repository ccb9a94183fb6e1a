"""What comes back from an invocation, as HTTP: pure, for both ways into the hot path."""

from __future__ import annotations

import logging
from typing import Literal

from core.errors import (
    FunctionFault,
    FunctionOutOfMemory,
    HearthError,
    RequestInvalid,
    ResponseInvalid,
)
from executor.call import Failure, Outcome, Usage
from gateway.errors import error_body, error_headers, status_of
from gateway.head import Head
from gateway.headers import for_client, has_much_body, request_id
from gateway.response import Answer, Framing, Opening
from gateway.view import Target

_BODYLESS = frozenset({204, 304})
_JSON = "content-type: application/json\r\n"
# What a shim says when the event is not JSON; the gateway looks at short events itself.
EVENT_UNREADABLE = "Runtime.UnmarshalError"

_ERRORS = {kind.code: kind for kind in (FunctionFault, ResponseInvalid, FunctionOutOfMemory)}

log = logging.getLogger("hearth.invoke")


class Reply:
    """The one answer of one invocation."""

    __slots__ = ("_call_id", "_head", "body_read", "for_owner", "id", "target")

    def __init__(self, head: Head, call_id: str) -> None:
        self._head = head
        self._call_id = call_id
        self.id = request_id(head.named.get(b"x-request-id")) or call_id
        self.target: Target | None = None  # once it is known which version runs
        self.for_owner = False  # an owner learns what went wrong inside the function
        self.body_read = False

    def answer(self, outcome: Outcome) -> Answer:
        """The function's response, or its own error."""
        facts = self._facts() + _measured(outcome)
        if outcome.failure is not None:
            return self.refusal(_as_error(outcome.failure, self._kind), facts)
        body = outcome.body
        if self._kind == "event":
            return Answer(200, f"{_JSON}content-length: {len(body)}\r\n{facts}", body)
        if outcome.status in _BODYLESS:
            return Answer(outcome.status, for_client(outcome.headers) + facts)
        length = f"content-length: {len(body)}\r\n"
        if self._head.method == "HEAD":  # an empty answer to HEAD does not tell a length
            length, body = length if body else "", b""
        return Answer(outcome.status, for_client(outcome.headers) + length + facts, body)

    def opening(self, outcome: Outcome) -> Opening:
        """The head of a response that is being made."""
        lines = for_client(outcome.headers) + self._facts() + _measured(outcome)
        framing = Framing.CHUNKED
        if self._head.method == "HEAD" or outcome.status in _BODYLESS:
            framing = Framing.NONE
        elif self._head.version == "1.0":
            framing = Framing.RAW
        else:
            lines += "transfer-encoding: chunked\r\n"
        return Opening(Answer(outcome.status, lines), framing, self.id)

    def refusal(self, error: HearthError, facts: str | None = None) -> Answer:
        """An error, whoever must act on it."""
        status = status_of(error)
        if status == 500:
            log.error("request %s: %s: %s", self.id, error.code, error.message)
        body = error_body(error, self.id, for_owner=self.for_owner)
        closes = status == 413 or not (self.body_read or not has_much_body(self._head.named))
        lines = [
            f"{name.decode()}: {value.decode()}\r\n"
            for name, value in error_headers(error, status, body, self.id)
            if name not in (b"connection", b"x-request-id")
        ]
        sent = b"" if self._head.method == "HEAD" else body
        return Answer(status, "".join(lines) + (facts or self._facts()), sent, closes)

    @property
    def _kind(self) -> Literal["event", "http"]:
        assert self._head.wish is not None
        return self._head.wish.kind

    def _facts(self) -> str:
        facts = f"x-request-id: {self.id}\r\nx-hearth-invocation-id: {self._call_id}\r\n"
        return facts if self.target is None else facts + self.target.lines


def _measured(outcome: Outcome) -> str:
    """Was it cold, and where did the time go."""
    timing = outcome.timing
    if outcome.cold:
        why = f"x-cold-start-reason: {outcome.why_cold}\r\n" if outcome.why_cold else ""
        start = f"boot;dur={timing.boot_ms:.2f}, init;dur={timing.init_ms:.2f}"
        first = f"x-cold-start: true\r\n{why}"
    else:
        start, first = "boot;dur=0.00, init;dur=0.00", "x-cold-start: false\r\n"
    queue, handler = timing.queue_ms, timing.handler_ms
    lines = f"{first}server-timing: queue;dur={queue:.2f}, {start}, handler;dur={handler:.2f}"
    return lines + ("\r\n" if outcome.usage is None else _used(outcome.usage))


def _used(usage: Usage) -> str:
    """The rest of Server-Timing, and the memory if it is this invocation's own."""
    lines = "\r\n" if usage.cpu_ms is None else f", cpu;dur={usage.cpu_ms:.2f}\r\n"
    if usage.memory_peak_bytes is not None and usage.is_peak_own:
        lines += f"x-hearth-memory-peak: {usage.memory_peak_bytes}\r\n"
    return lines


def _as_error(failure: Failure, kind: Literal["event", "http"]) -> HearthError:
    if kind == "event" and failure.type == EVENT_UNREADABLE:
        return RequestInvalid(f"the body is not JSON: {failure.message}")
    trace = {"trace": list(failure.trace)} if failure.trace else {}
    return _ERRORS[failure.code](failure.message, type=failure.type, **trace)
