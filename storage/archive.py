"""Archives, hostile until proven otherwise: look one through, unpack it, or lay several over one
another. All three read the same way, so what was accepted at upload unpacks later.

Rules, in short. Taken are .zip (stored or deflated), .tar.gz and .tar; the content decides, not
the name. Names are UTF-8, relative, without `..`, backslashes and control characters, and mean
different files when a single byte differs (case and Unicode form included, as on Linux). A name
stands for one thing only; directories may be repeated. Symbolic links may lead anywhere inside
the tree, hard links to an earlier file of the same archive. Devices, pipes, sockets, sparse,
encrypted and set-id files are refused. A file is 0755 if its owner may execute it, else 0644.
"""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

from core.errors import ArchiveInvalid
from core.limits import ARCHIVE_FILES_LISTED_MAX, MANIFEST_BYTES_MAX
from storage.entries import (
    CHUNK_BYTES,
    LAYER_LIMITS,
    UPLOAD_LIMITS,
    ArchiveLimits,
    Budget,
    Entry,
    Kind,
    refuse,
)
from storage.inflate import GzipStream
from storage.pack import pack_tree, wrap_single
from storage.scratch import room, scratch_dir
from storage.tar import BLOCK, looks_like_tar, tar_entries
from storage.tree import DiskTree, Shape, TreeFacts, link_tree
from storage.zip import SIGNATURES, zip_entries

__all__ = [
    "LAYER_LIMITS",
    "UPLOAD_LIMITS",
    "ArchiveFacts",
    "ArchiveLimits",
    "overlay",
    "pack_tree",
    "scan",
    "unpack",
    "wrap_single",
]

ArchiveKind = Literal["tar.gz", "tar", "zip"]
MANIFEST = "hearth.toml"
_FOREIGN = {
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"PK\x07\x08": "a zip in several volumes",
}


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """What an archive turned out to hold."""

    kind: ArchiveKind
    entries: int
    unpacked_bytes: int  # of all files together
    files: tuple[str, ...]  # paths, nearest to the root first, at most ARCHIVE_FILES_LISTED_MAX
    manifest: bytes | None  # the root's hearth.toml


class _Target(Protocol):
    """Where entries go: nowhere, or to disk."""

    def make_directory(self, path: str) -> None: ...
    def write_file(self, path: str, content: Iterator[bytes], mode: int) -> int: ...
    def link_file(self, target: str, path: str) -> None: ...
    def remove_file(self, path: str) -> None: ...


def scan(path: Path, limits: ArchiveLimits = UPLOAD_LIMITS) -> ArchiveFacts:
    """Read an archive to its end and check everything `unpack` would, writing nothing.

    ArchiveInvalid names the entry and the rule it breaks; ArchiveTooLarge the limit it is over.
    Memory is bounded by the limits, never by what the archive says of itself."""
    shape = Shape()
    facts = _read(path, limits, shape, _Nowhere())
    shape.check_links()
    return _not_empty(facts)


def unpack(path: Path, to: Path, limits: ArchiveLimits = UPLOAD_LIMITS) -> ArchiveFacts:
    """Unpack an archive into `to`, which must not exist or be empty; whole or not at all.

    Raises as `scan` does, and DiskFull. A process that dies half-way leaves a directory beside
    `to` that `storage.scratch.sweep` removes."""
    with room(str(to.parent)), scratch_dir(to.parent) as scratch:
        (scratch / "tree").mkdir()
        shape = Shape()
        facts = _not_empty(_lay([path], scratch / "tree", limits, shape))
        (scratch / "tree").rename(to)
    return facts


def overlay(layers: Sequence[Path], root: Path, limits: ArchiveLimits = LAYER_LIMITS) -> TreeFacts:
    """Unpack archives one over the other into `root`, an empty directory of the caller's.

    A later layer adds files and replaces files and links. It may not put a file where a directory
    is, nor reach through an earlier layer's link. A layer that is a directory was unpacked before,
    and gives hard links. After an error the caller throws `root` away."""
    shape = Shape()
    with room(str(root)):
        _lay(layers, root, limits, shape)
    return shape.facts()


def _lay(layers: Sequence[Path], root: Path, limits: ArchiveLimits, shape: Shape) -> ArchiveFacts:
    disk = DiskTree(root)
    facts = ArchiveFacts("tar", 0, 0, (), None)  # of a stack that begins with no archive
    try:
        for layer in layers:
            shape.start_layer()
            if layer.is_dir():
                link_tree(layer, shape, disk)
            else:
                facts = _read(layer, limits, shape, disk)
        shape.check_links()
        for path, target in shape.links():
            disk.make_link(path, target)
        disk.finish_directories(path for path, node in shape.nodes.items() if node is None)
    finally:
        disk.close()
    return facts


def _read(path: Path, limits: ArchiveLimits, shape: Shape, target: _Target) -> ArchiveFacts:
    """Put every entry of one archive into `shape` and `target`; symbolic links only into shape."""
    manifest: bytes | None = None
    with path.open("rb") as file:
        budget = Budget(limits, os.fstat(file.fileno()).st_size)
        kind, entries = _open(file, budget)
        unpacked = 0
        names: list[str] = []
        for entry in entries:
            if entry.path == MANIFEST:
                manifest, entry = _take_manifest(entry)
            unpacked += _place(entry, shape, target)
            if entry.kind in (Kind.FILE, Kind.HARD_LINK):
                names.append(entry.path)
    listed = heapq.nsmallest(ARCHIVE_FILES_LISTED_MAX, names, key=lambda n: (n.count("/"), n))
    return ArchiveFacts(kind, budget.entries, unpacked, tuple(listed), manifest)


def _open(file: BinaryIO, budget: Budget) -> tuple[ArchiveKind, Iterator[Entry]]:
    """Tell the kind by the content."""
    head = file.read(BLOCK)
    file.seek(0)
    if head.startswith(SIGNATURES):
        return "zip", zip_entries(file, budget)
    if head.startswith(b"\x1f\x8b"):
        stream = io.BufferedReader(GzipStream(file, budget), CHUNK_BYTES)
        return "tar.gz", tar_entries(cast(BinaryIO, stream), budget)
    if looks_like_tar(head):
        budget.spend(budget.packed_bytes)
        return "tar", tar_entries(file, budget)
    what = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)
    found = "it is empty" if not head else f"it is {what}" if what else "its format is unknown"
    raise ArchiveInvalid(f"not an archive we take (.tar.gz, .tar or .zip): {found}")


def _place(entry: Entry, shape: Shape, target: _Target) -> int:
    """Put one entry where it belongs; how many bytes of files it stands for."""
    parent = entry.path if entry.kind is Kind.DIRECTORY else entry.path.rpartition("/")[0]
    for directory in shape.enter(parent, entry.path):
        target.make_directory(directory)
    if entry.kind is Kind.DIRECTORY:
        return 0
    if shape.claim(entry.path):
        target.remove_file(entry.path)
    if entry.kind is Kind.SYMLINK:
        shape.nodes[entry.path] = entry.target
        return 0
    if entry.kind is Kind.HARD_LINK:
        size = shape.hard_target(entry.path, entry.target)
        target.link_file(entry.target, entry.path)
    else:
        mode = 0o755 if entry.executable else 0o644
        size = target.write_file(entry.path, entry.content, mode)
    shape.nodes[entry.path] = size
    return size


def _take_manifest(entry: Entry) -> tuple[bytes | None, Entry]:
    """The manifest's bytes, and an entry that still has them to give."""
    if entry.kind is Kind.DIRECTORY:
        return None, entry
    if entry.kind is not Kind.FILE:
        refuse(MANIFEST, "the manifest must be a plain file")
    data = bytearray()
    for chunk in entry.content:
        data += chunk
        if len(data) > MANIFEST_BYTES_MAX:
            refuse(MANIFEST, f"the manifest may have {MANIFEST_BYTES_MAX:,} bytes")
    content = bytes(data)
    return content, Entry(MANIFEST, Kind.FILE, iter((content,)), entry.executable)


def _not_empty(facts: ArchiveFacts) -> ArchiveFacts:
    if not facts.files:
        raise ArchiveInvalid("the archive holds no files")
    return facts


class _Nowhere:
    """Reads every file to its end, so that all checks are made, and keeps nothing."""

    def make_directory(self, path: str) -> None: ...

    def write_file(self, path: str, content: Iterator[bytes], mode: int) -> int:
        return sum(len(data) for data in content)

    def link_file(self, target: str, path: str) -> None: ...

    def remove_file(self, path: str) -> None: ...
