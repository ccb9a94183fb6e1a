"""Hostile and broken zips: a typed error that names the entry and the rule, and nothing on disk."""

from __future__ import annotations

import os
import re
import stat
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ArchiveInvalid
from core.limits import ARCHIVE_ENTRIES_MAX, ARCHIVE_LINK_BYTES_MAX, MIB
from storage.archive import ArchiveLimits, scan
from tests.fixtures.archives import Z, deflated, local_header, zip_file
from tests.unit.test_archive_hostile_tar import MEMORY_BYTES_MAX, outcome

FILE = Z("main.py", b"x = 1\n")
LINK = stat.S_IFLNK | 0o777
FULL32 = 0xFFFFFFFF


def zip64(*numbers: int) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


INVALID: dict[str, tuple[list[Z], str]] = {
    "path traversal": ([Z("../evil")], r"'\.\./evil': paths may not contain '\.\.'"),
    "path traversal by backslash": ([Z("..\\evil")], "backslash"),
    "path traversal of a directory": ([FILE, Z("../evil/")], "may not contain"),
    "absolute path": ([Z("/etc/cron.d/x")], "absolute paths"),
    "link out of the tree": ([FILE, Z("a", b"../x", mode=LINK)], "outside the archive"),
    "absolute link": ([FILE, Z("a", b"/etc/passwd", mode=LINK)], "absolute path"),
    "link of no target": ([FILE, Z("a", b"", mode=LINK)], "without a target"),
    "link of a long target": (
        [FILE, Z("a", b"x" * (ARCHIVE_LINK_BYTES_MAX + 1), mode=LINK)],
        "1024 bytes",
    ),
    "link with a NUL": ([FILE, Z("a", b"x\0y", mode=LINK)], "control characters"),
    "chain of links that leaves": (
        [FILE, Z("x/y/up", b"../..", mode=LINK), Z("x/y/out", b"up/../../..", mode=LINK)],
        "outside the archive",
    ),
    "file through a link": ([Z("a", b"b", mode=LINK), Z("a/evil", b"x")], "passes through"),
    "character device": ([Z("x", mode=stat.S_IFCHR | 0o666)], "'x': devices"),
    "block device": ([Z("x", mode=stat.S_IFBLK | 0o666)], "devices"),
    "named pipe": ([Z("x", mode=stat.S_IFIFO | 0o666)], "named pipes"),
    "socket": ([Z("x", mode=stat.S_IFSOCK | 0o666)], "sockets"),
    "setuid file": ([Z("x", mode=stat.S_IFREG | 0o4755)], "setuid"),
    "duplicate name": ([FILE, FILE], "'main.py': the same name twice"),
    "duplicate name in other words": ([FILE, Z("./main.py")], "same name twice"),
    "file where a directory is": ([Z("a/b"), Z("a")], "a file where a directory"),
    "file below a file": ([Z("a"), Z("a/b")], "needs a directory"),
    "directory with content": ([FILE, Z("a/", b"x")], "directory with content"),
    "name that is not UTF-8": ([Z(b"caf\x82.py")], "UTF-8"),
    "name with a NUL": ([Z(b"a\0b")], "control characters"),
    "name with a newline": ([Z("a\nb")], "control characters"),
    "name that is empty": ([Z("")], "root"),
    "name that is too long": ([Z("d/" * 15 + "x" * 1000)], "1024 bytes"),
    "name of 65,535 bytes": ([Z("x" * 65_535)], "1024 bytes"),
    "name that is too deep": ([Z("d/" * 40 + "x")], "directories deep"),
    "encrypted": ([Z("x", b"y", flags=0x0001)], "'x': encrypted"),
    "strongly encrypted": ([Z("x", b"y", flags=0x0041)], "encrypted"),
    "masked headers": ([Z("x", b"y", flags=0x2000)], "encrypted"),
    "bzip2": ([Z("x", b"y", method=12)], "bzip2; use deflate"),
    "lzma": ([Z("x", b"y", method=14)], "lzma"),
    "deflate64": ([Z("x", b"y", method=9)], "deflate64"),
    "AES": ([Z("x", b"y", method=99)], "AES"),
    "unknown method": ([Z("x", b"y", method=77)], "method 77"),
    "wrong checksum": ([Z("x", b"y", crc=1)], "checksum is wrong"),
    "wrong checksum, stored": ([Z("x", b"y", crc=1, method=0)], "checksum is wrong"),
    "size that is too small": ([Z("x", b"y" * 100, size=99)], "more than the zip says"),
    "size that is too large": ([Z("x", b"y" * 100, size=101)], "size or checksum"),
    "stored size that is too small": ([Z("x", b"y" * 9, method=0, size=8)], "more than the zip"),
    "content that is no deflate": ([Z("x", b"y", packed=b"\xff" * 20)], "damaged"),
    "content that does not end": (
        [Z("x", b"y" * 99, packed=deflated([b"y" * 99])[:-2])],
        "damaged",
    ),
    "bytes behind the content": (
        [Z("x", b"y", packed=deflated([b"y"]) + b"more")],
        "behind its compressed",
    ),
    "other name in its own header": ([Z("x", b"y", local_name=b"../x")], "disagree"),
    "offset into another entry": ([FILE, Z("x", b"y", offset=3)], "overlaps|disagree"),
    "offset of no header": ([Z("x", b"y" * 99, method=0), Z("z", offset=40)], "overlaps|disagree"),
    "offset behind the end": ([FILE, Z("x", offset=5000)], "not inside the zip"),
    "offset into the directory": ([FILE, Z("x", offset=40)], "not inside the zip|overlaps"),
    "packed size beyond the end": ([Z("x", b"y", packed_size=5000)], "central directory"),
    "zip64 without sizes": ([Z("x", b"y", size=FULL32, packed_size=FULL32)], "sizes are missing"),
    "zip64 with half the sizes": (
        [Z("x", b"y", size=FULL32, packed_size=FULL32, extra=zip64(1))],
        "sizes are missing",
    ),
    "zip64 packed size that lies": (
        [Z("x", b"y", packed_size=FULL32, extra=zip64(1 << 60))],
        "central directory",
    ),
    "zip64 offset that lies": (
        [FILE, replace(FILE, name="x", offset=FULL32, extra=zip64((1 << 64) - 1))],
        "not inside the zip",
    ),
    "manifest that is a link": ([FILE, Z("hearth.toml", b"x", mode=LINK)], "plain file"),
    "no files": ([Z("d/")], "no files"),
    "nothing at all": ([], "no files"),
}


@pytest.mark.parametrize("case", INVALID)
def test_hostile_zip_is_refused_by_name_and_rule_and_leaves_nothing(
    case: str, tmp_path: Path
) -> None:
    entries, message = INVALID[case]
    said = outcome(zip_file(tmp_path / "a.zip", *entries))
    assert re.search(message, said), said


def test_truncated_zip_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = zip_file(tmp_path / "a", Z("a", os.urandom(300)), FILE).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(ArchiveInvalid):
            scan(tmp_path / "a")


@pytest.mark.parametrize("count", [0, 1, 3, 65_535])
def test_count_of_entries_that_lies_is_refused(count: int, tmp_path: Path) -> None:
    said = outcome(zip_file(tmp_path / "a", FILE, replace(FILE, name="b"), count=count))
    assert re.search("does not hold what it says|zip64 record|65,535 entries", said), said


def test_directory_that_is_elsewhere_is_refused(tmp_path: Path) -> None:
    assert "not where it says" in outcome(zip_file(tmp_path / "a", FILE, directory_offset=3))


def test_bytes_in_front_of_the_zip_are_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a", FILE)
    path.write_bytes(path.read_bytes()[:4] + path.read_bytes())
    assert "not where it says" in outcome(path)


def test_bytes_behind_the_zip_are_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a", FILE)
    path.write_bytes(path.read_bytes() + b"more")
    assert "no central directory" in outcome(path)


def test_zip_in_several_volumes_is_refused(tmp_path: Path) -> None:
    assert "volumes" in outcome(zip_file(tmp_path / "a", FILE, disk=1))


def test_zip64_record_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = outcome(zip_file(tmp_path / "a", FILE, count=0xFFFF))
    assert "zip64 record" in said


def test_zip64_record_that_points_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a", FILE, count=0xFFFF)
    whole = path.read_bytes()
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, (1 << 64) - 1, 1)
    path.write_bytes(whole[:-22] + locator + whole[-22:])
    assert "zip64 record" in outcome(path)


def test_hundred_thousand_entries_are_too_many(tmp_path: Path) -> None:
    entries = [Z(f"f{i}", method=0) for i in range(ARCHIVE_ENTRIES_MAX + 1)]
    assert "20,001 entries" in outcome(zip_file(tmp_path / "a", *entries))


def test_entries_are_counted_and_not_believed(tmp_path: Path) -> None:
    """A directory of 10 MB whose end says that it has one entry."""
    same = Z("f" * 1000, method=0, offset=0)
    path = zip_file(tmp_path / "a", *[Z("f" * 1000, method=0)], *[same] * 30_000, count=1)
    tracemalloc.start()
    try:
        assert "more than 20,000 entries" in outcome(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB  # names of 20,000, no more
    finally:
        tracemalloc.stop()


def test_names_of_any_length_are_not_held_in_memory(tmp_path: Path) -> None:
    long = [Z("x" * 65_535, method=0, offset=0)] * 400
    path = zip_file(tmp_path / "a", Z("x", method=0), *long)
    tracemalloc.start()
    try:
        assert "1024 bytes" in outcome(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def bomb_of(path: Path, size: int) -> Path:
    content = deflated(bytes(MIB) for _ in range(size // MIB))
    crc = 0
    for _ in range(size // MIB):
        crc = zlib.crc32(bytes(MIB), crc)
    return zip_file(path, Z("zeros", packed=content, size=size, crc=crc))


def test_zip_bomb_is_refused_by_its_ratio_in_bounded_memory(tmp_path: Path) -> None:
    archive = bomb_of(tmp_path / "a", 64 * MIB)
    assert archive.stat().st_size < MIB
    tracemalloc.start()
    try:
        assert "more than 200 times its own size" in outcome(archive)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_zip_bomb_that_says_it_is_small_is_refused_as_it_unpacks(tmp_path: Path) -> None:
    content = deflated(bytes(MIB) for _ in range(64))
    archive = zip_file(tmp_path / "a", Z("zeros", packed=content, size=1000, crc=0))
    assert "more than the zip says" in outcome(archive)


def test_size_that_the_directory_claims_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    huge = Z("x", b"y", size=FULL32, extra=zip64(1 << 60))
    assert "more than 1,024 MiB" in outcome(zip_file(tmp_path / "a", huge))


def test_more_than_the_absolute_limit_is_refused_at_any_ratio(tmp_path: Path) -> None:
    entries = [Z(f"f{i}", os.urandom(MIB), method=0) for i in range(3)]
    limits = ArchiveLimits(unpacked_bytes_max=2 * MIB)
    assert "more than 2 MiB" in outcome(zip_file(tmp_path / "a", *entries), limits)


def test_bomb_of_overlapping_entries_is_refused(tmp_path: Path) -> None:
    """Every entry is the same kernel of compressed zeros: megabytes each for 50 bytes."""
    zeros = bytes(2 * MIB)
    kernel = Z("k0", packed=deflated([zeros]), size=len(zeros), crc=zlib.crc32(zeros))
    others = [replace(kernel, name=f"k{i}", offset=0) for i in range(1, 500)]
    assert "overlaps" in outcome(zip_file(tmp_path / "a", kernel, *others))


def test_bomb_of_headers_quoted_inside_entries_is_refused(tmp_path: Path) -> None:
    """Each entry's stream begins with the next entry's header, quoted in a stored block, and
    runs on to the end: every entry ends in the same kernel, and each unpacks without fault."""
    content, packed, header = bytes(MIB), deflated([bytes(MIB)]), b""
    entries: list[Z] = []
    for number in reversed(range(20)):
        if header:
            quote = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
            content, packed = header + content, quote + header + packed
        entry = Z(
            f"k{number:02}",
            offset=number * (30 + 3 + 5),
            packed=packed,
            size=len(content),
            crc=zlib.crc32(content),
        )
        header = local_header(entry)
        entries.append(entry)
    assert zlib.decompress(packed, -15) == content
    path = zip_file(tmp_path / "a", *entries[::-1], body=header + packed)
    assert "'k01': overlaps another entry" in outcome(path)
