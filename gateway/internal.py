"""The internal socket: what the builder asks of this node. Only the platform's user reaches it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, replace
from typing import Protocol

from pydantic import Field
from starlette.types import Receive, Scope, Send

from catalog.catalog import Catalog
from core.errors import FunctionFault, HearthError, NotFound
from core.limits import BUILD_LOG_TAIL_BYTES, JSON_BODY_BYTES_MAX
from core.model import Version
from executor.call import PoolStats
from gateway.body import ClientGone, read_body
from gateway.errors import error_body, error_headers, status_of
from gateway.headers import new_id
from gateway.logs import LogFiles, stamp
from gateway.models import Strict, read_json
from gateway.view import View

LAYERS_MAX = 16
PRINTED_LINES_MAX = 200


class Checks(Protocol):
    """What this socket needs of the executor."""

    async def check(self, version: Version) -> None: ...

    def stats(self) -> PoolStats: ...


class CheckRequest(Strict):
    """A version that is not active yet, with the layers that its build made."""

    version_id: str = Field(max_length=64)
    layers: list[str] = Field(max_length=LAYERS_MAX)


class Internal:
    """POST /internal/check: load the version on this node. 200; 422 with what its code does wrong;
    503 when it is not the code's fault.

    GET /internal/stats: counts of this moment, of seats, stems and the process's tasks."""

    def __init__(self, catalog: Catalog, executor: Checks, view: View, logs: LogFiles) -> None:
        self._catalog = catalog
        self._view = view
        self._executor = executor
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id()
        try:
            body = await self._answer(scope, receive)
            status = 200
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode()),
            ]
        except HearthError as error:
            status = 422 if isinstance(error, FunctionFault) else status_of(error)
            body = error_body(error, request_id)
            headers = error_headers(error, status, body, request_id)
        except ClientGone:
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        match scope["method"], scope["path"]:
            case "POST", "/internal/check":
                head = dict(scope["headers"])
                await self._check(await read_body(receive, head, JSON_BODY_BYTES_MAX))
                return b'{"ok": true}'
            case "GET", "/internal/stats":
                facts = {**asdict(self._executor.stats()), "tasks": len(asyncio.all_tasks())}
                return json.dumps(facts).encode()
        raise NotFound("the internal socket serves POST /internal/check, GET /internal/stats")

    async def _check(self, body: bytes) -> None:
        request = read_json(CheckRequest, body)
        version = await asyncio.to_thread(self._catalog.version_by_id, request.version_id)
        self._view.expect(version.id)
        started = stamp(time.time())
        try:
            await self._executor.check(replace(version, layers=tuple(request.layers)))
        except FunctionFault as error:
            printed = await self._printed(version, started)
            if printed:
                error.details["log"] = printed
            raise

    async def _printed(self, version: Version, since: str) -> str:
        """What the version's code wrote while it was loaded, or the end of that."""
        lines = await self._logs.tail(
            version.namespace, version.name, lines=PRINTED_LINES_MAX, since=since
        )
        written = [json.loads(line) for line in lines.splitlines()]
        texts = [line["text"] for line in written if line["version"] == version.number]
        end = "\n".join(texts).encode(errors="replace")[-BUILD_LOG_TAIL_BYTES:]
        return end.decode(errors="ignore")
