"""Layers of dependencies in the code cache: one copy for a namespace, none beyond it."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.limits import MIB
from storage.archive import pack_tree
from storage.code_cache import CodeCache
from storage.store import object_key
from tests.fixtures.counting_store import FUNCTION, Counting, again, code, put, scratch, slots
from tests.integration.test_storage_code_cache_processes import start

FILE_BYTES = 300_000
LIBRARY = Path(".hearth/site-packages/lib")

# A process that comes to one of three points and waits there to be killed.
KILLED = """
import storage.code_cache as it
from pathlib import Path
from typing import Any
def stop(*_):
    say("here")
    sys.stdin.read()
real = it.overlay
def overlay(files, root):
    facts = real(files, root)
    if len(files) == 2 and at == "linked":
        stop()
    return facts
it.overlay = overlay
mark = it._mark
def marked(slot, facts, layers):
    made = mark(slot, facts, layers)
    if layers and at == "kept":
        stop()
    return made
it._mark = marked
if at == "named":
    remember = CodeCache._remember
    def remembered(self, name, marker):
        if marker.needs:
            stop()
        return remember(self, name, marker)
    CodeCache._remember = remembered
CodeCache(root, store, 1 << 30).tree(sys.argv[3], layers, "default")
"""


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "objects")


@pytest.fixture
def cache(store: Counting, tmp_path: Path) -> Iterator[CodeCache]:
    cache = CodeCache(tmp_path / "code", store, 100 * MIB)
    yield cache
    cache.close()


def layer_of(store: Counting, tmp_path: Path, name: str = "a", **files: bytes) -> str:
    """A layer of packages: two files, a link between them, and what is named besides."""
    root = tmp_path / f"layer-{name}"
    (root / LIBRARY).mkdir(parents=True)
    (root / LIBRARY / "__init__.py").write_bytes(name.encode() * FILE_BYTES)
    (root / LIBRARY / "tool").write_text("#!/bin/sh\n")
    (root / LIBRARY / "tool").chmod(0o755)
    (root / LIBRARY / "link").symlink_to("tool")
    for path, content in files.items():
        (root / f"{path}.py").write_bytes(content)
    pack_tree(root, tmp_path / f"{name}.tar")
    return put(store, tmp_path / f"{name}.tar")


def give(store: Counting, function: str, digest: str) -> str:
    """Have an object under another function too, as a build does."""
    store.put(object_key(function, digest), store._root / object_key(FUNCTION, digest))
    return digest


def layers_on_disk(tmp_path: Path) -> set[str]:
    return {name for name in slots(tmp_path) if name.startswith("layer.")}


def disk_bytes(root: Path) -> int:
    """What `du` would say."""
    seen = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in map(os.lstat, root.rglob("*"))}
    return sum(seen.values())


def test_ten_functions_with_the_same_packages_hold_them_once(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = layer_of(store, tmp_path)
    trees = []
    for number in range(10):
        mine = code(store, tmp_path, f"x = {number}\n".encode())
        function = f"fn_{number}"
        for digest in (mine, layer):
            give(store, function, digest)
        trees.append(cache.tree(function, [mine, layer], "default"))
        if number == 0:
            alone = disk_bytes(tmp_path / "code")
    inodes = {(tree / LIBRARY / "__init__.py").stat().st_ino for tree in trees}
    assert len(inodes) == 1
    assert [(tree / "main.py").read_text() for tree in trees] == [f"x = {n}\n" for n in range(10)]
    assert (trees[3] / LIBRARY / "link").read_text() == "#!/bin/sh\n"
    assert sum(key.endswith(layer) for key in store.fetched) == 1
    # Nine more functions cost nine small trees.
    assert disk_bytes(tmp_path / "code") - alone < 9 * 40_000
    assert alone > FILE_BYTES
    charged = sum(slot.charge_bytes for slot in cache._slots.values())
    assert FILE_BYTES < charged < 2 * FILE_BYTES


def test_what_is_shared_is_the_platforms_own_and_nobody_elses_to_write(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = layer_of(store, tmp_path)
    tree = cache.tree(FUNCTION, [code(store, tmp_path), layer], "default")
    for name, mode in (("__init__.py", 0o644), ("tool", 0o755)):
        facts = (tree / LIBRARY / name).stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (mode, os.geteuid())
        assert facts.st_nlink == 2


def test_namespaces_share_nothing(cache: CodeCache, store: Counting, tmp_path: Path) -> None:
    mine, layer = code(store, tmp_path), layer_of(store, tmp_path)
    for digest in (mine, layer):
        give(store, "fn_2", digest)
        give(store, "fn_3", digest)
    trees = [
        cache.tree(FUNCTION, [mine, layer], "default"),
        cache.tree("fn_2", [mine, layer], "elsewhere"),
        cache.tree("fn_3", [mine, layer]),
    ]
    assert len({(tree / LIBRARY / "__init__.py").stat().st_ino for tree in trees}) == 3
    assert len(layers_on_disk(tmp_path)) == 2


def test_a_later_layer_replaces_a_shared_file_without_touching_it(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    mine = code(store, tmp_path)
    below = layer_of(store, tmp_path, "below", common=b"below")
    above = layer_of(store, tmp_path, "above", common=b"above", main=b"from the layer")
    lower = cache.tree(FUNCTION, [mine, below], "default")
    both = cache.tree(FUNCTION, [mine, below, above], "default")
    assert (lower / "common.py").read_bytes() == b"below"
    assert (both / "common.py").read_bytes() == b"above"
    assert (both / "main.py").read_bytes() == b"from the layer"
    assert (lower / "main.py").read_bytes() == b"x = 1\n"


# --- how long a layer lives -----------------------------------------------------------------------


def test_a_layer_stays_while_a_tree_uses_it_and_goes_before_what_is_used_later(
    store: Counting, tmp_path: Path
) -> None:
    old, new = layer_of(store, tmp_path, "o"), layer_of(store, tmp_path, "n")
    mine, other = code(store, tmp_path), code(store, tmp_path, b"other")
    cache = CodeCache(tmp_path / "code", store, 2 * FILE_BYTES)
    first = cache.pinned_tree(FUNCTION, [mine, old], "default")
    cache.tree(FUNCTION, [mine, new], "default")
    kept = cache.tree(FUNCTION, [other, new], "default")
    assert len(layers_on_disk(tmp_path)) == 2, "over its bound, yet one is pinned and one just made"
    cache.unpin(first)  # the least recently used tree goes, and its layer after it
    assert slots(tmp_path) >= {kept.parent.name}
    assert len(layers_on_disk(tmp_path)) == 1
    assert (kept / LIBRARY / "__init__.py").stat().st_size == FILE_BYTES
    assert sum(slot.charge_bytes for slot in cache._slots.values()) < 2 * FILE_BYTES


def test_a_layer_without_trees_stays_for_the_next_until_room_is_needed(
    store: Counting, tmp_path: Path
) -> None:
    layer, mine = layer_of(store, tmp_path), code(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, FILE_BYTES + 50_000)
    cache.tree(FUNCTION, [mine, layer], "default")
    for number in range(4):  # small ones, that push the first tree out
        cache.tree(FUNCTION, [code(store, tmp_path, bytes([number]) * 9_000)])
        cache.tree(FUNCTION, [mine, layer], "default")
    assert sum(key.endswith(layer) for key in store.fetched) == 1
    cache.tree(FUNCTION, [code(store, tmp_path, b"x" * FILE_BYTES)])
    assert layers_on_disk(tmp_path) == set()


def test_a_layer_goes_with_its_last_tree_when_that_was_used_late(
    store: Counting, tmp_path: Path
) -> None:
    layer, mine = layer_of(store, tmp_path), code(store, tmp_path)
    cache = CodeCache(tmp_path / "code", store, 3 * FILE_BYTES)
    cache.tree(FUNCTION, [mine, layer], "default")
    cache.tree(FUNCTION, [code(store, tmp_path, b"other")])
    cache.tree(FUNCTION, [mine, layer], "default")
    last = cache.tree(FUNCTION, [code(store, tmp_path, b"x" * 3 * FILE_BYTES)])
    assert slots(tmp_path) == {last.parent.name}


def test_the_next_process_knows_what_is_shared(store: Counting, tmp_path: Path) -> None:
    layer, mine = layer_of(store, tmp_path), code(store, tmp_path)
    CodeCache(tmp_path / "code", store, 100 * MIB).tree(FUNCTION, [mine, layer], "default")
    other = again(store, tmp_path)
    assert FILE_BYTES < sum(slot.charge_bytes for slot in other._slots.values()) < 2 * FILE_BYTES
    more = code(store, tmp_path, b"more")
    tree = other.tree(FUNCTION, [more, layer], "default")
    assert store.fetched == [object_key(FUNCTION, more)]
    again(store, tmp_path, bytes_max=1)
    assert slots(tmp_path) == set()
    assert not tree.exists()


# --- damage, crashes, other processes ------------------------------------------------------------


def test_damage_to_a_shared_file_is_found_and_mended_for_each_tree(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = layer_of(store, tmp_path)
    stacks = [[code(store, tmp_path, text), layer] for text in (b"1", b"2")]
    trees = [cache.tree(FUNCTION, stack, "default") for stack in stacks]
    (trees[0] / LIBRARY / "__init__.py").write_bytes(b"cut")
    other = again(store, tmp_path)
    for stack in stacks:
        tree = other.tree(FUNCTION, stack, "default")
        assert (tree / LIBRARY / "__init__.py").stat().st_size == FILE_BYTES
    assert sum(key.endswith(layer) for key in store.fetched) == 1
    assert scratch(tmp_path) == []


def test_damage_is_not_linked_on_by_a_process_that_had_found_the_layer_whole(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = layer_of(store, tmp_path)
    mine, other = ([code(store, tmp_path, text), layer] for text in (b"1", b"2"))
    cache.tree(FUNCTION, mine, "default")
    tree = again(store, tmp_path).tree(FUNCTION, other, "default")
    (tree / LIBRARY / "__init__.py").write_bytes(b"cut")
    assert cache.tree(FUNCTION, other, "default") == tree
    assert (tree / LIBRARY / "__init__.py").stat().st_size == FILE_BYTES


@pytest.mark.parametrize("at", ["linked", "kept", "named"])
def test_a_process_killed_while_it_links_leaves_no_use_behind(
    at: str, store: Counting, tmp_path: Path
) -> None:
    layer, mine = layer_of(store, tmp_path), code(store, tmp_path)
    child = start(f"at = {at!r}\n{KILLED}", tmp_path, store, mine, layer)
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    with child:
        child.send_signal(signal.SIGKILL)
    other = again(store, tmp_path)
    assert scratch(tmp_path) == []
    (name,) = layers_on_disk(tmp_path)
    uses = (tmp_path / "code" / name / "complete.json").stat().st_nlink - 1
    assert uses == (1 if at == "named" else 0)
    tree = other.tree(FUNCTION, [mine, layer], "default")
    assert (tree / LIBRARY / "__init__.py").stat().st_nlink == 2
    assert sum(key.endswith(layer) for key in store.fetched) == 0
    again(store, tmp_path, bytes_max=1)
    assert slots(tmp_path) == set()


def test_processes_share_one_layer_and_none_takes_it_from_another(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer, mine = layer_of(store, tmp_path), code(store, tmp_path)
    script = """
cache = CodeCache(root, store, 1 << 30)
say("ready")
sys.stdin.readline()
tree = cache.pinned_tree(sys.argv[3], layers, "default")
say((tree / ".hearth/site-packages/lib/__init__.py").stat().st_ino)
sys.stdin.readline()
"""
    own = [code(store, tmp_path, text) for text in (b"1", b"2", b"3")]
    children = [start(script, tmp_path, store, text, layer) for text in own]
    inodes = set()
    for step in (b"ready", b""):
        for child in children:
            assert child.stdout is not None
            assert child.stdin is not None
            line = child.stdout.readline().strip()
            assert not step or line == step
            inodes |= set() if step else {int(line)}
            child.stdin.write(b"\n" if step else b"")
            child.stdin.flush()
    tree = cache.tree(FUNCTION, [mine, layer], "default")
    assert inodes == {(tree / LIBRARY / "__init__.py").stat().st_ino}
    again(store, tmp_path, bytes_max=1)  # another node's process in want of room
    assert len(layers_on_disk(tmp_path)) == 1, "the others' trees are pinned, and use it"
    for child in children:
        with child:
            child.send_signal(signal.SIGKILL)
    again(store, tmp_path, bytes_max=1)
    assert slots(tmp_path) == set()


def test_a_file_that_can_have_no_more_names_is_copied(
    cache: CodeCache, store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(store, tmp_path)
    real = os.link

    def link(source: str, *names: str, **more: Any) -> None:
        if str(source).endswith("tool"):
            raise OSError(errno.EMLINK, "Too many links")
        real(source, *names, **more)

    monkeypatch.setattr("storage.tree.os.link", link)
    tree = cache.tree(FUNCTION, [code(store, tmp_path), layer], "default")
    facts = (tree / LIBRARY / "tool").stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_size, facts.st_nlink) == (0o755, 10, 1)
