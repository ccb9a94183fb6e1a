"""Control groups over a made-up tree: what would be written where, on both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from executor import cgroup
from executor.cgroup import Limits, SandboxCgroup, limit_writes

LIMITS = Limits(memory_bytes=128 * 1024 * 1024, cpus=0.5)
PATH = "/hearth-feed/0a1b"


def v2_tree(root: Path, *groups: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    (root / "cgroup.subtree_control").write_text("")
    for group in groups:
        (root / group).mkdir(parents=True)


def v1_tree(root: Path, *groups: str) -> None:
    for part in ("memory", "cpu", "cpuacct", "pids", "freezer", "devices"):
        for group in groups:
            (root / part / group).mkdir(parents=True)


def test_limits_on_v1_are_written_memory_first_then_with_swap() -> None:
    assert limit_writes(LIMITS, v2=False) == [
        ("memory", "memory.limit_in_bytes", "134217728"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
    ]


def test_limits_on_v2_forbid_swap_first() -> None:
    assert limit_writes(LIMITS, v2=True) == [
        ("", "memory.swap.max", "0"),
        ("", "memory.max", "134217728"),
        ("", "cpu.max", "50000 100000"),
    ]


def test_the_smallest_share_is_what_the_kernel_takes() -> None:
    assert limit_writes(Limits(1, 0.001), v2=True)[-1] == ("", "cpu.max", "1000 100000")


def test_v2_groups_hand_their_controllers_down(tmp_path: Path) -> None:
    v2_tree(tmp_path, "hearth-feed")
    (tmp_path / "hearth-feed" / "cgroup.subtree_control").write_text("")
    SandboxCgroup(PATH, tmp_path).make()
    for folder in (tmp_path, tmp_path / "hearth-feed"):
        assert (folder / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert (tmp_path / "hearth-feed" / "0a1b").is_dir()


def test_v2_limits_stand_on_our_group_and_not_on_the_containers(tmp_path: Path) -> None:
    group = SandboxCgroup(PATH, tmp_path)
    v2_tree(tmp_path, "hearth-feed/0a1b/libpod-1")
    group = SandboxCgroup(PATH, tmp_path)
    folder = tmp_path / "hearth-feed" / "0a1b"
    for name in ("memory.max", "cpu.max"):  # no swap accounting: that file is missing
        (folder / name).write_text("")
    group.limit(LIMITS)
    assert (folder / "memory.max").read_text() == "134217728"
    assert (folder / "cpu.max").read_text() == "50000 100000"


def test_limits_on_a_group_that_is_gone_are_an_error(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    with pytest.raises(OSError, match=r"memory\.max"):
        SandboxCgroup(PATH, tmp_path).limit(LIMITS)


@pytest.mark.parametrize(
    ("events", "ran_out"),
    [
        ("low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n", False),
        ("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n", True),
        ("", False),
    ],
)
def test_v2_counts_kills_of_the_whole_group(tmp_path: Path, events: str, ran_out: bool) -> None:
    v2_tree(tmp_path, "hearth-feed/0a1b")
    (tmp_path / "hearth-feed" / "0a1b" / "memory.events").write_text(events)
    group = SandboxCgroup(PATH, tmp_path)
    group.make()
    assert group.ran_out_of_memory() is ran_out
    group.forget_out_of_memory()
    assert not group.ran_out_of_memory()
    group.close()


def test_a_kill_counts_until_the_next_call_begins(tmp_path: Path) -> None:
    v2_tree(tmp_path, "hearth-feed/0a1b")
    events = tmp_path / "hearth-feed" / "0a1b" / "memory.events"
    events.write_text("oom_kill 1\n")
    group = SandboxCgroup(PATH, tmp_path)
    group.make()
    assert group.ran_out_of_memory()
    group.forget_out_of_memory()
    events.write_text("oom_kill 2\n")
    assert group.ran_out_of_memory()
    group.is_shared = True  # whose call it was cannot be told
    group.forget_out_of_memory()
    assert group.ran_out_of_memory()
    group.close()


def test_freezing_writes_what_each_version_takes(tmp_path: Path) -> None:
    v2_tree(tmp_path / "2", "hearth-feed/0a1b")
    v1_tree(tmp_path / "1", "hearth-feed/0a1b")
    v1 = tmp_path / "1" / "freezer" / "hearth-feed" / "0a1b" / "freezer.state"
    v2 = tmp_path / "2" / "hearth-feed" / "0a1b" / "cgroup.freeze"
    memory = tmp_path / "1" / "memory" / "hearth-feed" / "0a1b"
    for file in (v1, v2, memory / "memory.oom_control", memory / "cgroup.event_control"):
        file.write_text("")
    for root, file, words in (("1", v1, ("FROZEN", "THAWED")), ("2", v2, ("1", "0"))):
        group = SandboxCgroup(PATH, tmp_path / root)
        group.make()
        group.thaw()
        assert file.read_text() == ""
        assert group.freeze()
        assert file.read_text() == words[0]
        group.thaw()
        assert file.read_text() == words[1]
        group.close()
        assert not group.freeze()


def test_a_group_that_was_never_made_cannot_be_frozen(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    group = SandboxCgroup(PATH, tmp_path)
    assert not group.freeze()
    group.thaw()


def test_version_1_keeps_an_empty_group_frozen(tmp_path: Path) -> None:
    v1_tree(tmp_path, "hearth-feed")
    state = tmp_path / "freezer" / "hearth-feed" / cgroup.STILL / "freezer.state"
    state.parent.mkdir()
    state.write_text("")
    cgroup.keep_frozen("/hearth-feed", tmp_path)
    assert state.read_text() == "FROZEN"


def test_version_2_needs_no_such_group(tmp_path: Path) -> None:
    v2_tree(tmp_path, "hearth-feed")
    cgroup.keep_frozen("/hearth-feed", tmp_path)
    assert list((tmp_path / "hearth-feed").iterdir()) == []


def test_a_group_without_events_did_not_run_out(tmp_path: Path) -> None:
    v2_tree(tmp_path)
    assert not SandboxCgroup(PATH, tmp_path).ran_out_of_memory()


def test_trees_on_v1_are_one_for_each_hierarchy_that_knows_the_group(tmp_path: Path) -> None:
    v1_tree(tmp_path, "hearth-feed/0a1b")
    (tmp_path / "blkio").mkdir()
    found = cgroup.trees(PATH, tmp_path)
    assert {tree.relative_to(tmp_path).parts[0] for tree in found} == {
        "memory", "cpu", "cpuacct", "pids", "freezer", "devices",
    }  # fmt: skip


def test_removal_takes_every_hierarchy_also_those_that_podman_made(tmp_path: Path) -> None:
    v1_tree(tmp_path, "hearth-feed/0a1b/libpod-1")
    assert SandboxCgroup(PATH, tmp_path).remove()
    assert cgroup.trees(PATH, tmp_path) == []
    assert cgroup.trees("/hearth-feed", tmp_path) != []


def test_one_hierarchy_in_use_does_not_keep_the_others(tmp_path: Path) -> None:
    v1_tree(tmp_path, "hearth-feed/0a1b")
    (tmp_path / "cpu" / "hearth-feed" / "0a1b" / "lives-here").write_text("")
    assert not SandboxCgroup(PATH, tmp_path).remove()
    assert cgroup.trees(PATH, tmp_path) == [tmp_path / "cpu" / "hearth-feed" / "0a1b"]


def test_processes_that_this_namespace_cannot_name_are_left_out(tmp_path: Path) -> None:
    v2_tree(tmp_path, "hearth-feed/0a1b/libpod-1")
    (tmp_path / "hearth-feed" / "0a1b" / "cgroup.procs").write_text("")
    (tmp_path / "hearth-feed" / "0a1b" / "libpod-1" / "cgroup.procs").write_text("0\n17\n0\n4\n")
    assert sorted(cgroup.processes("/hearth-feed", tmp_path)) == [4, 17]


def test_kill_thaws_before_it_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v1_tree(tmp_path, "hearth-feed/0a1b")
    frozen = tmp_path / "freezer" / "hearth-feed" / "0a1b" / "freezer.state"
    frozen.write_text("FROZEN")
    (frozen.parent / "cgroup.procs").write_text("999999\n")
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, frozen.read_text())))
    assert cgroup.kill("/hearth-feed", tmp_path) == 1
    assert told == [(999999, "THAWED")]


def test_nothing_is_created_where_a_file_is_missing(tmp_path: Path) -> None:
    v2_tree(tmp_path, "hearth-feed")
    cgroup.thaw("/hearth-feed", tmp_path)
    assert list((tmp_path / "hearth-feed").iterdir()) == []
