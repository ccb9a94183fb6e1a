"""Facts about this host, and the containers.conf that holds what Hearth chose because of them.

Whether crun or runc works is found by trying, because what decides (how cgroups are mounted,
what root may do here) is spread over kernel, init system and versions.
`python -m cli.host` makes the file and prints its path.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.settings import Settings, SettingsInvalid

CGROUPS = Path("/sys/fs/cgroup")
PID_MAX = Path("/proc/sys/kernel/pid_max")
OCI_RUNTIMES = ("crun", "runc")  # in the order to try: crun starts a container sooner
NOFILE_MAX = 65_536  # more is never useful inside; a lower limit of the caller's wins
PROBE_TIMEOUT_S = 60.0
FORMAT = "2"  # of the file; a new one makes every old file stale


class HostUnfit(Exception):
    """This host cannot run containers as it is. The message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of running a container with one OCI runtime."""

    runtime: str
    works: bool
    says: str


@dataclass(frozen=True, slots=True)
class Rlimits:
    """The highest limits a container may be given here: raising one's own needs a capability."""

    nofile: int
    nproc: int


def ensure_containers_conf(data_dir: Path) -> Path:
    """The path of this installation's containers.conf, made first if it is missing or stale.

    Up to date it costs a few stats. Raises HostUnfit when no OCI runtime works.
    """
    path = data_dir / "containers.conf"
    facts = fingerprint()
    if _fingerprint_of(path) == facts:
        return path
    limits = rlimits()
    trials = try_runtimes(limits)
    works = [trial for trial in trials if trial.works]
    if not works:
        said = "; ".join(f"{trial.runtime}: {trial.says}" for trial in trials)
        raise HostUnfit(f"no OCI runtime can start a container here ({said})")
    _write(path, conf_text(works[0].runtime, trials, limits, facts))
    return path


def fingerprint() -> str:
    """A digest of what the choice depends on: another one means trying again."""
    parts = [FORMAT, os.uname().release, cgroup_version(), str(rlimits()), str(os.geteuid())]
    for name in ("podman", *OCI_RUNTIMES):
        found = shutil.which(name, path=search_path())
        if found is None:
            parts.append(f"{name} absent")
        else:
            stat = Path(found).stat()
            parts.append(f"{found} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def search_path() -> str:
    """PATH and the folders of Debian's system binaries, which a user's PATH may lack."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def cgroup_version(root: Path = CGROUPS) -> str:
    """`v2`, `v1` (also when v2 is mounted beside it without controllers), or `none`."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "v1" if (root / "memory").is_dir() else "none"


def cgroup_controllers(root: Path = CGROUPS) -> frozenset[str]:
    """The controllers a container's cgroup can have here; v2 has a freezer in every cgroup."""
    if cgroup_version(root) == "v2":
        named = (root / "cgroup.controllers").read_text().split()
        return frozenset(named) | {"freezer"}
    if not root.is_dir():
        return frozenset()
    return frozenset(part for entry in root.iterdir() for part in entry.name.split(","))


def rlimits() -> Rlimits:
    """What may be passed on to containers, from the limits of this process."""
    infinity = resource.RLIM_INFINITY
    _, nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, nproc = resource.getrlimit(resource.RLIMIT_NPROC)
    pids = int(PID_MAX.read_text())  # Podman lowers its own nproc to this, and cannot go back up
    return Rlimits(
        nofile=NOFILE_MAX if nofile == infinity else min(nofile, NOFILE_MAX),
        nproc=pids if nproc == infinity else min(nproc, pids),
    )


def try_runtimes(limits: Rlimits) -> list[Trial]:
    """Run one small container with each OCI runtime until one works."""
    if shutil.which("podman", path=search_path()) is None:
        raise HostUnfit("podman is not installed; `make setup` installs it")
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="hearth-probe-") as folder:
        root = _probe_root(Path(folder))
        for name in OCI_RUNTIMES:
            if shutil.which(name, path=search_path()) is None:
                trials.append(Trial(name, works=False, says="not installed"))
                continue
            # A trial reads no configuration but ours: what it shows must hold with our file.
            conf = Path(folder) / f"{name}.conf"
            conf.write_text(conf_text(name, [], limits, ""))
            trials.append(_try(name, conf, root))
            if trials[-1].works:
                break
    return trials


def _probe_root(folder: Path) -> Path:
    """A root file system that needs no image: the host's own /usr, mounted over an empty tree."""
    root = folder / "root"
    for name in ("usr", "proc", "sys", "dev", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        host = Path("/") / name
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
    return root


def try_container(conf: Path) -> Trial:
    """Run one small container with a containers.conf that stands."""
    with tempfile.TemporaryDirectory(prefix="hearth-probe-") as folder:
        return _try(conf.name, conf, _probe_root(Path(folder)))


def probe_command(root: Path) -> list[str]:
    """The command of a trial: it asks for what every sandbox will ask for."""
    return [
        "podman",
        "run",
        "--rm",
        "--network=none",
        "--read-only",
        "--user=65534:65534",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--memory=64m",
        "--cpus=0.5",
        "--pids-limit=16",
        "--log-driver=none",
        "--volume=/usr:/usr:ro",
        "--rootfs",
        str(root),
        "/usr/bin/true",
    ]


def _try(name: str, conf: Path, root: Path) -> Trial:
    environ = {**os.environ, "CONTAINERS_CONF": str(conf), "PATH": search_path()}
    try:
        done = subprocess.run(
            probe_command(root),
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial(name, works=False, says=f"did not end within {PROBE_TIMEOUT_S:.0f} s")
    lines = done.stderr.strip().splitlines()
    says = lines[-1] if lines else f"exit status {done.returncode}"
    return Trial(name, works=done.returncode == 0, says="works" if done.returncode == 0 else says)


def conf_text(name: str, trials: Sequence[Trial], limits: Rlimits, facts: str) -> str:
    """The file: a choice for each line, and why."""
    tried = "".join(f"# tried {trial.runtime}: {_one_line(trial.says)}\n" for trial in trials)
    return f"""\
# Made by Hearth for this host; made again when the host changes. Do not edit.
# facts {facts}
{tried}
[engine]
runtime = "{name}"
# Hearth sets limits and freezes sandboxes through the cgroup tree itself, with or without systemd.
cgroup_manager = "cgroupfs"
# Nothing reads Podman's events: each would be a locked write to a file that only grows.
events_logger = "none"

[network]
network_backend = "netavark"

[containers]
# Never above the caller's own: raising a limit needs a capability that root may lack here.
default_ulimits = ["nofile={limits.nofile}:{limits.nofile}", "nproc={limits.nproc}:{limits.nproc}"]
# A proxy's address, and the password in it, are the host's own business.
http_proxy = false
"""


def _one_line(text: str) -> str:
    """Words of another program, fit for a comment."""
    return "".join(c if c.isprintable() else " " for c in text)


def _fingerprint_of(path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return next(
        (line.removeprefix("# facts ") for line in lines if line.startswith("# facts ")), ""
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def main() -> int:
    """Make the file if needed, say where it is."""
    try:
        path = ensure_containers_conf(Settings.from_env().data_dir)
    except (HostUnfit, SettingsInvalid) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
