"""The choice of an OCI runtime: tried in order, written down with its reason, kept."""

from __future__ import annotations

import resource
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import host
from cli.host import HostUnfit, Rlimits, Trial

LIMITS = Rlimits(nofile=1000, nproc=500)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the trials; runc is what works."""
    counted: list[int] = []

    def try_runtimes(_: Rlimits) -> list[Trial]:
        counted.append(1)
        return [Trial("crun", works=False, says='hybrid "mode"'), Trial("runc", True, "works")]

    monkeypatch.setattr(host, "try_runtimes", try_runtimes)
    return counted


def test_the_file_is_made_once_and_kept(tmp_path: Path, tries: list[int]) -> None:
    path = host.ensure_containers_conf(tmp_path / "data")
    first = path.read_bytes()
    assert host.ensure_containers_conf(tmp_path / "data") == path
    assert path.read_bytes() == first
    assert len(tries) == 1


def test_another_kernel_means_trying_again(
    tmp_path: Path, tries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.ensure_containers_conf(tmp_path)
    monkeypatch.setattr(host, "cgroup_version", lambda: "another")
    host.ensure_containers_conf(tmp_path)
    assert len(tries) == 2


@pytest.mark.parametrize("text", ["", "# facts", "# facts 00\n", "\x00", "[engine]\n"])
def test_a_damaged_file_is_made_again(text: str, tmp_path: Path, tries: list[int]) -> None:
    (tmp_path / "containers.conf").write_text(text)
    path = host.ensure_containers_conf(tmp_path)
    assert tomllib.loads(path.read_text())["engine"]["runtime"] == "runc"
    assert [p.name for p in tmp_path.iterdir()] == ["containers.conf"]


def test_a_host_where_nothing_works_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [Trial("crun", False, "first reason"), Trial("runc", False, "second reason")]
    monkeypatch.setattr(host, "try_runtimes", lambda _: failed)
    with pytest.raises(HostUnfit, match=r"crun: first reason; runc: second reason"):
        host.ensure_containers_conf(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_text_is_toml_that_says_what_was_chosen() -> None:
    trials = [Trial("crun", works=False, says="broken"), Trial("runc", works=True, says="works")]
    text = host.conf_text("runc", trials, LIMITS, "f00")
    parsed = tomllib.loads(text)
    assert parsed["engine"] == {
        "runtime": "runc",
        "cgroup_manager": "cgroupfs",
        "events_logger": "none",
    }
    assert parsed["containers"]["default_ulimits"] == ["nofile=1000:1000", "nproc=500:500"]
    assert "# tried crun: broken\n" in text


def test_a_reason_of_several_lines_stays_a_comment() -> None:
    trial = Trial("crun", works=False, says='one\r\n\x1b[1m\x00[engine]\nruntime = "evil"')
    text = host.conf_text("runc", [trial], LIMITS, "")
    assert tomllib.loads(text)["engine"]["runtime"] == "runc"


def test_containers_get_no_limit_above_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(nofile: int, nproc: int) -> Callable[[int], tuple[int, int]]:
        table = {resource.RLIMIT_NOFILE: (1, nofile), resource.RLIMIT_NPROC: (1, nproc)}
        return lambda which: table[which]

    pids = int(host.PID_MAX.read_text())
    monkeypatch.setattr(resource, "getrlimit", limits(1234, 99))
    assert host.rlimits() == Rlimits(1234, 99)
    monkeypatch.setattr(resource, "getrlimit", limits(-1, -1))
    assert host.rlimits() == Rlimits(host.NOFILE_MAX, pids)


def test_cgroup_v1_and_v2_are_told_apart(tmp_path: Path) -> None:
    assert host.cgroup_version(tmp_path) == "none"
    for name in ("memory", "cpu,cpuacct", "freezer", "unified"):
        (tmp_path / name).mkdir()
    assert host.cgroup_version(tmp_path) == "v1"
    assert {"cpu", "memory", "freezer"} <= host.cgroup_controllers(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert host.cgroup_version(tmp_path) == "v2"
    assert host.cgroup_controllers(tmp_path) == {"cpu", "memory", "pids", "freezer"}


@pytest.mark.podman
def test_a_container_runs_with_the_file_made_for_this_host(tmp_path: Path) -> None:
    conf = host.ensure_containers_conf(tmp_path)
    assert host.try_container(conf).works


@pytest.mark.podman
def test_a_runtime_that_cannot_work_here_is_found_out(tmp_path: Path) -> None:
    conf = tmp_path / "containers.conf"
    conf.write_text('[engine]\nruntime = "no-such-runtime"\n')
    trial = host.try_container(conf)
    assert not trial.works
    assert "no-such-runtime" in trial.says
