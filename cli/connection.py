"""Where the platform is and which key opens it: the environment, else the nearest `.hearth`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cli.failures import usage
from cli.state import read_running
from core.settings import Settings, SettingsInvalid

DATA_DIR_NAME = ".hearth"


@dataclass(frozen=True, slots=True)
class Connection:
    """An address and a key; `key` is None when none was found, `key_hint` then says why."""

    url: str
    key: str | None
    key_hint: str
    data_dir: Path

    @property
    def is_loopback(self) -> bool:
        """Whether the platform is on this machine."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def read_settings(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """The settings of this shell; without HEARTH_DATA_DIR the nearest `.hearth` upwards is it."""
    values = dict(os.environ if environ is None else environ)
    if not values.get("HEARTH_DATA_DIR"):
        found = find_data_dir(Path.cwd() if cwd is None else cwd)
        if found is not None:
            values["HEARTH_DATA_DIR"] = str(found)
    try:
        return Settings.from_env(values)
    except SettingsInvalid as problem:
        raise usage(str(problem), "docs/settings.md lists every HEARTH_* variable") from None


def find_data_dir(start: Path) -> Path | None:
    """The nearest `.hearth` directory, from `start` upwards."""
    for folder in (start, *start.parents):
        if (folder / DATA_DIR_NAME).is_dir():
            return folder / DATA_DIR_NAME
    return None


def find_connection(
    url: str | None, environ: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Connection:
    """HEARTH_URL (or --url) and HEARTH_KEY win; else what the data directory says.

    The key of a data directory is sent only to the platform that runs on it: naming another
    address never hands it this machine's admin key."""
    values = os.environ if environ is None else environ
    settings = read_settings(values, cwd)
    local = running_url(settings.data_dir) or settings.base_url
    chosen = (url or values.get("HEARTH_URL") or local).rstrip("/")
    if not chosen.startswith(("http://", "https://")):
        raise usage(f"{chosen!r} is no address", "use http://host:port or https://host:port")
    key = values.get("HEARTH_KEY", "").strip()
    if key:
        return Connection(chosen, key, "", settings.data_dir)
    if chosen != local:
        hint = f"set HEARTH_KEY to a key of {chosen}"
        return Connection(chosen, None, hint, settings.data_dir)
    return _with_admin_key(chosen, settings)


def _with_admin_key(url: str, settings: Settings) -> Connection:
    path = settings.admin_key_file
    try:
        return Connection(url, path.read_text().strip() or None, "", settings.data_dir)
    except FileNotFoundError:
        hint = f"set HEARTH_KEY, or run this where {path} can be found"
    except PermissionError:
        hint = f"{path} belongs to another user: set HEARTH_KEY to a key of your own"
    return Connection(url, None, hint, settings.data_dir)


def running_url(data_dir: Path) -> str | None:
    """The address that the platform on this data directory says it listens on."""
    running = read_running(data_dir)
    return running.url if running is not None else None
