"""The table of the management API: each call with its right, its models and its answers.

Starlette's routes and /openapi.json are both made from it, so neither can know what the other does
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from starlette.responses import Response

from gateway import aliases, functions, keys, versions
from gateway.answers import (
    AliasOut,
    Alive,
    FunctionOut,
    KeyMade,
    KeyOut,
    LogLineOut,
    Page,
    Ready,
    VersionOut,
    answer,
)
from gateway.ask import Ask, Handler
from gateway.auth import Right
from gateway.deploy import deploy, reconfigure
from gateway.models import AliasChange, ConfigChanges, InlineDeploy, KeyRequest, RollbackRequest


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query string; any other is refused."""

    name: str
    kind: Literal["boolean", "integer", "string"]
    says: str


@dataclass(frozen=True, slots=True)
class Media:
    """An answer that is not a JSON object: its media type, and what a line of it holds."""

    media_type: str
    line: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call. `right` None: open to everybody."""

    method: str
    path: str
    handle: Handler
    right: Right | None
    says: str
    answers: Mapping[int, type[BaseModel] | Media | None]
    sends: type[BaseModel] | None = None
    takes_archive: bool = False
    query: tuple[Query, ...] = ()


async def put_function(ask: Ask) -> Response:
    """Create the function, or deploy its next version."""
    return await deploy(ask, must_be_new=False)


async def post_function(ask: Ask) -> Response:
    """Create a function that must not exist, named in its config."""
    return await deploy(ask, must_be_new=True)


async def patch_function(ask: Ask) -> Response:
    """The next version with other settings and the same code."""
    return await reconfigure(ask)


async def healthz(ask: Ask) -> Response:
    """The process lives."""
    return answer(Alive())


async def readyz(ask: Ask) -> Response:
    """Every part that the platform needs answers."""
    return answer(Ready(parts=await ask.parts.health.check()))


_WAIT = (Query("wait", "boolean", "answer when the build has ended"),)
_PAGE = (
    Query("cursor", "string", "`next` of the page before"),
    Query("limit", "integer", "items of the page"),
)
_FUNCTION = "/v1/functions/{name}"
_VERSION = _FUNCTION + "/versions/{number}"
_ALIAS = _FUNCTION + "/aliases/{alias}"
_DEPLOYED: Mapping[int, type[BaseModel]] = {200: VersionOut, 201: VersionOut, 202: VersionOut}
_LOG_QUERY = (
    Query("tail", "integer", "how many of the last lines"),
    Query("since", "string", "none older than this: RFC 3339, or an age like 10m"),
    Query("follow", "boolean", "not in this release"),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/healthz", healthz, None, "The process lives", {200: Alive}),
    Endpoint("GET", "/readyz", readyz, None, "Every part answers", {200: Ready}),
    Endpoint(
        "GET",
        "/v1/functions",
        functions.list_functions,
        Right.READ,
        "List functions by name",
        {200: Page[FunctionOut]},
        query=(*_PAGE, Query("namespace", "string", "another one, for an admin key of all")),
    ),
    Endpoint(
        "POST",
        "/v1/functions",
        post_function,
        Right.DEPLOY,
        "Create a function, named in its config",
        _DEPLOYED,
        sends=InlineDeploy,
        takes_archive=True,
        query=_WAIT,
    ),
    Endpoint(
        "PUT",
        _FUNCTION,
        put_function,
        Right.DEPLOY,
        "Create the function or deploy its next version",
        _DEPLOYED,
        sends=InlineDeploy,
        takes_archive=True,
        query=_WAIT,
    ),
    Endpoint(
        "PATCH",
        _FUNCTION,
        patch_function,
        Right.DEPLOY,
        "The next version: same code, other settings. What is sent replaces a field as a whole",
        _DEPLOYED,
        sends=ConfigChanges,
        query=_WAIT,
    ),
    Endpoint(
        "GET", _FUNCTION, functions.get_function, Right.READ, "One function", {200: FunctionOut}
    ),
    Endpoint(
        "DELETE",
        _FUNCTION,
        functions.delete_function,
        Right.DEPLOY,
        "Delete it with versions, aliases and log",
        {204: None},
    ),
    Endpoint(
        "GET",
        _FUNCTION + "/logs",
        functions.get_logs,
        Right.READ,
        "Its last log lines, a JSON object on each line",
        {200: Media("application/x-ndjson", LogLineOut)},
        query=_LOG_QUERY,
    ),
    Endpoint(
        "GET",
        _FUNCTION + "/versions",
        versions.list_versions,
        Right.READ,
        "Its versions, newest first",
        {200: Page[VersionOut]},
        query=_PAGE,
    ),
    Endpoint("GET", _VERSION, versions.get_version, Right.READ, "One version", {200: VersionOut}),
    Endpoint(
        "DELETE",
        _VERSION,
        versions.delete_version,
        Right.DEPLOY,
        "Delete a version that no alias points at",
        {204: None},
    ),
    Endpoint(
        "GET",
        _VERSION + "/archive",
        versions.get_archive,
        Right.READ,
        "The archive as it was deployed",
        {200: Media("application/octet-stream")},
    ),
    Endpoint(
        "GET",
        _VERSION + "/build-log",
        versions.get_build_log,
        Right.READ,
        "What the build wrote",
        {200: Media("text/plain")},
    ),
    Endpoint(
        "GET",
        _FUNCTION + "/aliases",
        aliases.list_aliases,
        Right.READ,
        "Its aliases",
        {200: Page[AliasOut]},
    ),
    Endpoint("GET", _ALIAS, aliases.get_alias, Right.READ, "One alias", {200: AliasOut}),
    Endpoint(
        "PUT",
        _ALIAS,
        aliases.put_alias,
        Right.DEPLOY,
        "Make or move an alias",
        {200: AliasOut},
        sends=AliasChange,
    ),
    Endpoint("DELETE", _ALIAS, aliases.delete_alias, Right.DEPLOY, "Delete an alias", {204: None}),
    Endpoint(
        "POST",
        _FUNCTION + "/rollback",
        aliases.rollback,
        Right.DEPLOY,
        "An alias back to the version it had before",
        {200: AliasOut},
        sends=RollbackRequest,
    ),
    Endpoint(
        "POST",
        "/v1/keys",
        keys.create_key,
        Right.ADMIN,
        "Make a key",
        {201: KeyMade},
        sends=KeyRequest,
    ),
    Endpoint(
        "GET",
        "/v1/keys",
        keys.list_keys,
        Right.ADMIN,
        "List keys, oldest first",
        {200: Page[KeyOut]},
        query=_PAGE,
    ),
    Endpoint("DELETE", "/v1/keys/{id}", keys.delete_key, Right.ADMIN, "Delete a key", {204: None}),
)
