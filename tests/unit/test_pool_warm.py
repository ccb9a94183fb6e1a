"""Seats that are always there, and seats that are frozen."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import PartAway
from core.limits import FREEZE_AFTER_S, WARM_RETRY_S
from core.model import Version
from executor import pool as module
from executor.pool import Pool
from tests.fixtures.fake_starter import (
    BUDGET_MB,
    FakeSandbox,
    FakeStarter,
    begin,
    ticks,
    warm,
)
from tests.fixtures.sandboxes import version_of


class Clock:
    """The time as the pool reads it."""

    def __init__(self, pool: Pool) -> None:
        self.now = 1000.0
        self._pool = pool

    def monotonic(self) -> float:
        return self.now

    async def passes(self, seconds: float) -> None:
        """So much time, and then what the pool does from time to time."""
        self.now += seconds
        for look in (self._pool.plan.freeze, self._pool.plan.tick):
            look(self.now)
            self._pool._act()
        await ticks()


@pytest.fixture
def clock(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(pool)
    monkeypatch.setattr(module, "time", made)
    return made


async def kept(pool: Pool, starter: FakeStarter, version: Version) -> list[FakeSandbox]:
    """The seats that the version always has."""
    pool.keep([version])
    await ticks()
    assert len(starter.waiting) == version.config.min_warm
    return [await starter.finish() for _ in range(version.config.min_warm)]


# --- always there --------------------------------------------------------------------------------


async def test_kept_seats_are_made_before_anybody_calls(pool: Pool, starter: FakeStarter) -> None:
    version = version_of(min_warm=2)
    seats = await kept(pool, starter, version)
    assert pool.stats().idle == 2
    task = await begin(pool, version)
    assert starter.waiting == []
    seats[1].answer()
    assert (await task).body == b"1"
    pool.keep([version])  # says nothing new
    await ticks()
    assert starter.waiting == []


async def test_who_is_lent_a_kept_seat_is_not_told_of_a_cold_start(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of(min_warm=1)
    await kept(pool, starter, version)
    seat, why_cold = await pool.acquire(version)
    assert why_cold is None
    pool.give_back(seat)


async def test_kept_seats_do_not_expire_and_those_beyond_them_do(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of(min_warm=1, keep_warm_s=10)
    await kept(pool, starter, version)
    tasks = [await begin(pool, version) for _ in range(3)]
    for _ in range(2):
        await starter.finish()
    for sandbox in starter.living:
        sandbox.answer()
    await asyncio.gather(*tasks)
    assert pool.stats().idle == 3
    await clock.passes(9.9)
    assert pool.stats().idle == 3
    await clock.passes(0.1)
    assert pool.stats().idle == 1
    await clock.passes(10_000)
    assert pool.stats().idle == 1
    assert len(starter.closed) == 2


async def test_kept_seats_are_not_evicted_and_others_are(pool: Pool, starter: FakeStarter) -> None:
    keeper, other = version_of(min_warm=1, memory_mb=512), version_of(memory_mb=512)
    (seat,) = await kept(pool, starter, keeper)
    evicted = await warm(pool, starter, other)
    task = await begin(pool, version_of(memory_mb=512))
    assert starter.closed == [evicted]
    large = await begin(pool, version_of(memory_mb=BUDGET_MB))
    (await starter.finish()).answer()
    await task
    await ticks()
    assert seat in starter.living
    assert pool.stats().waiting == 1
    pool.keep([])  # now it may be evicted
    await ticks()
    assert seat in starter.closed
    (await starter.finish()).answer()
    await large


async def test_a_kept_seat_that_crashed_is_made_again(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of(min_warm=1)
    (seat,) = await kept(pool, starter, version)
    seat.die()
    await ticks()
    assert starter.waiting == []  # not at once, over and over
    await clock.passes(1)
    assert [version for version, _ in starter.waiting] == [version]
    await starter.finish()
    assert pool.stats().idle == 1


async def test_a_kept_seat_that_cannot_be_made_is_tried_again_after_growing_pauses(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    pool.keep([version_of(min_warm=1)])
    await ticks()
    for pause_s in (*WARM_RETRY_S, WARM_RETRY_S[-1]):
        await starter.fail(PartAway("podman", "away"))
        await clock.passes(pause_s - 0.01)
        assert starter.waiting == []
        await clock.passes(0.01)
        assert len(starter.waiting) == 1
    await starter.finish()
    starter.living[0].die()
    await ticks()
    await clock.passes(0)
    assert len(starter.waiting) == 1  # a good start makes the pauses forgotten
    await starter.fail(PartAway("podman", "away"))
    await clock.passes(WARM_RETRY_S[0])
    assert len(starter.waiting) == 1


async def test_a_version_not_in_use_any_more_keeps_nothing(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version, next_one = version_of(min_warm=1, keep_warm_s=1), version_of(min_warm=1)
    await kept(pool, starter, version)
    pool.keep([next_one])
    await clock.passes(1)
    assert pool.stats().idle == 0
    assert [version for version, _ in starter.waiting] == [next_one]
    await starter.finish()


async def test_a_retired_version_keeps_nothing(pool: Pool, starter: FakeStarter) -> None:
    version = version_of(min_warm=1)
    (seat,) = await kept(pool, starter, version)
    pool.retire(version.id)
    await ticks()
    assert starter.retired == [seat]
    assert starter.waiting == []


# --- frozen --------------------------------------------------------------------------------------


async def test_an_idle_seat_is_frozen_after_a_moment_and_thawed_before_it_is_lent(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    await clock.passes(FREEZE_AFTER_S / 2)
    assert starter.frozen == []
    await clock.passes(FREEZE_AFTER_S / 2)
    assert (starter.frozen, pool.stats().frozen) == ([sandbox], 1)
    await clock.passes(FREEZE_AFTER_S)
    assert starter.frozen == [sandbox]  # once
    seat = pool.lend(version)
    assert seat is not None
    assert (seat.sandbox, starter.frozen, pool.stats().frozen) == (sandbox, [], 0)
    pool.give_back(seat)
    await clock.passes(FREEZE_AFTER_S)
    assert starter.frozen == [sandbox]


async def test_what_idles_running_is_never_frozen(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    await warm(pool, starter, version_of(idle="run"))
    await clock.passes(100)
    assert starter.frozen == []


async def test_what_cannot_be_frozen_is_lent_without_a_thaw(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    starter.can_freeze = False
    version = version_of()
    await warm(pool, starter, version)
    await clock.passes(FREEZE_AFTER_S)
    assert pool.stats().frozen == 0
    seat = pool.lend(version)  # a thaw of what is not frozen would be noticed
    assert seat is not None
    pool.give_back(seat)


async def test_a_frozen_seat_may_die_expire_and_be_evicted(
    pool: Pool, starter: FakeStarter, clock: Clock
) -> None:
    dies = await warm(pool, starter, version_of(memory_mb=128))
    expires = await warm(pool, starter, version_of(memory_mb=128, keep_warm_s=1))
    evicted = await warm(pool, starter, version_of(memory_mb=128))
    await clock.passes(FREEZE_AFTER_S)
    assert pool.stats().frozen == 3
    dies.die()
    await clock.passes(1)
    task = await begin(pool, version_of(memory_mb=BUDGET_MB))
    assert starter.closed == [dies, expires, evicted]
    assert starter.retired == [expires, evicted]
    (await starter.finish()).answer()
    await task


async def test_the_sweepers_do_it_by_themselves(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FREEZE_AFTER_S", 0.001)
    sandbox = await warm(pool, starter, version_of())
    pool.begin()
    while starter.frozen != [sandbox]:
        await asyncio.sleep(0.001)
