"""Where packages come from: the settings, else what this host's own pip and npm are configured to
use. No index is named in Hearth itself; pip and npm bring their defaults.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from core.settings import Settings

HostPort = tuple[str, int | None]

_ASK_S = 30.0
_REMEMBERED_S = 300.0
_PIP_SAYS = """
from pip._internal.models.index import PyPI
from pip._internal.cli.main import main
print("default", PyPI.simple_url, PyPI.file_storage_domain, flush=True)
main(["config", "list"])
"""
_PIP_LINE = re.compile(
    r"(?P<section>global|install|:env:)\.(?P<name>index-url|extra-index-url|trusted-host)="
    r"(?P<value>'.*'|\".*\")"
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class Index:
    """What an installation is told, and where it may therefore go."""

    environment: Mapping[str, str]
    hosts: frozenset[HostPort]
    secrets: frozenset[str] = field(default=frozenset())  # not to be shown in a log

    @property
    def identity(self) -> str:
        """Everything that says where packages come from, for the cache's key."""
        return repr(sorted(self.environment.items()))


class Indexes:
    """Asks pip and npm at most every few minutes. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Index]] = {}

    def python(self) -> Index:
        """For pip."""
        return self._remembered("python", lambda: python_index(self._settings, _pip_says()))

    def node(self, default: Callable[[], str]) -> Index:
        """For npm; `default` asks the builder image's own npm, when this host has none."""

        def ask() -> Index:
            return node_index(self._settings.npm_registry or _host_npm_says() or default())

        return self._remembered("node", ask)

    def _remembered(self, name: str, ask: Callable[[], Index]) -> Index:
        with self._lock:
            at, index = self._known.get(name, (0.0, None))
            if index is None or time.monotonic() - at > _REMEMBERED_S:
                index = _with_proxies(ask(), os.environ)
                self._known[name] = (time.monotonic(), index)
            return index


def python_index(settings: Settings, said: str) -> Index:
    """From what pip says of its default and its configuration. Decides only."""
    if settings.pip_index_url:
        return _index({"PIP_INDEX_URL": settings.pip_index_url}, [settings.pip_index_url])
    config: dict[str, str] = {}
    default: list[str] = []
    order = {"global": 0, "install": 1, ":env:": 2}
    found = [match for line in said.splitlines() if (match := _PIP_LINE.fullmatch(line.strip()))]
    for match in sorted(found, key=lambda match: order[match["section"]]):
        config[match["name"]] = " ".join(str(ast.literal_eval(match["value"])).split())
    for line in said.splitlines():
        if line.startswith("default "):
            default = line.split()[1:]
    extra = _remote(config.get("extra-index-url", ""))
    environment = {
        "PIP_INDEX_URL": " ".join(_remote(config.get("index-url", ""))),
        "PIP_EXTRA_INDEX_URL": " ".join(extra),
        "PIP_TRUSTED_HOST": config.get("trusted-host", ""),
    }
    urls = [environment["PIP_INDEX_URL"]] if environment["PIP_INDEX_URL"] else default
    return _index({name: text for name, text in environment.items() if text}, [*urls, *extra])


def node_index(registry: str) -> Index:
    """For one registry's URL; "" leaves it to npm."""
    urls = _remote(registry)[:1]
    return _index({"npm_config_registry": urls[0]} if urls else {}, urls)


def certificates() -> Path | None:
    """The file of certificate authorities that this host trusts."""
    for name in (os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), *_CERTIFICATES):
        if name and Path(name).is_file():
            return Path(name).resolve()
    return None


def host_port(text: str) -> HostPort:
    """Of `host`, `host:port`, or a URL. Without a port, of a URL its scheme's."""
    if "//" not in text:
        parts = urlsplit(f"//{text}")
        return parts.hostname or text, parts.port
    parts = urlsplit(text)
    return parts.hostname or "", parts.port or {"http": 80}.get(parts.scheme, 443)


def _index(environment: Mapping[str, str], places: Iterable[str]) -> Index:
    hosts: set[HostPort] = set()
    secrets: set[str] = set()
    for place in places:
        host, port = host_port(place)
        hosts.add((host, port or 443))
        password = urlsplit(place).password if "//" in place else None
        if password:
            secrets.add(password)
    return Index(environment, frozenset(hosts), frozenset(secrets))


def _remote(text: str) -> list[str]:
    """Indexes in the network; a folder of this host is not there in the container."""
    return [url for url in text.split() if url.startswith(("https://", "http://"))]


def _with_proxies(index: Index, environ: Mapping[str, str]) -> Index:
    """Where the host reaches the network through a proxy, so does a build."""
    found = {
        name: environ[name]
        for upper in _PROXIES
        for name in (upper, upper.lower())
        if environ.get(name)
    }
    urls = [url for name, url in found.items() if name.upper() != "NO_PROXY"]
    proxies = _index({}, urls)
    return Index(
        {**index.environment, **found}, index.hosts | proxies.hosts, index.secrets | proxies.secrets
    )


def _pip_says() -> str:
    return _said([sys.executable, "-I", "-c", _PIP_SAYS])


def _host_npm_says() -> str:
    """Its registry, or nothing where the host has no npm."""
    return _said(["npm", "config", "get", "registry"]).strip()


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_S, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # not there: its defaults hold inside the container too
    return done.stdout if done.returncode == 0 else ""
