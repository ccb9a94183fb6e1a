"""Reads a tar stream once, forwards, with bounded memory: ustar, GNU long names, and pax.

Written for hostile input. The standard library's reader holds extension headers of any size in
memory, follows sizes backwards, and has been patched for both in releases newer than we require.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from core.errors import ArchiveInvalid
from core.limits import ARCHIVE_HEADER_BYTES_MAX, ARCHIVE_HEADERS_MAX
from storage.entries import (
    CHUNK_BYTES,
    Budget,
    Entry,
    Kind,
    check_mode,
    clean_path,
    clean_target,
    refuse,
)

BLOCK = 512
_ZEROS = bytes(BLOCK)
# name, mode, size, type, link, magic, prefix; nothing here needs the rest
_FIELDS = struct.Struct("100s8s16x12s20xc100s6s82x155s12x")
_OCTAL = re.compile(rb"[0-7]+")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_FILES = frozenset({b"0", b"\0", b"7"})
_EXTENSIONS = frozenset({b"L", b"K", b"x", b"X", b"g"})
_REFUSED = {
    b"3": "character devices are not allowed",
    b"4": "block devices are not allowed",
    b"6": "named pipes are not allowed",
    b"S": "sparse files are not allowed; pack without --sparse",
    b"M": "archives in several volumes are not allowed",
}


def looks_like_tar(block: bytes) -> bool:
    """Whether a file that begins with `block` is a tar: its first header's checksum is right."""
    return len(block) == BLOCK and (block == _ZEROS or _checksum_holds(block))


def tar_entries(stream: BinaryIO, budget: Budget) -> Iterator[Entry]:
    """Every entry in order. `stream` counts what it gives out; `budget` gets the entries.

    Whatever is left of an entry's content is skipped when the next entry is asked for.
    ArchiveInvalid names the entry and the rule it breaks, or says where the stream is damaged.
    """
    block = stream.read(BLOCK)
    if not looks_like_tar(block):
        raise ArchiveInvalid("there is no tar archive in it")
    while block != _ZEROS:
        header = _Header.parse(block)
        extension = _Extension()
        while header.type in _EXTENSIONS:
            extension.take(header, _read_extension(stream, header))
            header = _Header.parse(_read(stream, BLOCK))
        budget.count_entry()
        raw_name = extension.name if extension.name is not None else header.name
        size = header.size if extension.size is None else extension.size
        yield from _entry(stream, budget, header, raw_name, extension.link, size)
        block = _read(stream, BLOCK)
    _expect_zeros(stream)


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    mode: int
    size: int
    type: bytes
    link: bytes

    @classmethod
    def parse(cls, block: bytes) -> _Header:
        if not _checksum_holds(block):
            raise ArchiveInvalid("the archive is damaged: a tar header's checksum is wrong")
        name, mode, size, kind, link, magic, prefix = _FIELDS.unpack(block)
        name, prefix = _text(name), _text(prefix)
        if prefix and magic == b"ustar\0":  # GNU keeps other things there
            name = prefix + b"/" + name
        return cls(name, _number(name, mode), _number(name, size), kind, _text(link))


@dataclass(slots=True)
class _Extension:
    """What extension headers say of the entry behind them, in place of its own header."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    headers: int = 0

    def take(self, header: _Header, data: bytes) -> None:
        self.headers += 1
        if self.headers > ARCHIVE_HEADERS_MAX:
            refuse(header.name, f"more than {ARCHIVE_HEADERS_MAX} extension headers in a row")
        if header.type == b"L":
            self.name = _text(data)
        elif header.type == b"K":
            self.link = _text(data)
        else:
            self._take_pax(header, _pax_records(header.name, data))

    def _take_pax(self, header: _Header, records: Mapping[bytes, bytes]) -> None:
        ours = records.keys() & {b"path", b"linkpath", b"size"}
        if header.type == b"g":
            if ours:
                refuse(header.name, "a global header may not name or size entries")
            return
        if any(key.startswith(b"GNU.sparse.") for key in records):
            refuse(records.get(b"GNU.sparse.name", header.name), _REFUSED[b"S"])
        self.name = records.get(b"path", self.name)
        self.link = records.get(b"linkpath", self.link)
        if b"size" in records:
            if not _DIGITS.fullmatch(records[b"size"]):
                refuse(header.name, "its size is not a number")
            self.size = int(records[b"size"])


def _entry(
    stream: BinaryIO,
    budget: Budget,
    header: _Header,
    raw_name: bytes,
    link: bytes | None,
    size: int,
) -> Iterator[Entry]:
    """The entry, then, when asked for more, whatever its reader left of it."""
    path = clean_path(raw_name)
    target = header.link if link is None else link
    if header.type == b"5" or (header.type in _FILES and raw_name.endswith(b"/")):
        yield Entry(path, Kind.DIRECTORY)
    elif not path:
        refuse(raw_name, "only a directory may be the archive's root")
    elif header.type == b"2":
        yield Entry(path, Kind.SYMLINK, target=clean_target(path, target))
    elif header.type == b"1":
        yield Entry(path, Kind.HARD_LINK, target=_hard_target(path, target))
    elif header.type in _FILES:
        budget.promise(size)
        content = _content(stream, path, size)
        yield Entry(path, Kind.FILE, content, check_mode(path, header.mode))
        for _ in content:
            pass
    else:
        refuse(raw_name, _REFUSED.get(header.type, f"unknown kind of entry {header.type!r}"))


def _hard_target(path: str, raw: bytes) -> str:
    try:
        return clean_path(raw)
    except ArchiveInvalid as error:
        refuse(path, f"a hard link that leaves the archive: {error.message}")


def _content(stream: BinaryIO, path: str, size: int) -> Iterator[bytes]:
    left = size
    while left:
        data = stream.read(min(left, CHUNK_BYTES))
        if not data:
            refuse(path, "the archive is cut short in the middle of it")
        left -= len(data)
        yield data
    _read(stream, -size % BLOCK)


def _read_extension(stream: BinaryIO, header: _Header) -> bytes:
    if header.size > ARCHIVE_HEADER_BYTES_MAX:
        refuse(header.name, f"an extension header of {header.size:,} bytes")
    data = _read(stream, header.size)
    _read(stream, -header.size % BLOCK)
    return data


def _pax_records(name: bytes, data: bytes) -> dict[bytes, bytes]:
    """Records of the form `<length of the whole record> <key>=<value>\\n`."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        digits = data[position : position + 8].partition(b" ")[0]
        if not _DIGITS.fullmatch(digits) or not len(digits) < int(digits) <= len(data) - position:
            _refuse_pax(name)
        record = data[position + len(digits) + 1 : position + int(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            _refuse_pax(name)
        records[key] = value[:-1]
        position += int(digits)
    return records


def _refuse_pax(name: bytes) -> NoReturn:
    refuse(name, "its extension header cannot be read")


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _number(name: bytes, raw: bytes) -> int:
    """A header's number: octal text, or big-endian binary when the first bit is set."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    text = raw.strip(b" \0")
    if not text:
        return 0
    if not _OCTAL.fullmatch(text):
        refuse(name, "its header holds a number that cannot be read")
    return int(text, 8)


def _checksum_holds(block: bytes) -> bool:
    text = block[148:156].strip(b" \0")
    if not _OCTAL.fullmatch(text):
        return False
    said = int(text, 8)
    if said == sum(block) - sum(block[148:156]) + 256:
        return True
    # Some old writers add the bytes up as signed numbers.
    others = block[:148] + block[156:]
    return said == sum(byte - 256 if byte > 127 else byte for byte in others) + 256


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count) if count else b""
    if len(data) < count:
        raise ArchiveInvalid("the archive is cut short: a tar ends with a block of zeros")
    return data


def _expect_zeros(stream: BinaryIO) -> None:
    """Behind the end marker only padding may stand: what else is there would be left out."""
    while data := stream.read(CHUNK_BYTES):
        if data.strip(b"\0"):
            raise ArchiveInvalid("the archive goes on behind the end of its tar")
