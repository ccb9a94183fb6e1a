"""Settings, read once from `HEARTH_*` as a process starts. docs/settings.md lists them all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from core import destinations
from core.limits import STEMS_MAX

LOG_LEVELS = ("debug", "info", "warning", "error")
UID_END = 2**32 - 2  # the last ids of 32 bits mean "nobody" and "no change"


class SettingsInvalid(ValueError):
    """A HEARTH_* variable holds what it may not. The message names it and says what it takes."""


def _about(default: Any, says: str, *, low: float | None = None, high: float | None = None) -> Any:
    metadata = {"says": says, "low": low, "high": high}
    return field(default=default, metadata=metadata)


def _secret(says: str) -> Any:
    """A text that is, or may hold, a password: no repr of the settings shows it."""
    return field(default="", metadata={"says": says, "low": None, "high": None}, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One field for each `HEARTH_<FIELD>`; the text beside it is the row in docs/settings.md."""

    # Where things are
    data_dir: Path = _about(
        Path(".hearth"), "Everything Hearth keeps: database, objects, code, keys"
    )
    run_dir: Path = _about(
        Path(), "Sockets and sandbox directories; default /run/hearth/<hash of the data directory>"
    )
    node: str = _about("node-1", "This node's name, unique among nodes that share a catalog")
    address: str = _about("127.0.0.1:8080", "host:port the gateway listens on")
    tls_cert: Path = _about(Path(), "PEM certificate chain; reloaded when the file changes")
    tls_key: Path = _about(Path(), "PEM private key for HEARTH_TLS_CERT")
    trusted_proxies: tuple[str, ...] = _about(
        (), "Addresses or networks of proxies whose X-Forwarded-* is believed, comma-separated"
    )
    log_level: str = _about("info", "debug, info, warning or error")

    # Parts that may be elsewhere
    database_url: str = _secret("SQLAlchemy URL; default SQLite in the data directory")
    redis_url: str = _secret("redis://, rediss:// or unix:// URL; default an embedded Redis")
    durability: str = _about(
        "strict", "strict refuses a Redis without appendfsync always and noeviction; relaxed warns"
    )
    s3_endpoint: str = _about("", "S3 endpoint URL; with HEARTH_S3_BUCKET switches the store to S3")
    s3_bucket: str = _about("", "Bucket that holds every object; must exist")
    s3_key_id: str = _about("", "Access key id; default the AWS credential chain")
    s3_secret: str = _secret("Secret access key for HEARTH_S3_KEY_ID")
    s3_session_token: str = _secret("Session token of temporary credentials")
    s3_region: str = _about("us-east-1", "Region; `auto` for Cloudflare R2")
    s3_account_id: str = _about("", "Cloudflare R2 account id; derives HEARTH_S3_ENDPOINT if unset")
    s3_path_style: bool = _about(False, "true addresses buckets by path, as MinIO and rclone want")

    # Defaults for functions
    default_memory_mb: int = _about(
        128, "memory_mb of a function that names none", low=64, high=10240
    )
    default_cpus: float = _about(1.0, "cpus of a function that names none", low=0.05, high=64)
    default_timeout_s: float = _about(
        30.0, "timeout_s of a function that names none", low=0.1, high=900
    )
    default_concurrency: int = _about(
        10, "concurrency of a function that names none", low=1, high=1000
    )
    default_keep_warm_s: int = _about(
        600, "keep_warm_s of a function that names none", low=0, high=86400
    )

    # This node's caps
    invocations_max: int = _about(
        256, "Invocations running or waiting on this node", low=1, high=100000
    )
    memory_budget_mb: int = _about(
        0, "Memory all sandboxes together may be promised; 0 = 70 % of the machine", low=0
    )
    payload_bytes_max: int = _about(
        6 * 1024 * 1024,
        "Body of an invocation and of its response",
        low=1024,
        high=512 * 1024 * 1024,
    )
    archive_bytes_max: int = _about(
        256 * 1024 * 1024, "An uploaded archive", low=1024, high=8 * 1024 * 1024 * 1024
    )
    stems: int = _about(
        1, "Booted sandboxes without code kept ready for each runtime, at least", low=0, high=64
    )
    stems_max: int = _about(
        STEMS_MAX,
        "The same, at most: as many as functions may need at once, within an eighth of the memory",
        low=0,
        high=256,
    )
    uid_base: int = _about(200_001, "First user and group id given to sandboxes", low=1000)
    uid_count: int = _about(10_000, "How many ids may be used from HEARTH_UID_BASE on", low=16)
    code_cache_mb: int = _about(10_240, "Unpacked code kept on this node", low=64)
    egress_allow: tuple[str, ...] = _about(
        (),
        "What functions with `network: egress` may reach besides the public internet, even if it is"
        " private or the host's own: addresses or networks, each with or without :port, "
        "comma-separated",
    )
    drain_s: float = _about(30.0, "How long a stop waits for running invocations", low=0, high=3600)

    # Builds
    builds_max: int = _about(
        2, "Dependency installations that this node runs at once", low=1, high=64
    )
    build_memory_mb: int = _about(1024, "Memory of a container that installs dependencies", low=128)
    build_timeout_s: float = _about(
        300.0, "Time a dependency installation may take", low=1, high=7200
    )
    build_hosts: tuple[str, ...] = _about(
        (), "Further hosts that builds may reach even at private addresses, comma-separated"
    )
    build_indexes: Path = _about(
        Path(),
        "File that names package indexes of namespaces and functions, with passwords; mode 600",
    )
    pip_index_url: str = _secret("Package index for Python builds; default pip's own setting")
    npm_registry: str = _secret("Registry for Node builds; default npm's own setting")
    python_base_image: str = _about(
        "", "Image the Python runtime is built on; default a Debian made locally by mmdebstrap"
    )
    node_base_image: str = _about(
        "", "Image the Node runtime is built on (it must have python3); default as for Python"
    )
    custom_base_image: str = _about(
        "",
        "Image the custom runtime is built on (it must have python3 3.13, bash and curl); default "
        "as for Python",
    )
    dart_sdk: Path = _about(
        Path(),
        "Directory of a Dart 3 SDK on this machine (it holds bin/dart); compiles Dart functions",
    )
    dart_base_image: str = _about(
        "", "Image with a Dart 3 SDK that compiles Dart functions, where HEARTH_DART_SDK is unset"
    )
    debian_mirror: str = _about("", "Debian mirror the local base is made from; default Debian's")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check. SettingsInvalid names the variable that cannot be used."""
        environ = os.environ if environ is None else environ
        known = {f"HEARTH_{f.name.upper()}": f for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, spec in known.items():
            raw = environ.get(name, "").strip()
            if raw:
                values[spec.name] = _parse(name, raw, spec.default, spec.metadata)
        return cls(**values)._resolved()

    def _resolved(self) -> Settings:
        data_dir = _absolute("HEARTH_DATA_DIR", self.data_dir)
        digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["data_dir"] = data_dir
        default = self.run_dir == Path()
        values["run_dir"] = (
            Path("/run/hearth") / digest if default else _absolute("HEARTH_RUN_DIR", self.run_dir)
        )
        self._check()
        if self.s3_account_id and not self.s3_endpoint:
            values["s3_endpoint"] = f"https://{self.s3_account_id}.r2.cloudflarestorage.com"
        return Settings(**values)

    def _check(self) -> None:
        """What one field alone cannot tell."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise SettingsInvalid(f"HEARTH_ADDRESS takes host:port, not {self.address!r}")
        if bool(self.s3_key_id) != bool(self.s3_secret):
            raise SettingsInvalid("HEARTH_S3_KEY_ID and HEARTH_S3_SECRET go together: set both")
        if not re.fullmatch("[0-9A-Za-z]*", self.s3_account_id):
            raise SettingsInvalid("HEARTH_S3_ACCOUNT_ID takes letters and digits only")
        if (self.tls_cert == Path()) != (self.tls_key == Path()):
            raise SettingsInvalid("HEARTH_TLS_CERT and HEARTH_TLS_KEY go together: set both")
        if self.durability not in ("strict", "relaxed"):
            raise SettingsInvalid("HEARTH_DURABILITY takes strict or relaxed")
        if self.log_level not in LOG_LEVELS:
            raise SettingsInvalid(f"HEARTH_LOG_LEVEL takes one of {', '.join(LOG_LEVELS)}")
        if self.uid_base + self.uid_count > UID_END:
            raise SettingsInvalid(f"HEARTH_UID_BASE + HEARTH_UID_COUNT may be up to {UID_END}")
        for text in self.egress_allow:
            try:
                destinations.parse(text)
            except ValueError as error:
                says = f"HEARTH_EGRESS_ALLOW takes {destinations.TAKES}, not {text!r}: {error}"
                raise SettingsInvalid(says) from None

    @property
    def host(self) -> str:
        """The host half of the address, without brackets around IPv6."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port half of the address."""
        return int(self.address.rpartition(":")[2])

    @property
    def base_url(self) -> str:
        """Where clients on this machine reach the gateway."""
        scheme = "http" if self.tls_cert == Path() else "https"
        return f"{scheme}://{self.address}"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir / 'catalog.db'}"

    @property
    def redis(self) -> str:
        """The Redis URL in force."""
        return self.redis_url or f"unix://{self.run_dir / 'redis.sock'}"

    @property
    def redis_is_embedded(self) -> bool:
        """Whether `hearth up` starts Redis itself."""
        return not self.redis_url

    @property
    def podman_socket(self) -> Path:
        """The private socket of `podman system service`."""
        return self.run_dir / "podman.sock"

    @property
    def internal_socket(self) -> Path:
        """Where the gateway serves the worker and the builder."""
        return self.run_dir / "gateway.sock"

    @property
    def admin_key_file(self) -> Path:
        """The first admin key, mode 0600."""
        return self.data_dir / "admin.key"


_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _parse(name: str, raw: str, default: Any, about: Mapping[str, Any]) -> Any:
    if isinstance(default, bool):
        if raw.lower() not in _TRUE | _FALSE:
            raise SettingsInvalid(f"{name} takes true or false, not {raw!r}")
        return raw.lower() in _TRUE
    if isinstance(default, Path):
        return Path(raw)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in raw.split(",") if part.strip())
    if isinstance(default, int | float):
        return _number(name, raw, type(default), about["low"], about["high"])
    return raw


def _number(
    name: str, raw: str, kind: type[int] | type[float], low: float | None, high: float | None
) -> int | float:
    try:
        value = kind(raw)
    except ValueError:
        raise SettingsInvalid(f"{name} takes a number, not {raw!r}") from None
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise SettingsInvalid(f"{name} is {raw}; it may be {bounds}")
    return value


def _absolute(name: str, path: Path) -> Path:
    try:
        return Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:  # ~name of somebody who is not
        raise SettingsInvalid(f"{name}: {error}") from None
