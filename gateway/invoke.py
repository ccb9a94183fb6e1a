"""The hot path: a request invokes a function. A plain ASGI app beside Starlette's routes.

Read `Invoke.__call__` first, then `begin`, which is the same for the ordinary case and never waits.
On a warm seat nothing here touches database, Redis, disk or a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qsl, unquote

from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from catalog.catalog import Catalog
from core.errors import (
    FeatureUnavailable,
    HearthError,
    RequestInvalid,
    Unauthenticated,
    VersionNotActive,
)
from core.model import DEFAULT_NAMESPACE, FunctionRef, Version, VersionStatus
from executor.call import Call, Outcome
from gateway.auth import Caller, Right, authenticate, require
from gateway.body import ClientGone, read_body
from gateway.head import Head, Wish
from gateway.headers import for_function, new_ids, trace_parent
from gateway.lane import Turn
from gateway.peers import Peers
from gateway.reply import Reply
from gateway.response import cycle_of, deliver, leaving, pour
from gateway.view import NotInView, Target, View

HTTP_PREFIX = b"/function/"
ASYNC_PREFIX = b"/async-function/"
EVENT_PREFIX = b"/v1/functions/"
EVENT_SUFFIX = b"/invocations"
# An event up to this size is checked here (0.2 µs for a small one); the shim, which parses it
# anyway, checks a larger one, so that it does not hold up everybody else's requests.
EVENT_CHECKED_BYTES_MAX = 16 * 1024
NO_EVENT = b"{}"  # the event of a request without a body
# Headers that ask for more than an answer, or that the connection has to see to.
_EXTRAORDINARY = frozenset(
    b"prefer idempotency-key x-callback-url expect upgrade transfer-encoding".split()
)
_REFS_KEPT = 4096


class Runs(Protocol):
    """What the hot path needs of the executor."""

    async def invoke(self, version: Version, call: Call) -> Outcome:
        """Run it, waiting for a seat if need be."""
        ...

    def begin(
        self, version: Version, call: Call, told: Callable[[Outcome | HearthError], None]
    ) -> bool:
        """Start the call on a warm seat, now, without a task. True: `told` hears how it ended,
        once, later, from the event loop. False: no place or no warm seat at hand and nothing has
        happened; `invoke` it, which waits, or says why not."""
        ...


class Invoke:
    """POST /v1/functions/{name}[:q]/invocations and ANY /function/{name}[:q][/path]."""

    def __init__(
        self, view: View, executor: Runs, catalog: Catalog, peers: Peers, payload_bytes_max: int
    ) -> None:
        self._view = view
        self._executor = executor
        self._catalog = catalog
        self._peers = peers
        self._payload_bytes_max = payload_bytes_max
        self._parse = lru_cache(_REFS_KEPT)(parse_ref)
        self._ids = new_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head, call_id, cycle = Head.of(scope), next(self._ids), cycle_of(send)
        reply = Reply(head, call_id)
        try:
            wish = self._wish(head)
            caller = self._caller(head)
            reply.target, reply.for_owner = await self._admit_or_look(wish, caller)
            refuse_unavailable(head.named)
            body = await read_body(receive, head.named, self._payload_bytes_max)
            reply.body_read = True
            call = self._call(call_id, head, wish, caller, body)
            with leaving(scope):  # which cancels the waiting, not the call
                outcome = await self._executor.invoke(reply.target.version, call)
                if outcome.stream is not None:
                    await pour(cycle, reply.opening(outcome), outcome.stream)
                    return
        except HearthError as error:
            await deliver(cycle, reply.refusal(error))
        except ClientGone:
            return
        else:
            await deliver(cycle, reply.answer(outcome))

    def takes(self, head: Head) -> bool:
        """Whether the lane may serve such a request: it asks for an answer and no more."""
        return (
            is_invocation(head.method, head.path)
            and not (head.query and head.path.startswith(EVENT_PREFIX))
            and head.named.keys().isdisjoint(_EXTRAORDINARY)
        )

    def begin(self, head: Head, body: bytes, turn: Turn) -> bool:
        """The steps of `__call__` for a request that is here as a whole: none of them waits. False
        when one would have to, or an error to be told: nothing has happened, `__call__` decides."""
        if len(body) > self._payload_bytes_max:
            return False
        call_id = next(self._ids)
        turn.reply = reply = Reply(head, call_id)
        reply.body_read = True
        try:
            wish = self._wish(head)
            caller = self._caller(head)
            reply.target, reply.for_owner = self._admit(wish, caller)
            call = self._call(call_id, head, wish, caller, body)
        except (HearthError, NotInView):
            return False
        return self._executor.begin(reply.target.version, call, turn.told)

    def _wish(self, head: Head) -> Wish:
        """The path, read. It is never decoded as a whole: a function sees it as it was sent."""
        if head.wish is None:
            head.wish = self._read(head.path, head.query)
        return head.wish

    def _read(self, path: bytes, query: bytes) -> Wish:
        if path.startswith(HTTP_PREFIX):
            segment, _, rest = path[len(HTTP_PREFIX) :].partition(b"/")
            return Wish("http", self._parse(segment), "/" + rest.decode("latin-1"))
        if path.startswith(ASYNC_PREFIX):
            raise _unavailable("async", "asynchronous invocation")
        ref = self._parse(path[len(EVENT_PREFIX) : -len(EVENT_SUFFIX)])
        return Wish("event", with_query(ref, query) if query else ref, "")

    def _caller(self, head: Head) -> Caller | None:
        """Whose key it carries; looked up again once keys have changed, or if it may expire."""
        callers = self._view.callers
        if head.callers is not callers or (head.caller and head.caller.expires is not None):
            head.caller = authenticate(callers, head.named.get(b"authorization"))
            head.callers = callers
        return head.caller

    def _admit(self, wish: Wish, caller: Caller | None) -> tuple[Target, bool]:
        """The version to run, and whether its owner calls: one whose key gives the right to.
        NotInView when only the catalog can tell, for an owner alone."""
        ref = wish.ref
        namespace = ref.namespace or (caller.home if caller else DEFAULT_NAMESPACE)
        owner = caller is not None and caller.may(Right.INVOKE, namespace, ref.name)
        try:
            target = self._view.target(namespace, ref.name, ref.qualifier)
        except (HearthError, NotInView):
            if not owner:  # what exists is told to those who may call it
                require(caller, Right.INVOKE, namespace, ref.name)
            raise
        if not owner:
            self._require_public(target, ref, caller, namespace)
        return target, owner

    async def _admit_or_look(self, wish: Wish, caller: Caller | None) -> tuple[Target, bool]:
        try:
            return self._admit(wish, caller)
        except NotInView as missing:
            return await self._look_again(missing, wish.ref), True

    def _require_public(
        self, target: Target, ref: FunctionRef, caller: Caller | None, namespace: str
    ) -> None:
        """Let a caller without the right in if the function is for everybody."""
        if target.version.config.auth != "none":
            require(caller, Right.INVOKE, namespace, ref.name)
        if ref.qualifier is not None and ref.qualifier.isdigit():
            raise Unauthenticated("a version number needs a key; without one, call an alias")

    async def _look_again(self, missing: NotInView, ref: FunctionRef) -> Target:
        """Off the hot path: the catalog knows what the view does not. The version when it has
        become active just now; else VersionNotActive, VersionNotFound saying why not."""
        function, number = missing.function, missing.number
        if number is None:
            found = await asyncio.to_thread(self._catalog.versions, function.id, limit=1)
        else:
            found = [await asyncio.to_thread(self._catalog.version, function.id, number)]
        if not found:
            raise VersionNotActive(f"function {function.name!r} has no version yet")
        status = found[0].status
        if status is VersionStatus.ACTIVE:
            await self._view.refresh()
            with contextlib.suppress(NotInView):
                return self._view.target(function.namespace, function.name, ref.qualifier)
        facts = f"version {found[0].number} of {function.name!r} is {status.value}, not active"
        raise VersionNotActive(facts, version=found[0].number, status=status.value)

    def _call(
        self, call_id: str, head: Head, wish: Wish, caller: Caller | None, body: bytes
    ) -> Call:
        trace = trace_parent(head.named.get(b"traceparent"))
        if wish.kind == "event":
            return Call(call_id, "event", checked_event(body), None, trace)
        return Call(
            call_id, "http", body, self._http(head, wish, consumed=caller is not None), trace
        )

    def _http(self, head: Head, wish: Wish, *, consumed: bool) -> Mapping[str, Any]:
        """The request as the shim is told of it."""
        http = head.http.get(consumed)
        if http is None:
            scope = {"client": head.client, "scheme": head.scheme}
            origin = self._peers.origin(scope, head.named)
            http = head.http[consumed] = {
                "method": head.method,
                "root": _root(head.path),
                "path": wish.path,
                "query": head.query.decode("latin-1"),
                "headers": for_function(head.headers, origin.headers, consumed=consumed),
                "source_ip": origin.ip,
                "protocol": f"HTTP/{head.version}",
                "host": origin.host,
            }
        return http


def is_invocation(method: str, path: bytes) -> bool:
    """Whether the hot path serves it."""
    if path.startswith((HTTP_PREFIX, ASYNC_PREFIX)):
        return True
    return path.endswith(EVENT_SUFFIX) and path.startswith(EVENT_PREFIX) and method == "POST"


def _root(path: bytes) -> str:
    """What stands before a function's own path, and names it: /function/hello:prod."""
    segment = path[len(HTTP_PREFIX) :].partition(b"/")[0]
    return (HTTP_PREFIX + segment).decode("latin-1")


def parse_ref(segment: bytes) -> FunctionRef:
    """`name`, `ns.name`, `name:3`, also with a percent-encoded colon. NameInvalid."""
    return FunctionRef.parse(unquote(segment.decode("latin-1")))


def with_query(ref: FunctionRef, query: bytes) -> FunctionRef:
    """`?qualifier=` selects a version or alias; `?mode=sync` is what happens anyway."""
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "mode" and value in ("sync", "async"):
            if value == "async":
                raise _unavailable("async", "asynchronous invocation")
        elif name == "qualifier":
            said = FunctionRef.parse(f"{ref.name}:{value}").qualifier
            if ref.qualifier not in (None, said):
                raise RequestInvalid("the path and ?qualifier= name different versions")
            ref = FunctionRef(ref.namespace, ref.name, said)
        else:
            raise RequestInvalid(f"an invocation has no parameter {name[:64]}={value[:64]}")
    return ref


def refuse_unavailable(head: dict[bytes, bytes]) -> None:
    """Guarantees that this release does not give are refused, not ignored."""
    if b"prefer" in head and b"respond-async" in head[b"prefer"].lower():
        raise _unavailable("async", "asynchronous invocation")
    if b"idempotency-key" in head:
        raise _unavailable("idempotency", "Idempotency-Key")
    if b"x-callback-url" in head:
        raise _unavailable("callbacks", "X-Callback-Url")


def checked_event(body: bytes) -> bytes:
    """The JSON event of a body. RequestInvalid when it is short enough to be looked at and is
    not JSON."""
    if not body:
        return NO_EVENT
    if len(body) <= EVENT_CHECKED_BYTES_MAX:
        try:
            from_json(body, allow_inf_nan=False, cache_strings="none")
        except ValueError as error:
            _ask_again(body, str(error))
    return body


def _ask_again(body: bytes, complaint: str) -> None:
    """The quick parser also refuses what is JSON: half a surrogate pair, deep nesting."""
    try:
        json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RequestInvalid(f"the body is not JSON: {complaint}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unavailable(feature: str, what: str) -> FeatureUnavailable:
    return FeatureUnavailable(f"this release has no {what} yet", feature=feature)
