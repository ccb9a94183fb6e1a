"""A node dies in the middle, its guard too, or late: what either leaves is cleared, and nothing of
anybody else's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executor import cleanup, mounts
from executor.executor import Executor
from executor.podman import PodmanDriver
from tests.fixtures.life import Life, living
from tests.fixtures.nodes import PATIENCE_S, Bench
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import ECHO, PYTHON, Codes, Lines, event

pytestmark = pytest.mark.podman

SANDBOXES = 3

# A node in a process of its own, with sandboxes idle, busy and in the making.
NODE = """
import asyncio, os, sys, uvloop
from pathlib import Path
from core.settings import Settings
from executor.executor import Executor
from executor.podman import PodmanDriver
from tests.fixtures.sandboxes import Codes, Lines, event

async def main():
    settings = Settings.from_env()
    codes = Codes(Path(sys.argv[1]))
    driver = PodmanDriver(settings, codes.release)
    async with Executor(settings, driver, codes, Lines()) as executor:
        for number in range(3):
            source = "import time\\ndef handler(e, c):\\n  while e: pass\\n  return 1"
            version = codes.version(source, memory_mb=64)
            await executor.invoke(version, event(b"0"))
        busy = asyncio.create_task(executor.invoke(version, event(b"1")))
        starting = asyncio.create_task(executor.invoke(codes.version(source), event(b"0")))
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.sleep(3600)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
# As `python -m executor.guard`, which waits ten seconds for a gateway that is slow to die.
IMPATIENT_GUARD = "from executor import guard; guard._DYING_S = 0.5; guard.main()"


@pytest.fixture
def life(podman: PodmanService, tmp_path: Path) -> Iterator[Life]:
    made = Life(podman, tmp_path / "node-code", NODE)
    yield made
    made.close()


@contextmanager
def frozen(process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    """A process that does not get to run for a while."""
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_the_guard_clears_what_a_killed_node_left(life: Life, podman: PodmanService) -> None:
    life.start()
    assert life.freeze() >= SANDBOXES
    assert living(life.settings) >= SANDBOXES
    assert mounts.mounts_below(life.settings.run_dir) != []
    life.kill(life.node)
    assert life.guard is not None
    life.guard.wait(PATIENCE_S)
    podman.await_nothing_of(life.settings.run_dir)


def test_a_guard_is_deaf_to_what_ends_the_foreground(life: Life, podman: PodmanService) -> None:
    life.start()
    assert life.guard is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        life.guard.send_signal(number)
    life.kill(life.node)
    assert life.guard.wait(PATIENCE_S) == 0
    podman.await_nothing_of(life.settings.run_dir)


async def test_the_next_start_clears_what_a_killed_guard_left_and_nobody_elses(
    life: Life, podman: PodmanService, codes: Codes, lines: Lines
) -> None:
    async with Bench(codes, lines, podman).node() as other:
        version = codes.version(ECHO)
        await other.invoke(version, event())
        await asyncio.to_thread(life.start)
        life.freeze()
        life.kill(life.guard)
        life.kill(life.node)
        assert living(life.settings) >= SANDBOXES, "frozen ones cannot end by themselves"
        async with PodmanDriver(life.settings, codes.release):
            assert living(life.settings) == 0
            assert podman.containers(life.settings.run_dir) == []
        podman.await_nothing_of(life.settings.run_dir)
        assert not (await other.invoke(version, event())).cold


async def test_the_next_start_removes_containers_that_nobody_lives_in_any_more(
    life: Life, podman: PodmanService, codes: Codes
) -> None:
    """As when a guard was killed between killing and removing."""
    await asyncio.to_thread(life.start)
    life.kill(life.guard)
    names = podman.containers(life.settings.run_dir)
    monitors = podman.podman("inspect", "--format", "{{.State.ConmonPid}}", *names).split()
    for pid in monitors:
        os.kill(int(pid), signal.SIGKILL)
    life.kill(life.node)
    cleanup._kill_all(cleanup.group_of(life.settings.run_dir))
    assert set(podman.containers(life.settings.run_dir)) >= set(names)
    async with PodmanDriver(life.settings, codes.release):
        assert podman.containers(life.settings.run_dir) == []
    podman.await_nothing_of(life.settings.run_dir)


async def test_a_guard_that_comes_late_leaves_the_next_node_alone(
    life: Life, podman: PodmanService, codes: Codes, lines: Lines
) -> None:
    await asyncio.to_thread(life.start, ("-c", IMPATIENT_GUARD))
    driver = PodmanDriver(life.settings, codes.release)
    with frozen(life.guard):
        life.kill(life.node)
        executor = Executor(life.settings, driver, codes, lines)
        await executor.__aenter__()
    try:
        version = codes.version(ECHO)
        await executor.invoke(version, event())
        assert life.guard is not None
        assert await asyncio.to_thread(life.guard.wait, PATIENCE_S) == 0
        assert not (await executor.invoke(version, event())).cold
        assert (await executor.invoke(codes.version(ECHO), event())).status == 200
    finally:
        await executor.__aexit__(None, None, None)
    podman.await_nothing_of(life.settings.run_dir)


async def test_a_node_starts_after_one_that_is_being_cleared(
    life: Life, podman: PodmanService, codes: Codes
) -> None:
    """The guard was quicker: the next node waits for it to end."""
    await asyncio.to_thread(life.start)
    life.freeze()
    life.kill(life.node)
    async with PodmanDriver(life.settings, codes.release) as driver:
        assert living(life.settings) == 0
        stem = await driver.boot(PYTHON, "none")
        driver.close(stem)
    podman.await_nothing_of(life.settings.run_dir)


async def test_podman_killed_in_the_middle_of_many_boots_loses_nothing(
    podman: PodmanService, codes: Codes, lines: Lines
) -> None:
    settings = podman.settings(stems=0)
    async with Executor(settings, PodmanDriver(settings, codes.release), codes, lines) as executor:
        versions = [codes.version(ECHO, memory_mb=64) for _ in range(8)]
        calls = [asyncio.create_task(executor.invoke(v, event())) for v in versions]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(podman.stop)
        await asyncio.to_thread(podman.start)
        await asyncio.gather(*calls, return_exceptions=True)
        for version in versions:
            assert (await executor.invoke(version, event())).status == 200
    assert not codes.held
    podman.await_nothing_of(settings.run_dir)
