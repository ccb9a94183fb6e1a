"""What an archive holds, entry by entry, and the rules for names and amounts all must keep."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from core.errors import ArchiveInvalid, ArchiveTooLarge
from core.limits import (
    ARCHIVE_DEPTH_MAX,
    ARCHIVE_ENTRIES_MAX,
    ARCHIVE_LINK_BYTES_MAX,
    ARCHIVE_PATH_BYTES_MAX,
    ARCHIVE_RATIO_FREE_BYTES,
    ARCHIVE_RATIO_MAX,
    ARCHIVE_UNPACKED_BYTES_MAX,
    DEPENDENCIES_BYTES_MAX,
    DEPENDENCIES_ENTRIES_MAX,
    MIB,
)

CHUNK_BYTES = 256 * 1024
_NAME_BYTES_MAX = 255  # of one part of a path, on every file system that matters
_SHOWN_LENGTH_MAX = 120
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Kind(Enum):
    """What may be in an archive. Everything else is refused by name."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in an archive, its name and kind already checked."""

    path: str  # clean and relative; "" is the root itself
    kind: Kind
    content: Iterator[bytes] = iter(())  # a file's bytes; to be read before the next entry
    executable: bool = False
    target: str = ""  # of a symbolic link, as written; of a hard link, a clean path


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much an archive may unpack to. Both bytes and ratio count all that comes out of it."""

    entries_max: int = ARCHIVE_ENTRIES_MAX
    unpacked_bytes_max: int = ARCHIVE_UNPACKED_BYTES_MAX
    ratio_max: int = ARCHIVE_RATIO_MAX
    ratio_free_bytes: int = ARCHIVE_RATIO_FREE_BYTES


UPLOAD_LIMITS = ArchiveLimits()
LAYER_LIMITS = ArchiveLimits(DEPENDENCIES_ENTRIES_MAX, DEPENDENCIES_BYTES_MAX)


@dataclass(eq=False, slots=True)
class Budget:
    """Counts what really comes out of one archive, whatever its headers say."""

    limits: ArchiveLimits
    packed_bytes: int
    entries: int = 0
    unpacked_bytes: int = 0

    def count_entry(self) -> None:
        """One more entry. ArchiveTooLarge past the limit."""
        self.entries += 1
        if self.entries > self.limits.entries_max:
            raise ArchiveTooLarge(
                f"the archive holds more than {self.limits.entries_max:,} entries"
            )

    def spend(self, count: int) -> None:
        """`count` more bytes came out. ArchiveTooLarge past the limit or the ratio."""
        self.unpacked_bytes += count
        self._check(self.unpacked_bytes)

    def promise(self, count: int) -> None:
        """Refuse at once what a header itself says will be too much. Counts nothing."""
        self._check(count)

    def _check(self, total: int) -> None:
        limits = self.limits
        if total > limits.unpacked_bytes_max:
            raise ArchiveTooLarge(
                f"the archive unpacks to more than {limits.unpacked_bytes_max / MIB:,.0f} MiB"
            )
        if total > limits.ratio_free_bytes and total > limits.ratio_max * self.packed_bytes:
            raise ArchiveTooLarge(
                f"the archive unpacks to more than {limits.ratio_max} times its own size"
            )


def refuse(name: bytes | str, rule: str) -> NoReturn:
    """ArchiveInvalid that names the entry and the rule it breaks."""
    shown = show(name)
    raise ArchiveInvalid(f"archive entry {shown}: {rule}", entry=shown)


def show(name: bytes | str) -> str:
    """A name quoted, without control characters, and short enough for a message."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if len(text) > _SHOWN_LENGTH_MAX:
        text = text[:_SHOWN_LENGTH_MAX] + "…"
    return repr(text)


def clean_path(raw: bytes) -> str:
    """The path an entry asks for, relative and without `.` and doubled slashes; "" is the root.

    ArchiveInvalid when it is absolute, leaves the tree, or cannot be a sane file name.
    """
    if len(raw) > ARCHIVE_PATH_BYTES_MAX:
        refuse(raw, f"a path may have {ARCHIVE_PATH_BYTES_MAX} bytes, this one has {len(raw):,}")
    text = _clean_text(raw, raw, "name")
    if text.startswith("/"):
        refuse(raw, "absolute paths are not allowed")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        refuse(raw, "paths may not contain '..'")
    if len(parts) > ARCHIVE_DEPTH_MAX:
        refuse(raw, f"more than {ARCHIVE_DEPTH_MAX} directories deep")
    if any(len(part.encode()) > _NAME_BYTES_MAX for part in parts):
        refuse(raw, f"one part of the path is longer than {_NAME_BYTES_MAX} bytes")
    return "/".join(parts)


def clean_target(name: str, raw: bytes) -> str:
    """What the symbolic link `name` points at, if it is a relative path of sane characters."""
    if len(raw) > ARCHIVE_LINK_BYTES_MAX:
        refuse(name, f"a symbolic link's target may have {ARCHIVE_LINK_BYTES_MAX} bytes")
    text = _clean_text(name, raw, "link target")
    if not text:
        refuse(name, "a symbolic link without a target")
    if text.startswith("/"):
        refuse(name, f"links to the absolute path {show(text)}")
    return text


def check_mode(name: str, mode: int) -> bool:
    """Whether a file of these permission bits is executable. ArchiveInvalid for set-id bits."""
    if mode & 0o6000:
        refuse(name, "setuid and setgid files are not allowed")
    return bool(mode & 0o100)


def _clean_text(name: bytes | str, raw: bytes, what: str) -> str:
    """UTF-8 without control characters, line separators and backslashes."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        refuse(name, f"its {what} is not UTF-8")
    if _CONTROL.search(text):
        refuse(name, f"its {what} contains control characters")
    if "\\" in text:
        refuse(name, f"its {what} contains a backslash; separate directories by '/'")
    return text
