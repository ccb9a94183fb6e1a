"""Archives of our own making: the same bytes for the same input, and readable by ourselves."""

from __future__ import annotations

import hashlib
import os
import socket
import tarfile
from pathlib import Path

import pytest

from core.errors import ArchiveInvalid, ArchiveTooLarge
from storage import pack
from storage.archive import pack_tree, scan, unpack, wrap_single
from storage.entries import ArchiveLimits
from tests.fixtures.archives import facts_of
from tests.unit.test_archive import assert_same, real_tree


def test_same_tree_gives_the_same_bytes_whoever_made_it_and_when(tmp_path: Path) -> None:
    one, two = real_tree(tmp_path / "one"), real_tree(tmp_path / "two")
    long = next(one.glob("pkg/long*"))
    (two / "pkg" / long.name).write_bytes(long.read_bytes())
    os.utime(two / "main.py", (1, 1))
    (two / "main.py").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(two / "main.py", 12345, 12345)
    digest = pack_tree(one, tmp_path / "one.tar")
    assert digest == pack_tree(two, tmp_path / "two.tar")
    assert digest == hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest()
    (two / "main.py").chmod(0o700)
    assert digest != pack_tree(two, tmp_path / "three.tar")


def test_packed_tree_unpacks_to_itself_and_packs_the_same_again(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    digest = pack_tree(source, tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "to")
    assert_same(tmp_path / "to", source)
    assert pack_tree(tmp_path / "to", tmp_path / "b.tar") == digest


def test_other_readers_understand_what_we_pack(tmp_path: Path) -> None:
    source = real_tree(tmp_path / "source")
    pack_tree(source, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as file:
        assert {member.name for member in file} == set(facts_of(source))


def test_setuid_bits_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "su").write_text("x")
    (tmp_path / "s" / "su").chmod(0o4755)
    pack_tree(tmp_path / "s", tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "to")
    assert (tmp_path / "to" / "su").stat().st_mode & 0o7777 == 0o755


def test_link_out_of_the_tree_cannot_be_packed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for target in ("/etc/passwd", "../secret"):
        (tmp_path / "s" / "l").symlink_to(target)
        with pytest.raises(ArchiveInvalid, match="'l': links to"):
            pack_tree(tmp_path / "s", tmp_path / "a.tar")
        (tmp_path / "s" / "l").unlink()
        assert not (tmp_path / "a.tar").exists()


def test_pipes_and_sockets_cannot_be_packed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    os.mkfifo(tmp_path / "s" / "fifo")
    with pytest.raises(ArchiveInvalid, match="'fifo': devices, named pipes"):
        pack_tree(tmp_path / "s", tmp_path / "a.tar")
    (tmp_path / "s" / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s" / "sock"))
        with pytest.raises(ArchiveInvalid, match="sockets"):
            pack_tree(tmp_path / "s", tmp_path / "a.tar")


def test_name_that_could_not_be_unpacked_cannot_be_packed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path / "s") + b"/caf\xe9"))).write_text("x")
    with pytest.raises(ArchiveInvalid, match="not UTF-8"):
        pack_tree(tmp_path / "s", tmp_path / "a.tar")


@pytest.mark.parametrize("swapped", ["pipe", "link"])
def test_file_that_becomes_something_else_meanwhile_is_not_followed(
    swapped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "s" / "f"
    victim.parent.mkdir()
    victim.write_text("x")
    real_open = os.open

    def swap(path: object, flags: int, *args: object, **rest: object) -> int:
        if path == b"f":
            victim.unlink()
            os.mkfifo(victim) if swapped == "pipe" else victim.symlink_to("/etc/passwd")
        return real_open(path, flags, *args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", swap)
    with pytest.raises(ArchiveInvalid, match="changed while it was packed"):
        pack_tree(tmp_path / "s", tmp_path / "a.tar")


def test_tree_over_the_limits_cannot_be_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LAYER_LIMITS", ArchiveLimits(3, 1000))
    (tmp_path / "s").mkdir()
    for number in range(4):
        (tmp_path / "s" / str(number)).write_text("x")
    with pytest.raises(ArchiveTooLarge, match="3 entries"):
        pack_tree(tmp_path / "s", tmp_path / "a.tar")
    (tmp_path / "s" / "0").unlink()
    (tmp_path / "s" / "1").write_bytes(bytes(2000))
    with pytest.raises(ArchiveTooLarge):
        pack_tree(tmp_path / "s", tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_single_file_becomes_an_archive_of_one_file(tmp_path: Path) -> None:
    code = b"def handler(event, context):\n    return event\n" * 30
    for name in ("a", "b"):
        wrap_single("main.py", code, tmp_path / name)
    with pytest.raises(FileExistsError):
        wrap_single("main.py", b"other", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    facts = scan(tmp_path / "a")
    assert (facts.kind, facts.files, facts.unpacked_bytes) == ("tar.gz", ("main.py",), len(code))
    unpack(tmp_path / "a", tmp_path / "to")
    assert (tmp_path / "to" / "main.py").read_bytes() == code


@pytest.mark.parametrize("name", ["../main.py", "a/main.py", "", "/main.py", "a\nb"])
def test_single_file_has_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveInvalid):
        wrap_single(name, b"", tmp_path / "a")
    assert not (tmp_path / "a").exists()
