"""Making images, as far as it needs no Podman: contexts, locked wheels, words of failure."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core.settings import Settings
from runtimes import images
from runtimes import recipes as book
from runtimes.images import ImageFailed, Kitchen
from runtimes.recipes import Wheel

Wheelwright = Callable[[str], Wheel]


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    """A kitchen whose pip knows no index but a folder."""
    environ = {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }
    made = Kitchen(Settings.from_env({"HEARTH_DATA_DIR": str(tmp_path / "data")}), environ)
    made.folder.mkdir(parents=True)
    return made


@pytest.fixture
def wheel(tmp_path: Path) -> Wheelwright:
    """Makes a wheel of two files and a lock with the hash it is given, or with none."""

    def make(digest: str) -> Wheel:
        path = tmp_path / "wheels" / "thing-1.0-py3-none-any.whl"
        path.parent.mkdir(exist_ok=True)
        _write_wheel(path)
        right = hashlib.sha256(path.read_bytes()).hexdigest()
        lock = tmp_path / "thing.lock"
        proof = f" --hash=sha256:{digest or right}" if digest != "none" else ""
        lock.write_text(f"thing==1.0{proof}\n")
        parts = {"thing/bin/": "tool/bin/", "thing/lib/": "tool/lib/"}
        return Wheel(lock, parts, {"tool/bin/short": "../lib/data"})

    return make


def _write_wheel(path: Path) -> None:
    files = {
        "thing/bin/run": (0o755, b"#!/bin/sh\n"),
        "thing/lib/data": (0o600, b"data"),
        "thing/left-out": (0o644, b""),
        "thing-1.0.dist-info/METADATA": (
            0o644,
            b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        ),
        "thing-1.0.dist-info/WHEEL": (
            0o644,
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
    }
    record = "".join(f"{name},sha256={_record(data)},\n" for name, (_, data) in files.items())
    files["thing-1.0.dist-info/RECORD"] = (0o644, record.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, (mode, data) in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, data)


def _record(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_a_wheels_parts_land_with_their_rights_and_one_time_for_all(
    kitchen: Kitchen, wheel: Wheelwright, tmp_path: Path
) -> None:
    images._unpack_wheel(kitchen, wheel(""), tmp_path / "context")
    tool = tmp_path / "context" / "tool"
    assert {p.relative_to(tool).as_posix() for p in tool.rglob("*") if p.is_file()} == {
        "bin/run",
        "bin/short",
        "lib/data",
    }
    assert (tool / "bin/run").stat().st_mode & 0o777 == 0o755
    assert (tool / "lib/data").stat().st_mode & 0o777 == 0o644
    assert (tool / "lib/data").stat().st_mtime == book.SOURCE_DATE_EPOCH
    assert (tool / "bin/short").read_bytes() == b"data"
    assert list(kitchen.folder.iterdir()) == []


@pytest.mark.parametrize("digest", ["0" * 64, "none"])
def test_a_wheel_that_is_not_the_locked_one_is_refused(
    kitchen: Kitchen, wheel: Wheelwright, tmp_path: Path, digest: str
) -> None:
    with pytest.raises(ImageFailed, match=r"thing\.lock"):
        images._unpack_wheel(kitchen, wheel(digest), tmp_path / "context")
    assert not (tmp_path / "context").exists()


def test_a_context_holds_the_shim_of_now_and_nothing_it_held_before(kitchen: Kitchen) -> None:
    recipe = next(r for r in book.recipes() if r.name == "node24")
    stale = kitchen.folder / "node24" / "shim" / "old.mjs"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    context = images._context(kitchen, recipe, with_wheel=False)
    held = {path.name for path in (context / "shim").iterdir()}
    assert held == {path.name for path in recipe.sources()} >= {"shim.mjs", "launcher.py"}
    assert list((context / "node").iterdir()) == []
    assert list((context / "npm").iterdir()) == []


def test_a_name_nobody_knows_is_answered_with_those_there_are(kitchen: Kitchen) -> None:
    with pytest.raises(ImageFailed, match=r"'ruby'.*python3\.13, python3\.13-builder"):
        images.build(kitchen, ["ruby"])


def test_the_last_words_of_a_failing_command_are_shown() -> None:
    loud = "import sys; print('early'); print('x\\n' * 50 + 'the reason'); sys.exit(3)"
    with pytest.raises(ImageFailed) as failed:
        images._run([sys.executable, "-c", loud], {}, "making tea")
    assert "making tea failed" in str(failed.value)
    assert "the reason" in str(failed.value)
    assert "early" not in str(failed.value)


def test_a_missing_program_says_how_to_get_it(kitchen: Kitchen) -> None:
    with pytest.raises(ImageFailed, match="make setup"):
        images._run(["no-such-program"], {}, "making tea")
    nowhere = Kitchen(kitchen.settings, {"PATH": "/nowhere"})
    with pytest.raises(ImageFailed, match="make setup"):
        images._inspect(nowhere, "localhost/none")


def test_a_setting_names_the_base_of_its_own_runtime_alone() -> None:
    settings = Settings.from_env({"HEARTH_NODE_BASE_IMAGE": "node:24"})
    bases = {r.name: Kitchen(settings, {}).base_of(r) for r in book.recipes()}
    assert bases["node24"] == bases["node24-builder"] == "node:24"
    assert bases["python3.13"] == book.BASE_IMAGE


def test_whoever_is_not_root_is_told_so_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert images.main(["list"]) == 1
    assert "sudo" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["bake"], [], ["build", "--fast"]])
def test_a_command_nobody_knows_is_a_usage_error(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        images.main(argv)
    assert left.value.code == 2
