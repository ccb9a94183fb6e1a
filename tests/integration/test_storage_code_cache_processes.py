"""The code cache across processes: restarts, crashes, and several of them at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.limits import MIB
from storage.archive import pack_tree
from storage.code_cache import CodeCache, TreeGone
from tests.fixtures.archives import facts_of
from tests.fixtures.counting_store import FUNCTION, Counting, again, code, put, scratch, slots

CHILD = """
import sys
from pathlib import Path
from storage.code_cache import CodeCache
from storage.directory import DirectoryStore

def say(word):
    print(word, flush=True)

root, store, layers = Path(sys.argv[1]), DirectoryStore(Path(sys.argv[2])), sys.argv[4:]
"""


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "objects")


@pytest.fixture
def cache(store: Counting, tmp_path: Path) -> Iterator[CodeCache]:
    cache = CodeCache(tmp_path / "code", store, 100 * MIB)
    yield cache
    cache.close()


def test_next_process_finds_the_tree_and_needs_no_store(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    tree = cache.tree(FUNCTION, [layer])
    assert again(store, tmp_path).tree(FUNCTION, [layer]) == tree
    assert store.fetched == []


@pytest.mark.parametrize("damage", ["truncated", "gone", "added", "no marker", "bad marker"])
def test_tree_that_is_not_what_it_was_is_made_anew(
    damage: str, cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    tree = cache.tree(FUNCTION, [layer])
    marker = tree.parent / "complete.json"
    if damage == "truncated":
        (tree / "main.py").write_bytes(b"")
    elif damage == "gone":
        (tree / "main.py").unlink()
    elif damage == "added":
        (tree / "more").mkdir()
    elif damage == "no marker":
        marker.unlink()
    else:
        marker.write_text("{")
    other = again(store, tmp_path)
    assert list(facts_of(other.tree(FUNCTION, [layer]))) == ["main.py"]
    assert (tree / "main.py").read_bytes() == b"x = 1\n"
    assert len(store.fetched) == 1
    assert scratch(tmp_path) == []


def test_tree_removed_by_hand_is_made_anew_even_while_pinned(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    tree = cache.pinned_tree(FUNCTION, [layer])
    shutil.rmtree(tree.parent)
    assert (cache.tree(FUNCTION, [layer]) / "main.py").exists()
    cache.unpin(tree)


def test_process_killed_while_it_makes_a_tree_leaves_no_half_of_it(
    store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    script = """
import storage.code_cache
real = storage.code_cache.overlay
def overlay(files, root):
    facts = real(files, root)
    say("laid")
    sys.stdin.read()
storage.code_cache.overlay = overlay
CodeCache(root, store, 1 << 30).tree(sys.argv[3], layers)
"""
    child = start(script, tmp_path, store, layer)
    assert child.stdout is not None
    assert child.stdout.readline() == b"laid\n"
    assert slots(tmp_path) == set()
    assert len(scratch(tmp_path)) == 1
    other = again(store, tmp_path)
    assert len(scratch(tmp_path)) == 1  # its maker lives
    with child:
        child.send_signal(signal.SIGKILL)
    other = again(store, tmp_path)
    assert scratch(tmp_path) == []
    assert (other.tree(FUNCTION, [layer]) / "main.py").exists()


# --- several processes ---------------------------------------------------------------------------


def start(script: str, tmp_path: Path, store: Counting, *layers: str) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "code"), str(store._root), FUNCTION, *layers]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_processes_that_make_the_same_tree_at_once_do_not_collide(
    store: Counting, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    for number in range(200):
        (tmp_path / "source" / f"{number}.py").write_bytes(os.urandom(500))
    pack_tree(tmp_path / "source", tmp_path / "a.tar")
    layer = put(store, tmp_path / "a.tar")
    script = """
cache = CodeCache(root, store, 1 << 30)
say("ready")
sys.stdin.readline()
tree = cache.pinned_tree(sys.argv[3], layers)
say(len(list(tree.iterdir())))
"""
    children = [start(script, tmp_path, store, layer) for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        with child:
            assert child.communicate()[0] == b"200\n"
    assert len(slots(tmp_path)) == 1
    assert scratch(tmp_path) == []


def test_tree_pinned_by_another_process_is_not_evicted_until_that_ends(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    script = """
CodeCache(root, store, 1 << 30).pinned_tree(sys.argv[3], layers)
say("pinned")
sys.stdin.read()
"""
    child = start(script, tmp_path, store, layer)
    assert child.stdout is not None
    assert child.stdout.readline() == b"pinned\n"
    assert cache.tree(FUNCTION, [layer]).is_dir()
    again(store, tmp_path, bytes_max=1)
    assert len(slots(tmp_path)) == 1
    with child:
        child.send_signal(signal.SIGKILL)
    again(store, tmp_path, bytes_max=1)
    assert slots(tmp_path) == set()


def test_tree_evicted_by_another_process_is_made_anew(
    cache: CodeCache, store: Counting, tmp_path: Path
) -> None:
    layer = code(store, tmp_path)
    tree = cache.tree(FUNCTION, [layer])
    again(store, tmp_path, bytes_max=1)
    assert not tree.exists()
    with pytest.raises(TreeGone):
        cache.pin(tree)
    assert (cache.pinned_tree(FUNCTION, [layer]) / "main.py").exists()
