"""Archives as honest tools write them: what comes out is what went in, tidied up."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from core.errors import ArchiveInvalid, DiskFull
from core.limits import ARCHIVE_DEPTH_MAX, ARCHIVE_FILES_LISTED_MAX
from storage.archive import overlay, scan, unpack
from storage.tree import MTIME_S, Shape, TreeFacts, measure
from tests.fixtures.archives import Z, facts_of, pax, tar, tar_entry, tar_gz, zip_file

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def real_tree(root: Path) -> Path:
    """A tree with everything that an honest one may hold."""
    (root / "pkg" / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "main.py").write_text("def handler(event, context): ...\n")
    (root / "bootstrap").write_bytes(b"#!/bin/sh\n")
    (root / "bootstrap").chmod(0o775)
    (root / "pkg" / "données — 数据.txt").write_text("ünïcode")
    (root / "pkg" / ("long" * 40 + ".txt")).write_bytes(os.urandom(2000))
    (root / "pkg" / "deep" / "er" / "nothing").write_bytes(b"")
    (root / "large.bin").write_bytes(random.Random(1).randbytes(700_000))
    (root / "pkg" / "link").symlink_to("../main.py")
    (root / "pkg" / "dangling").symlink_to("deep/not-yet")
    (root / "to-directory").symlink_to("pkg/deep")
    (root / "a").mkdir()
    (root / "a" / "README").write_text("upper")
    (root / "a" / "readme").write_text("lower")
    return root


def assert_same(root: Path, source: Path) -> None:
    """Same names and contents; modes as we set them."""
    ours, theirs = facts_of(root), facts_of(source)
    assert set(ours) == set(theirs)
    for path, (mode, link, content) in theirs.items():
        assert ours[path][1:] == (link, content), path
        if stat.S_ISREG(mode):
            assert stat.S_IMODE(ours[path][0]) == (0o755 if mode & 0o100 else 0o644), path


@pytest.mark.parametrize("packed", ["w", "w:gz"])
@pytest.mark.parametrize("form", FORMATS)
def test_tar_of_the_standard_library_comes_out_as_it_went_in(
    form: int, packed: str, tmp_path: Path
) -> None:
    source = real_tree(tmp_path / "source")
    if form == tarfile.USTAR_FORMAT:  # which has no room for it
        next(source.glob("pkg/long*")).rename(source / "pkg" / "short")
    with tarfile.open(tmp_path / "a", packed, format=form) as file:  # type: ignore[call-overload]
        file.add(source, ".")
    facts = unpack(tmp_path / "a", tmp_path / "to")
    assert_same(tmp_path / "to", source)
    assert facts == scan(tmp_path / "a")
    assert facts.kind == ("tar" if packed == "w" else "tar.gz")


def test_zip_of_the_standard_library_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(source.rglob("*")):
            if not path.is_symlink():
                file.write(path, path.relative_to(source))
    for path in list(source.rglob("*")):
        if path.is_symlink():
            path.unlink()
    facts = unpack(tmp_path / "a.zip", tmp_path / "to")
    assert_same(tmp_path / "to", source)
    assert facts == scan(tmp_path / "a.zip")
    assert facts.kind == "zip"


def test_zip_written_to_a_pipe_is_read(tmp_path: Path) -> None:
    """Sizes stand behind the content then, and the zip64 fields are there."""

    class Pipe(io.RawIOBase):
        def __init__(self, file: io.BufferedWriter) -> None:
            self._file = file

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            return self._file.write(data)  # type: ignore[arg-type]

    with (tmp_path / "a.zip").open("wb") as file:
        writer = zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED)
        with writer, writer.open("main.py", "w", force_zip64=True) as entry:
            entry.write(b"x = 1\n")
    unpack(tmp_path / "a.zip", tmp_path / "to")
    assert (tmp_path / "to" / "main.py").read_bytes() == b"x = 1\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=ustar"],
        ["--format=posix"],
        ["--format=v7"],
        ["--format=oldgnu"],
    ],
)
def test_what_gnu_tar_writes_is_read(options: list[str], tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    if "posix" not in options[0] and "gnu" not in options[0]:
        next(source.glob("pkg/long*")).rename(source / "pkg" / "short")
    os.link(source / "main.py", source / "second-name.py")
    command = ["tar", *options, "-czf", str(tmp_path / "a"), "-C", str(source), "."]
    subprocess.run(command, check=True)
    unpack(tmp_path / "a", tmp_path / "to")
    assert_same(tmp_path / "to", source)


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
def test_what_info_zip_writes_is_read(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    subprocess.run(["zip", "-qry", str(tmp_path / "a.zip"), "."], cwd=source, check=True)
    unpack(tmp_path / "a.zip", tmp_path / "to")
    assert_same(tmp_path / "to", source)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_what_git_archive_writes_is_read(form: str, tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    shutil.rmtree(source / "empty")
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run([*git, "archive", f"--format={form}", "-o", tmp_path / "a", "HEAD"], check=True)
    shutil.rmtree(source / ".git")
    unpack(tmp_path / "a", tmp_path / "to")
    assert_same(tmp_path / "to", source)


def test_everything_unpacked_is_ours_readable_and_of_one_moment(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        archive = tar_gz(
            tmp_path / "a",
            tar_entry("d", kind=b"5", mode=0o2700),
            tar_entry("d/f", b"x", mode=0o600),
            tar_entry("d/x", b"x", mode=0o700),
            tar_entry("l", kind=b"2", link="d/f"),
        )
        unpack(archive, tmp_path / "to")
    finally:
        os.umask(mask)
    for path in [tmp_path / "to", *(tmp_path / "to").rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert status.st_mtime == MTIME_S
    modes = {path: mode for path, (mode, _, _) in facts_of(tmp_path / "to").items()}
    assert modes["d"] == stat.S_IFDIR | 0o755  # setgid directories are everyday: the bit goes
    assert modes["d/f"] == stat.S_IFREG | 0o644
    assert modes["d/x"] == stat.S_IFREG | 0o755
    assert stat.S_IMODE((tmp_path / "to").stat().st_mode) == 0o755


def test_hard_link_inside_the_archive_is_a_second_name(tmp_path: Path) -> None:
    archive = tar_gz(tmp_path / "a", tar_entry("f", b"xy"), tar_entry("g", kind=b"1", link="./f"))
    facts = unpack(archive, tmp_path / "to")
    assert (tmp_path / "to" / "g").samefile(tmp_path / "to" / "f")
    assert facts.unpacked_bytes == 4  # as much as a copy, so links cannot multiply for free


def test_chains_of_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    archive = tar_gz(
        tmp_path / "a",
        tar_entry("x/y/f", b"here"),
        tar_entry("x/y/up", kind=b"2", link="../.."),
        tar_entry("x/y/again", kind=b"2", link="up/x/y/up/x/y/f"),
        tar_entry("root", kind=b"2", link="."),
    )
    unpack(archive, tmp_path / "to")
    assert (tmp_path / "to" / "x" / "y" / "again").read_bytes() == b"here"


def test_names_that_differ_in_case_or_unicode_form_are_different_files(tmp_path: Path) -> None:
    names = ["A", "a", "é", "e\u0301"]
    unpack(zip_file(tmp_path / "a", *(Z(name) for name in names)), tmp_path / "to")
    assert {path.name for path in (tmp_path / "to").iterdir()} == set(names)


def test_names_are_tidied_and_junk_of_a_mac_is_kept(tmp_path: Path) -> None:
    names = ["./main.py", "a//b", "c/./d", "__MACOSX/._main.py"]
    facts = scan(zip_file(tmp_path / "a", *(Z(name) for name in names)))
    assert facts.files == ("main.py", "__MACOSX/._main.py", "a/b", "c/d")


def test_utf8_name_without_the_flag_and_windows_file_without_a_mode(tmp_path: Path) -> None:
    archive = zip_file(tmp_path / "a", Z("é.py"), Z("w.py", system=0, mode=0))
    unpack(archive, tmp_path / "to")
    assert stat.S_IMODE((tmp_path / "to" / "w.py").stat().st_mode) == 0o644
    assert (tmp_path / "to" / "é.py").exists()


def test_directories_may_be_repeated_and_left_out(tmp_path: Path) -> None:
    directory = tar_entry("a", kind=b"5")
    entries = [tar_entry("a/b/f"), directory, tar_entry("a/b/", kind=b"5"), directory]
    facts = scan(tar_gz(tmp_path / "x", tar_entry("./", kind=b"5"), *entries))
    assert facts.entries == 5


def test_path_may_be_as_long_and_as_deep_as_the_limits_say(tmp_path: Path) -> None:
    deep = "d/" * (ARCHIVE_DEPTH_MAX - 1) + "f"
    long = "/".join(["x" * 255] * 4)
    archive = tar_gz(tmp_path / "a", pax({"path": deep}), tar_entry("x"), pax({"path": long}),
                     tar_entry("x"))  # fmt: skip
    facts = unpack(archive, tmp_path / "to")
    assert set(facts.files) == {deep, long}


def test_gzip_of_several_members_with_padding_is_read(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a", tar_entry("f", os.urandom(5000))).read_bytes()
    parts = [gzip.compress(whole[at : at + 100]) for at in range(0, len(whole), 100)]
    (tmp_path / "a").write_bytes(b"".join(parts) + bytes(100_000))
    assert scan(tmp_path / "a").files == ("f",)


def test_manifest_is_handed_over_and_unpacked(tmp_path: Path) -> None:
    manifest = b'runtime = "python"\n'
    archive = tar_gz(
        tmp_path / "a", tar_entry("./hearth.toml", manifest), tar_entry("a/hearth.toml")
    )
    assert scan(archive).manifest == manifest
    assert unpack(archive, tmp_path / "to").manifest == manifest
    assert (tmp_path / "to" / "hearth.toml").read_bytes() == manifest
    assert scan(tar_gz(archive, tar_entry("a/hearth.toml"))).manifest is None


def test_list_of_files_is_bounded_and_nearest_to_the_root_first(tmp_path: Path) -> None:
    entries = [tar_entry(f"d/f{i}") for i in range(ARCHIVE_FILES_LISTED_MAX + 5)]
    facts = scan(tar_gz(tmp_path / "a", *entries, tar_entry("main.py")))
    assert len(facts.files) == ARCHIVE_FILES_LISTED_MAX
    assert facts.files[0] == "main.py"


def test_target_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("mine")
    with pytest.raises(OSError, match="not empty") as caught:
        unpack(tar_gz(tmp_path / "a", tar_entry("f")), tmp_path / "to")
    assert caught.value.errno == errno.ENOTEMPTY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "to"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine"]


def test_no_room_left_is_disk_full_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = tar_gz(tmp_path / "a", tar_entry("f", b"x"))
    monkeypatch.setattr("os.write", full)
    with pytest.raises(DiskFull, match="free some"):
        unpack(archive, tmp_path / "to")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- layers over one another ---------------------------------------------------------------------


def lay(tmp_path: Path, *layers: list[bytes]) -> TreeFacts:
    paths = [tar(tmp_path / f"layer{i}", *entries) for i, entries in enumerate(layers)]
    (tmp_path / "root").mkdir()
    return overlay(paths, tmp_path / "root")


def test_later_layer_adds_files_and_replaces_files(tmp_path: Path) -> None:
    facts = lay(
        tmp_path,
        [tar_entry("a/f", b"old"), tar_entry("a/g", b"kept"), tar_entry("a", kind=b"5")],
        [tar_entry("a/f", b"new!"), tar_entry("a/h", b"added"), tar_entry("b/", kind=b"5")],
    )
    tree = facts_of(tmp_path / "root")
    contents = {path: content for path, (_, _, content) in tree.items() if content}
    assert contents == {"a/f": b"new!", "a/g": b"kept", "a/h": b"added"}
    assert facts == measure(tmp_path / "root") == TreeFacts(2, 3, 0, 13)


def test_replaced_file_does_not_write_through_its_hard_link(tmp_path: Path) -> None:
    lay(
        tmp_path,
        [tar_entry("f", b"old"), tar_entry("g", kind=b"1", link="f")],
        [tar_entry("f", b"new")],
    )
    assert (tmp_path / "root" / "g").read_bytes() == b"old"


def test_links_and_files_of_two_layers_replace_each_other(tmp_path: Path) -> None:
    lay(
        tmp_path,
        [tar_entry("f", b"x"), tar_entry("l", kind=b"2", link="f"), tar_entry("m", b"m")],
        [tar_entry("l", b"file now"), tar_entry("m", kind=b"2", link="f")],
    )
    assert (tmp_path / "root" / "l").read_bytes() == b"file now"
    assert (tmp_path / "root" / "f").read_bytes() == b"x"  # not written through the link
    assert (tmp_path / "root" / "m").readlink() == Path("f")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([tar_entry("d", kind=b"2", link=".")], [tar_entry("d/f")], "passes through"),
        ([tar_entry("d/f")], [tar_entry("d", kind=b"2", link="e")], "where a directory"),
        ([tar_entry("d/f")], [tar_entry("d")], "where a directory"),
        ([tar_entry("d")], [tar_entry("d/f")], "needs a directory"),
        ([tar_entry("f")], [tar_entry("g", kind=b"1", link="f")], "no earlier entry"),
        # Inside as long as the first layer is alone.
        (
            [tar_entry("x/l", kind=b"2", link="d/../../f")],
            [tar_entry("x/d", kind=b"2", link="..")],
            "outside the archive",
        ),
    ],
)
def test_layer_may_not_change_what_is_a_directory_or_reach_through_a_link(
    first: list[bytes], second: list[bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveInvalid, match=message):
        lay(tmp_path, first, second)
    assert not (tmp_path / "f").exists()


def test_empty_layer_is_fine(tmp_path: Path) -> None:
    assert lay(tmp_path, [tar_entry("f", b"x")], []) == TreeFacts(0, 1, 0, 1)


def test_links_are_made_after_every_file_of_every_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line of defence: were the names not checked, no link would be there to follow."""
    monkeypatch.setattr(Shape, "enter", lambda self, directory, entry: [])
    with pytest.raises(OSError, match="No such file"):
        lay(tmp_path, [tar_entry("d", kind=b"2", link=".")], [tar_entry("d/f", b"x")])
    assert list((tmp_path / "root").iterdir()) == []
