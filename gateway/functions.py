"""Functions over HTTP: list, one, delete, and its log. Deploys are told in deploy.py."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import datetime

from starlette.responses import Response

from core.errors import FeatureUnavailable, Forbidden, RequestInvalid
from core.limits import LOG_TAIL_LINES_MAX
from core.model import LATEST, Function, check_name
from gateway.answers import FunctionOut, Page, answer
from gateway.ask import Ask, make_cursor
from gateway.logs import stamp

LOG_LINES_DEFAULT = 100
_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


async def list_functions(ask: Ask) -> Response:
    """A page by name. A key restricted to functions sees those only."""
    after, limit = ask.page()
    namespace = ask.request.query_params.get("namespace", ask.namespace)
    check_name(namespace, what="namespace")
    if not ask.caller.sees(namespace):
        raise Forbidden("the key belongs to another namespace")

    def read() -> Page[FunctionOut]:
        found = ask.parts.catalog.functions(namespace, after=after, limit=limit + 1)
        page, more = found[:limit], found[limit:]
        allowed = ask.caller.functions
        items = [_read(ask, f) for f in page if not allowed or f.name in allowed]
        return Page(items=items, next=make_cursor(page[-1].name) if more else None)

    return answer(await asyncio.to_thread(read))


async def get_function(ask: Ask) -> Response:
    """One function."""
    catalog = ask.parts.catalog

    def read() -> FunctionOut:
        return _read(ask, catalog.function(ask.namespace, ask.name))

    function = await asyncio.to_thread(read)
    await ask.parts.view.look()  # what is told here holds for the next call
    return answer(function)


async def delete_function(ask: Ask) -> Response:
    """With its versions, aliases and log. Its running invocations finish."""
    await asyncio.to_thread(ask.parts.catalog.delete_function, ask.namespace, ask.name)
    await ask.parts.changes.made()
    await ask.parts.logs.forget(ask.namespace, ask.name)
    return Response(status_code=204)


async def get_logs(ask: Ask) -> Response:
    """The last lines of the function's log as JSON lines."""
    if ask.flag("follow") or "text/event-stream" in ask.request.headers.get("accept", ""):
        message = "this release does not stream logs yet: ask again with ?since="
        raise FeatureUnavailable(message, feature="follow")
    await asyncio.to_thread(ask.parts.catalog.function, ask.namespace, ask.name)
    sent = ask.request.query_params.get("since")
    default = LOG_LINES_DEFAULT if sent is None else LOG_TAIL_LINES_MAX
    lines = ask.count("tail", default=default, most=LOG_TAIL_LINES_MAX)
    since = "" if sent is None else read_since(sent, time.time())
    text = await ask.parts.logs.tail(ask.namespace, ask.name, lines=lines, since=since)
    return Response(text, media_type="application/x-ndjson")


def read_since(text: str, now: float) -> str:
    """A moment (RFC 3339 with its offset) or how long ago (`90s`, `10m`, `2h`, `1d`), as log lines
    write it. RequestInvalid."""
    ago = _AGO.fullmatch(text)
    if ago:
        return stamp(max(0.0, now - int(ago[1]) * _UNIT_S[ago[2]]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestInvalid("since takes a time like 2026-01-31T12:00:00Z or an age like 10m")
    return stamp(max(0.0, moment.timestamp()))


def _read(ask: Ask, function: Function) -> FunctionOut:
    """What the catalog knows about one function. Blocks."""
    catalog = ask.parts.catalog
    newest = next(iter(catalog.versions(function.id, limit=1)), None)
    aliases = catalog.aliases(function.id)
    number = next((alias.version for alias in aliases if alias.name == LATEST), None)
    latest = newest if newest is not None and newest.number == number else None
    if latest is None and number is not None:
        latest = catalog.version(function.id, number)
    return FunctionOut.of(function, newest, latest, aliases)
