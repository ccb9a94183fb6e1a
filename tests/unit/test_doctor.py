"""hearth doctor: facts in, checks out; every check that fails says how to mend it."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cli import doctor as subject
from cli import facts as looking
from cli.facts import Facts
from core.settings import Settings

IMAGE = {"name": "python3.13", "id": "abc", "ready": True, "created": "2026-01-01T00:00:00Z"}
SOUND = Facts(
    uid=0,
    capabilities=2**40 - 1,
    python=(3, 11, 2),
    podman="4.3.1",
    podman_says="",
    storage_driver="overlay",
    storage_dir=Path("/var/lib/containers/storage"),
    conf=Path("/srv/hearth/containers.conf"),
    conf_says="",
    container="works",
    cgroups="v2",
    controllers=frozenset({"memory", "cpu", "pids", "freezer", "io"}),
    network_programs={"netavark": "/a", "aardvark-dns": "/b", "iptables": "/c"},
    iptables_says="",
    mmdebstrap="/usr/bin/mmdebstrap",
    redis_server="/usr/bin/redis-server",
    ca_bundle="/etc/ssl/certs/ca-certificates.crt",
    nofile=65536,
    address="free",
    data_dir_says="",
    data_free_bytes=10 * 1024**3,
    storage_free_bytes=10 * 1024**3,
    memory_bytes=4 * 1024**3,
    images=(IMAGE,),
    images_say="",
)

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("root", {"uid": 1000}),
    ("capabilities", {"capabilities": 2**40 - 1 - 2**21}),
    ("open files", {"nofile": 256}),
    ("memory", {"memory_bytes": 512 * 1024**2}),
    ("python", {"python": (3, 9, 2)}),
    ("mmdebstrap", {"mmdebstrap": ""}),
    ("redis-server", {"redis_server": ""}),
    ("certificates", {"ca_bundle": ""}),
    ("podman", {"podman": "", "podman_says": "not installed"}),
    ("podman", {"podman": "3.4.4"}),
    ("storage", {"storage_driver": "vfs"}),
    ("containers.conf", {"conf_says": "no OCI runtime can start a container here"}),
    ("a container runs", {"container": "runc: no such cgroup"}),
    ("cgroups", {"cgroups": "none", "controllers": frozenset()}),
    ("cgroups", {"controllers": frozenset({"cpu", "pids", "freezer"})}),
    ("network programs", {"network_programs": {"netavark": "", "iptables": "/c"}}),
    ("firewall", {"iptables_says": "Permission denied"}),
    ("data directory", {"data_dir_says": "Read-only file system"}),
    ("room for data", {"data_free_bytes": 1024}),
    ("room for images", {"storage_free_bytes": 1024}),
    ("address", {"address": "Address already in use"}),
    ("images", {"images": (), "images_say": "podman does not answer"}),
    ("image python3.13", {"images": ({**IMAGE, "ready": False},)}),
    ("image python3.13", {"images": ({**IMAGE, "ready": False, "id": ""},)}),
]


def judge(settings: Settings | None = None, **found: Any) -> list[subject.Check]:
    """The checks of a sound machine, but for what is named."""
    facts = dataclasses.replace(SOUND, **found)
    return subject.judge(facts, settings or Settings.from_env({}))


def test_a_sound_machine_passes_every_check_and_needs_no_mending() -> None:
    assert [check for check in judge() if not check.ok or check.mend] == []


@pytest.mark.parametrize(("name", "found"), FAULTS)
def test_each_fault_fails_its_own_check_and_says_how_to_mend_it(
    name: str, found: dict[str, Any]
) -> None:
    failed = [check for check in judge(**found) if not check.ok]
    assert [check.name for check in failed] == [name]
    assert failed[0].mend and failed[0].says


def test_every_kind_of_check_has_a_fault_above() -> None:
    tested = {name for name, _ in FAULTS} | {"run directory"}
    assert {check.name for check in judge()} <= tested


def test_a_run_directory_too_long_for_a_socket_is_found() -> None:
    settings = Settings.from_env({"HEARTH_RUN_DIR": "/run/" + "x" * 60})
    assert [check.name for check in judge(settings) if not check.ok] == ["run directory"]


def test_what_settings_replace_is_not_needed() -> None:
    environ = {
        "HEARTH_REDIS_URL": "redis://127.0.0.1",
        "HEARTH_PYTHON_BASE_IMAGE": "python:3.13-slim",
        "HEARTH_NODE_BASE_IMAGE": "node:24",
    }
    checks = judge(Settings.from_env(environ), redis_server="", mmdebstrap="")
    assert [check.name for check in checks if not check.ok] == []


def test_an_old_base_image_is_told_but_stands_in_nobodys_way() -> None:
    base = {**IMAGE, "name": "base", "created": "2020-01-01T00:00:00.123456789Z"}
    (check,) = [check for check in judge(images=(base,)) if check.name == "image base"]
    assert check.ok
    assert "--refresh" in check.mend


def test_whoever_is_not_root_hears_of_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    checks = subject.run_checks(Settings.from_env({}))
    assert [(check.name, check.ok) for check in checks] == [("root", False)]


def test_a_setting_that_cannot_be_used_is_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEARTH_STEMS", "many")
    assert subject.doctor(json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert "HEARTH_STEMS" in answer["checks"][0]["says"]


@pytest.mark.parametrize(("uid", "status"), [(0, 0), (1000, 1)])
def test_the_exit_status_tells_whether_anything_failed(
    uid: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = dataclasses.replace(SOUND, uid=uid)
    monkeypatch.setattr(subject, "run_checks", lambda s: subject.judge(facts, s))
    assert subject.doctor(json=True) == status
    assert json.loads(capsys.readouterr().out)["ok"] is (status == 0)


def test_the_table_shows_square_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    subject.render([subject.Check("address", ok=False, says="[::1]:80 is in use", mend="[other]")])
    out = capsys.readouterr().out
    assert "[::1]:80 is in use" in out
    assert "[other]" in out


def test_an_address_in_use_is_told_from_a_free_one_and_from_our_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environ = {"HEARTH_ADDRESS": address, "HEARTH_RUN_DIR": str(tmp_path)}
        settings = Settings.from_env(environ)
        assert looking._address(settings) == "Address already in use"
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind(str(settings.internal_socket))
            ours.listen()
            assert looking._address(settings) == "ours"
    assert looking._address(Settings.from_env({**environ, "HEARTH_RUN_DIR": "/nowhere"})) == "free"


def test_a_data_directory_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert looking._unwritable(tmp_path / "new") == ""
    assert list((tmp_path / "new").iterdir()) == []
    assert looking._unwritable(file / "below") == "Not a directory"
