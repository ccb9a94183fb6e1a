"""When the stock of stems stands back for cold starts, and what becomes of starts given up."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from core.errors import PartAway
from core.limits import REFILL_PATIENCE_S
from executor.sandbox import State
from executor.stems import CalledOff, Stems
from tests.fixtures.fake_starter import ticks
from tests.fixtures.sandboxes import NODE, PYTHON, version_of
from tests.unit import test_stems
from tests.unit.test_stems import FULL, Booting, Make, begin, python, until

driver, stems = test_stems.driver, test_stems.stems


async def filled(stems: Make, driver: Booting, level: int = 1) -> Stems:
    """A full stock, whose further boots end when the test says."""
    stock = stems(level)
    full = {PYTHON.name: level, NODE.name: level} if level else {}
    await until(lambda: stock.count() == full)
    await ticks()
    driver.is_held = True
    return stock


def stand_back_no_longer(stock: Stems) -> None:
    """REFILL_PATIENCE_S have passed."""
    assert stock._refill is not None
    left_s = stock._refill.when() - asyncio.get_running_loop().time()
    assert left_s <= REFILL_PATIENCE_S
    stock._refill._run()


# --- refilling -----------------------------------------------------------------------------------


async def test_the_stock_is_refilled_when_the_cold_start_is_over(
    stems: Make, driver: Booting
) -> None:
    stock, version = await filled(stems, driver), python()
    await stock.take(version)
    await ticks()
    assert driver.held == []  # the cold start has the machine to itself
    stock.settled(version)
    await ticks()
    assert driver.kinds() == [PYTHON.name]
    await driver.finish()
    assert stock.count() == FULL


async def test_the_stock_stands_back_until_the_last_cold_start_is_over(
    stems: Make, driver: Booting
) -> None:
    stock, one, other = await filled(stems, driver), python(), version_of(runtime=NODE.name)
    await stock.take(one)
    await stock.take(other)
    stock.settled(one)
    await ticks()
    assert driver.held == []
    stock.settled(other)
    await ticks()
    assert driver.kinds() == [PYTHON.name, NODE.name]


async def test_the_stock_does_not_stand_back_for_ever(stems: Make, driver: Booting) -> None:
    stock = await filled(stems, driver, 2)
    version = python()
    await stock.take(version)
    await ticks()
    stand_back_no_longer(stock)
    await ticks()
    assert driver.kinds() == [PYTHON.name]
    await stock.take(python())  # another cold start: the stock has waited long enough
    await ticks()
    assert driver.kinds() == [PYTHON.name, PYTHON.name]


async def test_after_a_quiet_moment_the_stock_stands_back_anew(
    stems: Make, driver: Booting
) -> None:
    stock, version = await filled(stems, driver), python()
    await stock.take(version)
    stand_back_no_longer(stock)
    stock.settled(version)
    await ticks()
    await driver.finish()
    await stock.take(version)
    await ticks()
    assert driver.held == []
    stock.settled(version)


async def test_boots_that_somebody_waits_for_come_before_those_for_the_stock(
    stems: Make, driver: Booting
) -> None:
    stock = await filled(stems, driver)
    await stock.take(python())
    stand_back_no_longer(stock)
    await ticks()
    assert driver.kinds() == [PYTHON.name]  # for the stock, which is to be larger by now
    waiting = begin(stock, python())
    await ticks()
    assert driver.kinds() == [PYTHON.name]
    await driver.finish()
    assert waiting.done()
    assert driver.kinds() == [PYTHON.name] * 2


async def test_a_cold_start_that_fails_is_over_too(stems: Make, driver: Booting) -> None:
    stock = await filled(stems, driver, 0)
    task = begin(stock, python())
    await ticks()
    driver.failures = [PartAway("podman", "away")]
    await driver.finish()
    with pytest.raises(PartAway):
        await task
    assert stock._binding == {}


# --- given up ------------------------------------------------------------------------------------


async def test_the_newest_start_of_a_version_is_called_off(stems: Make, driver: Booting) -> None:
    stock, version = await filled(stems, driver, 0), python()
    tasks = [begin(stock, version) for _ in range(2)]
    await ticks()
    assert stock.call_off(version)
    with pytest.raises(CalledOff):
        await tasks[1]
    await driver.finish()
    assert await tasks[0] in driver.booted
    assert not stock.call_off(version)
    stock.settled(version)
    assert stock._binding == {}
    await driver.finish()  # what was being booted goes to the stock
    assert stock.count() == {PYTHON.name: 1}


async def test_a_start_of_another_version_is_not_called_off(stems: Make, driver: Booting) -> None:
    stock, first = await filled(stems, driver, 0), python()
    second = dataclasses.replace(first, id="v_2", number=2)
    tasks = [begin(stock, version) for version in (first, second)]
    await ticks()
    assert stock.call_off(first)
    with pytest.raises(CalledOff):
        await tasks[0]
    await driver.finish()
    assert await tasks[1] in driver.booted


async def test_only_who_still_waits_is_called_off(stems: Make, driver: Booting) -> None:
    stock, version = await filled(stems, driver), python()
    assert not stock.call_off(version)
    assert not stock.call_off(version_of(runtime="python3.12"))
    await stock.take(version)
    assert not stock.call_off(version)
    waiting = begin(stock, other := python())
    await ticks()
    assert not stock.call_off(version)
    assert stock.call_off(other)
    with pytest.raises(CalledOff):
        await waiting


async def test_who_is_cancelled_in_the_tick_of_delivery_leaves_the_stem_to_the_next(
    stems: Make, driver: Booting
) -> None:
    stock, version = await filled(stems, driver, 0), python()
    first = begin(stock, version)
    await ticks()
    second = begin(stock, python())
    await ticks()
    (shelf,) = (shelf for shelf in stock._shelves.values() if shelf.waiting)
    wish = next(iter(shelf.queue.values()))[0]
    driver.held.pop(0)[2].set_result(None)
    while not wish.stem.done():
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await ticks()
    assert second.done()
    while driver.held:
        await driver.finish()
    assert len(driver.booted) == 2
    assert stock.count() == {PYTHON.name: 1}


async def test_a_wish_cancelled_in_the_tick_of_a_boot_s_end_loses_no_stem(
    stems: Make, driver: Booting
) -> None:
    stock = await filled(stems, driver, 0)
    task = begin(stock, python())
    await ticks()
    (shelf,) = (shelf for shelf in stock._shelves.values() if shelf.waiting)
    (wish,) = next(iter(shelf.queue.values()))
    wish.stem.cancel()  # as a cancelled task does, which has not woken up yet
    driver.held.pop(0)[2].set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await task
    await ticks()
    assert stock.count() == {PYTHON.name: 1}


async def test_who_is_called_off_as_it_is_cancelled_is_cancelled(
    stems: Make, driver: Booting
) -> None:
    stock, version = await filled(stems, driver, 0), python()
    task = begin(stock, version)
    await ticks()
    task.cancel()
    assert not stock.call_off(version)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stem_that_died_as_its_taker_was_cancelled_is_handed_to_nobody(
    stems: Make, driver: Booting
) -> None:
    stock = await filled(stems, driver, 0)
    task = begin(stock, python())
    await ticks()
    (shelf,) = (shelf for shelf in stock._shelves.values() if shelf.waiting)
    (wish,) = next(iter(shelf.queue.values()))
    driver.held.pop(0)[2].set_result(None)
    while not wish.stem.done():
        await asyncio.sleep(0)
    task.cancel()
    wish.stem.result().connection_lost(None)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stock.count() == {}
    assert [stem.state for stem in driver.closed] == [State.CLOSED]


# --- the end -------------------------------------------------------------------------------------


async def test_a_stock_that_was_stopped_boots_nothing_more(stems: Make, driver: Booting) -> None:
    stock = await filled(stems, driver)
    await stock.take(python())
    waiting = begin(stock, python())
    await ticks()
    assert driver.held != []
    await stock.stop()
    assert stock._boots == set()
    count = len(driver.booted)
    driver.is_held = False
    stock.know(PYTHON, "egress")
    await ticks()
    assert len(driver.booted) == count
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stock.stop()  # any number of times


async def test_what_is_more_than_the_level_is_let_go_after_a_while(
    stems: Make, driver: Booting
) -> None:
    stock = await filled(stems, driver, 1)
    version = python()
    stock.expect([version, python(), python()])
    await ticks()
    while driver.held:
        await driver.finish()
    assert stock.count()[PYTHON.name] == 3
    stock.expect([version])
    assert stock.count()[PYTHON.name] == 3
    stock._look()
    assert stock.count()[PYTHON.name] == 1
    assert len(driver.closed) == 2


async def test_a_stem_that_dies_in_stock_is_not_replaced_without_a_pause(
    stems: Make, driver: Booting
) -> None:
    stock = await filled(stems, driver, 1)
    (shelf,) = (s for s in stock._shelves.values() if s.runtime is PYTHON)
    shelf.stock[0].connection_lost(None)
    await ticks()
    assert driver.held == []
    assert shelf.pause is not None
