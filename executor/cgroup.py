"""The control groups of one sandbox, written directly: limits, freezing, out-of-memory, the end.

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
# cpuacct may be mounted with cpu or by itself; either way it has a path of its own.
_CONTROLLERS_V1 = ("memory", "cpu", "cpuacct", "pids", "freezer")
_CONTROLLERS_V2 = "+memory +cpu +pids"
_PERIOD_US = 100_000
STILL = "still"  # no sandbox has this name


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
    """The group of one sandbox. Close it, or its descriptors are a leak."""

    __slots__ = (
        *("_freezer", "_is_frozen", "_kills_before", "_oom", "_oom_seen", "_root"),
        *("is_shared", "is_v2", "path"),
    )

    def __init__(self, path: str, root: Path = ROOT) -> None:
        self.path = path  # "/hearth-<tag>/<sandbox id>", as Podman's cgroup parent takes it
        self.is_v2 = is_v2(root)
        self.is_shared = False  # several calls at once: no moment at which an old kill is over
        self._root = root
        self._freezer = -1
        self._is_frozen = False
        self._oom = -1  # v1: an eventfd; v2: memory.events
        self._oom_seen = False  # v1
        self._kills_before = 0  # v2

    def make(self) -> None:
        """Make the empty groups that the container will be put under, and watch their memory."""
        if self.is_v2:
            self._make_v2()
        else:
            self._make_v1()
        freezer = ("", "cgroup.freeze") if self.is_v2 else ("freezer", "freezer.state")
        with contextlib.suppress(OSError):  # then it cannot be frozen
            self._freezer = os.open(self.file(*freezer), os.O_WRONLY | os.O_CLOEXEC)

    def _make_v2(self) -> None:
        folder = self.file("", "")
        folder.mkdir(parents=True, exist_ok=True)
        for above in (self._root, folder.parent):
            # Refused where somebody has done it already in another way; `limit` would tell.
            with contextlib.suppress(OSError):
                (above / "cgroup.subtree_control").write_text(_CONTROLLERS_V2)
        with contextlib.suppress(OSError):
            self._oom = os.open(folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)

    def _make_v1(self) -> None:
        for part in _CONTROLLERS_V1:
            if (self._root / part).is_dir():  # else it would be a folder of no meaning
                self.file(part, "").mkdir(parents=True, exist_ok=True)
        # v1 counts kills in the group of who was killed, the container's, which Podman removes
        # within milliseconds. The group whose limit was reached gets its events before the kill.
        self._oom = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self.file("memory", "memory.oom_control").open() as control:
            text = f"{self._oom} {control.fileno()}"
            self.file("memory", "cgroup.event_control").write_text(text)

    def limit(self, limits: Limits) -> None:
        """Set a version's limits. OSError when the group is gone."""
        for part, file, value in limit_writes(limits, v2=self.is_v2):
            try:
                _write(self.file(part, file), value)
            except FileNotFoundError:
                if "memsw" not in file and "swap" not in file:  # a kernel without swap accounting
                    raise

    def freeze(self) -> bool:
        """Stop everything in it; returns before the last of it has stopped. False where this host
        cannot, or when the group is gone."""
        self._is_frozen = self._tell_freezer(b"1" if self.is_v2 else b"FROZEN")
        return self._is_frozen

    def thaw(self) -> None:
        """The reverse of `freeze`. Costs nothing when it is not frozen."""
        if self._is_frozen:
            self._tell_freezer(b"0" if self.is_v2 else b"THAWED")
            self._is_frozen = False

    def _tell_freezer(self, word: bytes) -> bool:
        try:
            return os.pwrite(self._freezer, word, 0) > 0
        except OSError:
            return False

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for want of memory since it was last forgotten.
        Also after the end of the container, until `close`; the answer is there before the killed
        process is gone."""
        if self.is_v2:
            return self._kills() > self._kills_before
        self._oom_seen = self._oom_seen or self._took_event()
        return self._oom_seen

    def forget_out_of_memory(self) -> None:
        """A call begins: what ended some child before it is not what ends this one. Where calls
        overlap nothing is forgotten."""
        if self.is_shared:
            return
        if self.is_v2:
            self._kills_before = self._kills()
        else:
            self._took_event()
            self._oom_seen = False

    def _kills(self) -> int:
        try:
            return _count(os.pread(self._oom, 4096, 0), b"oom_kill")
        except OSError:  # removed: whatever it told is told
            return self._kills_before

    def _took_event(self) -> bool:
        if self._oom < 0:
            return False
        try:
            return os.eventfd_read(self._oom) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Give the descriptors back. Any number of times."""
        for fd in (self._oom, self._freezer):
            if fd >= 0:
                os.close(fd)
        self._oom = self._freezer = -1

    def remove(self) -> bool:
        """Remove the groups; False while something still lives in them."""
        left = [tree for tree in trees(self.path, self._root) if not remove_tree(tree)]
        return not left

    def file(self, part: str, name: str) -> Path:
        """Where a controller's file of the group is; on v2 all are in one folder, part \"\"."""
        return self._root / part / self.path.lstrip("/") / name


def keep_frozen(parent: str, root: Path = ROOT) -> None:
    """Make an empty group below `parent` that is always frozen. On v1 the first freeze and the last
    thaw of a machine patch the kernel's text (75-110 µs each, measured); those between take 1.3."""
    if is_v2(root):
        return
    folder = root / "freezer" / parent.lstrip("/") / STILL
    with contextlib.suppress(OSError):  # slower without it, and no more
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "freezer.state", "FROZEN")


def _write(file: Path, value: str) -> None:
    # Not Path.write_text: a file of a group is never made or cut off.
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _count(text: bytes, word: bytes) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
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
