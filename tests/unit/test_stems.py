"""The stock of stems: filled whatever happens, nothing dead handed out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from core.errors import PartAway
from executor import stems as module
from executor.sandbox import Sandbox, State
from executor.stems import Stems
from runtimes.registry import Runtime
from tests.fixtures.fake_starter import ticks
from tests.fixtures.sandboxes import NODE, PYTHON
from tests.unit.test_starter import ScriptedDriver


class Booting(ScriptedDriver):
    """Boots stems at once, or fails as often as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []
        self.missing: set[str] = set()
        self.booted: list[Sandbox] = []
        self.born_dead = 0

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        if runtime.name in self.missing:
            raise PartAway("podman", "no such image")
        stem = Sandbox(
            id="s", runtime=runtime, network=network, folder=Path("/nowhere"), body_bytes_max=1
        )
        stem.state = State.CLOSED if self.born_dead else State.STEM
        self.born_dead -= bool(self.born_dead)
        self.booted.append(stem)
        return stem


@pytest.fixture
def driver() -> Booting:
    return Booting()


@pytest.fixture
async def stems(
    driver: Booting, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[int], Stems]]:
    monkeypatch.setattr(module, "_BACK_OFF_S", (0.001, 0.002))
    made: list[Stems] = []

    def make(level: int) -> Stems:
        made.append(Stems(driver, level))
        made[-1].start([PYTHON, NODE])
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


async def test_every_runtime_is_filled_to_its_level(stems: Callable[[int], Stems]) -> None:
    stock = stems(2)
    await until(lambda: stock.count() == {PYTHON.name: 2, NODE.name: 2})


async def test_what_is_taken_is_made_up_for(stems: Callable[[int], Stems], driver: Booting) -> None:
    stock = stems(1)
    await until(lambda: len(driver.booted) == 2)
    await ticks()
    stem = await stock.take(PYTHON, "none")
    assert stem in driver.booted
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    assert len(driver.booted) == 3


async def test_a_stem_with_another_network_is_booted(
    stems: Callable[[int], Stems], driver: Booting
) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    assert (await stock.take(PYTHON, "egress")).network == "egress"
    assert stock.count() == {PYTHON.name: 1, NODE.name: 1}


async def test_a_stem_that_dies_in_stock_is_replaced_and_never_handed_out(
    stems: Callable[[int], Stems], driver: Booting
) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    dead = next(s for s in driver.booted if s.runtime is PYTHON)
    dead.connection_lost(None)
    assert driver.closed == [dead]
    assert stock.count() == {NODE.name: 1}
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    assert await stock.take(PYTHON, "none") is not dead


async def test_a_stem_that_dies_after_it_was_taken_is_its_takers_business(
    stems: Callable[[int], Stems], driver: Booting
) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    taken = await stock.take(PYTHON, "none")
    taken.connection_lost(None)
    assert driver.closed == []


async def test_a_stem_born_dead_is_closed_and_tried_again(
    stems: Callable[[int], Stems], driver: Booting
) -> None:
    driver.born_dead = 1
    stock = stems(1)
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})
    assert [s.state for s in driver.closed] == [State.CLOSED]


@pytest.mark.parametrize("error", [PartAway("podman", "away"), OSError("disk"), KeyError("ours")])
async def test_no_failure_stops_the_filling_for_good(
    error: BaseException, stems: Callable[[int], Stems], driver: Booting
) -> None:
    driver.failures = [error] * 6
    stock = stems(1)
    await until(lambda: stock.count() == {PYTHON.name: 1, NODE.name: 1})


async def test_a_runtime_that_cannot_be_booted_does_not_keep_another_from_being(
    stems: Callable[[int], Stems], driver: Booting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACK_OFF_S", (3600.0,))
    driver.missing = {NODE.name}
    stock = stems(1)
    for _ in range(3):
        await until(lambda: stock.count() == {PYTHON.name: 1})
        await stock.take(PYTHON, "none")


async def test_level_zero_boots_when_asked_and_not_before(
    stems: Callable[[int], Stems], driver: Booting
) -> None:
    stock = stems(0)
    await ticks()
    assert driver.booted == []
    assert (await stock.take(PYTHON, "none")) in driver.booted
