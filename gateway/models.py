"""What clients may send: the one source of validation and of /openapi.json.

Strict: an unknown field, a wrong type or a value out of range is a 422 that names the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from core.errors import CallerError, ConfigInvalid, NameInvalid, RequestInvalid
from core.limits import (
    ALIAS_WEIGHTS_MAX,
    DESCRIPTION_LENGTH_MAX,
    ENV_BYTES_MAX,
    ENV_COUNT_MAX,
    INLINE_CODE_BYTES_MAX,
    KEY_FUNCTIONS_MAX,
    KEY_NAME_LENGTH_MAX,
    LABELS_COUNT_MAX,
)
from core.model import Role, check_name

HANDLER_LENGTH_MAX = 256
LABEL_LENGTH_MAX = 256

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
# Set by the shim for every function; a value of the user's would be lost or would mislead it.
_ENV_RESERVED = re.compile(r"HEARTH_.*|AWS_LAMBDA_.*|LAMBDA_.*|_HANDLER|TMPDIR|HOME", re.ASCII)
# file.function, or file:application
_HANDLER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./$-]*(:[A-Za-z_$][A-Za-z0-9_.$]*)?", re.ASCII)


def _name_of(what: str) -> AfterValidator:
    def check(name: str) -> str:
        try:
            return check_name(name, what=what)
        except NameInvalid as error:
            raise ValueError(error.message) from None

    return AfterValidator(check)


def _handler(text: str) -> str:
    if not _HANDLER.fullmatch(text) or ".." in text or "//" in text:
        raise ValueError(
            "a handler is named like main.handler or folder/module.function, a web application "
            "like main:app"
        )
    return text


def _env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} cannot name an environment variable")
        if _ENV_RESERVED.fullmatch(name):
            raise ValueError(f"{name} is set by the platform")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL")
        if "${secrets." in value:
            raise ValueError(f"{name} refers to a secret: this release has none yet")
    if len(json.dumps(env)) > ENV_BYTES_MAX:
        raise ValueError(f"names and values together may hold {ENV_BYTES_MAX} bytes of JSON")
    return env


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not 0 < len(name) <= LABEL_LENGTH_MAX or len(value) > LABEL_LENGTH_MAX:
            raise ValueError(f"a label's name and value hold at most {LABEL_LENGTH_MAX} characters")
    return labels


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


FunctionName = Annotated[str, _name_of("function")]
NamespaceName = Annotated[str, _name_of("namespace")]


class Strict(BaseModel):
    """The habits of every request: no unknown field, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Retry(Strict):
    """How asynchronous invocations are tried again."""

    attempts: int = Field(default=3, ge=1, le=20)
    backoff_s: float = Field(default=1.0, ge=0, le=3600)
    backoff_max_s: float = Field(default=300.0, ge=0, le=86_400)
    max_age_s: int = Field(default=21_600, ge=1, le=14 * 86_400)


class ConfigChanges(Strict):
    """The configuration of a function: every field is optional, what is not said keeps its
    default (PUT, POST) or the value of the version before (PATCH)."""

    runtime: str = Field(
        default="",
        max_length=32,
        description="python3.13, node24, or a short name of one; required, here or in hearth.toml",
        json_schema_extra=_without_default,
    )
    handler: Annotated[str, AfterValidator(_handler)] = Field(
        default="main.handler", max_length=HANDLER_LENGTH_MAX
    )
    memory_mb: int = Field(default=128, ge=16, le=10_240)
    cpus: float = Field(default=1.0, ge=0.05, le=64, allow_inf_nan=False)
    timeout_s: float = Field(default=30.0, ge=0.1, le=900, allow_inf_nan=False)
    concurrency: int = Field(
        default=10, ge=1, le=1000, description="over all versions, on each node"
    )
    per_sandbox: int = Field(
        default=1,
        ge=1,
        le=100,
        description="calls that one sandbox takes at once; over 1 needs an asynchronous handler",
    )
    min_warm: int = Field(
        default=0, ge=0, le=100, description="sandboxes kept ready while an alias names the version"
    )
    keep_warm_s: int = Field(default=600, ge=0, le=86_400)
    idle: Literal["freeze", "run"] = "freeze"
    timeout_mode: Literal["hard", "graceful"] = "hard"
    grace_s: float = Field(default=2.0, ge=0, le=60, allow_inf_nan=False)
    isolation: Literal["sandbox", "request"] = "sandbox"
    enabled: bool = True
    env: Annotated[dict[str, str], AfterValidator(_env)] = Field(
        default_factory=dict, max_length=ENV_COUNT_MAX
    )
    network: Literal["none", "egress"] = "none"
    auth: Literal["key", "none"] = "key"
    description: str = Field(default="", max_length=DESCRIPTION_LENGTH_MAX)
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        default_factory=dict, max_length=LABELS_COUNT_MAX
    )
    retry: Retry = Retry()

    def said(self) -> dict[str, Any]:
        """The fields that were really sent."""
        return self.model_dump(exclude_unset=True)


class DeployConfig(ConfigChanges):
    """The configuration of a deploy. `name` is needed by POST; elsewhere it must be the path's."""

    name: FunctionName | None = None


class InlineDeploy(Strict):
    """A small function without an archive: its code as one file."""

    config: DeployConfig = DeployConfig()
    code: str = Field(min_length=1, max_length=INLINE_CODE_BYTES_MAX)


class AliasChange(Strict):
    """Where an alias points. `weights` sends shares of the calls to other versions."""

    version: int = Field(ge=1)
    weights: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict, max_length=ALIAS_WEIGHTS_MAX, examples=[{"4": 0.1}]
    )

    @model_validator(mode="after")
    def _versions(self) -> AliasChange:
        for number in self.weights:
            if not number.isascii() or not number.isdigit() or number.startswith("0"):
                raise ValueError(f"weights: {number[:32]!r} is not a version number")
            if int(number) == self.version:
                raise ValueError("weights: the alias's own version takes what is left")
        return self


class RollbackRequest(Strict):
    """Which alias goes back to the version it had before."""

    alias: Annotated[str, _name_of("alias")] = "latest"


class KeyRequest(Strict):
    """A new key. Without `namespace` it belongs to the caller's own, or to `default` if the caller
    administers the platform: a key for every namespace is made by saying `*`."""

    name: str = Field(min_length=1, max_length=KEY_NAME_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")
    role: Role = Field(strict=False)
    namespace: NamespaceName | Literal["*"] | None = None
    functions: list[FunctionName] = Field(default_factory=list, max_length=KEY_FUNCTIONS_MAX)
    expires_at: AwareDatetime | None = None


Model = TypeVar("Model", bound=BaseModel)


def read_json(
    model: type[Model], body: bytes, *, error: type[CallerError] = ConfigInvalid
) -> Model:
    """The body as the model. `error` (422) names each field that cannot be; RequestInvalid."""
    try:
        return model.model_validate_json(body)
    except ValidationError as invalid:
        raise refusal(invalid, error) from None


def read_object(model: type[Model], raw: Mapping[str, Any], *, where: str) -> Model:
    """An already parsed object (of hearth.toml) as the model; ConfigInvalid says `where`."""
    try:
        return model.model_validate(dict(raw))
    except ValidationError as invalid:
        raise refusal(invalid, ConfigInvalid, where=where) from None


def refusal(
    invalid: ValidationError, error: type[CallerError], *, where: str | None = None
) -> CallerError:
    """Our error from pydantic's: each field and what is wrong, never the value, which may be
    somebody's secret. RequestInvalid (400) for what is not JSON at all."""
    if invalid.errors(include_input=False)[0]["type"] == "json_invalid":
        return RequestInvalid("this is not JSON")
    fields = [
        {"field": ".".join(map(str, found["loc"])) or "body", "message": _says(found)}
        for found in invalid.errors(include_url=False, include_context=False, include_input=False)
    ]
    text = "; ".join(f"{field['field']}: {field['message']}" for field in _first(fields, 5))
    return error(f"{where}: {text}" if where else text, fields=_first(fields, 50))


def _says(found: Mapping[str, Any]) -> str:
    if found["type"] == "extra_forbidden":
        return "unknown field"
    if found["type"] == "missing":
        return "required"
    message = str(found["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _first(fields: Iterable[dict[str, str]], count: int) -> list[dict[str, str]]:
    return list(fields)[:count]
