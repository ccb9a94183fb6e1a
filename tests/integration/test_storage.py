"""The object store: one suite, run on the directory and on a real S3 server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.errors import DigestMismatch, NameInvalid, ObjectMissing, PartAway
from core.limits import MIB, S3_PART_BYTES
from core.settings import Settings
from storage.directory import DirectoryStore
from storage.s3 import S3Store
from storage.store import ObjectStore, object_key, open_store
from tests.fixtures.s3 import S3Server

FUNCTION = "fn_" + "0" * 32


@dataclass(frozen=True, slots=True)
class Bench:
    """A store, and ways to do to it what happens in life."""

    store: ObjectStore
    file_of: Callable[[str], Path]  # where an object's bytes are
    notice: Callable[[], None]  # make the store see what was done to its files
    away: Callable[[], AbstractContextManager[None]]
    folder: Path

    def write(self, content: bytes, *, function_id: str = FUNCTION) -> tuple[str, Path]:
        """A file with this content, and its key."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / digest[:16]
        path.write_bytes(content)
        return object_key(function_id, digest), path

    def damage(self, key: str, content: bytes) -> None:
        """Change an object behind the store's back."""
        self.file_of(key).write_bytes(content)
        self.notice()

    def put(self, content: bytes, *, function_id: str = FUNCTION) -> str:
        key, path = self.write(content, function_id=function_id)
        self.store.put(key, path)
        return key


@pytest.fixture(params=["directory", "s3"])
def bench(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "work").mkdir()
    (tmp_path / "data").mkdir()
    made = on_s3(s3_server, tmp_path) if request.param == "s3" else on_directory(tmp_path)
    yield made
    made.store.close()


def on_s3(server: S3Server, tmp_path: Path) -> Bench:
    @contextlib.contextmanager
    def away() -> Iterator[None]:
        server.stop()
        try:
            yield
        finally:
            server.start()

    store = open_store(server.settings(tmp_path / "data"))
    for key in list(store.keys("")):
        store.delete(key)
    return Bench(store, server.file_of, server.restart, away, tmp_path / "work")


def on_directory(tmp_path: Path) -> Bench:
    data = tmp_path / "data"

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        data.rename(tmp_path / "unplugged")
        try:
            yield
        finally:
            (tmp_path / "unplugged").rename(data)

    store = open_store(Settings(data_dir=data))
    objects = data / "objects"
    return Bench(store, objects.joinpath, lambda: None, away, tmp_path / "work")


def test_settings_choose_the_store(bench: Bench, request: pytest.FixtureRequest) -> None:
    expected = S3Store if "s3" in request.node.name else DirectoryStore
    assert isinstance(bench.store, expected)


@pytest.mark.parametrize("size", [0, 1, MIB, S3_PART_BYTES, S3_PART_BYTES + 1])
def test_object_comes_back_as_it_was_put(size: int, bench: Bench) -> None:
    content = os.urandom(size)
    key = bench.put(content)
    bench.store.fetch(key, bench.folder / "to")
    assert (bench.folder / "to").read_bytes() == content
    assert bench.store.exists(key)


def test_large_object_goes_in_parts_and_comes_back_whole(bench: Bench) -> None:
    content = os.urandom(MIB) * 40 + b"and an odd end"
    key = bench.put(content)
    bench.store.fetch(key, bench.folder / "to")
    assert (bench.folder / "to").read_bytes() == content


def test_put_of_other_bytes_than_the_key_says_is_refused_and_leaves_nothing(bench: Bench) -> None:
    key, path = bench.write(b"right")
    path.write_bytes(b"wrong")
    with pytest.raises(DigestMismatch):
        bench.store.put(key, path)
    assert not bench.store.exists(key)
    assert list(bench.store.keys("")) == []


def test_put_of_what_is_there_does_nothing(bench: Bench) -> None:
    key = bench.put(b"once")
    before = bench.file_of(key).stat()
    bench.put(b"once")
    after = bench.file_of(key).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_fetched_object_takes_the_place_of_another_file_in_one_step(bench: Bench) -> None:
    key = bench.put(b"new")
    (bench.folder / "to").write_bytes(b"before")
    with (bench.folder / "to").open("rb") as reader:
        bench.store.fetch(key, bench.folder / "to")
        assert reader.read() == b"before"
    assert (bench.folder / "to").read_bytes() == b"new"


def test_fetch_of_nothing_is_missing_and_makes_no_file(bench: Bench) -> None:
    with pytest.raises(ObjectMissing, match="no object functions/"):
        bench.store.fetch(object_key(FUNCTION, "0" * 64), bench.folder / "to")
    assert list(bench.folder.iterdir()) == []


def test_corrupted_object_is_never_handed_out(bench: Bench) -> None:
    content = os.urandom(100_000)
    key = bench.put(content)
    damaged = bytearray(content)
    damaged[50_000] ^= 1
    bench.damage(key, bytes(damaged))
    (bench.folder / "to").write_bytes(b"before")
    with pytest.raises(DigestMismatch):
        bench.store.fetch(key, bench.folder / "to")
    assert (bench.folder / "to").read_bytes() == b"before"
    assert len(list(bench.folder.iterdir())) == 2


def test_truncated_object_is_never_handed_out_and_a_put_mends_it(bench: Bench) -> None:
    content = os.urandom(100_000)
    key = bench.put(content)
    for length in (0, 1, 99_999):
        bench.damage(key, content[:length])
        with pytest.raises(DigestMismatch):
            bench.store.fetch(key, bench.folder / "to")
        bench.put(content)
        bench.store.fetch(key, bench.folder / "to")


def test_deleted_object_is_gone_and_deleting_it_again_is_fine(bench: Bench) -> None:
    key, other = bench.put(b"one"), bench.put(b"two")
    bench.store.delete(key)
    bench.store.delete(key)
    assert not bench.store.exists(key)
    assert bench.store.exists(other)
    bench.store.delete(other)
    bench.put(b"one")
    assert bench.store.exists(key)


def test_keys_are_listed_by_prefix(bench: Bench) -> None:
    one = [bench.put(b"%d" % number, function_id="fn_1") for number in range(5)]
    ten = [bench.put(b"%d" % number, function_id="fn_10") for number in range(3)]
    assert sorted(bench.store.keys("")) == sorted(one + ten)
    assert sorted(bench.store.keys("functions/fn_1/")) == sorted(one)
    assert sorted(bench.store.keys("functions/fn_1")) == sorted(one + ten)
    assert list(bench.store.keys("functions/fn_2/")) == []
    assert list(bench.store.keys("other/")) == []


def test_keys_leaves_out_what_is_no_object(bench: Bench) -> None:
    key = bench.put(b"x")
    bench.file_of(key).with_name("README").write_text("somebody's note")
    bench.notice()
    assert list(bench.store.keys("")) == [key]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "0" * 64,
        "../" + "0" * 64,
        "functions/../" + "0" * 64,
        "functions/./" + "0" * 64,
        "functions/.hidden/" + "0" * 64,
        "/functions/x/" + "0" * 64,
        "functions//" + "0" * 64,
        "functions/x/" + "0" * 63,
        "functions/x/" + "0" * 64 + "\n",
        "functions/x/" + "0" * 64 + "/",
        "functions/x/" + "A" * 64,
        "functions/x\0/" + "0" * 64,
        "functions/x\\y/" + "0" * 64,
        "functions/é/" + "0" * 64,
        ".scratch/" + "0" * 64,
        "functions/" + "x" * 200 + "/" + "0" * 64,
        "a/" * 300 + "0" * 64,
    ],
)
def test_hostile_key_is_refused_by_every_call(key: str, bench: Bench) -> None:
    _, path = bench.write(b"x")
    for attempt in (
        lambda: bench.store.put(key, path),
        lambda: bench.store.fetch(key, bench.folder / "to"),
        lambda: bench.store.exists(key),
        lambda: bench.store.delete(key),
    ):
        with pytest.raises(NameInvalid):
            attempt()


@pytest.mark.parametrize("prefix", ["..", "../", "/", "functions/../", ".scratch", "a//b", "a\n"])
def test_hostile_prefix_is_refused(prefix: str, bench: Bench) -> None:
    with pytest.raises(NameInvalid):
        list(bench.store.keys(prefix))


@pytest.mark.parametrize("function_id", ["../x", "", ".", "a/../b", "x" * 600])
def test_no_key_is_made_of_a_hostile_function_id(function_id: str) -> None:
    with pytest.raises(NameInvalid):
        object_key(function_id, "0" * 64)


def test_many_put_and_fetch_the_same_object_at_once(bench: Bench) -> None:
    content = os.urandom(300_000)
    key, path = bench.write(content)
    ready = threading.Barrier(8)

    def work(number: int) -> bytes:
        ready.wait()
        bench.store.put(key, path)
        to = bench.folder / f"to-{number}"
        bench.store.fetch(key, to)
        return to.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {content}
    assert list(bench.store.keys("")) == [key]


def test_puts_and_deletes_of_one_function_at_once_do_not_trip_over_each_other(
    bench: Bench,
) -> None:
    objects = [bench.write(b"%d" % number) for number in range(4)]
    ready = threading.Barrier(4)

    def work(number: int) -> None:
        key, path = objects[number]
        ready.wait()
        for _ in range(10):
            bench.store.put(key, path)
            bench.store.delete(key)
        bench.store.put(key, path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(bench.store.keys("")) == sorted(key for key, _ in objects)


def test_store_that_is_away_says_so_and_works_again_when_it_is_back(bench: Bench) -> None:
    key = bench.put(b"here before")
    other, path = bench.write(b"not yet")
    bench.store.ping()
    with bench.away():
        for attempt in (
            bench.store.ping,
            lambda: bench.store.put(other, path),
            lambda: bench.store.fetch(key, bench.folder / "to"),
            lambda: bench.store.exists(key),
            lambda: bench.store.delete(key),
            lambda: list(bench.store.keys("")),
        ):
            with pytest.raises(PartAway, match=r"^object store: ") as caught:
                attempt()
            assert caught.value.details["part"] == "object store"
        assert not (bench.folder / "to").exists()
    bench.store.ping()
    bench.store.fetch(key, bench.folder / "to")
    bench.store.put(other, path)
    assert sorted(bench.store.keys("")) == sorted([key, other])


def test_a_copy_is_the_same_object_under_another_function(bench: Bench, tmp_path: Path) -> None:
    content = b"layer" * (S3_PART_BYTES // 4)  # more than one part
    key = bench.put(content)
    other = object_key("fn_" + "1" * 32, key[-64:])
    bench.store.copy(key, other)
    bench.store.copy(key, other)
    bench.store.delete(key)
    bench.store.fetch(other, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with pytest.raises(ObjectMissing):
        bench.store.copy(key, object_key("fn_" + "2" * 32, key[-64:]))
    with pytest.raises(NameInvalid):
        bench.store.copy(other, object_key(FUNCTION, "0" * 64))
    assert list(bench.store.keys("")) == [other]


def test_copies_in_a_directory_take_room_once_and_are_mended_apart(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    bench = on_directory(tmp_path)
    key = bench.put(b"layer")
    other = object_key("fn_" + "1" * 32, key[-64:])
    bench.store.copy(key, other)
    assert bench.file_of(key).stat().st_ino == bench.file_of(other).stat().st_ino
    bench.damage(other, b"?")
    assert bench.put(b"layer") == key
    assert bench.file_of(key).read_bytes() == b"layer"
    assert bench.file_of(other).read_bytes() == b"?"
    assert list((tmp_path / "data" / "objects" / ".scratch").iterdir()) == []
