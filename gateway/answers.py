"""What clients get: the shapes of JSON answers, from which /openapi.json is made too."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from core.model import Alias, Function, FunctionConfig, Key, Role, Version, VersionStatus

Item = TypeVar("Item")


class Answer(BaseModel):
    """The habits of every answer."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class ArchiveOut(Answer):
    """The archive that a version was deployed with."""

    sha256: str
    bytes: int


class VersionOut(Answer):
    """One immutable deployment."""

    id: str
    namespace: str
    name: str = Field(description="of the function")
    version: int
    status: VersionStatus
    error: str | None = Field(description="why it failed")
    config: FunctionConfig
    archive: ArchiveOut
    created_at: datetime

    @classmethod
    def of(cls, version: Version) -> VersionOut:
        return cls(
            id=version.id,
            namespace=version.namespace,
            name=version.name,
            version=version.number,
            status=version.status,
            error=version.error,
            config=version.config,
            archive=ArchiveOut(sha256=version.archive_digest, bytes=version.archive_bytes),
            created_at=version.created_at,
        )


class AliasOut(Answer):
    """Where an alias points."""

    name: str
    version: int
    weights: dict[int, float] = Field(description="share of the calls, by other version")

    @classmethod
    def of(cls, alias: Alias) -> AliasOut:
        return cls(name=alias.name, version=alias.version, weights=dict(alias.weights))


class FunctionOut(Answer):
    """A function. `version` is what `latest` names, null while nothing is active; `status` and
    `newest` speak of the last deploy."""

    id: str
    namespace: str
    name: str
    version: int | None
    newest: int | None
    status: VersionStatus | None
    config: FunctionConfig | None = Field(description="of `version`, else of `newest`")
    aliases: list[AliasOut]
    created_at: datetime

    @classmethod
    def of(
        cls,
        function: Function,
        newest: Version | None,
        latest: Version | None,
        aliases: list[Alias],
    ) -> FunctionOut:
        shown = latest or newest
        return cls(
            id=function.id,
            namespace=function.namespace,
            name=function.name,
            version=latest.number if latest else None,
            newest=newest.number if newest else None,
            status=newest.status if newest else None,
            config=shown.config if shown else None,
            aliases=[AliasOut.of(alias) for alias in aliases],
            created_at=function.created_at,
        )


class KeyOut(Answer):
    """A key, without the key itself."""

    id: str
    name: str
    role: Role
    namespace: str
    functions: list[str] = Field(description="empty: all of the namespace")
    expires_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, key: Key) -> KeyOut:
        return cls(**_facts(key))


class KeyMade(KeyOut):
    """A new key. `key` is shown this once."""

    key: str

    @classmethod
    def made(cls, key: Key, text: str) -> KeyMade:
        return cls(**_facts(key), key=text)


class Page(Answer, Generic[Item]):
    """A page of a list. `next` is the cursor of the following one, null at the end."""

    items: list[Item]
    next: str | None


class Alive(Answer):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Ready(Answer):
    """Every part that the platform needs, and whether it answers."""

    status: Literal["ready"] = "ready"
    parts: dict[str, str]


class LogLineOut(Answer):
    """One line of a function's log; the answer has one such object on each line."""

    at: str = Field(description="RFC 3339, UTC, microseconds")
    stream: Literal["stdout", "stderr", "platform"]
    version: int
    invocation_id: str | None
    text: str


class ErrorFacts(BaseModel):
    """What went wrong. Further fields depend on the code."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    request_id: str


class ErrorOut(BaseModel):
    """Every error."""

    error: ErrorFacts


def answer(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The model as a JSON response."""
    body = model.model_dump_json().encode()
    return Response(body, status, headers, media_type="application/json")


def _facts(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "namespace": key.namespace,
        "functions": list(key.functions),
        "expires_at": key.expires_at,
        "created_at": key.created_at,
    }
