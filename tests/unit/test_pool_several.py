"""Seats that several calls share, and what the end of the node waits for."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import FunctionCrashed, FunctionTimeout, NodeDraining
from core.limits import SHUTDOWN_GRACE_S
from core.model import Version
from executor import pool as module
from executor.pool import Pool
from tests.fixtures.fake_starter import (
    BUDGET_MB,
    FakeSandbox,
    FakeStarter,
    Task,
    begin,
    failing,
    ticks,
    warm,
)
from tests.fixtures.sandboxes import version_of

# --- several calls in one seat -------------------------------------------------------------------


async def loaded(
    pool: Pool, starter: FakeStarter, version: Version, calls: int
) -> tuple[list[FakeSandbox], list[Task]]:
    """As many seats as the calls need, and the calls in them."""
    tasks = [await begin(pool, version) for _ in range(calls)]
    seats = [await starter.finish() for _ in range(len(starter.waiting))]
    return seats, tasks


async def test_one_start_serves_as_many_calls_as_a_seat_takes(
    pool: Pool, starter: FakeStarter
) -> None:
    (one, two), tasks = await loaded(pool, starter, version_of(per_sandbox=3), 4)
    assert (len(one._calls), len(two._calls)) == (3, 1)
    assert (pool.stats().busy, pool.stats().waiting) == (2, 0)
    for sandbox, calls in ((one, 3), (two, 1)):
        for _ in range(calls):
            sandbox.answer()
    await asyncio.gather(*tasks)
    assert pool.stats().idle == 2


async def test_the_fullest_seat_with_room_is_lent_first(pool: Pool, starter: FakeStarter) -> None:
    version = version_of(per_sandbox=3)
    (one, two), tasks = await loaded(pool, starter, version, 4)
    one.answer()
    one.answer()
    two.answer()
    await ticks()
    assert (pool.stats().busy, pool.stats().idle) == (1, 1)
    tasks.append(await begin(pool, version))
    assert (len(one._calls), len(two._calls)) == (2, 0)  # the idle one stays idle
    for _ in range(2):
        one.answer()
    await asyncio.gather(*tasks)


async def test_a_crash_fails_exactly_the_calls_inside(pool: Pool, starter: FakeStarter) -> None:
    (one, two), tasks = await loaded(pool, starter, version_of(per_sandbox=2), 3)
    inside = [task for task in tasks if task is not tasks[2]]
    one.die()
    for task in inside:
        await failing(task, FunctionCrashed)
    assert starter.closed == [one]
    assert starter.retired == []
    two.answer()
    assert (await tasks[2]).body == b"1"
    assert pool.stats().idle == 1


async def test_a_call_that_timed_out_spoils_the_seat_for_others(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of(per_sandbox=3)
    (sandbox,), tasks = await loaded(pool, starter, version, 2)
    sandbox.expire()
    await failing(tasks[0], FunctionTimeout)
    other = await begin(pool, version)
    assert len(starter.waiting) == 1, "the spoiled seat was lent"
    assert starter.closed == []
    sandbox.answer()
    assert (await tasks[1]).body == b"1"
    assert starter.closed == [sandbox]
    (await starter.finish()).answer()
    await other


async def test_a_seat_that_is_given_back_by_one_call_serves_who_waits(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of(per_sandbox=2, memory_mb=BUDGET_MB)
    (sandbox,), tasks = await loaded(pool, starter, version, 2)
    waiting = [await begin(pool, version) for _ in range(2)]
    sandbox.answer()
    await ticks()
    assert len(sandbox._calls) == 2
    for _ in range(3):
        sandbox.answer()
        await ticks()
    await asyncio.gather(*tasks, *waiting)
    assert pool.stats().idle == 1


async def test_retiring_a_shared_seat_waits_for_its_last_call(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of(per_sandbox=2)
    (sandbox,), tasks = await loaded(pool, starter, version, 2)
    pool.retire(version.id)
    sandbox.answer()
    await ticks()
    assert starter.closed == []
    sandbox.answer()
    await asyncio.gather(*tasks)
    assert starter.retired == [sandbox]


async def test_a_shared_seat_is_not_frozen_while_one_call_is_in_it(
    pool: Pool, starter: FakeStarter
) -> None:
    (sandbox,), tasks = await loaded(pool, starter, version_of(per_sandbox=2), 2)
    sandbox.answer()
    await tasks[0]
    pool.plan.freeze(float("inf"))
    pool._act()
    assert starter.frozen == []
    sandbox.answer()
    await tasks[1]


# --- memory and the end --------------------------------------------------------------------------


async def test_memory_is_free_when_the_sandbox_is_gone_and_not_before(
    pool: Pool, starter: FakeStarter
) -> None:
    starter.is_slow = True
    sandbox = await warm(pool, starter, version_of(memory_mb=BUDGET_MB))
    task = await begin(pool, version_of(memory_mb=BUDGET_MB))
    assert starter.retired == [sandbox]
    assert starter.waiting == []
    assert (pool.stats().leaving, pool.stats().promised_mb) == (1, BUDGET_MB)
    starter.let_go(sandbox)
    await ticks()
    assert len(starter.waiting) == 1
    starter.is_slow = False
    (await starter.finish()).answer()
    await task


async def test_a_sandbox_that_is_gone_twice_frees_its_memory_once(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    pool.retire(version.id)
    await ticks()
    sandbox.on_gone(sandbox)
    assert pool.stats().promised_mb == 0


async def test_the_end_is_gentle_and_waits_until_all_have_gone(
    pool: Pool, starter: FakeStarter
) -> None:
    starter.is_slow = True
    seats = [
        await warm(pool, starter, version_of(grace_s=grace_s))
        for grace_s in (SHUTDOWN_GRACE_S / 2, SHUTDOWN_GRACE_S * 10)
    ]
    ending = asyncio.create_task(pool.end())
    await ticks()
    assert starter.retired == seats
    assert starter.graces == [SHUTDOWN_GRACE_S / 2, SHUTDOWN_GRACE_S]
    starter.let_go(seats[0])
    await ticks()
    assert not ending.done()
    starter.let_go(seats[1])
    await ending


async def test_the_end_does_not_wait_for_ever(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHUTDOWN_GRACE_S", 0.01)
    monkeypatch.setattr(module, "_GONE_S", 0.0)
    starter.is_slow = True
    await warm(pool, starter, version_of())
    await pool.end()
    assert pool.stats().leaving == 1


async def test_a_start_that_has_just_ended_well_is_waited_for_at_the_end(
    pool: Pool, starter: FakeStarter
) -> None:
    starter.is_slow = True
    version = version_of()
    task = await begin(pool, version)
    _, made = starter.waiting.pop()
    sandbox = FakeSandbox(version)
    starter.living.append(sandbox)
    made.set_result(sandbox)
    ending = asyncio.create_task(pool.end())  # before the pool has heard of it
    await failing(task, NodeDraining)
    await ticks()
    assert starter.leaving == [sandbox]
    assert not ending.done()
    starter.let_go(sandbox)
    await ending


async def test_calls_that_end_in_the_meantime_retire_their_seat(
    pool: Pool, starter: FakeStarter
) -> None:
    task = await begin(pool, version_of())
    sandbox = await starter.finish()
    await pool.end()
    assert starter.living == [sandbox]
    sandbox.answer()
    assert (await task).body == b"1"
    assert starter.retired == [sandbox]
