"""Whatever an archive holds, it unpacks wholly inside its target or is refused by our own error."""

from __future__ import annotations

import gzip
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ArchiveInvalid, ArchiveTooLarge
from storage.archive import ArchiveFacts, ArchiveLimits, overlay, pack_tree, scan, unpack
from tests.fixtures.archives import Facts, Z, facts_of, pax, tar_entry, zip_file

EXAMPLES = settings(max_examples=200, deadline=None)
LIMITS = ArchiveLimits(entries_max=50, unpacked_bytes_max=100_000)

# Few words, so that names meet each other: as file, directory, link, and through links. Most are
# sane, or hardly any archive would get past its first entry.
words = st.lists(st.sampled_from(["a", "b", "c", "é"]), min_size=1, max_size=3).map("/".join)
odd = st.sampled_from(["..", ".", "", "kept", "outside", "\\", "\n", "x" * 99, "a"])
odd_paths = st.lists(odd, min_size=1, max_size=5).map("/".join)
odd_names = st.one_of(
    odd_paths, words.map("/".__add__), st.binary(max_size=20), st.text(max_size=9)
)
steps = st.sampled_from(["a", "b", "c", "é", "..", "..", "."])
targets = st.lists(steps, min_size=1, max_size=6).map("/".join)
contents = st.one_of(st.binary(max_size=600), st.just(bytes(30_000)))


def seldom(sane: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One in about sixteen is odd."""
    return st.integers(0, 15).flatmap(lambda number: odd if number == 7 else sane)


names = seldom(words, odd_names)
modes = seldom(st.sampled_from([0o644, 0o755, 0o600, 0]), st.sampled_from([0o4755, 0o2755]))
kinds = seldom(
    st.sampled_from([b"0", b"\0", b"1", b"2", b"2", b"5"]), st.sampled_from([b"3", b"6", b"S"])
)


@st.composite
def tar_entries(draw: st.DrawFn) -> bytes:
    """One entry, plain or with extension headers that say something else."""
    name, kind = draw(names), draw(kinds)
    target = draw(words if kind == b"1" else targets)
    content = draw(contents) if kind in (b"0", b"\0") else b""
    entry = tar_entry(name, content, kind=kind, mode=draw(modes), link=target)
    extension = draw(seldom(st.just(""), st.sampled_from(["path", "linkpath", "size", "L", "K"])))
    if extension in ("path", "linkpath"):
        return pax({extension: draw(names)}) + entry
    if extension == "size":
        return pax({"size": str(draw(st.integers(-1, 2000)))}) + entry
    if extension:
        return tar_entry("@", draw(targets).encode(), kind=extension.encode()) + entry
    return entry


@st.composite
def zip_entries(draw: st.DrawFn) -> Z:
    """One entry; often a link, sometimes with numbers that lie."""
    kind = draw(seldom(st.sampled_from([stat.S_IFREG, 0, stat.S_IFLNK]), st.just(stat.S_IFIFO)))
    content = draw(targets).encode() if kind == stat.S_IFLNK else draw(contents)
    lie = seldom(st.none(), st.integers(0, 2**32 - 1))
    return Z(
        draw(names),
        content,
        method=draw(seldom(st.sampled_from([0, 8]), st.just(12))),
        mode=kind | draw(modes),
        flags=draw(seldom(st.sampled_from([0, 8, 0x800]), st.just(1))),
        size=draw(lie),
        packed_size=draw(lie),
        offset=draw(seldom(st.none(), st.integers(0, 500))),
    )


@contextmanager
def place() -> Iterator[Path]:
    """A directory of its own for every example, with a sentinel beside the target."""
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "room" / "outside").mkdir(parents=True)
        (folder / "room" / "outside" / "kept").write_text("as it was")
        yield folder
    finally:
        shutil.rmtree(folder)


def check(folder: Path, archive: Path) -> None:
    """Scan and unpack agree, and nothing but the target changed."""
    room = folder / "room"
    before = facts_of(room)
    said = [outcome(scan, archive, LIMITS), outcome(unpack, archive, room / "tree", LIMITS)]
    assert said[0] == said[1]
    after = facts_of(room)
    assert {path: fact for path, fact in after.items() if path.split("/")[0] != "tree"} == before
    if (room / "tree").exists():
        check_inside(room / "tree")


def outcome(act: Callable[..., ArchiveFacts], *arguments: object) -> str:
    """What came of it, as text; any error but our own is a failure of the test."""
    try:
        return str(act(*arguments))
    except (ArchiveInvalid, ArchiveTooLarge) as error:
        return repr(error)


def check_inside(tree: Path) -> None:
    """No entry and no link leads out, and only what we allow is there."""
    for path, (mode, link, _) in facts_of(tree).items():
        if stat.S_ISLNK(mode):
            assert (tree / path).resolve().is_relative_to(tree.resolve()), (path, link)
        elif stat.S_ISDIR(mode):
            assert stat.S_IMODE(mode) == 0o755
        else:
            assert stat.S_ISREG(mode)
            assert stat.S_IMODE(mode) in (0o644, 0o755)


@EXAMPLES
@given(st.lists(tar_entries(), min_size=1, max_size=8))
def test_any_tar_stays_inside_or_is_refused(entries: list[bytes]) -> None:
    with place() as folder:
        archive = folder / "a"
        archive.write_bytes(gzip.compress(b"".join(entries) + bytes(1024), 1))
        check(folder, archive)


@EXAMPLES
@given(st.lists(zip_entries(), min_size=1, max_size=8))
def test_any_zip_stays_inside_or_is_refused(entries: list[Z]) -> None:
    with place() as folder:
        check(folder, zip_file(folder / "a", *entries))


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, or a piece cut out, or the end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    length = draw(st.sampled_from([0, 0, 0, 0, 1, 512]))
    del data[cut : cut + length]
    return bytes(data)


ENTRIES = b"".join(
    (
        tar_entry("d", kind=b"5"),
        pax({"path": "d/é", "size": "700"}) + tar_entry("x", b"y" * 700),
        tar_entry("l", kind=b"2", link="d/é"),
        tar_entry("h", kind=b"1", link="d/é"),
        bytes(1024),
    )
)


def with_right_checksums(data: bytes) -> bytes:
    """So that the damage is not all found by the same check."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            total = sum(block) - sum(block[148:156]) + 256
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


@EXAMPLES
@given(damage(ENTRIES))
def test_any_damage_to_a_tar_is_refused_or_harmless(data: bytes) -> None:
    with place() as folder:
        (folder / "a").write_bytes(with_right_checksums(data))
        check(folder, folder / "a")


@EXAMPLES
@given(damage(gzip.compress(ENTRIES, mtime=0)))
def test_any_damage_to_a_tar_gz_is_refused_or_harmless(data: bytes) -> None:
    with place() as folder:
        (folder / "a").write_bytes(data)
        check(folder, folder / "a")


@pytest.fixture(scope="module")
def honest_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    link = Z("l", b"d/f", mode=stat.S_IFLNK | 0o777)
    files = [Z("d/f", b"y" * 700), Z("stored", b"z" * 100, method=0), Z("e/"), link]
    return zip_file(tmp_path_factory.mktemp("zip") / "a", *files, comment=b"hello").read_bytes()


@EXAMPLES
@given(data=st.data())
def test_any_damage_to_a_zip_is_refused_or_harmless(data: st.DataObject, honest_zip: bytes) -> None:
    with place() as folder:
        (folder / "a").write_bytes(data.draw(damage(honest_zip)))
        check(folder, folder / "a")


@EXAMPLES
@given(st.lists(st.lists(tar_entries(), max_size=5), min_size=2, max_size=3))
def test_any_layers_stay_inside_or_are_refused(layers: list[list[bytes]]) -> None:
    with place() as folder:
        room = folder / "room"
        before = facts_of(room / "outside")
        (room / "tree").mkdir()
        files = [folder / str(number) for number in range(len(layers))]
        for file, entries in zip(files, layers, strict=True):
            file.write_bytes(b"".join(entries) + bytes(1024))
        try:
            overlay(files, room / "tree", LIMITS)
        except (ArchiveInvalid, ArchiveTooLarge):
            for _, link, _ in facts_of(room / "tree").values():
                assert not link  # links come last, when all is well
        else:
            check_inside(room / "tree")
        assert facts_of(room / "outside") == before
        assert sorted(path.name for path in room.iterdir()) == ["outside", "tree"]


plain = st.text("abcdé-", min_size=1, max_size=4)
trees = st.dictionaries(
    st.lists(plain, min_size=1, max_size=4).map("/".join), st.binary(max_size=1500), max_size=8
)


def grow(root: Path, files: dict[str, bytes]) -> Facts:
    """A tree of those files that have room beside each other."""
    root.mkdir()
    for path, content in files.items():
        parents = [root / path, *(root / path).parents]
        if not any(above.is_file() for above in parents) and not (root / path).exists():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    return facts_of(root)


@EXAMPLES
@given(trees)
def test_any_tree_packs_and_unpacks_to_itself(files: dict[str, bytes]) -> None:
    with place() as folder:
        before = grow(folder / "source", files)
        digest = pack_tree(folder / "source", folder / "a")
        (folder / "to").mkdir()
        overlay([folder / "a"], folder / "to")
        assert facts_of(folder / "to") == before
        assert pack_tree(folder / "to", folder / "b") == digest
