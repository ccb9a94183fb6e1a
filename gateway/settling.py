"""From what was said to a version's configuration: request over manifest over defaults. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from core.errors import ConfigInvalid
from core.model import FunctionConfig, RetryPolicy
from core.packing import FIELDS, check_patterns
from core.settings import Settings
from gateway.models import ConfigChanges, DeployConfig, read_object
from runtimes.registry import Runtime, find

MANIFEST = "hearth.toml"


def _patterns(patterns: list[str]) -> list[str]:
    check_patterns(patterns)
    return patterns


class _Manifest(DeployConfig):
    """What stands in hearth.toml: also which files a client packs, which has been done by now."""

    include: Annotated[list[str], AfterValidator(_patterns)] = Field(default_factory=list)
    exclude: Annotated[list[str], AfterValidator(_patterns)] = Field(default_factory=list)


def settle(
    sent: DeployConfig, manifest: bytes | None, *, name: str, settings: Settings
) -> FunctionConfig:
    """The configuration of a deploy. The request's fields win over the manifest's; what neither
    says has the platform's default. A name in the manifest is only a proposal for the client."""
    if sent.name is not None and sent.name != name:
        message = f"name: the config says {sent.name!r}, the path {name!r}"
        raise ConfigInvalid(message, fields=[{"field": "name", "message": message}])
    said = {**read_manifest(manifest), **sent.said()}
    said.pop("name", None)
    return _config(said, settings)


def name_of(sent: DeployConfig) -> str:
    """The name in the config, where the path has none."""
    if sent.name is None:
        raise ConfigInvalid("name: required", fields=[{"field": "name", "message": "required"}])
    return sent.name


def change(before: FunctionConfig, changes: ConfigChanges, settings: Settings) -> FunctionConfig:
    """The configuration before, with the fields that were sent replaced as a whole."""
    return _config({**before.as_json(), **changes.said()}, settings)


def read_manifest(manifest: bytes | None) -> dict[str, Any]:
    """The fields that hearth.toml sets; ConfigInvalid when it is not such a file."""
    if manifest is None:
        return {}
    try:
        raw = tomllib.loads(manifest.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"{MANIFEST} cannot be read: {error}"
        raise ConfigInvalid(message, fields=[{"field": MANIFEST, "message": message}]) from None
    said = read_object(_Manifest, raw, where=MANIFEST).said()
    return {name: value for name, value in said.items() if name not in FIELDS}


def _config(said: Mapping[str, Any], settings: Settings) -> FunctionConfig:
    if "runtime" not in said:
        message = "required"
        raise ConfigInvalid(
            f"runtime: {message}", fields=[{"field": "runtime", "message": message}]
        )
    runtime = find(said["runtime"])
    values: dict[str, Any] = {
        "handler": runtime.handler_default,
        "memory_mb": settings.default_memory_mb,
        "cpus": settings.default_cpus,
        "timeout_s": settings.default_timeout_s,
        "concurrency": settings.default_concurrency,
        "keep_warm_s": settings.default_keep_warm_s,
        **said,
        "runtime": runtime.name,
    }
    values["retry"] = RetryPolicy(**values.get("retry", {}))
    config = FunctionConfig(**values)
    for field, message in _contradictions(config, runtime):
        raise ConfigInvalid(message, fields=[{"field": field, "message": message}])
    return config


def _contradictions(config: FunctionConfig, runtime: Runtime) -> Iterator[tuple[str, str]]:
    """Fields that do not go together: name, and what is wrong."""
    if config.min_warm > config.concurrency:
        limit = f"more than concurrency {config.concurrency}"
        yield "min_warm", f"min_warm is {config.min_warm}, {limit}"
    if config.per_sandbox > runtime.per_sandbox_max:
        yield "per_sandbox", f"{runtime.name} takes one call at a time in a sandbox"
    if config.network not in runtime.networks:
        yield "network", f"{runtime.name} has no network: network must be none"
    if config.memory_mb < runtime.memory_mb_min:
        least = runtime.memory_mb_min
        yield "memory_mb", f"{runtime.name} needs at least {least} MB, not {config.memory_mb}"
    if ":" in config.handler and runtime.short not in ("python", "node"):
        yield "handler", f"module:application is for Python and Node functions, not {runtime.name}"
    if config.isolation == "request" and runtime.short != "python":
        yield "isolation", f"isolation request is for Python functions, not {runtime.name}"
    if config.isolation == "request" and config.per_sandbox > 1:
        yield "per_sandbox", "with isolation request a sandbox takes one call at a time"
    if config.timeout_mode == "graceful" and config.grace_s >= config.timeout_s:
        yield "grace_s", f"grace_s must be less than timeout_s, which is {config.timeout_s:g}"
