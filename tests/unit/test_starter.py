"""From a version to a sandbox: all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from core.errors import FunctionInitFailed, HearthError, PartAway, SandboxBroken
from core.model import Version
from executor.call import LogSink
from executor.hosting import Hosting
from executor.sandbox import Sandbox, State
from executor.starter import Starter
from executor.stems import CalledOff, Stems
from runtimes.registry import Runtime
from tests.fixtures.sandboxes import Codes, Lines, version_of


class Scripted(Sandbox):
    """Says of itself what the test wants."""

    def __init__(self, runtime: Runtime, error: BaseException | None) -> None:
        super().__init__(
            id="s", runtime=runtime, network="none", folder=Path("/nowhere"), body_bytes_max=1
        )
        self.state = State.STEM
        self.error = error
        self.dies = False

    async def init(self, version: Version, logs: LogSink, payload_bytes_max: int) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.version = version
        self.state = State.CLOSED if self.dies else State.READY


class ScriptedDriver:
    """Fails where the test says."""

    def __init__(self) -> None:
        self.boot_error: BaseException | None = None
        self.bind_error: BaseException | None = None
        self.init_error: BaseException | None = None
        self.dies = False
        self.asked: list[tuple[str, Sandbox]] = []
        self.made: list[Sandbox] = []
        self.closed: list[Sandbox] = []
        self.bound: dict[Sandbox, str] = {}
        self.codes: Codes | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        await asyncio.sleep(0)
        if self.boot_error is not None:
            raise self.boot_error
        sandbox = Scripted(runtime, self.init_error)
        self.made.append(sandbox)
        sandbox.dies = self.dies
        return sandbox

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        await asyncio.sleep(0)
        if self.bind_error is not None:
            raise self.bind_error
        self.bound[sandbox] = code

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        raise NotImplementedError

    def show(self, host: Sandbox, code: str, name: str) -> None:
        raise NotImplementedError

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        raise NotImplementedError

    def freeze(self, sandbox: Sandbox) -> bool:
        self.asked.append(("freeze", sandbox))
        return not self.dies

    def thaw(self, sandbox: Sandbox) -> None:
        self.asked.append(("thaw", sandbox))

    def interrupt(self, sandbox: Sandbox) -> None:
        self.asked.append(("interrupt", sandbox))

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        self.asked.append((f"retire {grace_s:g}", sandbox))
        self.close(sandbox)

    def close(self, sandbox: Sandbox) -> None:
        self.closed.append(sandbox)
        asyncio.get_running_loop().call_soon(lambda: sandbox.on_gone(sandbox))
        if code := self.bound.pop(sandbox, ""):
            assert self.codes is not None
            self.codes.release(code)

    async def ping(self) -> None:
        pass


@pytest.fixture
def driver(codes: Codes) -> ScriptedDriver:
    made = ScriptedDriver()
    made.codes = codes
    return made


@pytest.fixture
async def stems(driver: ScriptedDriver) -> AsyncIterator[Stems]:
    """Without a stock: every start boots."""
    made = Stems(driver, 0, 0)
    made.start([])
    yield made
    assert made._binding == {}, "a cold start was never settled"
    await made.stop()


@pytest.fixture
def starter(driver: ScriptedDriver, stems: Stems, codes: Codes, lines: Lines) -> Starter:
    return starter_of(driver, stems, codes, lines)


def starter_of(driver: ScriptedDriver, stems: Stems, codes: Codes, lines: Lines) -> Starter:
    hosting = Hosting(driver, memory_mb=64, payload_bytes_max=1000, release_code=codes.release)
    return Starter(driver=hosting, stems=stems, code=codes, logs=lines, payload_bytes_max=1000)


async def test_a_start_that_ends_well_holds_its_code(
    starter: Starter, codes: Codes, driver: ScriptedDriver
) -> None:
    sandbox = await starter.start(version_of("/code"))
    assert sandbox.is_usable
    assert codes.held == {"/code": 1}
    starter.close(sandbox)
    assert not codes.held


@pytest.mark.parametrize("where", ["boot_error", "bind_error", "init_error"])
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (FunctionInitFailed("no"), FunctionInitFailed),
        (PartAway("podman", "away"), PartAway),
        (OSError("disk"), SandboxBroken),
        (KeyError("a mistake of ours"), SandboxBroken),
    ],
)
async def test_a_start_that_fails_anywhere_leaves_nothing_and_says_why(
    where: str,
    raised: BaseException,
    told: type[HearthError],
    starter: Starter,
    codes: Codes,
    driver: ScriptedDriver,
) -> None:
    setattr(driver, where, raised)
    with pytest.raises(told):
        await starter.start(version_of("/code"))
    assert not codes.held
    assert len(driver.closed) == (0 if where == "boot_error" else 1)


@pytest.mark.parametrize("steps", range(12))
async def test_a_start_cancelled_at_any_await_leaves_nothing(
    steps: int, starter: Starter, codes: Codes, driver: ScriptedDriver, stems: Stems
) -> None:
    task = asyncio.create_task(starter.start(version_of("/code")))
    for _ in range(steps):
        await asyncio.sleep(0)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        starter.close(await task)
    await stems.stop()
    assert not codes.held
    in_stock = [stem for shelf in stems._shelves.values() for stem in shelf.stock]
    assert len(driver.closed) + len(in_stock) == len(driver.made)


async def test_a_sandbox_that_ends_as_it_is_ready_is_not_given_out(
    starter: Starter, codes: Codes, driver: ScriptedDriver
) -> None:
    driver.dies = True
    with pytest.raises(HearthError):
        await starter.start(version_of("/code"))
    assert len(driver.closed) == 1
    assert not codes.held


async def test_an_unknown_runtime_is_refused_before_code_is_fetched(
    starter: Starter, codes: Codes
) -> None:
    with pytest.raises(HearthError, match="unknown runtime"):
        await starter.start(version_of("/code", runtime="cobol"))
    assert not codes.held


async def test_code_that_cannot_be_had_is_told(
    driver: ScriptedDriver, stems: Stems, lines: Lines, codes: Codes
) -> None:
    class Away(Codes):
        async def tree(self, version: Version) -> str:
            raise PartAway("object store", "away")

    starter = starter_of(driver, stems, Away(codes._root), lines)
    with pytest.raises(PartAway):
        await starter.start(version_of())


async def test_a_start_called_off_leaves_nothing(
    starter: Starter, codes: Codes, driver: ScriptedDriver, stems: Stems
) -> None:
    version = version_of("/code")
    task = asyncio.create_task(starter.start(version))
    while not stems._shelves or not next(iter(stems._shelves.values())).waiting:
        await asyncio.sleep(0)
    starter.call_off(version)
    with pytest.raises(CalledOff):
        await task
    assert not codes.held
    assert driver.closed == []


async def test_a_start_that_has_cost_something_is_not_called_off(
    starter: Starter, codes: Codes, driver: ScriptedDriver
) -> None:
    version = version_of("/code")
    task = asyncio.create_task(starter.start(version))
    while not driver.bound:
        await asyncio.sleep(0)
    starter.call_off(version)
    starter.close(await task)
    assert not codes.held


async def test_what_is_told_a_sandbox_goes_to_its_driver(
    starter: Starter, driver: ScriptedDriver
) -> None:
    sandbox = await starter.start(version_of("/code"))
    assert starter.freeze(sandbox)
    driver.dies = True
    assert not starter.freeze(sandbox)
    starter.thaw(sandbox)
    sandbox.interrupt()
    starter.retire(sandbox, 2.5)
    asked = ["freeze", "freeze", "thaw", "interrupt", "retire 2.5"]
    assert driver.asked == [(what, sandbox) for what in asked]


async def test_a_start_tells_how_long_it_took(starter: Starter) -> None:
    sandbox = await starter.start(version_of("/code"))
    assert sandbox.timing.boot_ms > 0
    starter.close(sandbox)
