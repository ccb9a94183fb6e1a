"""What may break under a driver: its own process, Podman's service, images, any sandbox."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.errors import FunctionCrashed, FunctionInitFailed, HearthError, SandboxBroken
from executor import cgroup, cleanup, handshake
from executor.podman import PodmanDriver
from executor.sandbox import Sandbox
from tests.fixtures.life import Life, living
from tests.fixtures.nodes import PATIENCE_S, Bench, bound, leaks_nothing, open_descriptors, until
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import ECHO, PAYLOAD_BYTES_MAX, PYTHON, Codes, Lines, event

pytestmark = pytest.mark.podman

# A node with a sandbox in every state that can be left behind.
NODE = """
import asyncio, sys, uvloop
from pathlib import Path
from core.settings import Settings
from executor.podman import PodmanDriver
from tests.fixtures.nodes import Bench, bound
from tests.fixtures.sandboxes import PYTHON, Codes, Lines, event

SOURCE = '''
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
def handler(e, c):
    while e: pass
'''

async def main():
    settings, codes = Settings.from_env(), Codes(Path(sys.argv[1]))
    bench = Bench(codes, Lines(), None)
    async with PodmanDriver(settings, codes.release) as driver:
        idle, busy, retiring, *frozen = [await bound(driver, bench, SOURCE) for _ in range(5)]
        stem, frozen_stem = [await driver.boot(PYTHON, "none") for _ in range(2)]
        for sandbox in (busy, frozen[0]):
            sandbox.call(event(b"1"))
        await asyncio.sleep(0.2)
        driver.retire(retiring, 3600)
        for sandbox in (*frozen, frozen_stem):
            assert driver.freeze(sandbox)
        booting = asyncio.create_task(driver.boot(PYTHON, "none"))
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.sleep(3600)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
SANDBOXES, FROZEN = 7, 3


@pytest.fixture
def life(podman: PodmanService, tmp_path: Path) -> Iterator[Life]:
    made = Life(podman, tmp_path / "node-code", NODE)
    yield made
    made.close()


def test_the_guard_clears_sandboxes_in_every_state(life: Life, podman: PodmanService) -> None:
    life.start()
    assert living(life.settings) >= SANDBOXES
    life.kill(life.node)
    assert life.guard is not None
    life.guard.wait(PATIENCE_S)
    podman.await_nothing_of(life.settings.run_dir)


async def test_the_next_start_clears_sandboxes_in_every_state(
    life: Life, podman: PodmanService, codes: Codes
) -> None:
    life.start()
    life.kill(life.guard)
    life.kill(life.node)
    assert living(life.settings) >= FROZEN, "frozen ones cannot end by themselves"
    async with PodmanDriver(life.settings, codes.release):
        assert living(life.settings) == 0
        assert podman.containers(life.settings.run_dir) == []
    podman.await_nothing_of(life.settings.run_dir)


# --- Podman's service ----------------------------------------------------------------------------


@pytest.fixture
def bench(codes: Codes, lines: Lines, podman: PodmanService) -> Bench:
    return Bench(codes, lines, podman)


@pytest.fixture
async def driver(bench: Bench) -> AsyncIterator[PodmanDriver]:
    """Leaves no descriptor, and nothing on the host."""
    before = open_descriptors()
    settings = bench.settings()
    async with PodmanDriver(settings, bench.codes.release) as driver:
        yield driver
    assert not bench.codes.held
    assert bench.service is not None
    await asyncio.to_thread(bench.service.await_nothing_of, settings.run_dir)
    await leaks_nothing(before)


async def nothing_is_held(driver: PodmanDriver, podman: PodmanService) -> None:
    """While the driver goes on: no sandbox has left anything."""
    run_dir = driver._settings.run_dir
    await until(lambda: not driver._parts)
    assert driver._uids_used == set()
    assert await asyncio.to_thread(podman.containers, run_dir) == []
    assert list(cgroup.processes(cleanup.group_of(run_dir))) == []
    assert {path.name for path in (run_dir / "sandboxes").iterdir()} <= {"hosts", "resolv.conf"}


async def test_podman_killed_again_and_again_under_load_loses_nothing(
    driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    """Boots and closes go on meanwhile, of busy, frozen and idle sandboxes."""
    done, random_ = asyncio.Event(), random.Random(7)
    told: Counter[str] = Counter()

    async def use() -> None:
        while not done.is_set():
            try:
                sandbox = await bound(driver, bench, ECHO)
            except HearthError:
                continue
            sandbox.on_gone = lambda s: told.update([s.id])
            if random_.random() < 0.5:
                assert driver.freeze(sandbox)
            elif random_.random() < 0.5:
                sandbox.call(event())
            await asyncio.sleep(random_.random() / 10)
            driver.close(sandbox)

    users = [asyncio.create_task(use()) for _ in range(4)]
    for _ in range(4):
        await asyncio.sleep(0.7)
        await asyncio.to_thread(podman.kill)
        await asyncio.sleep(random_.random() / 2)
        await asyncio.to_thread(podman.start)
    done.set()
    await asyncio.gather(*users)
    assert told
    assert set(told.values()) == {1}
    await nothing_is_held(driver, podman)
    sandbox = await bound(driver, bench, ECHO)
    assert (await sandbox.call(event(b"1"))).body == b"1"


async def test_sandboxes_go_on_and_end_while_podman_is_away(
    driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    kept, frozen, closed = [await bound(driver, bench, ECHO) for _ in range(3)]
    driver.freeze(frozen)
    gone: list[Sandbox] = []
    closed.on_gone = frozen.on_gone = gone.append
    await asyncio.to_thread(podman.kill)
    try:
        assert (await kept.call(event(b"1"))).body == b"1"
        driver.close(closed)
        driver.close(frozen)
        await until(lambda: len(gone) == 2)
        assert (await kept.call(event(b"2"))).body == b"2"
        with pytest.raises(HearthError, match="podman"):
            await driver.ping()
        with pytest.raises(HearthError, match="podman"):
            await driver.boot(PYTHON, "none")
    finally:
        await asyncio.to_thread(podman.start)
    await driver.ping()
    assert (await kept.call(event(b"3"))).body == b"3"
    driver.close(kept)
    await nothing_is_held(driver, podman)


# --- images --------------------------------------------------------------------------------------


async def test_an_image_that_is_deleted_is_missed_by_new_sandboxes_alone(
    driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    image = f"localhost/hearth-faults-{os.getpid()}:latest"
    runtime = dataclasses.replace(PYTHON, image=image)
    podman.podman("tag", PYTHON.image, image)
    try:
        stem = await driver.boot(runtime, "none")
        podman.podman("untag", image, image)  # with one word it would take every name off
        with pytest.raises(SandboxBroken, match="`hearth images build` makes it"):
            await driver.boot(runtime, "none")
        version = bench.codes.version(ECHO)
        await driver.bind(stem, version, await bench.codes.tree(version))
        await stem.init(version, bench.lines, PAYLOAD_BYTES_MAX)
        assert (await stem.call(event(b"1"))).body == b"1"
        podman.podman("tag", PYTHON.image, image)
        driver.close(await driver.boot(runtime, "none"))
        driver.close(stem)
        await nothing_is_held(driver, podman)
    finally:
        podman.podman("untag", image, image)


# --- a sandbox's first process -------------------------------------------------------------------

STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
def handler(e, c):
    print("begun", flush=True)
    while e: pass
"""


class Ends:
    """Counts what is told of one sandbox, and closes it as a pool does."""

    def __init__(self, driver: PodmanDriver, sandbox: Sandbox) -> None:
        self._driver = driver
        self.told: Counter[str] = Counter()
        sandbox.on_died = self._died
        sandbox.on_gone = lambda s: self.told.update(["gone"])

    def _died(self, sandbox: Sandbox) -> None:
        self.told.update(["died"])
        self._driver.close(sandbox)

    async def once(self) -> None:
        await until(lambda: self.told["gone"])
        await asyncio.sleep(0.05)
        assert self.told == Counter(died=1, gone=1)


def kill_first(driver: PodmanDriver, sandbox: Sandbox) -> None:
    """SIGKILL from outside to the process that its namespace calls 1."""
    group = driver._parts[sandbox.id].cgroup.path
    found = [pid for pid in set(cgroup.processes(group)) if _names(pid)[-1] == "1"]
    assert len(found) == 1
    os.kill(found[0], signal.SIGKILL)


def _names(pid: int) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))


async def test_a_killed_stem_is_told_once(driver: PodmanDriver, podman: PodmanService) -> None:
    stem = await driver.boot(PYTHON, "none")
    ends = Ends(driver, stem)
    kill_first(driver, stem)
    await ends.once()
    await nothing_is_held(driver, podman)


async def test_a_sandbox_killed_while_its_code_loads_is_told_once(
    driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    version = bench.codes.version("import time\nprint('begun', flush=True)\ntime.sleep(3600)")
    stem = await driver.boot(PYTHON, "none")
    ends = Ends(driver, stem)
    await driver.bind(stem, version, await bench.codes.tree(version))
    loading = asyncio.create_task(stem.init(version, bench.lines, PAYLOAD_BYTES_MAX))
    await until(lambda: bench.lines.of(None) == ["begun"])
    kill_first(driver, stem)
    with pytest.raises(FunctionInitFailed):
        await loading
    await ends.once()
    await nothing_is_held(driver, podman)


@pytest.mark.parametrize("state", ["idle", "busy", "frozen", "frozen and thawed", "retiring"])
async def test_a_killed_sandbox_is_told_once(
    state: str, driver: PodmanDriver, bench: Bench, podman: PodmanService
) -> None:
    sandbox = await bound(driver, bench, STUBBORN)
    ends = Ends(driver, sandbox)
    call = event(b"1")
    answer = sandbox.call(call) if state == "busy" else None
    if state == "busy":
        await until(lambda: bench.lines.of(call) == ["begun"])
    elif state == "retiring":
        driver.retire(sandbox, 3600)
        await until(lambda: bench.lines.of(None) == ["no"])
    elif state.startswith("frozen"):
        driver.freeze(sandbox)
    kill_first(driver, sandbox)
    if state == "frozen":  # on version 1 nothing can be heard of it
        driver.close(sandbox)
    elif state == "frozen and thawed":
        driver.thaw(sandbox)
    await ends.once()
    if answer is not None:
        with pytest.raises(FunctionCrashed):
            await answer
    await nothing_is_held(driver, podman)


async def test_a_sandbox_killed_before_it_connects_is_given_up(
    driver: PodmanDriver, podman: PodmanService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT_S", 2.0)
    silent = dataclasses.replace(PYTHON, command=("sleep", "3600"))
    booting = asyncio.create_task(driver.boot(silent, "none"))
    parent = cleanup.group_of(driver._settings.run_dir)

    def first() -> list[int]:
        found = []
        for pid in set(cgroup.processes(parent)):
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                    found.append(pid)
            except OSError:
                continue
        return found

    await until(first)
    os.kill(first()[0], signal.SIGKILL)
    with pytest.raises(SandboxBroken):
        await booting
    await nothing_is_held(driver, podman)


@pytest.mark.parametrize("moment_s", [0.03, 0.06, 0.1, 0.15])
async def test_everything_killed_in_the_middle_of_a_boot_leaves_nothing(
    moment_s: float, driver: PodmanDriver, podman: PodmanService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what Podman runs in the container before its first process is what it will be."""
    monkeypatch.setattr(handshake, "HELLO_TIMEOUT_S", 2.0)
    booting = asyncio.create_task(driver.boot(PYTHON, "none"))
    await asyncio.sleep(moment_s)
    cgroup.kill(cleanup.group_of(driver._settings.run_dir))
    (ended,) = await asyncio.gather(booting, return_exceptions=True)
    if isinstance(ended, Sandbox):
        driver.close(ended)
    else:
        assert isinstance(ended, SandboxBroken)
    await nothing_is_held(driver, podman)
