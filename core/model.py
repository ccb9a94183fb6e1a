"""The nouns: functions, versions, aliases, keys, and how people name them. Frozen facts, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from core.errors import NameInvalid
from core.limits import NAME_LENGTH_MAX

DEFAULT_NAMESPACE = "default"
PLATFORM_NAMESPACE = "*"
LATEST = "latest"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def check_name(name: str, *, what: str) -> str:
    """`name` if it is a legal name, else NameInvalid saying what it was meant to name."""
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        shown = name if len(name) <= NAME_LENGTH_MAX else name[:NAME_LENGTH_MAX] + "…"
        raise NameInvalid(
            f"{shown!r} cannot name a {what}: use 1 to {NAME_LENGTH_MAX} lower-case letters, "
            "digits and hyphens, beginning and ending with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """What stands in a path: `name`, `namespace.name`, `name:3`, `namespace.name:prod`."""

    namespace: str | None
    name: str
    qualifier: str | None  # a version number or an alias, as text; None when not said

    @classmethod
    def parse(cls, text: str) -> FunctionRef:
        """Split and check. NameInvalid when any part is not a legal name."""
        path, colon, qualifier = text.partition(":")
        namespace, dot, name = path.partition(".")
        if not dot:
            namespace, name = "", path
        check_name(name, what="function")
        if dot:
            check_name(namespace, what="namespace")
        if colon:
            check_name(qualifier, what="version or alias")
        return cls(namespace if dot else None, name, qualifier if colon else None)


class Role(StrEnum):
    """Rights of a key. admin > deployer > invoker; viewer reads only."""

    ADMIN = "admin"
    DEPLOYER = "deployer"
    INVOKER = "invoker"
    VIEWER = "viewer"


class VersionStatus(StrEnum):
    """A version is born building and ends active or failed; it never goes back."""

    BUILDING = "building"
    ACTIVE = "active"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How asynchronous invocations are tried again. Times in seconds."""

    attempts: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 300.0
    max_age_s: int = 21_600


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """The configuration half of a version. Ranges are enforced by gateway/models.py."""

    runtime: str  # canonical: python3.13, node24, …
    handler: str = "main.handler"
    memory_mb: int = 128
    cpus: float = 1.0
    timeout_s: float = 30.0
    concurrency: int = 10
    per_sandbox: int = 1
    min_warm: int = 0
    keep_warm_s: int = 600
    idle: Literal["freeze", "run"] = "freeze"
    timeout_mode: Literal["hard", "graceful"] = "hard"
    grace_s: float = 2.0
    isolation: Literal["sandbox", "request"] = "sandbox"
    enabled: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    network: Literal["none", "egress"] = "none"
    auth: Literal["key", "none"] = "key"
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def as_json(self) -> dict[str, Any]:
        """A plain JSON-able dictionary of every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FunctionConfig:
        """The reverse of `as_json` for stored, already validated data; unknown fields are dropped
        so that a node one release behind can read a newer row."""
        known = _known(cls, raw)
        if "retry" in known:
            known["retry"] = RetryPolicy(**_known(RetryPolicy, known["retry"]))
        return cls(**known)


def _known(cls: type[FunctionConfig | RetryPolicy], raw: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: raw[f.name] for f in fields(cls) if f.name in raw}


@dataclass(frozen=True, slots=True)
class Function:
    """A name that people invoke."""

    id: str  # "fn_" + 32 hex digits; never reused, so a name deleted and made anew is another
    namespace: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable deployment of a function."""

    id: str  # "v_" + 32 hex digits
    function_id: str
    namespace: str
    name: str  # of the function
    number: int  # 1, 2, 3 …
    config: FunctionConfig
    archive_digest: str  # sha256 hex of the uploaded archive
    archive_bytes: int
    layers: tuple[str, ...]  # object digests, unpacked over one another make /var/task
    status: VersionStatus
    error: str | None  # why it failed, one line
    created_at: datetime

    @property
    def label(self) -> str:
        """`namespace.name:number`, for logs and messages."""
        return f"{self.namespace}.{self.name}:{self.number}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version; `weights` sends a share (0–1) of calls to other versions."""

    name: str
    version: int
    weights: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the platform knows it: the key itself is not here, only its SHA-256."""

    id: str
    name: str
    digest: str  # sha256 hex of the whole key text
    role: Role
    namespace: str  # "*" = the platform
    functions: tuple[str, ...]  # empty = all of the namespace
    expires_at: datetime | None
    created_at: datetime

    def expired(self, now: datetime) -> bool:
        """Whether it no longer opens anything at `now`, an aware moment."""
        return self.expires_at is not None and now >= self.expires_at


class BuildStatus(StrEnum):
    """The life of one build."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Build:
    """The work that turns an archive into an active version. One for each version."""

    version_id: str
    status: BuildStatus
    attempts: int
    builder: str | None  # who runs it now
    heartbeat_at: datetime | None
    log: str
    created_at: datetime
    finished_at: datetime | None
