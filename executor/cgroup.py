"""The control groups of one sandbox, written directly: limits, out-of-memory, the end of it all.

A node's sandboxes share the parent `/hearth-<tag>`; each has a group of its own below it, and
Podman puts the container (libpod-<id>) and its conmon under that. Both cgroup versions; on v1 each
controller is a tree of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS_V1 = ("memory", "cpu", "pids", "freezer")
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
    """The group of one sandbox. `container` is set once Podman has made the container."""

    __slots__ = ("_container", "_oom_control", "_oom_event", "_parts", "_root", "_v2", "path")

    def __init__(self, path: str, root: Path = ROOT) -> None:
        self.path = path  # "/hearth-<tag>/<sandbox id>", as Podman's cgroup parent takes it
        self._root = root
        self._v2 = is_v2(root)
        self._parts = ("",) if self._v2 else _CONTROLLERS_V1
        self._container = ""
        self._oom_event = self._oom_control = -1

    def make(self) -> None:
        """Make the empty groups that the container will be put under."""
        for part in self._parts:
            self._folder(part).mkdir(parents=True, exist_ok=True)

    def adopt(self, container_id: str) -> None:
        """Podman has made the container: watch it for running out of memory."""
        self._container = f"libpod-{container_id}"
        if self._v2:
            return
        # v1 counts kills in the container's own group, which may be removed before we look. An
        # eventfd outlives it: it is signalled once for each OOM and once for the removal.
        folder = self._folder("memory") / self._container
        self._oom_control = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._oom_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = folder / "cgroup.event_control"
        control.write_text(f"{self._oom_event} {self._oom_control}")

    def limit(self, limits: Limits) -> None:
        """Set the version's limits on the container. OSError when it is gone."""
        for part, file, value in limit_writes(limits, v2=self._v2):
            try:
                (self._folder(part) / self._container / file).write_text(value)
            except FileNotFoundError:
                if "memsw" not in file and "swap" not in file:  # a kernel without swap accounting
                    raise

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed something in it for want of memory. Also after the end."""
        if self._v2:
            return self._count(self._folder("") / "memory.events", "oom_kill") > 0
        if self._oom_event < 0:
            return False
        try:
            os.lseek(self._oom_control, 0, os.SEEK_SET)
            text = os.read(self._oom_control, 4096).decode()
            return "oom_kill " in text and int(text.split("oom_kill ")[1].split()[0]) > 0
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        try:
            return os.eventfd_read(self._oom_event) > 1  # one of them was the removal
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._oom_control, self._oom_event):
            if fd >= 0:
                os.close(fd)
        self._oom_control = self._oom_event = -1

    def remove(self) -> bool:
        """Remove the groups; False while something still lives in them."""
        return all(remove_tree(self._folder(part)) for part in self._parts)

    def _folder(self, part: str) -> Path:
        return self._root / part / self.path.lstrip("/")

    def _count(self, file: Path, word: str) -> int:
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
                yield from (int(line) for line in text.split())


def thaw(path: str, root: Path = ROOT) -> None:
    """Let every frozen process below the group run: on v1 even SIGKILL waits for that."""
    for tree in trees(path, root):
        for inner, _, _ in os.walk(tree):
            for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                target = Path(inner) / file
                if target.exists():
                    with contextlib.suppress(OSError):
                        target.write_text(value)


def kill(path: str, root: Path = ROOT) -> int:
    """Thaw and SIGKILL everything below the group; how many processes were told."""
    thaw(path, root)
    told = set(processes(path, root))
    for pid in told:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(told)
