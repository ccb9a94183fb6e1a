"""The control groups of one sandbox, written directly: limits, out-of-memory, the end of it all.

A node's sandboxes share the parent `/hearth-<tag>`; each has a group of its own below it, in which
Podman puts the container (libpod-<id>) and nothing else. Limits are set on our group and not on the
container's, so that it is ours to remove: what it tells outlives the container. Both cgroup
versions; on v1 each controller is a tree of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS_V1 = ("memory", "cpu", "pids", "freezer")
_CONTROLLERS_V2 = "+memory +cpu +pids"
_PERIOD_US = 100_000


def is_v2(root: Path = ROOT) -> bool:
    """Whether the unified hierarchy is the one that controls."""
    return (root / "cgroup.controllers").exists()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one version may use. `cpus` in cores."""

    memory_bytes: int
    cpus: float


def limit_writes(limits: Limits, *, v2: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) in the order to write them. Swap is never added to memory."""
    quota = max(1000, int(limits.cpus * _PERIOD_US))
    if v2:
        return [
            ("", "memory.swap.max", "0"),
            ("", "memory.max", str(limits.memory_bytes)),
            ("", "cpu.max", f"{quota} {_PERIOD_US}"),
        ]
    memory = str(limits.memory_bytes)
    return [
        ("memory", "memory.limit_in_bytes", memory),
        ("memory", "memory.memsw.limit_in_bytes", memory),
        ("cpu", "cpu.cfs_period_us", str(_PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", str(quota)),
    ]


class SandboxCgroup:
    """The group of one sandbox. Close it, or its descriptor is a leak."""

    __slots__ = ("_oom_event", "_oom_seen", "_root", "_v2", "path")

    def __init__(self, path: str, root: Path = ROOT) -> None:
        self.path = path  # "/hearth-<tag>/<sandbox id>", as Podman's cgroup parent takes it
        self._root = root
        self._v2 = is_v2(root)
        self._oom_event = -1
        self._oom_seen = False

    def make(self) -> None:
        """Make the empty groups that the container will be put under, and watch their memory."""
        if self._v2:
            self._folder("").mkdir(parents=True, exist_ok=True)
            for folder in (self._root, self._folder("").parent):
                # Refused where somebody has done it already in another way; `limit` would tell.
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(_CONTROLLERS_V2)
            return
        for part in _CONTROLLERS_V1:
            self._folder(part).mkdir(parents=True, exist_ok=True)
        # v1 counts kills in the group of who was killed, the container's, which Podman removes
        # within milliseconds. The group whose limit was reached gets its events before the kill.
        self._oom_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        folder = self._folder("memory")
        with (folder / "memory.oom_control").open() as control:
            text = f"{self._oom_event} {control.fileno()}"
            (folder / "cgroup.event_control").write_text(text)

    def limit(self, limits: Limits) -> None:
        """Set a version's limits. OSError when the group is gone."""
        for part, file, value in limit_writes(limits, v2=self._v2):
            try:
                _write(self._folder(part) / file, value)
            except FileNotFoundError:
                if "memsw" not in file and "swap" not in file:  # a kernel without swap accounting
                    raise

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for want of memory. Also after the end of the
        container, until `close`; the answer is there before the killed process is gone."""
        if self._v2:
            return _count(self._folder("") / "memory.events", "oom_kill") > 0
        if self._oom_event >= 0:
            with contextlib.suppress(BlockingIOError):
                self._oom_seen |= os.eventfd_read(self._oom_event) > 0
        return self._oom_seen

    def close(self) -> None:
        """Give the descriptor back. Any number of times."""
        if self._oom_event >= 0:
            os.close(self._oom_event)
        self._oom_event = -1

    def remove(self) -> bool:
        """Remove the groups; False while something still lives in them."""
        left = [tree for tree in trees(self.path, self._root) if not remove_tree(tree)]
        return not left

    def _folder(self, part: str) -> Path:
        return self._root / part / self.path.lstrip("/")


def _write(file: Path, value: str) -> None:
    # Not Path.write_text: a file of a group is never made or cut off.
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _count(file: Path, word: str) -> int:
    try:
        text = file.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == word:
            return int(value)
    return 0


def remove_tree(folder: Path) -> bool:
    """Remove a group and the empty ones below it; False when a process is left in one."""
    for inner, _, _ in os.walk(folder, topdown=False):
        try:
            Path(inner).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def trees(path: str, root: Path = ROOT) -> list[Path]:
    """Every folder that a group has on this host: one on v2; on v1 one for each hierarchy, also
    those that only Podman made (devices, blkio, …)."""
    name = path.lstrip("/")
    if is_v2(root):
        return [root / name] if (root / name).exists() else []
    with os.scandir(root) as entries:
        return [Path(e.path) / name for e in entries if (Path(e.path) / name).exists()]


def processes(path: str, root: Path = ROOT) -> Iterator[int]:
    """Process ids in the group and below it."""
    for tree in trees(path, root):
        for inner, _, _ in os.walk(tree):
            with contextlib.suppress(OSError):
                text = (Path(inner) / "cgroup.procs").read_text()
                # 0 stands for a process that this pid namespace cannot name; to signal 0 would
                # be to signal ourselves.
                yield from (int(line) for line in text.split() if int(line) > 0)


def thaw(path: str, root: Path = ROOT) -> None:
    """Let every frozen process below the group run: on v1 even SIGKILL waits for that."""
    for tree in trees(path, root):
        for inner, _, _ in os.walk(tree):
            for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                with contextlib.suppress(OSError):
                    _write(Path(inner) / file, value)


def kill(path: str, root: Path = ROOT) -> int:
    """Thaw and SIGKILL everything below the group; how many processes were told."""
    thaw(path, root)
    told = set(processes(path, root))
    for pid in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(told)
