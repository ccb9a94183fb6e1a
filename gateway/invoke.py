"""The hot path: a request invokes a function. A plain ASGI app beside Starlette's routes.

Read `Invoke.__call__` first. On a warm seat nothing here touches database, Redis, disk or a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NoReturn, Protocol
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
from gateway.headers import for_function, new_id, trace_parent
from gateway.peers import Peers
from gateway.protocol import GONE, WAITING
from gateway.reply import Reply
from gateway.view import NotInView, Target, View

HTTP_PREFIX = b"/function/"
ASYNC_PREFIX = b"/async-function/"
EVENT_PREFIX = b"/v1/functions/"
EVENT_SUFFIX = b"/invocations"
# An event up to this size is checked here (0.2 µs for a small one); the shim, which parses it
# anyway, checks a larger one, so that it does not hold up everybody else's requests.
EVENT_CHECKED_BYTES_MAX = 16 * 1024
NO_EVENT = b"{}"  # the event of a request without a body
_REFS_KEPT = 4096


class Runs(Protocol):
    """What the hot path needs of the executor."""

    async def invoke(self, version: Version, call: Call) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What a path asks for."""

    kind: Literal["event", "http"]
    ref: FunctionRef
    path: str  # below the function's name, as sent; begins with "/"


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = dict(scope["headers"])
        call_id = new_id()
        reply = Reply(send, scope["method"], call_id, head)
        try:
            wish = self._wish(scope)
            caller = authenticate(self._view.callers, head.get(b"authorization"))
            reply.target, reply.for_owner = await self._admit(wish, caller)
            refuse_unavailable(head)
            body = await read_body(receive, head, self._payload_bytes_max)
            reply.body_read = True
            call = self._call(call_id, wish, scope, head, body, caller)
            outcome = await self._run(scope, reply.target.version, call)
        except HearthError as error:
            await reply.refuse(error)
        except ClientGone:
            return
        else:
            await reply.answer(wish.kind, outcome)

    async def _run(self, scope: Scope, version: Version, call: Call) -> Outcome:
        """The invocation. A client that leaves cancels the waiting, not the call: that goes on in
        the executor, within its deadline."""
        scope[WAITING] = True
        try:
            return await self._executor.invoke(version, call)
        except asyncio.CancelledError:
            if scope.get(GONE):
                raise ClientGone from None
            raise
        finally:
            scope[WAITING] = False

    def _wish(self, scope: Scope) -> Wish:
        """The path, read. It is never decoded as a whole: a function sees it as it was sent."""
        raw: bytes = scope["raw_path"]
        if raw.startswith(HTTP_PREFIX):
            segment, _, rest = raw[len(HTTP_PREFIX) :].partition(b"/")
            return Wish("http", self._parse(segment), "/" + rest.decode("latin-1"))
        if raw.startswith(ASYNC_PREFIX):
            raise _unavailable("async", "asynchronous invocation")
        ref = self._parse(raw[len(EVENT_PREFIX) : -len(EVENT_SUFFIX)])
        if scope["query_string"]:
            ref = with_query(ref, scope["query_string"])
        return Wish("event", ref, "")

    async def _admit(self, wish: Wish, caller: Caller | None) -> tuple[Target, bool]:
        """The version to run, and whether its owner calls: one whose key gives the right to."""
        ref = wish.ref
        namespace = ref.namespace or (caller.home if caller else DEFAULT_NAMESPACE)
        owner = caller is not None and caller.may(Right.INVOKE, namespace, ref.name)
        try:
            target = self._view.target(namespace, ref.name, ref.qualifier)
        except NotInView as missing:
            if not owner:
                require(caller, Right.INVOKE, namespace, ref.name)
            target = await self._look_again(missing, ref)
        except HearthError:
            if not owner:  # what exists is told to those who may call it
                require(caller, Right.INVOKE, namespace, ref.name)
            raise
        if not owner:
            self._require_public(target, ref, caller, namespace)
        return target, owner

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
        self,
        call_id: str,
        wish: Wish,
        scope: Scope,
        head: dict[bytes, bytes],
        body: bytes,
        caller: Caller | None,
    ) -> Call:
        trace = trace_parent(head.get(b"traceparent"))
        if wish.kind == "event":
            return Call(call_id, "event", checked_event(body), None, trace)
        origin = self._peers.origin(scope, head)
        consumed = caller is not None
        http = {
            "method": scope["method"],
            "path": wish.path,
            "query": scope["query_string"].decode("latin-1"),
            "headers": for_function(scope["headers"], origin.headers, consumed=consumed),
            "source_ip": origin.ip,
            "protocol": f"HTTP/{scope['http_version']}",
            "host": origin.host,
        }
        return Call(call_id, "http", body, http, trace)


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
