"""Looks for what a stopped platform may not leave behind, by the name of its run directory."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

NODE_LABEL = "hearth.node"  # on every sandbox's container
_PODMAN_S = 30.0


def leftovers(data_dir: Path, run_dir: Path) -> list[str]:
    """One line for each process, container, mount, control group or socket still there."""
    return [
        *_processes(data_dir, run_dir),
        *_containers(data_dir, run_dir),
        *_mounts(run_dir),
        *_cgroups(run_dir),
        *_sockets(run_dir),
    ]


def node_tag(run_dir: Path) -> str:
    """The name by which a node's containers and control groups are known."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]


def _processes(data_dir: Path, run_dir: Path) -> Iterator[str]:
    ours = f"HEARTH_RUN_DIR={run_dir}".encode()
    conf = f"CONTAINERS_CONF={data_dir / 'containers.conf'}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in (os.getpid(), os.getppid()):
            continue
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile, or it is not ours to look at
        podmans = conf in environ and "podman" in command  # conmon and the service
        if command and (ours in environ or podmans):
            yield f"process {folder.name}: {command[:120]}"


def _containers(data_dir: Path, run_dir: Path) -> Iterator[str]:
    conf = data_dir / "containers.conf"
    if not conf.exists():
        return  # no container was ever started
    command = ["podman", "ps", "--all", "--format", "{{.ID}} {{.Names}} {{.Status}}"]
    command += ["--filter", f"label={NODE_LABEL}={node_tag(run_dir)}"]
    environ = {**os.environ, "CONTAINERS_CONF": str(conf)}
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=_PODMAN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        yield f"containers: cannot tell ({problem})"
        return
    for line in done.stdout.splitlines():
        yield f"container {line}"


def _mounts(run_dir: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split(" ")[4].encode().decode("unicode_escape")
        if Path(place).is_relative_to(run_dir):
            yield f"mount {place}"


def _cgroups(run_dir: Path) -> Iterator[str]:
    name = f"hearth-{node_tag(run_dir)}"
    root = Path("/sys/fs/cgroup")
    for folder in (root / name, *root.glob(f"*/{name}")):
        if folder.is_dir():
            yield f"control group {folder}"


def _sockets(run_dir: Path) -> Iterator[str]:
    if run_dir.is_dir():
        for path in run_dir.rglob("*"):
            if path.is_socket():
                yield f"socket {path}"
