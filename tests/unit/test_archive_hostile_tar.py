"""Hostile and broken tars: a typed error that names the entry and the rule, and nothing on disk."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from core.errors import ArchiveInvalid, ArchiveTooLarge
from core.limits import (
    ARCHIVE_DEPTH_MAX,
    ARCHIVE_ENTRIES_MAX,
    ARCHIVE_GZIP_MEMBERS_MAX,
    MANIFEST_BYTES_MAX,
    MIB,
)
from storage.archive import UPLOAD_LIMITS, ArchiveLimits, scan, unpack
from tests.fixtures.archives import facts_of, pax, tar, tar_entry, tar_gz, zeros_gz

FILE = tar_entry("main.py", b"x = 1\n")
MEMORY_BYTES_MAX = 4 * MIB  # for archives that unpack to 64


def link(name: str, target: str) -> bytes:
    return tar_entry(name, kind=b"2", link=target)


def hard(name: str, target: str) -> bytes:
    return tar_entry(name, kind=b"1", link=target)


CLIMBS = r"paths may not contain '\.\.'"
OUTSIDE = "outside the archive"
INVALID: dict[str, tuple[list[bytes], str]] = {
    "path traversal": ([tar_entry("../evil")], rf"'\.\./evil': {CLIMBS}"),
    "path traversal inside": ([tar_entry("a/../../evil")], CLIMBS),
    "path traversal of a directory": ([tar_entry("a/..", kind=b"5")], CLIMBS),
    "path traversal in a pax header": ([pax({"path": "../x"}), FILE], CLIMBS),
    "path traversal in a prefix": ([tar_entry("evil", prefix=b"..")], CLIMBS),
    "path traversal in a long name": (
        [tar_entry("././@LongLink", b"../x\0", kind=b"L"), FILE],
        CLIMBS,
    ),
    "absolute path": ([tar_entry("/etc/cron.d/x")], "absolute paths"),
    "absolute path in a pax header": ([pax({"path": "/x"}), FILE], "absolute paths"),
    "absolute path with two slashes": ([tar_entry("//x")], "absolute paths"),
    "link out of the tree": ([FILE, link("a", "../x")], OUTSIDE),
    "link out of the tree from below": ([FILE, link("a/b/c", "../../../x")], OUTSIDE),
    "link out and in again": ([FILE, link("a", "../tree/main.py")], OUTSIDE),
    "absolute link": ([FILE, link("a", "/etc/passwd")], "absolute path"),
    "absolute link in a pax header": (
        [FILE, pax({"linkpath": "/etc/passwd"}), link("a", "x")],
        "absolute path",
    ),
    "absolute link in a long name": (
        [FILE, tar_entry("@", b"/etc/passwd\0", kind=b"K"), link("a", "x")],
        "absolute path",
    ),
    "link to nothing": ([FILE, link("a", "")], "without a target"),
    "link whose target is too long": (
        [FILE, pax({"linkpath": "x" * 1025}), link("a", "x")],
        "1024 bytes",
    ),
    "link with a backslash": ([FILE, link("a", "..\\x")], "backslash"),
    "link that is not UTF-8": ([FILE, tar_entry("a", kind=b"2", link=b"\xff")], "UTF-8"),
    # Each step stays inside as text; only together do they leave.
    "chain of links that leaves": (
        [FILE, link("x/y/up", "../.."), link("x/y/out", "up/../../..")],
        OUTSIDE,
    ),
    "chain of links that leaves, last first": (
        [FILE, link("x/y/out", "up/../../.."), link("x/y/up", "../..")],
        OUTSIDE,
    ),
    "chain of links through the root": ([FILE, link("a", "."), link("b", "a/a/..")], OUTSIDE),
    "links in a circle": ([FILE, link("a", "b"), link("b", "a")], "circle"),
    "link to itself": ([FILE, link("a", "a")], "circle"),
    "chain of too many links": (
        [FILE, *(link(f"l{i}", f"l{i + 1}") for i in range(50))],
        "too long a chain",
    ),
    "file through a link": (
        [link("a", "b"), tar_entry("a/evil", b"x")],
        "'a/evil': passes through the symbolic link 'a'",
    ),
    "file through a link to the root": ([link("a", "."), tar_entry("a/evil")], "passes through"),
    "directory through a link": ([link("a", "b"), tar_entry("a", kind=b"5")], "passes through"),
    "link through a link": ([link("a", "b"), link("a/c", "x")], "passes through"),
    "file in place of a link": ([link("a", "b"), tar_entry("a", b"x")], "same name twice"),
    "hard link out of the tree": ([FILE, hard("a", "../x")], "leaves the archive"),
    "absolute hard link": ([FILE, hard("a", "/etc/passwd")], "leaves the archive"),
    "hard link to nothing": ([FILE, hard("a", "b")], "no earlier entry"),
    "hard link to itself": ([FILE, hard("a", "a")], "no earlier entry|symbolic"),
    "hard link to a later file": ([hard("a", "main.py"), FILE], "no earlier entry"),
    "hard link to a symbolic link": (
        [FILE, link("a", "main.py"), hard("b", "a")],
        "which is a symbolic link",
    ),
    "hard link to a directory": (
        [FILE, tar_entry("d", kind=b"5"), hard("a", "d")],
        "no earlier entry",
    ),
    "hard link through a symbolic link": (
        [tar_entry("d/x"), link("e", "d"), hard("a", "e/x")],
        "no earlier entry",
    ),
    "character device": ([tar_entry("null", kind=b"3")], "'null': character devices"),
    "block device": ([tar_entry("sda", kind=b"4")], "block devices"),
    "named pipe": ([tar_entry("fifo", kind=b"6")], "named pipes"),
    "sparse file": ([tar_entry("big", kind=b"S")], "sparse"),
    "sparse file by pax": (
        [pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999"}), FILE],
        "sparse",
    ),
    "several volumes": ([tar_entry("x", kind=b"M")], "several volumes"),
    "unknown kind": ([tar_entry("x", kind=b"Q")], "unknown kind"),
    "duplicate name": ([FILE, FILE], "'main.py': the same name twice"),
    "duplicate name in other words": ([FILE, tar_entry(".//main.py")], "same name twice"),
    "duplicate hard link": ([FILE, hard("main.py", "main.py")], "same name twice"),
    "file where a directory is": ([tar_entry("a/b"), tar_entry("a")], "a file where a directory"),
    "directory where a file is": (
        [tar_entry("a"), tar_entry("a", kind=b"5")],
        "needs a directory where the file 'a' is",
    ),
    "file below a file": ([tar_entry("a"), tar_entry("a/b/c")], "needs a directory"),
    "setuid file": ([tar_entry("su", mode=0o4755)], "'su': setuid"),
    "setgid file": ([tar_entry("sg", mode=0o2755)], "setgid"),
    "name that is not UTF-8": ([tar_entry(b"caf\xe9.py")], r"'caf\\\\xe9\.py': its name is not"),
    "name with a newline": ([tar_entry("a\nb")], "control characters"),
    "name with an escape": ([tar_entry("a\x1b[2Jb")], "control characters"),
    "name with a NUL": ([pax({"path": b"a\0b"}), FILE], "control characters"),
    "name with a line separator": ([tar_entry("a\u2028b")], "control characters"),
    "name with a backslash": ([tar_entry("a\\b")], "backslash"),
    "name that is empty": ([tar_entry("")], "root"),
    "name that is the root": ([tar_entry("./.")], "root"),
    "name that is too long": ([pax({"path": "d/" * 15 + "x" * 1000}), FILE], "1024 bytes"),
    "name with a part that is too long": ([pax({"path": "x" * 256}), FILE], "255 bytes"),
    "name that is too deep": (
        [pax({"path": "d/" * ARCHIVE_DEPTH_MAX + "x"}), FILE],
        f"more than {ARCHIVE_DEPTH_MAX} directories deep",
    ),
    "pax header of giant size": ([tar_entry("x", kind=b"x", size=2 * MIB)], "2,097,152 bytes"),
    "pax header of absurd size": (
        [tar_entry("x", kind=b"x", size_field=b"\x80" + b"\x7f" * 11)],
        "an extension header of",
    ),
    "long name of giant size": ([tar_entry("x", kind=b"L", size=2 * MIB)], "extension header"),
    "pax headers without end": ([pax({"a": "b"})] * 20, "in a row"),
    "pax header of nonsense": ([tar_entry("x", b"nonsense", kind=b"x"), FILE], "cannot be read"),
    "pax record that is too long": (
        [tar_entry("x", b"99 path=x\n", kind=b"x"), FILE],
        "cannot be read",
    ),
    "pax record of no length": ([tar_entry("x", b"0 path=x\n", kind=b"x"), FILE], "cannot be read"),
    "pax size that is negative": ([pax({"size": "-1"}), FILE], "not a number"),
    "pax size that is no number": ([pax({"size": "1_0"}), FILE], "not a number"),
    "global pax header that names": ([pax({"path": "x"}, kind=b"g"), FILE], "global header"),
    "negative size": ([tar_entry("x", size_field=b"\xff" * 12)], "number that cannot be read"),
    "size that is no number": ([tar_entry("x", size_field=b"12345x")], "cannot be read"),
    "manifest that is too large": (
        [FILE, tar_entry("hearth.toml", b"#" * (MANIFEST_BYTES_MAX + 1))],
        "the manifest may have",
    ),
    "manifest that is a link": ([FILE, link("hearth.toml", "main.py")], "plain file"),
    "size larger than what follows": ([tar_entry("x", b"y" * 512, size=5000)], "cut short"),
    "header that is damaged": ([FILE, b"\1" * 512], "checksum"),
    "archive behind the archive": ([FILE, bytes(1024), FILE], "goes on behind"),
    "no files": ([tar_entry("d", kind=b"5")], "no files"),
}


def outcome(archive: Path, limits: ArchiveLimits = UPLOAD_LIMITS) -> str:
    """Scan and unpack must agree; a refusal must leave everything as it was."""
    room = archive.parent / "room"
    (room / "outside").mkdir(parents=True)
    (room / "outside" / "kept").write_text("as it was")
    before = facts_of(room)
    with pytest.raises((ArchiveInvalid, ArchiveTooLarge)) as scanned:
        scan(archive, limits)
    with pytest.raises((ArchiveInvalid, ArchiveTooLarge)) as unpacked:
        unpack(archive, room / "tree", limits)
    assert facts_of(room) == before
    assert str(scanned.value) == str(unpacked.value)
    assert "\n" not in str(scanned.value)
    return str(scanned.value)


@pytest.mark.parametrize("case", INVALID)
def test_hostile_tar_is_refused_by_name_and_rule_and_leaves_nothing(
    case: str, tmp_path: Path
) -> None:
    entries, message = INVALID[case]
    said = outcome(tar_gz(tmp_path / "a.tar.gz", *entries))
    assert re.search(message, said), said


@pytest.mark.parametrize("case", ["path traversal", "link out of the tree", "duplicate name"])
def test_plain_tar_keeps_the_same_rules(case: str, tmp_path: Path) -> None:
    entries, _ = INVALID[case]
    outcome(tar(tmp_path / "a.tar", *entries))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello, I am no archive", "format is unknown"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\x07", "rar"),
        (b"PK\x07\x08PK\x03\x04", "several volumes"),
        (gzip.compress(b"print('hello')\n"), "no tar archive in it"),
        (gzip.compress(b""), "no tar archive in it"),
        (b"\x1f\x8b", "cut short"),
        (b"\x1f\x8b\x08\x00garbage that is not deflate", "corrupt"),
    ],
)
def test_what_is_no_archive_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert message in outcome(path)


def test_truncated_tar_gz_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    content = os.urandom(700)
    whole = tar_gz(tmp_path / "a", tar_entry("a", content), FILE).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(ArchiveInvalid):
            scan(tmp_path / "a")


def test_truncated_tar_is_refused_even_at_the_end_of_an_entry(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a", FILE, FILE.replace(b"main.py", b"abcd.py"), end=b"").read_bytes()
    for length in range(0, len(whole) + 1, 64):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(ArchiveInvalid):
            scan(tmp_path / "a")


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "a", FILE)
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # in the checksum
    path.write_bytes(whole)
    assert "corrupt" in outcome(path)


def test_garbage_behind_the_gzip_is_refused(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "a", FILE)
    path.write_bytes(path.read_bytes() + b"garbage")
    assert "corrupt" in outcome(path)


def test_gzip_of_too_many_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(b"", mtime=0) * (ARCHIVE_GZIP_MEMBERS_MAX + 1))
    with pytest.raises(ArchiveInvalid, match="too many members"):
        scan(path)


def test_hundred_thousand_entries_are_too_many(tmp_path: Path) -> None:
    entries = b"".join(tar_entry(f"f{i}") for i in range(ARCHIVE_ENTRIES_MAX + 1))
    said = outcome(zeros_gz(tmp_path / "a", entries + FILE[:512] * 80_000, 0))
    assert said == "the archive holds more than 20,000 entries"


def test_many_repeated_directories_count_as_entries_too(tmp_path: Path) -> None:
    entries = tar_entry("d", kind=b"5") * (ARCHIVE_ENTRIES_MAX + 1)
    assert "20,000 entries" in outcome(tar_gz(tmp_path / "a", entries))


def bombs(folder: Path) -> dict[str, Path]:
    """64 MiB each, out of 64 KB."""
    size = 64 * MIB
    return {
        "a file": zeros_gz(folder / "a", tar_entry("x", size=size), 64),
        "behind the end": zeros_gz(folder / "b", FILE + bytes(1024), 64),
        "a pax header": zeros_gz(folder / "c", tar_entry("x", kind=b"x", size=size), 64),
    }


@pytest.mark.parametrize("where", ["a file", "behind the end", "a pax header"])
def test_gzip_bomb_is_refused_in_bounded_memory(where: str, tmp_path: Path) -> None:
    archive = bombs(tmp_path)[where]
    assert archive.stat().st_size < MIB
    tracemalloc.start()
    try:
        outcome(archive)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_bomb_is_refused_by_its_ratio_long_before_the_absolute_limit(tmp_path: Path) -> None:
    archive = bombs(tmp_path)["a file"]
    assert "more than 200 times its own size" in outcome(archive)


def test_more_than_the_absolute_limit_is_refused_at_any_ratio(tmp_path: Path) -> None:
    archive = tar_gz(tmp_path / "a", tar_entry("x", os.urandom(3 * MIB)))
    limits = ArchiveLimits(unpacked_bytes_max=2 * MIB)
    assert "more than 2 MiB" in outcome(archive, limits)


def test_size_that_a_header_claims_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    claim = tar_entry("x", size_field=b"\x80" + (1 << 60).to_bytes(11, "big"))
    assert "more than 1,024 MiB" in outcome(tar_gz(tmp_path / "a", claim))


def test_pax_size_replaces_the_header_and_is_refused_when_too_large(tmp_path: Path) -> None:
    archive = tar_gz(tmp_path / "a", pax({"size": str(1 << 60)}), FILE)
    assert "more than 1,024 MiB" in outcome(archive)


def test_entangled_links_are_refused_without_following_them_for_ever(tmp_path: Path) -> None:
    detour = "a/../" * 200
    links = []
    for number in range(400):
        target = detour + (f"l{number + 1}" if number % 30 else "a")
        links.append(pax({"linkpath": target}) + link(f"l{number}", "x"))
    archive = tar_gz(tmp_path / "a", tar_entry("a/f"), *links)
    assert "entangled" in outcome(archive)


def test_message_shows_a_long_name_shortened(tmp_path: Path) -> None:
    said = outcome(tar_gz(tmp_path / "a", pax({"path": "../" + "x" * 900}), FILE))
    assert len(said) < 250
