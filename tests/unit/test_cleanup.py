"""Who may clear a run directory, and where its mounts are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor import cleanup, mounts

TABLE = rb"""22 1 0:20 / /proc rw - proc proc rw
30 22 0:1 / /run/n\040ode/sandboxes rw shared:9 - ext4 /dev/a rw
31 30 0:1 / /run/n\040ode/sandboxes/a/task ro - ext4 /dev/a rw
32 30 0:1 / /run/n\040ode/sandboxes-of-others rw - ext4 /dev/a rw
33 30 0:1 / /run/"""


def test_mounts_are_found_deepest_first_and_only_below(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(TABLE + b"\xff\\134b rw - ext4 /dev/a rw\n")
    assert mounts.mounts_below(Path("/run/n ode/sandboxes"), table) == [
        Path("/run/n ode/sandboxes/a/task"),
        Path("/run/n ode/sandboxes"),
    ]
    (odd,) = mounts.mounts_below(Path(os.fsdecode(b"/run/\xff\\b")), table)
    assert os.fsencode(odd) == b"/run/\xff\\b"


def test_mounts_are_found_through_a_link_to_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    table = tmp_path / "mountinfo"
    table.write_text(f"31 30 0:1 / {tmp_path}/real/code/1 ro - ext4 /dev/a rw\n")
    assert mounts.mounts_below(tmp_path / "link" / "code", table) == [tmp_path / "real/code/1"]


def test_one_process_at_a_time_holds_a_run_directory(tmp_path: Path) -> None:
    held = cleanup.hold(tmp_path, 0)
    with pytest.raises(cleanup.RunDirTaken):
        cleanup.hold(tmp_path, 0.01)
    cleanup.release(held)
    cleanup.release(cleanup.hold(tmp_path, 0))


def test_a_holder_that_dies_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from executor import cleanup\n"
        "cleanup.hold(pathlib.Path(sys.argv[1]), 0); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(cleanup.RunDirTaken):
            cleanup.hold(tmp_path, 0)
        holder.kill()
        holder.wait()
        cleanup.release(cleanup.hold(tmp_path, 0))


def test_a_node_s_tag_is_its_run_directory_s() -> None:
    assert cleanup.node_tag(Path("/a")) == cleanup.node_tag(Path("/a"))
    assert cleanup.node_tag(Path("/a")) != cleanup.node_tag(Path("/b"))


def test_nothing_is_deleted_through_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code" / "1"
    code.mkdir(parents=True)
    (code / "main.py").write_text("precious")
    monkeypatch.setattr(mounts, "mounts_below", lambda folder: [folder / "1"])
    monkeypatch.setattr(mounts, "unmount", lambda point: False)
    said = cleanup.clear(tmp_path)
    assert (code / "main.py").read_text() == "precious"
    assert any("still mounted" in line for line in said)
