"""The children of `hearth up`: commands, environments, and how each shows it is ready. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from core.settings import Settings

GUARD_FD_VARIABLE = "HEARTH_GUARD_FD"

# Variables that would make a child talk to somebody else than the supervisor means.
_DROPPED = frozenset(
    {"CONTAINER_HOST", "CONTAINER_CONNECTION", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"}
    | {"LISTEN_FDNAMES", "CONTAINERS_CONF_OVERRIDE"}
)


class Lifeline(Enum):
    """A child's end of the pipe that ties the guard's life to the gateway's."""

    NONE = "none"
    READS = "reads"  # its stdin is the pipe: it ends by itself when the holder is gone
    HOLDS = "holds"  # inherits the write end, as the number in HEARTH_GUARD_FD


class Question(Enum):
    """What to ask a child to know that it is ready."""

    NOTHING = "nothing"  # it is ready once started
    REDIS_PING = "redis ping"
    PODMAN_PING = "podman ping"
    READYZ = "readyz"


@dataclass(frozen=True, slots=True)
class Probe:
    """A question and where to ask it."""

    question: Question
    address: str = ""  # a socket's path, or host:port
    tls: bool = False
    also: str = ""  # a socket that must accept too: a port may be answered by somebody else


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """Everything needed to start one child, wait for it and stop it."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    probe: Probe = Probe(Question.NOTHING)
    ready_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0  # after SIGTERM; then SIGKILL
    lifeline: Lifeline = Lifeline.NONE
    cwd: Path | None = None  # None is where the supervisor stands


def children_of(
    settings: Settings, *, python: str, environ: Mapping[str, str], containers_conf: Path
) -> list[ChildSpec]:
    """The children in the order in which they start; they stop in the reverse order."""
    env = child_environment(settings, environ, containers_conf)
    plain = {key: value for key, value in env.items() if not key.startswith("HEARTH_")}
    found = [_podman(settings, plain), *_guard_and_gateway(settings, python, env)]
    if settings.redis_is_embedded:
        found.insert(0, _redis(settings, python, env))
    builder = ChildSpec(
        name="builder",
        command=module(python, "worker.main"),
        env=env,
        stop_timeout_s=20.0,
    )
    return [*found, builder]


def module(python: str, name: str) -> tuple[str, ...]:
    """Run one of our modules; -P so that the directory the user stands in cannot shadow it."""
    return (python, "-P", "-m", name)


def _redis(settings: Settings, python: str, env: Mapping[str, str]) -> ChildSpec:
    return ChildSpec(
        name="redis",
        command=module(python, "events.redis_server"),
        env=env,
        probe=Probe(Question.REDIS_PING, str(settings.run_dir / "redis.sock")),
        ready_timeout_s=120.0,  # it reads its append-only file first
        stop_timeout_s=30.0,
    )


def _podman(settings: Settings, env: Mapping[str, str]) -> ChildSpec:
    socket = settings.podman_socket
    return ChildSpec(
        name="podman",
        command=("podman", "system", "service", "--time", "0", f"unix://{socket}"),
        env=env,
        probe=Probe(Question.PODMAN_PING, str(socket)),
        cwd=settings.run_dir,  # conmon drops an empty file `oom` where Podman was started
    )


def _guard_and_gateway(
    settings: Settings, python: str, env: Mapping[str, str]
) -> tuple[ChildSpec, ChildSpec]:
    guard = ChildSpec(
        name="guard",
        command=module(python, "executor.guard"),
        env=env,
        stop_timeout_s=20.0,
        lifeline=Lifeline.READS,
    )
    gateway = ChildSpec(
        name="gateway",
        command=module(python, "gateway.main"),
        env=env,
        probe=readyz(settings),
        ready_timeout_s=60.0,
        stop_timeout_s=settings.drain_s + 15.0,
        lifeline=Lifeline.HOLDS,
    )
    return guard, gateway


def readyz(settings: Settings) -> Probe:
    """Asks the gateway of this very data directory whether every part answers."""
    tls = settings.tls_cert != Path()
    own = str(settings.internal_socket)
    return Probe(Question.READYZ, reachable(settings), tls=tls, also=own)


def reachable(settings: Settings) -> str:
    """host:port to connect to from this machine, also when the gateway listens on all of them."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def reachable_url(settings: Settings) -> str:
    """The URL to open on this machine."""
    scheme = "http" if settings.tls_cert == Path() else "https"
    return f"{scheme}://{reachable(settings)}"


def child_environment(
    settings: Settings, environ: Mapping[str, str], containers_conf: Path
) -> dict[str, str]:
    """The caller's environment with every HEARTH_* resolved, so that all children agree."""
    env = {
        key: value
        for key, value in environ.items()
        if not key.startswith("HEARTH_") and key not in _DROPPED
    }
    env |= settings_environment(settings)
    env["CONTAINERS_CONF"] = str(containers_conf)
    env["PYTHONUNBUFFERED"] = "1"
    return env


def settings_environment(settings: Settings) -> dict[str, str]:
    """HEARTH_* variables that `Settings.from_env` reads back as these settings."""
    written = {
        f"HEARTH_{f.name.upper()}": _text(getattr(settings, f.name)) for f in fields(settings)
    }
    return {name: text for name, text in written.items() if text}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Path):
        return "" if value == Path() else str(value)
    return str(value)
