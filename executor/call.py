"""What goes into the executor and what comes out: facts that gateway and executor share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from core.model import Version


@dataclass(frozen=True, slots=True)
class Call:
    """One invocation, as the gateway hands it over.

    `kind` "event": body is the JSON event, the answer's body is the JSON result.
    `kind` "http": `http` describes the request for the shim to build a payload-2.0 event from:
    method, path (as sent, still percent-encoded, below the function's name, begins with "/"),
    query (raw), headers ([[lower-case name, value], …] without hop-by-hop, Authorization consumed
    and X-Hearth-*), source_ip, protocol ("HTTP/1.1"), host.
    """

    id: str  # a UUID; the AWS request id that the handler sees
    kind: Literal["event", "http"]
    body: bytes = b""
    http: Mapping[str, Any] | None = None
    trace: str | None = None  # W3C traceparent


@dataclass(slots=True)
class Timing:
    """Milliseconds spent in each leg of one invocation; boot and init are 0 on a warm one."""

    queue_ms: float = 0.0
    boot_ms: float = 0.0
    init_ms: float = 0.0
    handler_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The function's own error: a value, since the sandbox is healthy and returns to the pool."""

    code: str  # function_error | function_response_invalid
    type: str
    message: str
    trace: tuple[str, ...] = ()
    is_last: bool = False  # the one case where it is not: the shim says that it ends with this


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. Exactly one of an answer (`failure` is None) or the function's own error.

    For kind "http", `status` and `headers` are the response's (validated, hop-by-hop dropped) and
    `body` its raw bytes. For kind "event", status is 200, headers empty, `body` the JSON result.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    cold: bool
    timing: Timing
    failure: Failure | None = None


class CodeProvider(Protocol):
    """Where the executor gets a version's code from. Wired in gateway/main.py to the code cache."""

    async def tree(self, version: Version) -> str:
        """Absolute path of the version's unpacked, root-owned code directory on this node.

        It stays until `release` was called as often as `tree`.
        Raises PartAway when the object store is away, DigestMismatch, DiskFull."""
        ...

    def release(self, path: str) -> None:
        """One user less of a path that `tree` gave out. Must not block."""
        ...


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a function wrote, or that the platform says about it (stream "platform")."""

    at: float  # Unix time, seconds
    namespace: str
    function: str
    version: int
    invocation_id: str | None
    stream: Literal["stdout", "stderr", "platform"]
    text: str


class LogSink(Protocol):
    """Where log lines go. Must not block: it is called on the event loop, on the hot path."""

    def write(self, lines: Sequence[LogLine]) -> None: ...


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A moment of the pool, for /readyz, metrics and tests."""

    stems: Mapping[str, int] = field(default_factory=dict)  # by runtime
    idle: int = 0
    busy: int = 0
    booting: int = 0
    waiting: int = 0
