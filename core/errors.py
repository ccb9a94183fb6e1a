"""Every error Hearth answers with, grouped by who must act: the caller, the function, the platform.

A class names a fact; its docstring says when. `gateway/errors.py` maps a class to a status once.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HearthError(Exception):
    """The root. `code` is the stable word a client may compare; `details` joins the JSON body."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


# --- the caller must act -------------------------------------------------------------------------


class CallerError(HearthError):
    """The request cannot be honoured as it was sent."""

    code = "request_invalid"


class RequestInvalid(CallerError):
    """The request is malformed: bad JSON, a bad header, a body cut short."""


class Unauthenticated(CallerError):
    """No key, or a key nobody knows, or one that has expired."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """A known key without the right for this call."""

    code = "forbidden"


class NotFound(CallerError):
    """Nothing of that name is visible to the caller."""

    code = "not_found"


class FunctionNotFound(NotFound):
    """The namespace has no function of that name."""

    code = "function_not_found"


class VersionNotFound(NotFound):
    """The function has no version of that number."""

    code = "version_not_found"


class AliasNotFound(NotFound):
    """The function has no alias of that name."""

    code = "alias_not_found"


class KeyNotFound(NotFound):
    """No API key of that id."""

    code = "key_not_found"


class MethodNotAllowed(CallerError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class RequestTimeout(CallerError):
    """The client stopped sending in the middle of its request."""

    code = "request_timeout"


class HeadersTooLarge(CallerError):
    """The head of the request has too many headers, or too long ones."""

    code = "headers_too_large"


class Conflict(CallerError):
    """The request contradicts what exists."""

    code = "conflict"


class FunctionExists(Conflict):
    """POST /v1/functions names a function that exists already."""

    code = "function_exists"


class FunctionDisabled(Conflict):
    """The function's config says `enabled: false`."""

    code = "function_disabled"


class VersionNotActive(Conflict):
    """The version is still building, or its build failed."""

    code = "version_not_active"


class VersionInUse(Conflict):
    """An alias still points at the version."""

    code = "version_in_use"


class PayloadTooLarge(CallerError):
    """The body of an invocation, or of a JSON request, is over its limit."""

    code = "payload_too_large"


class ArchiveTooLarge(PayloadTooLarge):
    """The uploaded archive is over `HEARTH_ARCHIVE_BYTES_MAX`, or unpacks to more than a limit."""

    code = "archive_too_large"


class MediaTypeUnsupported(CallerError):
    """The body is of a kind this route does not take."""

    code = "media_type_unsupported"


class Unprocessable(CallerError):
    """Well-formed, but it says something that cannot be."""

    code = "unprocessable"


class NameInvalid(Unprocessable):
    """A name outside `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`."""

    code = "name_invalid"


class ConfigInvalid(Unprocessable):
    """A function's configuration: unknown field, wrong type, out of range. `fields` names each."""

    code = "config_invalid"


class ArchiveInvalid(Unprocessable):
    """Not an archive, cut short, or holding what an archive may not hold."""

    code = "archive_invalid"


class BuildFailed(Unprocessable):
    """The build ended without a version that runs; `log` holds the end of the build log."""

    code = "build_failed"


class ConcurrencyReached(CallerError):
    """The function already runs as many invocations as its `concurrency` allows on this node."""

    code = "concurrency_reached"


# --- the function's owner must act ---------------------------------------------------------------


class FunctionFault(HearthError):
    """The user's code is at fault."""

    code = "function_error"


class FunctionInitFailed(FunctionFault):
    """The code could not be loaded: a syntax error, a failed import, no such handler."""

    code = "function_init_failed"


class FunctionUnloadable(FunctionInitFailed):
    """The code failed to load so often in a row that it is not tried again before a while has
    passed; `last` tells the last failure. Heals by itself when a try succeeds."""

    code = "function_unloadable"


class FunctionCrashed(FunctionFault):
    """The sandbox ended in the middle of the invocation."""

    code = "function_crashed"


class FunctionOutOfMemory(FunctionCrashed):
    """The kernel killed the sandbox at its memory limit."""

    code = "function_out_of_memory"


class FunctionTimeout(FunctionFault):
    """The invocation ran longer than `timeout_s`; its sandbox was killed."""

    code = "function_timeout"


class ResponseInvalid(FunctionFault):
    """What the function gave back cannot be a response: bad status, bad header, over the limit."""

    code = "function_response_invalid"


# --- the platform must act -----------------------------------------------------------------------


class PlatformFault(HearthError):
    """Hearth, or the machine it stands on, is at fault. `retry_after_s` when trying again helps."""

    code = "internal_error"


class PartAway(PlatformFault):
    """A part Hearth needs does not answer; `part` names it. Heals when the part is back."""

    code = "part_away"

    def __init__(self, part: str, message: str) -> None:
        super().__init__(f"{part}: {message}", part=part, retry_after_s=1)


class RedisNotDurable(PlatformFault):
    """The configured Redis may lose or evict accepted events, and durability is strict."""

    code = "redis_not_durable"


class NodeFull(PlatformFault):
    """No seat became free in time, or the queue of waiting invocations is at its bound."""

    code = "node_full"


class NodeDraining(PlatformFault):
    """The node is shutting down and admits nothing new."""

    code = "node_draining"


class FeatureUnavailable(PlatformFault):
    """The API knows the wish, this release does not fulfil it yet; `feature` names it. Said aloud,
    since a client that asked for a guarantee must not be answered as if it had been given."""

    code = "feature_unavailable"


class DiskFull(PlatformFault):
    """No room left on the device that holds the data directory or the object store."""

    code = "disk_full"


class SandboxBroken(PlatformFault):
    """The sandbox could not be started, or broke the wire protocol before user code ran."""

    code = "sandbox_broken"


class DigestMismatch(PlatformFault):
    """Bytes fetched from the object store are not the bytes that were put there."""

    code = "digest_mismatch"


class ObjectMissing(PlatformFault):
    """The object store holds nothing under a key that the catalog still names."""

    code = "object_missing"
