"""What comes back from an invocation, written as HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from starlette.types import Send

from core.errors import FunctionFault, HearthError, RequestInvalid, ResponseInvalid
from executor.call import Failure, Outcome, Timing
from gateway.errors import error_body, error_headers, status_of
from gateway.headers import HeaderList, for_client, has_much_body, request_id
from gateway.protocol import respond
from gateway.view import Target

_BODYLESS = frozenset({204, 304})
_COLD = {True: (b"x-cold-start", b"true"), False: (b"x-cold-start", b"false")}
_JSON = (b"content-type", b"application/json")
# What a shim says when the event is not JSON; the gateway looks at short events itself.
EVENT_UNREADABLE = "Runtime.UnmarshalError"

log = logging.getLogger("hearth.invoke")


class Reply:
    """The one answer of one invocation."""

    __slots__ = ("_call_id", "_head", "_method", "_send", "body_read", "for_owner", "id", "target")

    def __init__(self, send: Send, method: str, call_id: str, head: Mapping[bytes, bytes]) -> None:
        self._send = send
        self._method = method
        self._call_id = call_id
        self._head = head
        self.id = request_id(head.get(b"x-request-id")) or call_id
        self.target: Target | None = None  # once it is known which version runs
        self.for_owner = False  # an owner learns what went wrong inside the function
        self.body_read = False

    async def answer(self, kind: Literal["event", "http"], outcome: Outcome) -> None:
        """The function's response, or its own error."""
        facts = [*self._facts(), _COLD[outcome.cold], (b"server-timing", _timing(outcome.timing))]
        if outcome.failure is not None:
            await self.refuse(_as_error(outcome.failure, kind), facts)
        elif kind == "event":
            length = b"%d" % len(outcome.body)
            headers = [_JSON, (b"content-length", length), *facts]
            await respond(self._send, 200, headers, outcome.body)
        else:
            await self._respond(outcome, facts)

    async def refuse(self, error: HearthError, facts: HeaderList | None = None) -> None:
        """An error, whoever must act on it."""
        status = status_of(error)
        if status == 500:
            log.error("request %s: %s: %s", self.id, error.code, error.message)
        body = error_body(error, self.id, for_owner=self.for_owner)
        headers = error_headers(error, status, body, self.id)
        known = self._facts() if facts is None else facts
        headers += [fact for fact in known if fact[0] != b"x-request-id"]
        if not self.body_read and status != 413 and has_much_body(self._head):
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _respond(self, outcome: Outcome, facts: HeaderList) -> None:
        """The HTTP response that the function made."""
        headers, body = for_client(outcome.headers), outcome.body
        if outcome.status in _BODYLESS:
            body = b""
        elif body or self._method != "HEAD":  # an empty answer to HEAD does not tell a length
            headers.append((b"content-length", b"%d" % len(body)))
        await respond(self._send, outcome.status, headers + facts, body)

    def _facts(self) -> HeaderList:
        facts: HeaderList = [
            (b"x-request-id", self.id.encode()),
            (b"x-hearth-invocation-id", self._call_id.encode()),
        ]
        if self.target is not None:
            facts += self.target.headers
        return facts


def _timing(timing: Timing) -> bytes:
    return b"queue;dur=%.2f, boot;dur=%.2f, init;dur=%.2f, handler;dur=%.2f" % (
        timing.queue_ms,
        timing.boot_ms,
        timing.init_ms,
        timing.handler_ms,
    )


def _as_error(failure: Failure, kind: Literal["event", "http"]) -> HearthError:
    if kind == "event" and failure.type == EVENT_UNREADABLE:
        return RequestInvalid(f"the body is not JSON: {failure.message}")
    trace = {"trace": list(failure.trace)} if failure.trace else {}
    error = ResponseInvalid if failure.code == ResponseInvalid.code else FunctionFault
    return error(failure.message, type=failure.type, **trace)
