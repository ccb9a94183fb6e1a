"""Packs a directory for deployment: what cli/selection.py chooses, as a reproducible tar.gz."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cli.failures import usage
from cli.selection import Fate, Selection
from core.limits import (
    ARCHIVE_ENTRIES_MAX,
    ARCHIVE_UNPACKED_BYTES_MAX,
    MIB,
    PACK_LOOKED_AT_MAX,
)

_COPY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that goes in: a file, or a symbolic link (`target` is then where it points)."""

    name: str  # below the root, with forward slashes
    path: Path
    target: str | None


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed."""

    digest: str  # sha256 hex of the archive
    archive_bytes: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]  # sockets, pipes and devices: nothing that can be shipped
    modules: tuple[str, ...] = ()  # node_modules that the build installs from the lock beside them


def pack(
    root: Path, into: IO[bytes], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Packed:
    """Write the archive. The same tree gives the same bytes: order, times, owners are fixed."""
    root = Path(os.path.abspath(root))
    walk = _Walk(root, Selection(root, include, exclude))
    entries: list[Entry] = []
    total = 0
    for entry in walk.below(root, Fate.BY_RULES):
        entries.append(entry)
        total += 0 if entry.target is not None else entry.path.lstat().st_size
        _refuse_too_much(root, len(entries), total)
    entries.sort(key=lambda entry: entry.name.encode())
    digest = _DigestingWriter(into)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=digest, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in entries:
            _add(archive, entry)
    names = tuple(entry.name for entry in entries)
    left, modules = tuple(walk.odd), tuple(walk.selection.modules)
    return Packed(digest.sha256.hexdigest(), digest.written, names, left, modules)


def _refuse_too_much(root: Path, entries: int, total: int) -> None:
    if entries > ARCHIVE_ENTRIES_MAX:
        raise usage(
            f"{root} has more than {ARCHIVE_ENTRIES_MAX} files",
            "leave some out with exclude in hearth.toml; packages are installed by the build",
        )
    if total > ARCHIVE_UNPACKED_BYTES_MAX:
        raise usage(
            f"{root} holds more than {ARCHIVE_UNPACKED_BYTES_MAX // MIB} MiB",
            "leave some out with exclude in hearth.toml; packages are installed by the build",
        )


@dataclass(eq=False, slots=True)
class _Walk:
    """Goes through a tree once."""

    root: Path
    selection: Selection
    odd: list[str] = field(default_factory=list)
    looked_at: int = 0

    def below(self, folder: Path, above: Fate) -> Iterator[Entry]:
        """What goes in of a folder's content."""
        self.selection.enter(folder)
        with os.scandir(folder) as found:
            children = sorted(found, key=lambda child: child.name)
        self.looked_at += len(children)
        if self.looked_at > PACK_LOOKED_AT_MAX:
            raise usage(
                f"{self.root} has more than {PACK_LOOKED_AT_MAX:,} files to look at",
                "name whole directories in exclude, or deploy a smaller one",
            )
        for child in children:
            path = Path(child.path)
            is_folder = child.is_dir(follow_symlinks=False)
            fate = self.selection.fate(path, is_folder, above)
            if fate is None:
                continue
            if is_folder:
                yield from self.below(path, fate)
                continue
            name = _checked_name(path.relative_to(self.root).as_posix())
            if child.is_symlink():
                yield Entry(name, path, _safe_target(self.root, path))
            elif child.is_file(follow_symlinks=False):
                yield Entry(name, path, None)
            else:
                self.odd.append(name)


def _checked_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise usage(f"the file name {name!a} is not UTF-8", "rename it") from None
    return name


def _safe_target(root: Path, link: Path) -> str:
    """Where the link points, if that stays inside the tree whichever way one reads it."""
    target = str(link.readlink())
    written = Path(os.path.normpath(link.parent / target))
    real = link.resolve(strict=False)
    inside = written.is_relative_to(root) and real.is_relative_to(root.resolve())
    if Path(target).is_absolute() or not inside:
        raise usage(
            f"{link.relative_to(root)} is a symbolic link out of the directory, to {target}",
            "put a copy of the file there, or leave the link out with exclude in hearth.toml",
        )
    return target


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.name)
    info.mtime = 0
    if entry.target is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
        archive.addfile(info)
        return
    with entry.path.open("rb") as file:
        facts = os.fstat(file.fileno())
        info.size = facts.st_size
        info.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
        try:
            archive.addfile(info, file)
        except OSError as problem:  # tarfile's word for a file that got shorter
            raise usage(f"{entry.name} changed while it was packed ({problem})", "try again") from (
                problem
            )


class _DigestingWriter:
    """Passes bytes on and remembers their digest and number."""

    def __init__(self, into: IO[bytes]) -> None:
        self._into = into
        self.sha256 = hashlib.sha256()
        self.written = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.written += len(data)
        return self._into.write(data)

    def flush(self) -> None:
        self._into.flush()
