"""What a handler of the management API is given: the platform's parts, who asks, and for what."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from catalog.catalog import Catalog
from core.errors import CallerError, RequestInvalid, Unauthenticated, Unprocessable
from core.limits import JSON_BODY_BYTES_MAX, PAGE_ITEMS_MAX
from core.settings import Settings
from events.jobs import JobQueue
from gateway.auth import Caller
from gateway.body import read_body
from gateway.changes import Changes
from gateway.health import Health
from gateway.logs import LogFiles
from gateway.models import read_json
from gateway.upload import Uploads
from gateway.view import View
from storage.store import ObjectStore

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a handler may need. Wired in gateway/app.py."""

    settings: Settings
    catalog: Catalog
    store: ObjectStore
    jobs: JobQueue
    view: View
    changes: Changes
    uploads: Uploads
    logs: LogFiles
    health: Health


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the management API, its caller known to have the right for it."""

    parts: Parts
    request: Request
    caller_or_none: Caller | None
    namespace: str  # of the function in the path, or the caller's own
    name: str  # of the function in the path; empty where there is none

    @property
    def caller(self) -> Caller:
        """Who asks. Only open endpoints have nobody."""
        if self.caller_or_none is None:
            raise Unauthenticated("a key is needed: send `Authorization: Bearer <key>`")
        return self.caller_or_none

    async def json(self, model: type[Model], error: type[CallerError] = Unprocessable) -> Model:
        """The body, validated; an empty one is an empty object. RequestInvalid, `error`."""
        head = dict(self.request.scope["headers"])
        body = await read_body(self.request.receive, head, JSON_BODY_BYTES_MAX)
        return read_json(model, body or b"{}", error=error)

    def number(self, name: str) -> int:
        """A version number from the path."""
        text = self.request.path_params[name]
        if not text.isascii() or not text.isdigit() or len(text) > 10:
            raise RequestInvalid(f"{text[:64]!r} is not a version number")
        return int(text)

    def flag(self, name: str) -> bool:
        """A yes or no of the query; absent means no, empty means yes."""
        text = self.request.query_params.get(name, "false").lower()
        if text not in ("", "1", "true", "yes", "0", "false", "no"):
            raise RequestInvalid(f"{name} takes true or false")
        return text in ("", "1", "true", "yes")

    def count(self, name: str, *, default: int, most: int) -> int:
        """How many, from the query; more than `most` is `most`."""
        text = self.request.query_params.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
            raise RequestInvalid(f"{name} takes a number from 1 to {most}")
        return min(int(text), most)

    def page(self) -> tuple[str | None, int]:
        """Where a page begins (behind this) and how many items it holds."""
        cursor = self.request.query_params.get("cursor")
        limit = self.count("limit", default=PAGE_ITEMS_MAX, most=PAGE_ITEMS_MAX)
        return (None if cursor is None else read_cursor(cursor)), limit


Handler = Callable[[Ask], Awaitable[Response]]


def make_cursor(last: str) -> str:
    """An opaque word for "what comes behind `last`"."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def read_cursor(text: str) -> str:
    """The reverse of `make_cursor`. RequestInvalid for what it did not make."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise RequestInvalid("the cursor is not one of ours") from None
