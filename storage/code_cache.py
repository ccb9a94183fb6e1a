"""The node's cache of unpacked code: a version's layers laid over one another, ready to mount.

    root/<slot>/complete.json    written last: what the tree holds, to compare at first use
    root/<slot>/tree/            what /var/task shows
    root/<slot>/uses-<n>         second names of the markers of the layers that it shares
    root/.scratch/               trees in the making

Several processes may use one directory: a slot appears by a rename, and a pin is a shared lock on
it that ends with the process which holds it.

A layer of dependencies is a slot too, one for each namespace, and the trees that have it are made
of hard links to its files: ten functions with the same packages hold them once, on disk and in the
page cache. Nobody can write through such a link: the files are the platform's own, and sandboxes
see them through a read-only mount.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from core.errors import NameInvalid
from core.model import check_name
from storage.archive import overlay
from storage.scratch import room, scratch_dir, sweep
from storage.slots import (
    MARKER,
    TREE,
    Marker,
    TreeGone,
    lock_shared,
    measured,
    move_unless_kept,
    read_marker,
    use,
)
from storage.store import ObjectStore, object_key
from storage.tree import TreeFacts

__all__ = ["CodeCache", "TreeGone"]

_SCRATCH = ".scratch"
_SLOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.[0-9a-f]{32}", re.ASCII)
_LAYER = "layer."  # no function's id begins like this
_TRIES_MAX = 10


@dataclass(eq=False, slots=True)
class _Slot:
    """One tree on disk."""

    path: Path
    charge_bytes: int
    used: int  # grows with every use: the smallest was used longest ago
    needs: tuple[str, ...] = ()  # the slots of layers that its files lie in
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

    def tree(self, function_id: str, layers: Sequence[str], namespace: str = "") -> Path:
        """The directory that holds these layers, made if it is not there.

        All layers but the first are shared with the other trees of that namespace, if one is said.
        It stays until it is the least recently used and room is needed; `pinned_tree` keeps it.
        PartAway, ObjectMissing, DigestMismatch, DiskFull, ArchiveInvalid."""
        name = _slot_name(function_id, layers)
        return self._tree(name, function_id, layers, namespace)

    def _tree(self, name: str, function_id: str, layers: Sequence[str], namespace: str) -> Path:
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
            path = self._adopt(name) or self._make(name, function_id, layers, namespace)
        except BaseException as error:
            self._finish(name)
            work.set_exception(error)
            raise
        self._finish(name)
        work.set_result(path)
        self._evict(keep=name)
        return path

    def pinned_tree(self, function_id: str, layers: Sequence[str], namespace: str = "") -> Path:
        """`tree`, pinned before anybody can evict it."""
        return self._pinned(_slot_name(function_id, layers), function_id, layers, namespace)

    def _pinned(self, name: str, function_id: str, layers: Sequence[str], namespace: str) -> Path:
        for _ in range(_TRIES_MAX):
            path = self._tree(name, function_id, layers, namespace)
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
                slot.lock_fd = lock_shared(slot.path)
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
                markers.append(((path / MARKER).stat().st_mtime, path))
            except FileNotFoundError:
                self._discard(path)
        # Of those used at the same moment a layer is last: it goes after what is made of it.
        markers.sort(key=lambda found: (found[0], found[1].name.startswith(_LAYER)))
        for _, path in markers:
            marker = read_marker(path)
            if marker is None:
                self._discard(path)
            else:
                used = next(self._clock)
                yield path.name, _Slot(path, marker.charge_bytes, used, marker.needs)

    def _use(self, name: str) -> Path | None:
        """The tree of a slot known to be whole. Called with the guard held."""
        slot = self._slots.get(name)
        if slot is None or not slot.verified:
            return None
        try:
            os.utime(slot.path / MARKER)  # so that the next process knows the order too
        except FileNotFoundError:  # evicted by another process, or removed by hand
            self._forget(name)
            return None
        slot.used = next(self._clock)
        self._use_layers(slot)
        return slot.path / TREE

    def _use_layers(self, slot: _Slot) -> None:
        """Later than the slot itself, so that none is looked at before what keeps it."""
        for name in slot.needs:
            with contextlib.suppress(KeyError, FileNotFoundError):
                os.utime(self._slots[name].path / MARKER)
                self._slots[name].used = next(self._clock)

    def _adopt(self, name: str) -> Path | None:
        """Take over a slot that is on disk if its tree holds what its marker says."""
        path = self._root / name
        marker = read_marker(path)
        if marker is not None and marker.facts == measured(path):
            return self._remember(name, marker)
        with self._guard:
            self._forget(name)
            for need in marker.needs if marker else ():
                self._forget(need)  # the damage may be there: it is measured before it is used
        if path.exists():
            self._discard(path)
        return None

    def _make(self, name: str, function_id: str, layers: Sequence[str], namespace: str) -> Path:
        """Fetch, unpack and put in place."""
        with room(str(self._root)), scratch_dir(self._scratch) as scratch, ExitStack() as pins:
            sources = []
            for at, digest in enumerate(layers):
                if at and namespace:
                    sources.append(self._layer(pins, function_id, digest, namespace))
                else:
                    sources.append(scratch / str(at))
                    self._store.fetch(object_key(function_id, digest), sources[at])
            slot = scratch / "slot"
            (slot / TREE).mkdir(parents=True)
            facts = overlay(sources, slot / TREE)
            marker = _mark(slot, facts, [layer.parent for layer in sources if layer.is_dir()])
            try:
                slot.rename(self._root / name)
            except OSError:
                # Another process was faster. Its tree is as good, if it is whole.
                if (path := self._adopt(name)) is None:
                    slot.rename(self._root / name)
                else:
                    return path
            return self._remember(name, marker)

    def _layer(self, pins: ExitStack, function_id: str, digest: str, namespace: str) -> Path:
        """The tree of a layer, pinned until `pins` ends."""
        name = _layer_name(namespace, digest)
        tree = self._pinned(name, function_id, [digest], "")
        pins.callback(self.unpin, tree)
        return tree

    def _remember(self, name: str, marker: Marker) -> Path:
        with self._guard:
            slot = self._slots.get(name)
            if slot is None:
                slot = self._slots[name] = _Slot(self._root / name, 0, 0)
            slot.charge_bytes, slot.needs = marker.charge_bytes, marker.needs
            slot.verified = True
            slot.used = next(self._clock)
            self._use_layers(slot)
            return slot.path / TREE

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
                if move_unless_kept(slot.path, scratch / name):
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


def _layer_name(namespace: str, digest: str) -> str:
    """A name that another namespace never has."""
    return f"{_LAYER}{check_name(namespace, what='namespace')}.{digest[:32]}"


def _mark(slot: Path, facts: TreeFacts, layers: Sequence[Path]) -> Marker:
    """Write a new slot's marker, and keep the layers that it is made of."""
    files = size = 0
    for number, layer in enumerate(layers):
        use(slot, layer, number)
        if (its := read_marker(layer)) is not None:
            files, size = files + its.facts.files, size + its.facts.bytes
    names = tuple(layer.name for layer in layers)
    marker = Marker(facts, TreeFacts(files=files, bytes=size), names)
    marker.write(slot)
    return marker
