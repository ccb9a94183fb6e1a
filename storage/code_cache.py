"""The node's cache of unpacked code: a version's layers laid over one another, ready to mount.

    root/<slot>/complete.json    written last: what the tree holds, to compare at first use
    root/<slot>/tree/            what /var/task shows
    root/.scratch/               trees in the making

Several processes may use one directory: a slot appears by a rename, and a pin is a shared lock on
it that ends with the process which holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import NameInvalid
from storage.archive import overlay
from storage.scratch import room, scratch_dir, sweep
from storage.store import ObjectStore, object_key
from storage.tree import TreeFacts, measure

_SCRATCH = ".scratch"
_TREE = "tree"
_MARKER = "complete.json"
_SLOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.[0-9a-f]{32}", re.ASCII)
_BLOCK_BYTES = 4096  # what the smallest file or directory takes on disk
_TRIES_MAX = 10


class TreeGone(LookupError):
    """The tree was evicted, or never was; ask the cache for it once more."""


@dataclass(eq=False, slots=True)
class _Slot:
    """One tree on disk."""

    path: Path
    charge_bytes: int
    used: int  # grows with every use: the smallest was used longest ago
    verified: bool = False  # compared with its marker by this process
    pins: int = 0
    lock_fd: int = -1  # while pinned


class CodeCache:
    """Trees of code on this node, at most `bytes_max` of them beside those that are pinned.

    Thread-safe. Trees asked for by many at once are made once; the others wait for the one.
    """

    def __init__(self, root: Path, store: ObjectStore, bytes_max: int) -> None:
        self._root = root
        self._scratch = root / _SCRATCH
        self._store = store
        self._bytes_max = bytes_max
        self._clock = itertools.count()
        self._guard = threading.Lock()  # of the two dictionaries and every slot
        self._slots: dict[str, _Slot] = {}
        self._under_way: dict[str, Future[Path]] = {}
        with room(str(root)):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._scratch.mkdir(mode=0o700, exist_ok=True)
        sweep(self._scratch)
        self._slots.update(self._found())
        self._evict()

    def tree(self, function_id: str, layers: Sequence[str]) -> Path:
        """The directory that holds these layers, made if it is not there.

        It stays until it is the least recently used and room is needed; `pinned_tree` keeps it.
        PartAway, ObjectMissing, DigestMismatch, DiskFull, ArchiveInvalid."""
        name = _slot_name(function_id, layers)
        with self._guard:
            if (path := self._use(name)) is not None:
                return path
            work = self._under_way.get(name)
            mine = work is None
            if work is None:
                work = self._under_way[name] = Future()
        if not mine:
            return work.result()
        try:
            path = self._adopt(name) or self._make(name, function_id, layers)
        except BaseException as error:
            self._finish(name)
            work.set_exception(error)
            raise
        self._finish(name)
        work.set_result(path)
        self._evict(keep=name)
        return path

    def pinned_tree(self, function_id: str, layers: Sequence[str]) -> Path:
        """`tree`, pinned before anybody can evict it."""
        for _ in range(_TRIES_MAX):
            path = self.tree(function_id, layers)
            with contextlib.suppress(TreeGone):
                self.pin(path)
                return path
        raise TreeGone(f"{path} is evicted as soon as it is made")

    def pin(self, path: Path) -> None:
        """Keep a tree that `tree` returned until `unpin`, as often as it was pinned. TreeGone."""
        with self._guard:
            slot = self._slots.get(path.parent.name)
            if slot is None or not slot.verified:
                raise TreeGone(str(path))
            if slot.pins == 0:
                slot.lock_fd = _lock_shared(slot.path)
            slot.pins += 1

    def unpin(self, path: Path) -> None:
        """Take back one `pin`."""
        with self._guard:
            slot = self._slots[path.parent.name]
            assert slot.pins > 0, f"{path} is not pinned"
            slot.pins -= 1
            if slot.pins == 0:
                os.close(slot.lock_fd)
        self._evict()

    def close(self) -> None:
        """Let go of every pin. The trees stay for the next process."""
        with self._guard:
            for slot in self._slots.values():
                if slot.pins:
                    os.close(slot.lock_fd)
                    slot.pins = 0

    def _found(self) -> Iterator[tuple[str, _Slot]]:
        """What an earlier process left, oldest use first. What has no marker is removed."""
        markers: list[tuple[float, Path]] = []
        for path in self._root.iterdir():
            if not _SLOT.fullmatch(path.name):
                continue
            try:
                markers.append(((path / _MARKER).stat().st_mtime, path))
            except FileNotFoundError:
                self._discard(path)
        for _, path in sorted(markers):
            facts = _read_marker(path)
            if facts is None:
                self._discard(path)
            else:
                yield path.name, _Slot(path, _charge(facts), next(self._clock))

    def _use(self, name: str) -> Path | None:
        """The tree of a slot known to be whole. Called with the guard held."""
        slot = self._slots.get(name)
        if slot is None or not slot.verified:
            return None
        try:
            os.utime(slot.path / _MARKER)  # so that the next process knows the order too
        except FileNotFoundError:  # evicted by another process, or removed by hand
            self._forget(name)
            return None
        slot.used = next(self._clock)
        return slot.path / _TREE

    def _adopt(self, name: str) -> Path | None:
        """Take over a slot that is on disk if its tree holds what its marker says."""
        path = self._root / name
        facts = _read_marker(path)
        if facts is not None and facts == _measure(path / _TREE):
            return self._remember(name, facts)
        with self._guard:
            self._forget(name)
        if path.exists():
            self._discard(path)
        return None

    def _make(self, name: str, function_id: str, layers: Sequence[str]) -> Path:
        """Fetch, unpack and put in place."""
        with room(str(self._root)), scratch_dir(self._scratch) as scratch:
            files = [scratch / str(number) for number in range(len(layers))]
            for digest, file in zip(layers, files, strict=True):
                self._store.fetch(object_key(function_id, digest), file)
            slot = scratch / "slot"
            (slot / _TREE).mkdir(parents=True)
            facts = overlay(files, slot / _TREE)
            (slot / _MARKER).write_text(json.dumps(asdict(facts)))
            try:
                slot.rename(self._root / name)
            except OSError:
                # Another process was faster. Its tree is as good, if it is whole.
                if (path := self._adopt(name)) is None:
                    slot.rename(self._root / name)
                else:
                    return path
        return self._remember(name, facts)

    def _remember(self, name: str, facts: TreeFacts) -> Path:
        with self._guard:
            slot = self._slots.get(name)
            if slot is None:
                slot = self._slots[name] = _Slot(self._root / name, 0, 0)
            slot.charge_bytes, slot.verified = _charge(facts), True
            slot.used = next(self._clock)
            return slot.path / _TREE

    def _finish(self, name: str) -> None:
        with self._guard:
            del self._under_way[name]

    def _forget(self, name: str) -> None:
        slot = self._slots.get(name)
        if slot is not None and slot.pins:
            slot.verified = False  # the pins count for the tree that comes in its place
        else:
            self._slots.pop(name, None)

    def _evict(self, keep: str = "") -> None:
        """Bring the cache under its bound, least recently used first."""
        if self._excess_bytes() <= 0:
            return
        # What moves to the scratch directory is deleted there after the guard is released.
        with scratch_dir(self._scratch) as scratch, self._guard:
            excess = self._excess_bytes()
            for name, slot in sorted(self._slots.items(), key=lambda item: item[1].used):
                if excess <= 0:
                    break
                if slot.pins or name == keep or name in self._under_way:
                    continue
                if _move_unless_pinned(slot.path, scratch / name):
                    del self._slots[name]
                    excess -= slot.charge_bytes

    def _excess_bytes(self) -> int:
        return sum(slot.charge_bytes for slot in list(self._slots.values())) - self._bytes_max

    def _discard(self, path: Path) -> None:
        """Out of the way in one step, then removed."""
        with scratch_dir(self._scratch) as scratch, contextlib.suppress(FileNotFoundError):
            path.rename(scratch / "slot")


def _slot_name(function_id: str, layers: Sequence[str]) -> str:
    """A name of the whole stack of layers. NameInvalid for what cannot be in the store."""
    if not layers:
        raise NameInvalid(f"{function_id!r} has no layers")
    for digest in layers:
        object_key(function_id, digest)
    stack = hashlib.sha256("/".join(layers).encode()).hexdigest()[:32]
    return f"{function_id}.{stack}"


def _charge(facts: TreeFacts) -> int:
    """About what a tree takes on disk."""
    return facts.bytes + _BLOCK_BYTES * (facts.directories + facts.files + facts.links + 1)


def _read_marker(path: Path) -> TreeFacts | None:
    try:
        return TreeFacts(**json.loads((path / _MARKER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _measure(tree: Path) -> TreeFacts | None:
    try:
        return measure(tree)
    except OSError:
        return None


def _lock_shared(path: Path) -> int:
    """A lock that keeps other processes from evicting. TreeGone when one was faster."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise TreeGone(str(path)) from None
    fcntl.flock(fd, fcntl.LOCK_SH)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    os.close(fd)
    raise TreeGone(str(path))


def _move_unless_pinned(path: Path, to: Path) -> bool:
    """False when another process has pinned it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.rename(to)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)
    return True
