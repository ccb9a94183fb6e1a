"""Reads a zip by its central directory, in file order, with bounded memory and strict agreement.

Written for hostile input: entries may not overlap, local headers must agree with the directory,
and sizes and checksums must come true, so that no other reader sees another archive.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from core.errors import ArchiveInvalid, ArchiveTooLarge
from core.limits import ARCHIVE_LINK_BYTES_MAX, ARCHIVE_PATH_BYTES_MAX
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

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
# Fields that nothing here needs (times, versions, what repeats) are skipped as padding.
_END = struct.Struct("<4sHHHHIIH")  # signature, disk, first disk, here, entries, length, offset, …
_END64 = struct.Struct("<4s12xII8xQQQ")  # signature, disk, first disk, entries, length, offset
_LOCATOR64 = struct.Struct("<4s4xQ4x")  # signature, where _END64 is
_CENTRAL = struct.Struct("<4sH2xHH4x3I3H4xII")
_LOCAL = struct.Struct("<4s2xHH16xHH")  # signature, flags, method, lengths of name and extra
_EXTRA = struct.Struct("<HH")  # tag, length
_END_SEARCH_BYTES = 65_535 + _END.size
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_STORED, _DEFLATED = 0, 8
_UNIX_SYSTEMS = frozenset({3, 19})  # who wrote it: Unix, macOS
_METHODS = {
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstd",
    95: "xz",
    99: "AES",
}


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the central directory is."""

    offset: int
    size: int
    entries: int


@dataclass(frozen=True, slots=True)
class _Member:
    """One line of the central directory."""

    name: bytes
    mode: int  # Unix mode with the kind of file; 0 when written elsewhere
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int  # of its local header


def zip_entries(file: BinaryIO, budget: Budget) -> Iterator[Entry]:
    """Every entry, in the order they lie in the file.

    ArchiveInvalid names the entry and the rule it breaks, or says what is damaged.
    """
    directory = _find_directory(file, budget)
    members = sorted(_members(file, directory, budget), key=lambda member: member.offset)
    free = 0  # where the previous entry ended
    for member in members:
        if member.offset < free:
            refuse(member.name, "overlaps another entry")
        start = _content_offset(file, member, directory)
        free = start + member.packed
        if free > directory.offset:
            refuse(member.name, "reaches into the central directory")
        yield _entry(file, member, start, budget)


def _find_directory(file: BinaryIO, budget: Budget) -> _Directory:
    size = file.seek(0, io.SEEK_END)
    tail_offset = file.seek(max(0, size - _END_SEARCH_BYTES))
    tail = file.read(_END_SEARCH_BYTES)
    position = len(tail)
    while (position := tail.rfind(b"PK\x05\x06", 0, position)) >= 0:
        rest = tail[position:]
        if len(rest) >= _END.size and _END.unpack_from(rest)[7] == len(rest) - _END.size:
            break
    else:
        raise ArchiveInvalid("the zip is cut short: it has no central directory")
    end = tail_offset + position
    _, disk, first, here, entries, length, offset, _ = _END.unpack_from(tail, position)
    if disk not in (0, _FULL16) or first not in (0, _FULL16):
        raise ArchiveInvalid("zips in several volumes are not allowed")
    if _FULL16 in (disk, first, here, entries) or _FULL32 in (length, offset):
        end, entries, length, offset = _find_zip64(file, end)
    if offset + length != end:
        raise ArchiveInvalid("the zip's central directory is not where it says")
    if entries > budget.limits.entries_max:
        raise ArchiveTooLarge(
            f"the archive holds {entries:,} entries; {budget.limits.entries_max:,} are allowed"
        )
    return _Directory(offset, length, entries)


def _find_zip64(file: BinaryIO, end: int) -> tuple[int, int, int, int]:
    """End, entries, length and offset of the central directory as the zip64 record has them."""
    locator = _read_at(file, end - _LOCATOR64.size, _LOCATOR64.size)
    signature, position = _LOCATOR64.unpack(locator)
    if signature != b"PK\x06\x07" or position > end:
        raise ArchiveInvalid("the zip lacks the zip64 record that its end points at")
    record = _END64.unpack(_read_at(file, position, _END64.size))
    signature, disk, first, entries, length, offset = record
    if signature != b"PK\x06\x06" or disk or first:
        raise ArchiveInvalid("the zip's zip64 record is damaged")
    return position, entries, length, offset


def _members(file: BinaryIO, directory: _Directory, budget: Budget) -> Iterator[_Member]:
    """The central directory, line by line: a count that lies cannot make us hold more."""
    end = directory.offset + directory.size
    position = directory.offset
    file.seek(position)
    while position < end:
        budget.count_entry()
        fixed = file.read(_CENTRAL.size)
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\x01\x02":
            raise ArchiveInvalid("the zip's central directory is damaged")
        lengths = _CENTRAL.unpack(fixed)[7:10]
        name, extra = file.read(lengths[0]), file.read(lengths[1])
        file.read(lengths[2])
        position += _CENTRAL.size + sum(lengths)
        if len(name) > ARCHIVE_PATH_BYTES_MAX:
            clean_path(name)  # refuses it before we hold thousands of such
        yield _member(_CENTRAL.unpack(fixed), name, extra)
    if position != end or budget.entries != directory.entries:
        raise ArchiveInvalid("the zip's central directory does not hold what it says")


def _member(fields: tuple[int, ...], name: bytes, extra: bytes) -> _Member:
    _, made_by, flags, method, crc, packed, size, _, _, _, attributes, offset = fields
    if _FULL32 in (size, packed, offset):
        wide = iter(_zip64_numbers(name, extra))
        try:
            size = next(wide) if size == _FULL32 else size
            packed = next(wide) if packed == _FULL32 else packed
            offset = next(wide) if offset == _FULL32 else offset
        except StopIteration:
            refuse(name, "its zip64 sizes are missing")
    mode = attributes >> 16 if made_by >> 8 in _UNIX_SYSTEMS else 0
    return _Member(name, mode, flags, method, crc, packed, size, offset)


def _zip64_numbers(name: bytes, extra: bytes) -> tuple[int, ...]:
    position = 0
    while position + _EXTRA.size <= len(extra):
        tag, length = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size
        if tag == 1:
            count = min(length, len(extra) - position) // 8
            return struct.unpack_from(f"<{count}Q", extra, position)
        position += length
    return ()


def _content_offset(file: BinaryIO, member: _Member, directory: _Directory) -> int:
    """Where the content begins. ArchiveInvalid unless the local header agrees."""
    if member.offset + _LOCAL.size > directory.offset:
        refuse(member.name, "its header is not inside the zip")
    fixed = _LOCAL.unpack(_read_at(file, member.offset, _LOCAL.size))
    signature, flags, method, name_length, extra_length = fixed
    if (
        signature != b"PK\x03\x04"
        or method != member.method
        or flags & _ENCRYPTED != member.flags & _ENCRYPTED
        or file.read(name_length) != member.name
    ):
        refuse(member.name, "its own header and the central directory disagree")
    return member.offset + _LOCAL.size + int(name_length) + int(extra_length)


def _entry(file: BinaryIO, member: _Member, start: int, budget: Budget) -> Entry:
    if member.flags & _ENCRYPTED:
        refuse(member.name, "encrypted entries are not allowed")
    if member.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(member.method, f"method {member.method}")
        refuse(member.name, f"compressed with {method}; use deflate")
    path = clean_path(member.name)
    kind = stat.S_IFMT(member.mode)
    if member.name.endswith(b"/") or kind == stat.S_IFDIR:
        if member.size:
            refuse(member.name, "a directory with content")
        return Entry(path, Kind.DIRECTORY)
    if not path:
        refuse(member.name, "only a directory may be the archive's root")
    budget.promise(member.size)
    content = _content(file, member, start, budget)
    if kind == stat.S_IFLNK:
        if member.size > ARCHIVE_LINK_BYTES_MAX:
            refuse(path, f"a symbolic link's target may have {ARCHIVE_LINK_BYTES_MAX} bytes")
        return Entry(path, Kind.SYMLINK, target=clean_target(path, b"".join(content)))
    if kind not in (0, stat.S_IFREG):
        refuse(path, "devices, named pipes and sockets are not allowed")
    return Entry(path, Kind.FILE, content, check_mode(path, member.mode))


def _content(file: BinaryIO, member: _Member, start: int, budget: Budget) -> Iterator[bytes]:
    """The unpacked bytes. ArchiveInvalid at the end unless size and checksum came true."""
    crc = size = 0
    for data in _unpacked(file, member, start):
        size += len(data)
        budget.spend(len(data))
        if size > member.size:
            refuse(member.name, "it unpacks to more than the zip says")
        crc = zlib.crc32(data, crc)
        yield data
    if size != member.size or crc != member.crc:
        refuse(member.name, "its content is damaged: size or checksum is wrong")


def _unpacked(file: BinaryIO, member: _Member, start: int) -> Iterator[bytes]:
    file.seek(start)
    left = member.packed
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while left:
        packed = file.read(min(left, CHUNK_BYTES))
        if not packed:
            refuse(member.name, "the zip is cut short in the middle of it")
        left -= len(packed)
        if member.method == _STORED:
            yield packed
        else:
            yield from _inflated(inflater, packed, member)
    if member.method == _DEFLATED and member.packed and not inflater.eof:
        refuse(member.name, "its content is damaged: the stream does not end")


def _inflated(inflater: zlib._Decompress, packed: bytes, member: _Member) -> Iterator[bytes]:
    """All that `packed` gives, in bounded steps."""
    try:
        data = inflater.decompress(packed, CHUNK_BYTES)
        while data or inflater.unconsumed_tail:
            if data:
                yield data
            data = inflater.decompress(inflater.unconsumed_tail, CHUNK_BYTES)
    except zlib.error as error:
        refuse(member.name, f"its content is damaged: {error}")
    if inflater.unused_data:
        refuse(member.name, "bytes behind its compressed content")


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    if offset < 0:
        raise ArchiveInvalid("the zip is cut short")
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise ArchiveInvalid("the zip is cut short")
    return data
