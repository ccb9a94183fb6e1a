"""Reading a control group's accounts over a made-up tree, on both versions and an older kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.cgroup import SandboxCgroup
from executor.meter import GroupMeter

PATH = "/hearth-feed/0a1b"
CPU_STAT = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"


@pytest.fixture
def v1(tmp_path: Path) -> Iterator[SandboxCgroup]:
    for part, file, text in (
        ("cpuacct", "cpuacct.usage", "1500000\n"),
        ("memory", "memory.max_usage_in_bytes", "4096\n"),
    ):
        folder = tmp_path / part / PATH.lstrip("/")
        folder.mkdir(parents=True)
        (folder / file).write_text(text)
    yield SandboxCgroup(PATH, tmp_path)


@pytest.fixture
def v2(tmp_path: Path) -> Iterator[SandboxCgroup]:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    folder = tmp_path / PATH.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "cpu.stat").write_text(CPU_STAT)
    (folder / "memory.peak").write_text("4096\n")
    yield SandboxCgroup(PATH, tmp_path)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_cpu_and_peak_are_read_in_nanoseconds_and_bytes(
    version: str, request: pytest.FixtureRequest
) -> None:
    meter = GroupMeter(request.getfixturevalue(version))
    assert meter.can_reset  # it was tried: the first figure is the trial's
    assert (meter.cpu_ns(), meter.peak_bytes()) == (1_500_000, 96)
    meter.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_reset_begins_a_new_peak(version: str, request: pytest.FixtureRequest) -> None:
    group = request.getfixturevalue(version)
    part, name = ("", "memory.peak") if group.is_v2 else ("memory", "memory.max_usage_in_bytes")
    meter = GroupMeter(group)
    group.file(part, name).write_text("8192\n")
    assert meter.peak_bytes() == 8192
    meter.reset_peak()
    assert group.file(part, name).read_text().startswith("0")
    meter.close()


def test_a_peak_that_did_not_grow_goes_on_for_a_moment(v1: SandboxCgroup) -> None:
    file = v1.file("memory", "memory.max_usage_in_bytes")
    meter = GroupMeter(v1)

    def is_begun_anew(peak: int, age_max_s: float) -> bool:
        """Whether it is at the beginning of the next call, after one with this peak."""
        file.write_text(f"{peak}\n")
        assert meter.peak_bytes() == peak
        meter.reset_peak(age_max_s)
        return file.read_text().startswith("0")

    assert is_begun_anew(8192, 60)  # the first
    assert not is_begun_anew(8192, 60)
    assert is_begun_anew(8192, 0)  # too old
    assert is_begun_anew(1 << 20, 60)  # grown
    file.write_text("8192\n")
    meter.reset_peak(60)  # nobody looked what the call before needed
    assert file.read_text().startswith("0")
    meter.close()


def test_a_kernel_that_refuses_the_reset_is_noticed_and_its_peak_read(
    v2: SandboxCgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(fd: int, data: bytes, at: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "pwrite", refuses)
    meter = GroupMeter(v2)
    assert not meter.can_reset
    meter.reset_peak()
    assert meter.peak_bytes() == 4096
    meter.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_meter_of_nothing_reads_nothing(version: str, request: pytest.FixtureRequest) -> None:
    group = request.getfixturevalue(version)
    for name in ("cpu.stat", "memory.peak", "cpuacct.usage", "memory.max_usage_in_bytes"):
        for part in ("", "cpuacct", "memory"):
            group.file(part, name).unlink(missing_ok=True)
    meter = GroupMeter(group)
    assert (meter.can_reset, meter.cpu_ns(), meter.peak_bytes()) == (False, 0, 0)
    meter.reset_peak()
    meter.close()


def test_a_closed_meter_reads_nothing_and_closes_again(v2: SandboxCgroup) -> None:
    meter = GroupMeter(v2)
    for _ in range(2):
        meter.close()
    assert (meter.cpu_ns(), meter.peak_bytes()) == (0, 0)
    meter.reset_peak()
