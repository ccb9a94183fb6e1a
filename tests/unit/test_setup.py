"""infra/setup.py: asks apt for what is missing and nothing else, and knows what is done."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, over a checkout and a system of its own."""
    spec = importlib.util.spec_from_file_location("hearth_setup", ROOT / "infra" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("bin", "etc"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "POLICY", tmp_path / "etc" / "policy-rc.d")
    monkeypatch.setattr(module, "CLUSTERS", tmp_path / "etc" / "pg" / "createcluster.conf")
    monkeypatch.setattr(module, "_search_path", lambda: str(tmp_path / "bin"))
    monkeypatch.setattr(module, "_dpkg_knows", lambda _: False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return module


@pytest.fixture
def apt(tmp_path: Path) -> Callable[[int], Path]:
    """Puts an apt-get on PATH that writes down how it was called, and ends with a status."""

    def make(status: int) -> Path:
        log = tmp_path / "apt.log"
        program = tmp_path / "bin" / "apt-get"
        policy = tmp_path / "etc" / "policy-rc.d"
        program.write_text(
            f'#!/bin/sh\necho "$* policy=$(test -x {policy} && echo on)" >> {log}\n'
            f'echo "E: what apt says" >&2\nexit {status}\n'
        )
        program.chmod(0o755)
        return log

    return make


def test_nothing_is_asked_of_apt_while_nothing_is_missing(
    setup: ModuleType, apt: Callable[[int], Path], tmp_path: Path
) -> None:
    log = apt(0)
    (tmp_path / "bin" / "thing").write_text("")
    (tmp_path / "bin" / "thing").chmod(0o755)
    assert setup.install_packages({"thing": "thing"}) == "all 1 there"
    assert not log.exists()


def test_only_what_is_missing_is_installed_and_no_service_starts_meanwhile(
    setup: ModuleType,
    apt: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    log = apt(0)
    packages = {"thing": "no-such-thing", "ca": str(tmp_path / "bin"), "postgresql": "/no/such"}
    setup.install_packages(packages)
    update, install = log.read_text().splitlines()
    assert " update policy=on" in update
    assert install.endswith("install --yes --no-install-recommends thing postgresql policy=on")
    assert not setup.POLICY.exists()
    assert "create_main_cluster = false" in setup.CLUSTERS.read_text()


def test_a_failing_apt_is_quoted_and_leaves_no_switch_behind(
    setup: ModuleType, apt: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    apt(100)
    with pytest.raises(setup.SetupFailed, match=r"(?s)E: what apt says.*Next:"):
        setup.install_packages({"thing": "no-such-thing"})
    assert not setup.POLICY.exists()


def test_an_administrators_own_switch_is_left_alone(
    setup: ModuleType, apt: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    apt(0)
    setup.POLICY.write_text("theirs")
    setup.install_packages({"thing": "no-such-thing"})
    assert setup.POLICY.read_text() == "theirs"


def test_a_switch_that_a_killed_setup_left_is_taken_away(
    setup: ModuleType, apt: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    apt(0)
    setup.POLICY.write_text(setup.POLICY_TEXT)
    setup.install_packages({"thing": "no-such-thing"})
    assert not setup.POLICY.exists()


def test_a_system_without_apt_is_told_what_to_install(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(setup.SetupFailed, match=r"(?s)missing: thing.*no apt-get.*Next:"):
        setup.install_packages({"thing": "no-such-thing"})


def test_a_user_without_sudo_is_told_what_root_must_do(
    setup: ModuleType,
    apt: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apt(0)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(setup.SetupFailed, match="no sudo"):
        setup.install_packages({"thing": "no-such-thing"})


def test_an_old_python_is_refused_with_the_way_out(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "PYTHON_MIN", (99, 0))
    with pytest.raises(setup.SetupFailed, match=r"PYTHON=/path/to"):
        setup.check_python()


def test_a_lock_is_read_without_what_other_platforms_need(setup: ModuleType) -> None:
    text = (
        "one==1.0 \\\n    --hash=sha256:00\n"
        "Two_Two==2 \\\n    --hash=sha256:00\n"
        "win==3 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    assert setup.locked(text) == {"one": "1.0", "two-two": "2"}
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert len(setup.locked((ROOT / "infra" / name).read_text())) > 40


def test_what_is_installed_is_seen_by_name_and_version(setup: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "Two_Two-2.dist-info").mkdir(parents=True)
    (packages / "two_two").mkdir()
    assert setup._installed() == {"two-two": "2"}


def test_a_stamp_holds_until_the_file_or_its_place_changes(
    setup: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / ".venv").mkdir()
    lock, moved = tmp_path / "x.lock", tmp_path / "etc" / "x.lock"
    lock.write_text("a")
    assert not setup._stamped(lock)
    setup._stamp(lock)
    assert setup._stamped(lock)
    shutil.copy(lock, moved)
    assert not setup._stamped(moved)
    lock.write_text("b")
    assert not setup._stamped(lock)


def test_a_virtual_environment_is_kept_until_it_cannot_work(
    setup: ModuleType, tmp_path: Path
) -> None:
    venv = tmp_path / ".venv"
    assert setup._venv_version() == (0,)
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True)
    assert setup._venv_version() == sys.version_info[:2]
    config = (venv / "pyvenv.cfg").read_text()
    for broken in (
        config.replace(str(venv), "/elsewhere"),
        config.replace("version = 3", "version = 2"),
    ):
        (venv / "pyvenv.cfg").write_text(broken)
        assert setup._venv_version() == (0,)
    (venv / "pyvenv.cfg").write_text(config)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/no/such/python")
    assert setup._venv_version() == (0,)


def test_the_ci_runs_what_the_readme_tells_people_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MAKEFLAGS", raising=False)  # set when it is make that runs the tests
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    dry = ["make", "--dry-run", "--always-make", "test"]
    plan = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = [
        "setup.py --dev",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "runtimes.images",
        "pytest",
    ]
    places = [plan.index(word) for word in wanted]
    assert places == sorted(places)
