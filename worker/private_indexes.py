"""Which indexes of its own a namespace, or one function of it, installs from.

The operator says so in a file (HEARTH_BUILD_INDEXES). Nothing else of a build knows where these
places come from: secrets that users keep themselves will be read here, and take the same way.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import BuildFailed
from core.limits import BUILD_INDEXES_BYTES_MAX, BUILD_INDEXES_EXTRA_MAX
from core.settings import Settings

_SETTING = "HEARTH_BUILD_INDEXES"


@dataclass(frozen=True, slots=True)
class Places:
    """URLs, perhaps with a user and password in them. Empty: what the settings say holds."""

    pip_index_url: str = ""
    pip_extra_index_urls: tuple[str, ...] = ()
    npm_registry: str = ""
    npm_scopes: Mapping[str, str] = field(default_factory=dict)  # "@acme" -> registry


def places(settings: Settings, namespace: str, function: str) -> Places:
    """What holds for a function: its own entries, then its namespace's, then the settings'.

    Read anew for each installation. BuildFailed when the file cannot be used; what it holds is in
    no message."""
    found = Places(settings.pip_index_url, (), settings.npm_registry)
    if settings.build_indexes == Path():
        return found
    table = _table(_read(settings.build_indexes), namespace, namespace)
    functions = _table(table, "functions", namespace)
    own = _table(functions, function, f"{namespace}.functions.{function}")
    shared = {name: value for name, value in table.items() if name != "functions"}
    for said, where in ((shared, namespace), (own, f"{namespace}.functions.{function}")):
        found = replace(found, **{name: _value(name, said[name], where) for name in said})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
            raise BuildFailed(
                f"{_SETTING}: {path} must be a file that only its owner may read (chmod 600)"
            )
        if facts.st_size > BUILD_INDEXES_BYTES_MAX:
            raise BuildFailed(f"{_SETTING}: {path} is over {BUILD_INDEXES_BYTES_MAX} bytes")
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise BuildFailed(f"{_SETTING}: {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise BuildFailed(f"{_SETTING}: {path} is not TOML") from None


def _table(above: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    found = above.get(name, {})
    if not isinstance(found, dict):
        raise BuildFailed(f"{_SETTING}: {where} must be a table")
    return found


def _value(name: str, value: Any, where: str) -> Any:
    """One entry, checked. What is wrong is told by its name alone."""
    bad = BuildFailed(f"{_SETTING}: {where}.{name} is not what is taken there")
    many = value if isinstance(value, list) else []
    match name:
        case "pip_index_url" | "npm_registry" if _is_url(value):
            return value
        case "pip_extra_index_urls" if isinstance(value, list) and all(map(_is_url, many)):
            if len(many) > BUILD_INDEXES_EXTRA_MAX:
                raise bad
            return tuple(many)
        case "npm_scopes" if isinstance(value, dict) and len(value) <= BUILD_INDEXES_EXTRA_MAX:
            if all(_is_scope(scope) and _is_url(url) for scope, url in value.items()):
                return dict(value)
    raise bad


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or not value.isprintable() or set(value) & set(' "\\'):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_scope(name: str) -> bool:
    return len(name) > 1 and name[0] == "@" and name[1:].replace("-", "").isalnum()
