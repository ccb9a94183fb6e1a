"""The object store in a directory: crashes, full disks, and what only a directory can suffer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import DiskFull, ObjectMissing, PartAway
from core.limits import MIB
from core.settings import Settings, SettingsInvalid
from storage import scratch
from storage.archive import scan, unpack, wrap_single
from storage.code_cache import CodeCache
from storage.directory import DirectoryStore
from storage.store import object_key, open_store

HALF_WAY = """
import os, sys
from pathlib import Path
from storage.directory import DirectoryStore

store = DirectoryStore(Path(sys.argv[1]))

def chunks(fd, data, write=os.write):
    written = write(fd, data)
    print("half-way", flush=True)
    sys.stdin.read()
    return written

os.write = chunks
store.put(sys.argv[2], Path(sys.argv[3]))
"""


def key_of(content: bytes) -> str:
    return object_key("fn_1", hashlib.sha256(content).hexdigest())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root may mount the small file system that this test fills")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_full_disk_is_disk_full_leaves_nothing_and_heals(small_disk: Path, tmp_path: Path) -> None:
    store = DirectoryStore(small_disk / "objects")
    content = os.urandom(3 * MIB)
    (tmp_path / "large").write_bytes(content)
    with pytest.raises(DiskFull, match=r"no room left .* holds .*objects"):
        store.put(key_of(content), tmp_path / "large")
    assert list((small_disk / "objects" / ".scratch").iterdir()) == []
    assert list(store.keys("")) == []
    (tmp_path / "small").write_bytes(content[:MIB])
    store.put(key_of(content[:MIB]), tmp_path / "small")


def test_full_disk_where_an_object_is_fetched_to_is_disk_full(
    small_disk: Path, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "objects")
    content = os.urandom(3 * MIB)
    (tmp_path / "large").write_bytes(content)
    store.put(key_of(content), tmp_path / "large")
    with pytest.raises(DiskFull, match="no room left"):
        store.fetch(key_of(content), small_disk / "to")
    assert list(small_disk.iterdir()) == []


def test_full_disk_while_unpacking_is_disk_full_and_leaves_nothing(
    small_disk: Path, tmp_path: Path
) -> None:
    wrap_single("big", os.urandom(3 * MIB), tmp_path / "a")
    assert scan(tmp_path / "a").files == ("big",)
    with pytest.raises(DiskFull):
        unpack(tmp_path / "a", small_disk / "tree")
    with pytest.raises(DiskFull):
        wrap_single("big", os.urandom(3 * MIB), small_disk / "b")
    assert not (small_disk / "tree").exists()
    assert list(small_disk.iterdir()) == []


def test_full_disk_while_code_is_made_is_disk_full_and_heals(
    small_disk: Path, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "objects")
    cache = CodeCache(small_disk / "code", store, 100 * MIB)
    wrap_single("big", bytes(4 * MIB), tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    store.put(key_of(content), tmp_path / "a")
    layers = [hashlib.sha256(content).hexdigest()]
    with pytest.raises(DiskFull):
        cache.tree("fn_1", layers)
    assert list((small_disk / "code").iterdir()) == [small_disk / "code" / ".scratch"]
    assert list((small_disk / "code" / ".scratch").iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert (cache.tree("fn_1", layers) / "big").stat().st_size == 4 * MIB


def test_put_killed_half_way_leaves_no_object_and_its_leftover_is_swept(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    content = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(content)
    command = [sys.executable, "-c", HALF_WAY, str(root), key_of(content), str(tmp_path / "file")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half-way\n"
        assert len(list((root / ".scratch").iterdir())) == 1
        store = DirectoryStore(root)  # a second process starts meanwhile
        assert len(list((root / ".scratch").iterdir())) == 1  # not swept: its maker lives
        child.send_signal(signal.SIGKILL)
    assert not store.exists(key_of(content))
    with pytest.raises(ObjectMissing):
        store.fetch(key_of(content), tmp_path / "to")
    DirectoryStore(root)
    assert list((root / ".scratch").iterdir()) == []


def test_sweep_that_comes_between_making_and_locking_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_flock, swept = fcntl.flock, list[bool]()

    def flock(fd: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            assert scratch.sweep(tmp_path) == 1
        real_flock(fd, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    with scratch.scratch_file(tmp_path) as (_, path):
        assert path.exists()
    swept.clear()
    with scratch.scratch_dir(tmp_path) as path:
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_sweep_leaves_what_is_not_scratch_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".hearth-link").symlink_to(tmp_path / "mine")
    (tmp_path / ".hearth-dead").mkdir()
    (tmp_path / ".hearth-dead" / "f").write_text("x")
    assert scratch.sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hearth-link", "mine"]


def test_damaged_object_of_the_right_size_is_mended_by_a_put(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    (tmp_path / "file").write_bytes(b"right")
    store.put(key_of(b"right"), tmp_path / "file")
    (tmp_path / "objects" / key_of(b"right")).write_bytes(b"wrong")
    store.put(key_of(b"right"), tmp_path / "file")
    store.fetch(key_of(b"right"), tmp_path / "to")


def test_missing_disk_is_not_replaced_by_an_empty_directory(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    (tmp_path / "objects").rename(tmp_path / "unplugged")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(PartAway, match="is its disk mounted"):
        store.put(key_of(b"x"), tmp_path / "file")
    assert not (tmp_path / "objects").exists()


def test_objects_are_the_platforms_own_business(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    (tmp_path / "file").write_bytes(b"x")
    store.put(key_of(b"x"), tmp_path / "file")
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "objects" / key_of(b"x")).stat().st_mode & 0o777 == 0o600


def test_endpoint_without_a_bucket_is_said_and_not_ignored(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, s3_endpoint="http://127.0.0.1:1")
    with pytest.raises(SettingsInvalid, match="HEARTH_S3_BUCKET"):
        open_store(settings)
