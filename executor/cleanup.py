"""Ends what a dead node left behind: processes (frozen ones too), mounts, groups, directories.

Used by the guard the moment the gateway is gone, and by the next start for what a killed guard
left. Touches only what carries this node's tag.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import time
from pathlib import Path

from executor import cgroup, mounts
from executor.container import NODE_LABEL

_ROUNDS_MAX = 100
_ROUND_S = 0.05


def node_tag(run_dir: Path) -> str:
    """A short name for everything of the node that lives in this run directory."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()[:12]


def clear(run_dir: Path) -> list[str]:
    """Clear it all and say what was found, for the log. Blocks, some milliseconds if nothing."""
    tag = node_tag(run_dir)
    parent = f"/hearth-{tag}"
    said: list[str] = []
    killed = _kill_all(parent)
    if killed:
        said.append(f"killed {killed} processes of sandboxes")
        _remove_containers(tag)
    unmounted = _unmount_all(run_dir)
    if unmounted:
        said.append(f"unmounted {unmounted} places")
    for tree in cgroup.trees(parent):
        if not cgroup.remove_tree(tree):
            said.append(f"the control group {tree} is still in use")
    for name in ("sandboxes", "code"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    return said


def _kill_all(parent: str) -> int:
    # A process may fork while we read the list: look again until nobody is left. What is waited
    # for is the kernel and conmon finishing what the signal began.
    killed = 0
    for _ in range(_ROUNDS_MAX):
        told = cgroup.kill(parent)
        if not told:
            return killed
        killed = max(killed, told)
        time.sleep(_ROUND_S)
    return killed


def _remove_containers(tag: str) -> None:
    listing = subprocess.run(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label={NODE_LABEL}={tag}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if ids := listing.stdout.split():
        command = ["podman", "rm", "--force", "--ignore", "--time", "0", *ids]
        subprocess.run(command, capture_output=True, check=False)


def _unmount_all(run_dir: Path) -> int:
    count = 0
    for name in ("sandboxes", "code"):
        for point in mounts.mounts_below(run_dir / name):
            with contextlib.suppress(OSError):
                count += mounts.unmount(point)
    return count
