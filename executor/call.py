"""What goes into the executor and what comes out: facts that gateway and executor share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from core.model import Version


# Not frozen, like the other facts here are: on the hot path each assignment of a frozen one's maker
# goes through object.__setattr__, which took 2 µs of a call for these three.
@dataclass(slots=True)
class Call:
    """One invocation, as the gateway hands it over. Nobody changes it.

    `kind` "event": body is the JSON event, the answer's body is the JSON result.
    `kind` "http": `http` describes the request for the shim to build a payload-2.0 event from:
    method, root (the path in front, which named the function), path (as sent, still
    percent-encoded, below the function's name, begins with "/"), query (raw), headers
    ([[lower-case name, value], …] without hop-by-hop, Authorization consumed and X-Hearth-*),
    source_ip, protocol ("HTTP/1.1"), host.
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


@dataclass(slots=True)
class Usage:
    """What one invocation used, by the kernel's own books."""

    cpu_ms: float | None  # None where it cannot be told: calls overlapped in one sandbox
    memory_peak_bytes: int | None  # likewise
    is_peak_own: bool = True  # False: the sandbox's peak since its start; no kernel reset it


@dataclass(frozen=True, slots=True)
class Failure:
    """The function's own error: a value, since the sandbox is healthy and returns to the pool."""

    code: str  # function_error | function_response_invalid
    type: str
    message: str
    trace: tuple[str, ...] = ()
    is_last: bool = False  # the one case where it is not: the shim says that it ends with this


@dataclass(slots=True)
class Outcome:
    """What came back: exactly one of an answer (`failure` is None) or the function's own error.
    Nobody changes it.

    For kind "http", `status` and `headers` are the response's (validated, hop-by-hop dropped) and
    `body` its raw bytes. For kind "event", status is 200, headers empty, `body` the JSON result.
    With `stream` the body has only begun: `status` and `headers` (a content type, for kind "event"
    too) are known, `body` is empty, and who has the outcome must `read` the stream to its end or
    `close` it: the seat is in use until then.
    """

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    cold: bool
    timing: Timing
    failure: Failure | None = None
    stream: Stream | None = None
    why_cold: str | None = None  # first_call, new_version, burst, evicted, expired, crashed, …
    usage: Usage | None = None  # None while it streams, and without a meter


class Stream(Protocol):
    """A response's body while it is made. The sandbox is held back until its bytes are read."""

    async def read(self) -> bytes:
        """The next bytes as they came; b"" once all is said. FunctionTimeout, FunctionCrashed, …
        when the call ends otherwise; FunctionFault when the function raised in the middle."""
        ...

    def close(self) -> None:
        """Nobody reads any more: the function is told, and the seat returns when it has ended. Any
        number of times."""
        ...


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

    stems: Mapping[str, int] = field(default_factory=dict)  # by runtime, `+egress` if networked
    stem_levels: Mapping[str, int] = field(default_factory=dict)  # how many there should be
    idle: int = 0
    busy: int = 0
    booting: int = 0
    waiting: int = 0
    frozen: int = 0  # of the idle ones
    leaving: int = 0  # told to end, and not gone yet
    promised_mb: int = 0
