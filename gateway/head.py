"""What a request's head says: read from an ASGI scope, or straight from the connection's parser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import Scope

from core.model import FunctionRef
from gateway.auth import Caller


@dataclass(frozen=True, slots=True)
class Wish:
    """What a path asks for."""

    kind: Literal["event", "http"]
    ref: FunctionRef
    path: str  # below the function's name, as sent; begins with "/"


@dataclass(eq=False, slots=True)
class Head:
    """One head. What follows from it alone stays beside it, for a client that sends the same again
    on its connection, as most do."""

    method: str
    path: bytes  # as sent, never decoded as a whole
    query: bytes
    version: str  # of HTTP
    headers: Sequence[tuple[bytes, bytes]]  # names in lower case
    client: tuple[str, int] | None
    scheme: str
    named: dict[bytes, bytes]  # the last of each name

    wish: Wish | None = None
    caller: Caller | None = None
    callers: Mapping[str, Caller] | None = None  # among whom `caller` was looked up
    http: dict[bool, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Scope) -> Head:
        """The head of an ASGI request."""
        return cls(
            scope["method"],
            scope["raw_path"],
            scope["query_string"],
            scope["http_version"],
            scope["headers"],
            scope["client"],
            scope["scheme"],
            dict(scope["headers"]),
        )
