"""Seats in hosts: shared by a namespace, and to everybody else sandboxes like any other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import FunctionCrashed, SandboxBroken
from core.limits import BOOTS_AT_ONCE_MAX
from core.model import Version
from core.settings import Settings
from executor import hosting
from executor.executor import Executor
from executor.process_driver import ProcessDriver
from executor.sandbox import Sandbox
from runtimes.registry import RUNTIMES, Runtime
from tests.fixtures import tiny_host
from tests.fixtures.nodes import leaks_nothing, open_descriptors
from tests.fixtures.sandboxes import PAYLOAD_BYTES_MAX, Codes, Lines, event

TINY = Runtime(
    name="tiny",
    short="tiny",
    image="",
    builder_image="",
    command=("python3", tiny_host.__file__),
    handler_default="main",
    suffixes=(".tiny",),
    folder=Path(tiny_host.__file__).parent,
    is_hosted=True,
    is_stocked=False,
)


class Bench:
    """A node that runs the tiny host."""

    def __init__(self, codes: Codes, executor: Executor, driver: ProcessDriver) -> None:
        self.codes, self.executor, self.driver = codes, executor, driver

    def version(self, namespace: str = "default", **config: Any) -> Version:
        version = self.codes.version("", runtime="tiny", **config)
        return Version(**{**_fields(version), "namespace": namespace})

    async def call(self, version: Version, said: Any = 1) -> Any:
        outcome = await self.executor.invoke(version, event(json.dumps(said).encode()))
        return json.loads(outcome.body) if outcome.failure is None else outcome.failure


def _fields(version: Version) -> dict[str, Any]:
    return {name: getattr(version, name) for name in version.__dataclass_fields__}


@pytest.fixture
async def bench(
    codes: Codes, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setitem(RUNTIMES, TINY.name, TINY)
    before = open_descriptors()
    driver = ProcessDriver(PAYLOAD_BYTES_MAX, codes.release)
    settings = Settings(stems=0, memory_budget_mb=100_000)
    async with Executor(settings, driver, codes, lines) as executor:
        yield Bench(codes, executor, driver)
    assert not codes.held
    await leaks_nothing(before)


async def test_functions_of_one_namespace_share_a_host_and_no_others(bench: Bench) -> None:
    first, second = bench.version(), bench.version()
    other = bench.version(namespace="other")
    pids = [(await bench.call(version))["pid"] for version in (first, second, other)]
    assert pids[0] == pids[1] != pids[2]
    assert bench.driver.booted == 2


async def test_a_seat_finds_its_own_code_and_its_lines_are_its_own(
    bench: Bench, lines: Lines
) -> None:
    version = bench.version()
    call = event(b"[1]")
    said = json.loads((await bench.executor.invoke(version, call)).body)
    assert said == {"event": [1], "pid": said["pid"], "seat": 1, "files": ["main.py"]}
    assert lines.of(call, "stderr") == ["serving"]


async def test_many_first_calls_at_once_make_one_host(bench: Bench) -> None:
    versions = [bench.version() for _ in range(12)]
    answers = await asyncio.gather(
        *(bench.call(version, at) for at, version in enumerate(versions))
    )
    assert [answer["event"] for answer in answers] == list(range(12))
    assert len({answer["seat"] for answer in answers}) == 12
    assert bench.driver.booted == 1


async def test_whoever_leaves_first_takes_the_host_from_nobody(bench: Bench) -> None:
    leaving = asyncio.create_task(bench.call(bench.version()))
    staying = asyncio.create_task(bench.call(bench.version(), "here"))
    while not bench.driver.booted:
        await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying)["event"] == "here"
    assert bench.driver.booted == 1


async def test_a_host_that_cannot_be_made_is_told_and_made_for_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(runtime: Runtime, network: str) -> Sandbox:
        raise SandboxBroken("no image")

    with monkeypatch.context() as patched, pytest.raises(SandboxBroken, match="no image"):
        patched.setattr(bench.driver, "boot", broken)
        await bench.call(bench.version())
    assert (await bench.call(bench.version(), "here"))["event"] == "here"
    assert bench.executor._stems.room == BOOTS_AT_ONCE_MAX  # no start counts as under way


async def test_the_end_of_a_host_is_that_of_its_seats_and_another_follows(bench: Bench) -> None:
    first, second = bench.version(), bench.version()
    pid = (await bench.call(first))["pid"]
    with pytest.raises(FunctionCrashed):
        await bench.call(second, "crash")
    while bench.executor.stats().idle:  # a process's connections end one after the other
        await asyncio.sleep(0.01)
    again = await bench.call(first)
    assert again["pid"] != pid
    assert again["seat"] == 1
    assert bench.driver.booted == 2


async def test_a_host_that_is_killed_while_it_rests_is_not_called_again(bench: Bench) -> None:
    version = bench.version()
    pid = (await bench.call(version))["pid"]
    os.kill(pid, signal.SIGKILL)
    while bench.executor.stats().idle:
        await asyncio.sleep(0.01)
    assert (await bench.call(version))["pid"] != pid


async def test_a_host_that_nobody_has_a_seat_in_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "HOST_KEEP_S", 0.01)
    version = bench.version()
    pid = (await bench.call(version))["pid"]
    bench.executor.retire(version.id)
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.01)
    assert not bench.codes.held
    assert bench.executor.stats().promised_mb == 0
    assert (await bench.call(bench.version()))["pid"] != pid


async def test_a_seat_taken_in_time_keeps_its_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "HOST_KEEP_S", 0.2)
    version = bench.version()
    pid = (await bench.call(version))["pid"]
    bench.executor.retire(version.id)
    other = bench.version()
    assert (await bench.call(other))["pid"] == pid
    await asyncio.sleep(0.3)
    assert (await bench.call(other))["pid"] == pid


async def test_want_of_memory_inside_a_host_is_the_calls_own_failure(bench: Bench) -> None:
    version = bench.version()
    failure = await bench.call(version, "memory")
    assert (failure.code, failure.message) == ("function_out_of_memory", "over 16 MB")
    assert (await bench.call(version))["seat"] == 1
