"""The management API as an ASGI app: routes from the table, authentication, errors, request ids."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from core.errors import Forbidden, HearthError, MethodNotAllowed, NotFound, RequestInvalid
from core.model import DEFAULT_NAMESPACE, FunctionRef
from gateway.ask import Ask, Parts
from gateway.auth import Right, authenticate, require
from gateway.body import ClientGone
from gateway.errors import error_body, error_headers, status_of
from gateway.headers import has_much_body, new_id, request_id
from gateway.openapi import document
from gateway.routes import ENDPOINTS, Endpoint, Media

log = logging.getLogger("hearth.api")


class Manage:
    """Everything but the hot path."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.endpoints = (*ENDPOINTS, _openapi())
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in self.endpoints:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        routes = [
            Route(path, self._serve(methods), methods=list(methods))
            for path, methods in by_path.items()
        ]
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = dict(scope["headers"])
        exchange = _Exchange(receive, send, head)
        scope["app"] = self  # makes the router raise instead of answering by itself
        try:
            await self._router(scope, exchange.receive, exchange.send)
        except HearthError as error:
            await exchange.refuse(error)
        except HTTPException as error:
            await exchange.refuse(_translated(error), error.headers)
        except ClientGone:
            return
        except Exception:  # a fault of ours: said with its id, so that the log can be searched
            log.exception("request %s failed", exchange.id)
            await exchange.refuse(HearthError("something went wrong inside the gateway"))

    def _serve(self, methods: Mapping[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            endpoint = methods[method]
            return await endpoint.handle(self._ask(endpoint, request))

        return serve

    def _ask(self, endpoint: Endpoint, request: Request) -> Ask:
        """Who asks, for what; Unauthenticated, Forbidden, FunctionNotFound, RequestInvalid."""
        if endpoint.right is None:
            return Ask(self._parts, request, None, DEFAULT_NAMESPACE, "")
        head = dict(request.scope["headers"])
        caller = authenticate(self._parts.view.callers, head.get(b"authorization"))
        if caller is None:
            require(None, endpoint.right, DEFAULT_NAMESPACE, None)
            raise AssertionError("unreachable")
        namespace, name = caller.home, ""
        if "name" in request.path_params:
            ref = FunctionRef.parse(request.path_params["name"])
            if ref.qualifier is not None:
                raise RequestInvalid("a version or alias is not named in this path")
            namespace, name = ref.namespace or caller.home, ref.name
            require(caller, endpoint.right, namespace, name)
        elif endpoint.right is Right.DEPLOY:
            _require_role(caller.rights, endpoint.right)  # which function, the body will tell
        else:
            require(caller, endpoint.right, namespace, None)
        _check_query(endpoint, request)
        return Ask(self._parts, request, caller, namespace, name)


class _Exchange:
    """One request and its response, with what every response carries."""

    def __init__(self, receive: Receive, send: Send, head: Mapping[bytes, bytes]) -> None:
        self.id = request_id(head.get(b"x-request-id")) or new_id()
        self._receive = receive
        self._send = send
        self._started = False
        self._unread = has_much_body(head)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message["more_body"]:
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            headers = [h for h in message["headers"] if h[0] != b"x-request-id"]
            headers.append((b"x-request-id", self.id.encode()))
            if self._unread:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, error: HearthError, headers: Mapping[str, str] | None = None) -> None:
        if self._started:
            return  # uvicorn closes a connection whose response stays incomplete
        status = status_of(error)
        if status == 500 and type(error) is not HearthError:
            log.error("request %s: %s: %s", self.id, error.code, error.message)
        body = error_body(error, self.id)
        sent = error_headers(error, status, body, self.id)
        sent += [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        if self._unread:
            sent = [header for header in sent if header[0] != b"connection"]
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        await self.send({"type": "http.response.body", "body": body})


def _openapi() -> Endpoint:
    kept: list[bytes] = []

    async def openapi(ask: Ask) -> Response:
        if not kept:
            kept.append(document((*ENDPOINTS, endpoint)))
        return Response(kept[0], media_type="application/json")

    says = "This document"
    media = Media("application/json")
    endpoint = Endpoint("GET", "/openapi.json", openapi, None, says, {200: media})
    return endpoint


def _translated(error: HTTPException) -> HearthError:
    if error.status_code == 405:
        return MethodNotAllowed("this path does not take that method")
    if error.status_code == 404:
        return NotFound("there is nothing at this path")
    return RequestInvalid(str(error.detail))


def _check_query(endpoint: Endpoint, request: Request) -> None:
    known = {query.name for query in endpoint.query}
    for name in request.query_params:
        if name not in known:
            raise RequestInvalid(f"this call has no parameter {name[:64]!r}")


def _require_role(rights: frozenset[Right], right: Right) -> None:
    if right not in rights:
        raise Forbidden("the key's role does not include this call")
