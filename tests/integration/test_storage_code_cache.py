"""The node's cache of unpacked code: made once, whole or not at all, evicted when not in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import ArchiveInvalid, DigestMismatch, NameInvalid, ObjectMissing, PartAway
from core.limits import MIB
from storage.archive import pack_tree
from storage.code_cache import CodeCache, TreeGone
from storage.store import object_key
from tests.fixtures.archives import facts_of, tar, tar_entry
from tests.fixtures.counting_store import FUNCTION, Counting, again, code, put, scratch, slots


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "objects")


@pytest.fixture
def cache(store: Counting, tmp_path: Path) -> Iterator[CodeCache]:
    cache = CodeCache(tmp_path / "code", store, 100 * MIB)
    yield cache
    cache.close()


def test_tree_is_made_once_and_then_only_found(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    first = cache.tree(FUNCTION, [layer])
    assert (first / "main.py").read_bytes() == b"x = 1\n"
    assert cache.tree(FUNCTION, [layer]) == first
    assert len(store.fetched) == 1
    assert scratch(tmp_path) == []


def test_later_layers_lie_over_earlier_ones(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    (tmp_path / "deps" / ".hearth" / "site-packages").mkdir(parents=True)
    (tmp_path / "deps" / ".hearth" / "site-packages" / "lib.py").write_text("y = 2\n")
    pack_tree(tmp_path / "deps", tmp_path / "deps.tar")
    layers = [code(store, tmp_path), put(store, tmp_path / "deps.tar")]
    tree = cache.tree(FUNCTION, layers)
    assert set(facts_of(tree)) == {
        "main.py",
        ".hearth",
        ".hearth/site-packages",
        ".hearth/site-packages/lib.py",
    }
    assert cache.tree(FUNCTION, layers[:1]) != tree
    assert cache.tree(FUNCTION, layers[::-1]) != tree


def test_functions_do_not_share_trees(cache: CodeCache, store: Counting, tmp_path: Path) -> None:
    layer = code(store, tmp_path)
    store.put(object_key("fn_2", layer), store._root / object_key(FUNCTION, layer))
    assert cache.tree(FUNCTION, [layer]) != cache.tree("fn_2", [layer])


def test_many_who_ask_at_once_wait_for_the_one_who_makes_it(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    store.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(cache.tree, FUNCTION, [layer]) for _ in range(16)]
        assert store.entered.wait(60)
        store.gate.set()
        assert len({future.result() for future in asked}) == 1
    assert len(store.fetched) == 1


def test_failure_reaches_all_who_wait_and_the_next_one_tries_again(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    store.gate.clear()
    store.fault = PartAway("object store", "not now")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.tree, FUNCTION, [layer]) for _ in range(4)]
        assert store.entered.wait(60)
        store.gate.set()
        for future in asked:
            with pytest.raises(PartAway, match="not now"):
                future.result()
    assert slots(tmp_path) == set()
    assert scratch(tmp_path) == []
    store.fault = None
    assert cache.tree(FUNCTION, [layer]).is_dir()


def test_one_slow_tree_does_not_hold_up_another(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    slow, ready = code(store, tmp_path, b"slow"), code(store, tmp_path, b"ready")
    path = cache.tree(FUNCTION, [ready])
    store.entered.clear()
    store.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(cache.tree, FUNCTION, [slow])
        assert store.entered.wait(60)
        assert cache.tree(FUNCTION, [ready]) == path
        store.gate.set()
        asked.result()


def test_layer_that_is_missing_damaged_or_hostile_leaves_nothing(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    good = code(store, tmp_path)
    with pytest.raises(ObjectMissing):
        cache.tree(FUNCTION, [good, "0" * 64])
    damaged = code(store, tmp_path, b"damaged")
    (store._root / object_key(FUNCTION, damaged)).write_bytes(b"!")
    with pytest.raises(DigestMismatch):
        cache.tree(FUNCTION, [good, damaged])
    hostile = put(store, tar(tmp_path / "hostile", tar_entry("../evil", b"x")))
    with pytest.raises(ArchiveInvalid):
        cache.tree(FUNCTION, [good, hostile])
    clash = put(store, tar(tmp_path / "clash", tar_entry("main.py/evil", b"x")))
    with pytest.raises(ArchiveInvalid, match=r"where the file 'main\.py' is"):
        cache.tree(FUNCTION, [good, clash])
    assert slots(tmp_path) == set()
    assert scratch(tmp_path) == []


@pytest.mark.parametrize(
    ("function_id", "layers"),
    [("../x", ["0" * 64]), (FUNCTION, ["../x"]), (FUNCTION, []), ("", ["0" * 64])],
)
def test_hostile_names_make_no_path(function_id: str, layers: list[str], cache: CodeCache) -> None:
    with pytest.raises(NameInvalid):
        cache.tree(function_id, layers)


# --- eviction ------------------------------------------------------------------------------------

TREE_BYTES = 4096 * 2 + 100_000


def three(store: Counting, tmp_path: Path) -> list[list[str]]:
    return [[code(store, tmp_path, bytes([number]) * 100_000)] for number in range(3)]


def test_least_recently_used_tree_makes_room(store: Counting, tmp_path: Path) -> None:
    a, b, c = three(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, 2 * TREE_BYTES)
    trees = [cache.tree(FUNCTION, layers) for layers in (a, b)]
    cache.tree(FUNCTION, a)
    last = cache.tree(FUNCTION, c)
    assert slots(tmp_path) == {trees[0].parent.name, last.parent.name}
    assert scratch(tmp_path) == []


def test_order_of_use_survives_a_restart(store: Counting, tmp_path: Path) -> None:
    a, b, c = three(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, 3 * TREE_BYTES)
    trees = [cache.tree(FUNCTION, layers) for layers in (a, b, c)]
    for age, tree in ((30, trees[0]), (20, trees[1]), (10, trees[2])):
        os.utime(tree.parent / "complete.json", (1e9 - age, 1e9 - age))
    cache.tree(FUNCTION, a)
    again(store, tmp_path, bytes_max=TREE_BYTES)
    assert slots(tmp_path) == {trees[0].parent.name}


def test_pinned_tree_is_never_evicted_and_goes_once_unpinned(
    store: Counting, tmp_path: Path
) -> None:
    a, b, _ = three(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, TREE_BYTES)
    tree = cache.pinned_tree(FUNCTION, a)
    cache.pin(tree)
    other = cache.tree(FUNCTION, b)
    assert slots(tmp_path) == {tree.parent.name, other.parent.name}
    cache.unpin(tree)
    assert tree.is_dir()
    cache.tree(FUNCTION, b)
    cache.unpin(tree)
    assert slots(tmp_path) == {other.parent.name}
    with pytest.raises(TreeGone):
        cache.pin(tree)


def test_tree_larger_than_the_cache_is_served_all_the_same(store: Counting, tmp_path: Path) -> None:
    a, b, _ = three(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, 1)
    assert (cache.tree(FUNCTION, a) / "main.py").exists()
    assert (cache.tree(FUNCTION, b) / "main.py").exists()
    assert len(slots(tmp_path)) == 1


def test_pins_hold_while_threads_fetch_evict_and_pin(store: Counting, tmp_path: Path) -> None:
    stacks = three(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, TREE_BYTES)

    def work(number: int) -> None:
        for turn in range(30):
            tree = cache.pinned_tree(FUNCTION, stacks[(number + turn) % 3])
            assert (tree / "main.py").stat().st_size == 100_000
            cache.unpin(tree)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(slots(tmp_path)) <= 1
    assert scratch(tmp_path) == []
    assert not [fd for fd in open_directories() if str(tmp_path / "code") in fd]


def open_directories() -> Iterator[str]:
    for fd in Path("/proc/self/fd").iterdir():
        try:
            yield str(fd.readlink())
        except FileNotFoundError:
            continue
