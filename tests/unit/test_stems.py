"""The stock of stems: filled whatever happens, nothing dead handed out, functions in turn."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from core.errors import PartAway, SandboxBroken
from core.limits import BOOTS_AT_ONCE_MAX, REFILLS_AT_ONCE_MAX, STEM_MB
from core.model import Version
from executor import stems as module
from executor.sandbox import Sandbox, State
from executor.stems import Stems
from runtimes.registry import Runtime
from tests.fixtures.fake_starter import ticks
from tests.fixtures.sandboxes import NODE, PYTHON, version_of
from tests.unit.test_starter import ScriptedDriver

FULL = {PYTHON.name: 1, NODE.name: 1}
Make = Callable[..., Stems]


class Booting(ScriptedDriver):
    """Boots stems at once, or when the test says so, or fails as often as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []
        self.missing: set[str] = set()
        self.booted: list[Sandbox] = []
        self.born_dead = 0
        self.is_held = False
        self.held: list[tuple[Runtime, str, asyncio.Future[None]]] = []

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        await asyncio.sleep(0)
        if self.is_held:
            entry = (runtime, network, asyncio.get_running_loop().create_future())
            self.held.append(entry)
            await entry[2]
        if self.failures:
            raise self.failures.pop(0)
        if runtime.name in self.missing:
            raise PartAway("podman", "no such image")
        stem = Sandbox(
            id="s", runtime=runtime, network=network, folder=Path("/nowhere"), body_bytes_max=1
        )
        stem.state = State.CLOSED if self.born_dead else State.STEM
        self.born_dead -= bool(self.born_dead)
        self.booted.append(stem)
        return stem

    async def finish(self, at: int = 0) -> None:
        """One boot ends, and all that follows from it happens."""
        self.held.pop(at)[2].set_result(None)
        await ticks()

    def kinds(self) -> list[str]:
        """Of the boots under way, oldest first."""
        return [runtime.name for runtime, _, _ in self.held]


@pytest.fixture
def driver() -> Booting:
    return Booting()


@pytest.fixture
async def stems(driver: Booting, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(module, "_BACK_OFF_S", (0.001, 0.002))
    made: list[Stems] = []

    def make(level: int, stems_max: int = 100) -> Stems:
        made.append(Stems(driver, level, stems_max * STEM_MB + STEM_MB - 1))
        made[-1].start([PYTHON, NODE])
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def python(**config: str) -> Version:
    return version_of(runtime=PYTHON.name, **config)


async def take(stock: Stems, version: Version) -> Sandbox:
    """A cold start from its beginning to its end."""
    stem = await stock.take(version)
    stock.settled(version)
    return stem


def begin(stock: Stems, version: Version) -> asyncio.Task[Sandbox]:
    return asyncio.create_task(stock.take(version))


# --- the stock -----------------------------------------------------------------------------------


async def test_every_runtime_is_filled_to_its_level(stems: Make) -> None:
    stock = stems(2)
    await until(lambda: stock.count() == {PYTHON.name: 2, NODE.name: 2})
    assert stock.levels() == {PYTHON.name: 2, NODE.name: 2}


async def test_what_is_taken_is_made_up_for(stems: Make, driver: Booting) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == FULL)
    assert await take(stock, python()) in driver.booted
    await until(lambda: stock.count() == FULL)
    assert len(driver.booted) == 3


async def test_a_kind_that_is_known_has_a_shelf_of_its_own(stems: Make, driver: Booting) -> None:
    stock = stems(1)
    stock.know(PYTHON, "egress")
    stock.know(PYTHON, "egress")
    full = {**FULL, f"{PYTHON.name}+egress": 1}
    await until(lambda: stock.count() == full)
    stem = await take(stock, python(network="egress"))
    assert (stem.network, stem.runtime) == ("egress", PYTHON)
    await until(lambda: stock.count() == full)
    assert len(driver.booted) == 4


async def test_a_kind_that_is_asked_for_is_known_from_then_on(stems: Make) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == FULL)
    assert (await take(stock, python(network="egress"))).network == "egress"
    await until(lambda: stock.count() == {**FULL, f"{PYTHON.name}+egress": 1})


async def test_level_zero_boots_when_asked_and_not_before(stems: Make, driver: Booting) -> None:
    stock = stems(0)
    await ticks()
    assert driver.booted == []
    assert await take(stock, python()) in driver.booted
    await ticks()
    assert len(driver.booted) == 1
    assert set(stock.levels().values()) == {0}


async def test_the_level_follows_the_largest_burst(stems: Make, driver: Booting) -> None:
    stock = stems(1)
    for task in [begin(stock, version := python()) for _ in range(7)]:
        await task
        stock.settled(version)
    assert stock.levels() == {PYTHON.name: 7, NODE.name: 1}
    await until(lambda: stock.count() == {PYTHON.name: 7, NODE.name: 1})


async def test_the_level_follows_the_versions_in_use_up_to_a_bound(stems: Make) -> None:
    stock = stems(1)
    stock._level_max = 4
    stock.expect([*(python() for _ in range(9)), *(python(network="egress") for _ in range(2))])
    levels = {PYTHON.name: 4, NODE.name: 1, f"{PYTHON.name}+egress": 2}
    assert stock.levels() == levels
    await until(lambda: stock.count() == levels)
    stock.expect([])
    assert set(stock.levels().values()) == {1}


async def test_all_shelves_together_have_their_share_of_memory_and_no_more(
    stems: Make, driver: Booting
) -> None:
    stock = stems(10, stems_max=5)
    await until(lambda: sum(stock.count().values()) == 5)
    await ticks()
    assert sum(stock.count().values()) == 5
    assert set(stock.count().values()) == {2, 3}  # one kind does not take what another lacks


async def test_a_refill_is_few_boots_at_once(stems: Make, driver: Booting) -> None:
    driver.is_held = True
    stock = stems(10)
    await ticks()
    while sum(stock.count().values()) < 20:
        assert len(driver.held) <= REFILLS_AT_ONCE_MAX
        await driver.finish()
    assert driver.held == []


async def test_a_stem_that_dies_in_stock_is_replaced_and_never_handed_out(
    stems: Make, driver: Booting
) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == FULL)
    dead = next(s for s in driver.booted if s.runtime is PYTHON)
    dead.connection_lost(None)
    assert driver.closed == [dead]
    assert stock.count() == {NODE.name: 1}
    await until(lambda: stock.count() == FULL)
    assert await take(stock, python()) is not dead


async def test_a_stem_that_dies_after_it_was_taken_is_its_takers_business(
    stems: Make, driver: Booting
) -> None:
    stock = stems(1)
    await until(lambda: stock.count() == FULL)
    taken = await take(stock, python())
    taken.connection_lost(None)
    assert driver.closed == []


# --- boots that fail -----------------------------------------------------------------------------


async def test_a_stem_born_dead_is_closed_and_tried_again(stems: Make, driver: Booting) -> None:
    driver.born_dead = 1
    stock = stems(1)
    await until(lambda: stock.count() == FULL)
    assert [s.state for s in driver.closed] == [State.CLOSED]


@pytest.mark.parametrize("error", [PartAway("podman", "away"), OSError("disk"), KeyError("ours")])
async def test_no_failure_stops_the_filling_for_good(
    error: BaseException, stems: Make, driver: Booting
) -> None:
    driver.failures = [error] * 6
    stock = stems(1)
    await until(lambda: stock.count() == FULL)


async def test_a_runtime_that_cannot_be_booted_does_not_keep_another_from_being(
    stems: Make, driver: Booting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACK_OFF_S", (3600.0,))
    driver.missing = {NODE.name}
    stock = stems(1)
    for _ in range(3):
        await until(lambda: PYTHON.name in stock.count())
        await take(stock, python())
    assert NODE.name not in stock.count()


async def test_the_stock_is_not_tried_again_before_its_pause(
    stems: Make, driver: Booting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACK_OFF_S", (3600.0,))
    driver.is_held = True
    driver.failures = [PartAway("podman", "away")] * 2
    stock = stems(1)
    await ticks()
    await driver.finish()
    await driver.finish()
    assert driver.held == []
    waiting = begin(stock, python())  # who waits does not wait for the pause
    await ticks()
    assert driver.kinds() == [PYTHON.name]
    await driver.finish()
    assert await waiting in driver.booted


@pytest.mark.parametrize(
    ("error", "told"),
    [(PartAway("podman", "away"), PartAway), (OSError("disk"), SandboxBroken)],
)
async def test_a_failing_boot_is_told_to_one_who_waits_longest(
    error: BaseException, told: type[BaseException], stems: Make, driver: Booting
) -> None:
    driver.is_held = True
    stock, version = stems(0), python()
    tasks = [begin(stock, version) for _ in range(3)]
    await ticks()
    driver.failures = [error]
    await driver.finish()
    with pytest.raises(told):
        await tasks[0]
    assert not tasks[1].done()
    for _ in range(2):
        await driver.finish()
    assert [await task for task in tasks[1:]] == driver.booted
    assert driver.held == []


async def test_a_stem_born_dead_is_told_to_who_waits(stems: Make, driver: Booting) -> None:
    driver.born_dead = 1
    with pytest.raises(SandboxBroken):
        await take(stems(0), python())
    assert driver.closed == driver.booted


# --- the last stem and the queue -----------------------------------------------------------------


async def test_the_last_stem_is_for_a_function_that_has_no_cold_start_under_way(
    stems: Make, driver: Booting
) -> None:
    stock, noisy = stems(2), python()
    await until(lambda: stock.count() == {PYTHON.name: 2, NODE.name: 2})
    driver.is_held = True
    tasks = [begin(stock, noisy) for _ in range(3)]
    await ticks()
    assert [task.done() for task in tasks] == [True, False, False]
    assert stock.count()[PYTHON.name] == 1
    assert (await stock.take(python())) in driver.booted
    assert PYTHON.name not in stock.count()
    for _ in range(2):
        await driver.finish()
    await asyncio.gather(*tasks)


async def test_a_noisy_function_does_not_keep_anothers_wish_waiting_behind_its_own(
    stems: Make, driver: Booting
) -> None:
    driver.is_held = True
    stock, noisy = stems(0), python()
    many = [begin(stock, noisy) for _ in range(20)]
    await ticks()
    one = begin(stock, python())
    await ticks()
    await driver.finish()
    await driver.finish()
    assert one.done()
    assert sum(task.done() for task in many) == 1
    while driver.held:
        await driver.finish()
    await asyncio.gather(*many)


async def test_a_noisy_runtime_does_not_keep_anothers_wish_waiting_behind_its_own(
    stems: Make, driver: Booting
) -> None:
    driver.is_held = True
    stock = stems(0)
    many = [begin(stock, python()) for _ in range(20)]
    await ticks()
    one = begin(stock, version_of(runtime=NODE.name))
    await ticks()
    assert driver.kinds() == [PYTHON.name] * BOOTS_AT_ONCE_MAX
    await driver.finish()
    assert driver.kinds() == [*[PYTHON.name] * (BOOTS_AT_ONCE_MAX - 1), NODE.name]
    while driver.held:
        await driver.finish()
    await asyncio.gather(one, *many)


async def test_boots_are_as_many_as_are_waited_for_and_few_at_once(
    stems: Make, driver: Booting
) -> None:
    driver.is_held = True
    stock, version = stems(0), python()
    tasks = [begin(stock, version) for _ in range(10)]
    await ticks()
    while driver.held:
        assert len(driver.held) <= BOOTS_AT_ONCE_MAX
        await driver.finish()
    await asyncio.gather(*tasks)
    assert len(driver.booted) == 10


async def test_versions_of_a_function_share_its_turn(stems: Make, driver: Booting) -> None:
    driver.is_held = True
    stock, first = stems(0), python()
    second = dataclasses.replace(first, id="v_2", number=2)
    tasks = [begin(stock, version) for version in (first, first, second)]
    other = begin(stock, python())
    await ticks()
    await driver.finish()
    await driver.finish()
    assert [task.done() for task in (*tasks, other)] == [True, False, False, True]
    while driver.held:
        await driver.finish()
    await asyncio.gather(*tasks)
