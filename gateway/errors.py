"""Errors at the edge: a class becomes a status once, along its MRO, and one JSON shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from core import errors
from core.errors import HearthError

Headers = list[tuple[bytes, bytes]]

STATUS: Mapping[type[HearthError], int] = {
    errors.RequestInvalid: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.Conflict: 409,
    errors.PayloadTooLarge: 413,
    errors.MediaTypeUnsupported: 415,
    errors.Unprocessable: 422,
    errors.ConcurrencyReached: 429,
    errors.HeadersTooLarge: 431,
    errors.CallerError: 400,
    errors.FunctionTimeout: 504,
    errors.FunctionUnloadable: 503,
    errors.FunctionFault: 502,
    errors.FeatureUnavailable: 501,
    errors.PartAway: 503,
    errors.NodeFull: 503,
    errors.NodeDraining: 503,
    errors.DiskFull: 503,
    errors.PlatformFault: 500,
    HearthError: 500,
}
RETRY_AFTER_S = 1  # when an error that passes by itself does not say more
_PASSES = frozenset({429, 503})
# What an anonymous caller of a public function may not learn about its code.
_OWNERS_ONLY = frozenset({"type", "trace", "found", "log", "last"})


def status_of(error: HearthError) -> int:
    """The HTTP status of an error: that of the nearest class in its MRO."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: HearthError, request_id: str, *, for_owner: bool = True) -> bytes:
    """The JSON body. Without `for_owner` a function's fault says no more than its code."""
    return json.dumps({"error": describe(error, request_id, for_owner=for_owner)}).encode()


def describe(error: HearthError, request_id: str, *, for_owner: bool = True) -> dict[str, Any]:
    """What stands under `error` in the body."""
    details = dict(error.details)
    message = error.message
    if isinstance(error, errors.FunctionFault) and not for_owner:
        details = {name: fact for name, fact in details.items() if name not in _OWNERS_ONLY}
        message = "The function failed."
    return {"code": error.code, "message": message, "request_id": request_id, **details}


def error_headers(error: HearthError, status: int, body: bytes, request_id: str) -> Headers:
    """Headers of an error response: type, length, request id, and when to come back."""
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if status in _PASSES:
        seconds = error.details.get("retry_after_s", RETRY_AFTER_S)
        headers.append((b"retry-after", b"%d" % max(1, round(seconds))))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:  # the rest of the request is not read
        headers.append((b"connection", b"close"))
    return headers
