"""The pool and code that never loads: who is told, who tries, and who is never blocked for good."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import (
    FunctionInitFailed,
    FunctionUnloadable,
    HearthError,
    NodeFull,
    PartAway,
    SandboxBroken,
)
from core.limits import INIT_FAILURES_MAX, INIT_PAUSE_S
from core.model import Version
from executor import pool as module
from executor.pool import Pool
from executor.stems import CalledOff
from tests.fixtures.fake_starter import BUDGET_MB, FakeStarter, begin, failing, left, ticks, warm
from tests.fixtures.sandboxes import version_of

NO = FunctionInitFailed("no module named x", type="ImportError")


class Clock:
    """The time as the pool reads it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


async def broken(pool: Pool, starter: FakeStarter, **config: Any) -> Version:
    """A version that has just failed as often as it may."""
    version = version_of(**config)
    for _ in range(INIT_FAILURES_MAX):
        task = await begin(pool, version)
        await starter.fail(NO, len(starter.waiting) - 1)
        await failing(task, FunctionInitFailed)
    return version


async def refused(pool: Pool, version: Version) -> FunctionUnloadable:
    with pytest.raises(FunctionUnloadable) as caught:
        await pool.acquire(version)
    return caught.value


async def probed(pool: Pool, starter: FakeStarter, version: Version) -> None:
    """The next call tries the version, and it loads."""
    task = await begin(pool, version)
    assert len(starter.waiting) == 1, "nobody tries"
    (await starter.finish()).answer()
    await task


async def test_a_version_that_never_loads_is_refused_at_once_and_says_why(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = await broken(pool, starter)
    error = await refused(pool, version)
    assert error.details["last"] == {"type": "ImportError", "message": "no module named x"}
    assert error.details["retry_after_s"] == INIT_PAUSE_S
    assert starter.waiting == []


async def test_another_version_is_tried_as_ever(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    await broken(pool, starter)
    await warm(pool, starter, version_of())


async def test_after_a_pause_one_call_tries_and_the_others_are_told(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = await broken(pool, starter)
    clock.now += INIT_PAUSE_S
    probe = await begin(pool, version)
    assert len(starter.waiting) == 1
    await refused(pool, version)
    await starter.fail(NO)
    await failing(probe, FunctionInitFailed)
    clock.now += INIT_PAUSE_S
    await refused(pool, version)  # the pause is twice as long now
    clock.now += INIT_PAUSE_S
    await probed(pool, starter, version)


async def test_a_try_that_succeeds_makes_all_forgotten(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = await broken(pool, starter)
    clock.now += INIT_PAUSE_S
    await probed(pool, starter, version)
    starter.living[0].die()
    await ticks()
    tasks = [await begin(pool, version) for _ in range(INIT_FAILURES_MAX)]
    assert len(starter.waiting) == INIT_FAILURES_MAX
    for task in tasks:
        await starter.fail(NO)
        await failing(task, FunctionInitFailed)


async def test_all_who_wait_in_a_hopeless_line_are_told(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of(memory_mb=BUDGET_MB // 4)
    tasks = [await begin(pool, version) for _ in range(10)]
    for _ in range(INIT_FAILURES_MAX):
        await starter.fail(NO)
    for task in tasks[:INIT_FAILURES_MAX]:
        with pytest.raises(FunctionInitFailed) as caught:
            await task
        assert type(caught.value) is FunctionInitFailed
    for task in tasks[INIT_FAILURES_MAX:]:
        await failing(task, FunctionUnloadable)
    assert starter.called_off == [version] * len(starter.waiting)
    while starter.waiting:
        await starter.fail(NO)
    assert pool.stats().promised_mb == 0
    clock.now += INIT_PAUSE_S  # those that were under way do not lengthen the pause
    await probed(pool, starter, version)


@pytest.mark.parametrize(
    "error", [CalledOff(), PartAway("podman", "away"), SandboxBroken("ended"), None]
)
async def test_a_try_that_tells_nothing_of_the_code_is_followed_by_another(
    error: Exception | None, pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = await broken(pool, starter)
    clock.now += INIT_PAUSE_S
    probe = await begin(pool, version)
    if error is None:
        starter.waiting[0][1].cancel()
        await ticks()
    else:
        await starter.fail(error)
    if isinstance(error, CalledOff):
        assert len(starter.waiting) == 1  # it still waits, and a new start is made for it
        await left(probe)
        await starter.fail(error)
    else:
        await failing(probe, HearthError)
    await probed(pool, starter, version)


async def test_a_try_for_which_there_was_no_memory_is_followed_by_another(
    pool: Pool, starter: FakeStarter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await broken(pool, starter)
    clock.now += INIT_PAUSE_S
    other = await begin(pool, version_of(memory_mb=BUDGET_MB))
    sandbox = await starter.finish()
    monkeypatch.setattr(module, "SEAT_WAIT_S", 0.01)
    with pytest.raises(NodeFull):
        await pool.acquire(version)
    sandbox.die()
    await failing(other, HearthError)
    await ticks()
    await probed(pool, starter, version)


async def test_who_left_before_its_try_began_does_not_block_the_next(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = await broken(pool, starter)
    clock.now += INIT_PAUSE_S
    other = await begin(pool, version_of(memory_mb=BUDGET_MB))
    sandbox = await starter.finish()
    await left(await begin(pool, version))
    sandbox.die()
    await failing(other, HearthError)
    await ticks()
    await probed(pool, starter, version)


async def test_a_try_served_by_a_seat_that_was_there_does_not_block_the_next(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of(memory_mb=BUDGET_MB)
    first = await begin(pool, version)
    sandbox = await starter.finish()
    for _ in range(INIT_FAILURES_MAX):
        pool._breaker.failed(version.id, NO, clock.now)
    clock.now += INIT_PAUSE_S
    second = await begin(pool, version)  # a try, but there is no memory for another seat
    assert starter.waiting == []
    sandbox.answer()
    await first
    await ticks()
    sandbox.answer()
    await second
    sandbox.die()
    await ticks()
    await probed(pool, starter, version)


async def test_warm_seats_are_lent_whatever_the_starts_do(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    for _ in range(INIT_FAILURES_MAX):
        pool._breaker.failed(version.id, NO, clock.now)
    busy = await begin(pool, version)
    await refused(pool, version)
    sandbox.answer()
    await asyncio.wait_for(busy, None)
