"""Where packages come from: the settings, else what this host's own pip and npm are configured to
use. No index is named in Hearth itself; pip and npm bring their defaults.

Users and passwords are taken out of the URLs here, at the first touch. They reach pip and npm in
files that only the installation's own user may read, so no argument, no variable that `podman
inspect` shows, no log, no layer and no cache key has them.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from worker.private_indexes import Places

HostPort = tuple[str, int | None]

SETTINGS = "/src/settings"  # where an installation finds an index's files
ENVIRONMENT = "environment"  # the one of them that its shell reads

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

    environment: Mapping[str, str]  # variables that anybody may see
    hosts: frozenset[HostPort]
    secrets: frozenset[str] = field(default=frozenset())  # not to be shown in a log
    files: Mapping[str, str] = field(default_factory=dict)  # name -> content, for SETTINGS
    shown: str = ""  # for the log

    @property
    def identity(self) -> str:
        """Everything that says where packages come from, for the cache's key. Not who asks: a
        changed password makes no layer stale."""
        return repr([*sorted(self.environment.items()), self.shown])


class Indexes:
    """Asks pip and npm at most every few minutes. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, str]] = {}

    def python(self, places: Places) -> Index:
        """For pip."""
        said = "" if places.pip_index_url else self._remembered("python", _pip_says)
        return _with_proxies(python_index(places, said), os.environ)

    def node(self, places: Places, default: Callable[[], str]) -> Index:
        """For npm; `default` asks the builder image's own npm, when this host has none."""
        registry = places.npm_registry or self._remembered(
            "node", lambda: _host_npm_says() or default()
        )
        return _with_proxies(node_index(registry, places.npm_scopes), os.environ)

    def _remembered(self, name: str, ask: Callable[[], str]) -> str:
        with self._lock:
            at, said = self._known.get(name, (0.0, None))
            if said is None or time.monotonic() - at > _REMEMBERED_S:
                said = ask()
                self._known[name] = (time.monotonic(), said)
            return said


def python_index(places: Places, said: str) -> Index:
    """From what the places name, else what pip says of its default and its configuration.
    Decides only."""
    config, default = _pip_configuration(said)
    extra = [*places.pip_extra_index_urls, *_remote(config.get("extra-index-url", ""))]
    first = places.pip_index_url or " ".join(_remote(config.get("index-url", "")))
    trusted = config.get("trusted-host", "")
    if places.pip_index_url:
        extra, trusted = list(places.pip_extra_index_urls), ""
    # Whoever wrote http:// here means it; pip alone would pass over such an index.
    plain = [_bare(url) for url in (places.pip_index_url, *places.pip_extra_index_urls)]
    trusted = " ".join([trusted, *(urlsplit(u).netloc for u in plain if u.startswith("http:"))])
    environment = {
        "PIP_INDEX_URL": _bare(first),
        "PIP_EXTRA_INDEX_URL": " ".join(map(_bare, extra)),
        "PIP_TRUSTED_HOST": trusted.strip(),
    }
    files = {"netrc": netrc} if (netrc := _netrc([first, *extra])) else {}
    if files:
        environment["NETRC"] = f"{SETTINGS}/netrc"
    shown = " and ".join(map(_bare, [first, *extra] if first else extra)) or "pip's default index"
    urls = [first] if first else default
    environment = {name: text for name, text in environment.items() if text}
    return _index(environment, [*urls, *extra], files, shown)


def node_index(registry: str, scopes: Mapping[str, str] | None = None) -> Index:
    """For one registry's URL; "" leaves it to npm. Scopes have registries of their own."""
    urls = _remote(registry)[:1]
    environment = {"npm_config_registry": _bare(urls[0])} if urls else {}
    scopes = scopes or {}
    lines = [f"{scope}:registry={_bare(url)}" for scope, url in sorted(scopes.items())]
    places = dict.fromkeys([*urls, *scopes.values()])
    lines += [line for url in places for line in _npm_credentials(urlsplit(url))]
    files = {}
    if lines:
        files["npmrc"] = "".join(f"{line}\n" for line in lines)
        environment["npm_config_userconfig"] = f"{SETTINGS}/npmrc"
    told = [f"{scope} {_bare(url)}" for scope, url in sorted(scopes.items())]
    shown = " and ".join([*map(_bare, urls), *told]) or "npm's default registry"
    return _index(environment, list(places), files, shown)


def _pip_configuration(said: str) -> tuple[dict[str, str], list[str]]:
    """pip's own settings, later sections over earlier ones, and the hosts it uses by default."""
    config: dict[str, str] = {}
    order = {"global": 0, "install": 1, ":env:": 2}
    found = [match for line in said.splitlines() if (match := _PIP_LINE.fullmatch(line.strip()))]
    for match in sorted(found, key=lambda match: order[match["section"]]):
        config[match["name"]] = " ".join(str(ast.literal_eval(match["value"])).split())
    default = [line.split()[1:] for line in said.splitlines() if line.startswith("default ")]
    return config, default[-1] if default else []


def _bare(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _netrc(urls: Iterable[str]) -> str:
    """Users and passwords as the file that pip reads; the first of a host counts."""
    lines: dict[str, str] = {}
    for parts in map(urlsplit, urls):
        if parts.hostname and (parts.username or parts.password):
            user, password = (_quoted(unquote(x or "")) for x in (parts.username, parts.password))
            line = f"machine {parts.hostname} login {user} password {password}\n"
            lines.setdefault(parts.hostname, line)
    return "".join(lines.values())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _npm_credentials(parts: SplitResult) -> list[str]:
    """A line for a user and password, or for a token: what stands there without a user."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        return []
    place = f"//{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/"
    if not user:
        return [f"{place}:_authToken={json.dumps(password)}"]
    whole = base64.b64encode(f"{user}:{password}".encode()).decode()
    return [f'{place}:_auth="{whole}"']


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


def _index(
    environment: Mapping[str, str], places: Iterable[str], files: Mapping[str, str], shown: str
) -> Index:
    hosts: set[HostPort] = set()
    secrets: set[str] = set()
    for place in places:
        host, port = host_port(place)
        hosts.add((host, port or 443))
        secrets |= _secrets(urlsplit(place)) if "//" in place else set()
    return Index(environment, frozenset(hosts), frozenset(secrets), files, shown)


def _secrets(parts: SplitResult) -> set[str]:
    """What of a URL is nobody's to read, however it is written: a user alone may be a token."""
    told = parts.password or parts.username
    if not told:
        return set()
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {told, unquote(told), base64.b64encode(pair.encode()).decode()}


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
    proxies = _index({}, urls, {}, "")
    private = {name: text for name, text in found.items() if "@" in text}
    lines = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in private.items())
    return Index(
        {**index.environment, **{n: text for n, text in found.items() if n not in private}},
        index.hosts | proxies.hosts,
        index.secrets | proxies.secrets,
        {**index.files, **({ENVIRONMENT: lines} if lines else {})},
        index.shown,
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
