"""A slot of the code cache on disk: its marker, what it is charged, and who keeps it.

A slot that others are made from (a shared layer) is kept by link counts: each slot that uses it
has a second name of its marker. That count is true at any moment for every process, and what a
killed one began goes with its scratch directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.tree import TreeFacts, measure

TREE = "tree"
MARKER = "complete.json"
_USES = "uses-"
_BLOCK_BYTES = 4096  # what the smallest file or directory takes on disk


class TreeGone(LookupError):
    """The tree was evicted, or never was; ask the cache for it once more."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What a slot holds, written last."""

    facts: TreeFacts  # of the whole tree, to compare at first use
    shared: TreeFacts = TreeFacts()  # of these, the files that lie in layers' slots and count there
    needs: tuple[str, ...] = ()  # the layers' slots

    @property
    def charge_bytes(self) -> int:
        """About what the slot takes on disk beside the layers that it shares."""
        own = self.facts.files - self.shared.files
        names = self.facts.directories + own + self.facts.links + 1
        return max(0, self.facts.bytes - self.shared.bytes) + _BLOCK_BYTES * max(0, names)

    def write(self, slot: Path) -> None:
        """Into a slot in the making."""
        (slot / MARKER).write_text(json.dumps(asdict(self)))


def read_marker(slot: Path) -> Marker | None:
    """None when it is not there, half-written or of another release."""
    try:
        raw = json.loads((slot / MARKER).read_bytes())
        needs = tuple(str(name) for name in raw["needs"])
        return Marker(TreeFacts(**raw["facts"]), TreeFacts(**raw["shared"]), needs)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def measured(slot: Path) -> TreeFacts | None:
    """What its tree holds now. None when it cannot be read."""
    try:
        return measure(slot / TREE)
    except OSError:
        return None


def use(slot: Path, layer: Path, number: int) -> None:
    """Keep `layer` for as long as `slot` is there."""
    with contextlib.suppress(OSError):  # no more links: the layer may go, its files stay in `slot`
        os.link(layer / MARKER, slot / f"{_USES}{number}")


def end_uses(slot: Path) -> None:
    """The reverse, for a slot that is about to be removed."""
    for path in slot.glob(f"{_USES}*"):
        path.unlink(missing_ok=True)


def is_used(layer: Path) -> bool:
    """Whether a slot keeps it."""
    try:
        return (layer / MARKER).stat().st_nlink > 1
    except FileNotFoundError:
        return False


def lock_shared(slot: Path) -> int:
    """A lock that keeps other processes from evicting. TreeGone when one was faster."""
    try:
        fd = os.open(slot, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise TreeGone(str(slot)) from None
    fcntl.flock(fd, fcntl.LOCK_SH)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), slot.stat()):
            return fd
    os.close(fd)
    raise TreeGone(str(slot))


def move_unless_kept(slot: Path, to: Path) -> bool:
    """False when a process has pinned it, or a slot uses it."""
    try:
        fd = os.open(slot, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever begins to use it holds the other lock meanwhile: this cannot change under us.
        if is_used(slot):
            return False
        slot.rename(to)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(fd)
    end_uses(to)
    return True
