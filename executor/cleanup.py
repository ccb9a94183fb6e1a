"""Ends what a dead node left behind: processes (frozen ones too), mounts, groups, directories.

Used by the guard the moment the gateway is gone, and by the next start for what a killed guard
left. Touches only what carries this node's tag, and only for who holds the run directory's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from executor import cgroup, mounts
from executor.container import NODE_LABEL

SANDBOXES, CODE = "sandboxes", "code"
_LOCK = "node.lock"
_ROUNDS_MAX = 100
_ROUND_S = 0.05
_REMOVALS_MAX = 5
_PODMAN_S = 60.0


class RunDirTaken(Exception):
    """Another process holds the run directory and what is in it."""


def node_tag(run_dir: Path) -> str:
    """A short name for everything of the node that lives in this run directory."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]


def group_of(run_dir: Path) -> str:
    """The control group that all sandboxes of the node share."""
    return f"/hearth-{node_tag(run_dir)}"


def hold(run_dir: Path, wait_s: float) -> int:
    """A descriptor that stands for the right to make and to clear sandboxes of this run directory,
    one at a time; the kernel takes it back when its holder dies. Blocks. RunDirTaken."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                raise RunDirTaken(f"another node runs in {run_dir}") from None
            time.sleep(_ROUND_S)
        else:
            return fd


def clear(run_dir: Path) -> list[str]:
    """Clear it all and say what was found, for the log. Blocks, some milliseconds if nothing.

    The caller holds the run directory."""
    parent = group_of(run_dir)
    said: list[str] = []
    found = (run_dir / SANDBOXES).exists() or bool(cgroup.trees(parent))
    if killed := _kill_all(parent):
        said.append(f"killed {killed} processes of sandboxes")
    if found and (removed := _remove_containers(node_tag(run_dir))):
        said.append(f"removed {removed} containers")
    if unmounted := _unmount_all(run_dir):
        said.append(f"unmounted {unmounted} places")
    said += _remove_groups(parent)
    for name in (SANDBOXES, CODE):
        if mounts.mounts_below(run_dir / name):  # never delete through a mount
            said.append(f"{run_dir / name} is still mounted")
        else:
            shutil.rmtree(run_dir / name, ignore_errors=True)
    return said


def _kill_all(parent: str) -> int:
    # A process may fork while we read the list: look again until nobody is left. What is waited
    # for is the kernel finishing what the signal began.
    killed = 0
    for _ in range(_ROUNDS_MAX):
        told = cgroup.kill(parent)
        if not told:
            return killed
        killed = max(killed, told)
        time.sleep(_ROUND_S)
    return killed


def _remove_containers(tag: str) -> int:
    """Also those whose conmon is about to have them removed: Podman takes turns."""
    label = f"label={NODE_LABEL}={tag}"
    found: set[str] = set()
    # The first time Podman only learns that a container whose conmon was killed is not running.
    for _ in range(_REMOVALS_MAX):
        ids = _podman("ps", "--all", "--quiet", "--no-trunc", "--filter", label)
        if not ids:
            break
        found.update(ids)
        _podman("rm", "--force", "--ignore", "--time", "0", *ids)
    return len(found)


def _podman(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(
            ["podman", *arguments], capture_output=True, text=True, check=False, timeout=_PODMAN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []  # the processes are dead all the same; the next start tries again
    return done.stdout.split()


def _unmount_all(run_dir: Path) -> int:
    points = [p for name in (SANDBOXES, CODE) for p in mounts.mounts_below(run_dir / name)]
    return sum(mounts.unmount(point) for point in points)


def _remove_groups(parent: str) -> list[str]:
    for _ in range(_ROUNDS_MAX):
        left = [tree for tree in cgroup.trees(parent) if not cgroup.remove_tree(tree)]
        if not left:
            return []
        time.sleep(_ROUND_S)  # a process that is killed stays in its group until it is reaped
    return [f"the control group {tree} is still in use" for tree in left]


def release(fd: int) -> None:
    """Give back what `hold` gave."""
    with contextlib.suppress(OSError):
        os.close(fd)
