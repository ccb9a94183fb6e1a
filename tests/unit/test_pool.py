"""The pool: what is lent, what never again, and who gets it."""

from __future__ import annotations

import asyncio

from core.errors import (
    FunctionCrashed,
)
from executor.pool import Pool, _Ticket
from tests.fixtures.fake_starter import (
    FakeSandbox,
    FakeStarter,
    begin,
    failing,
    left,
    ticks,
    warm,
)
from tests.fixtures.sandboxes import version_of


async def test_a_seat_is_used_again(pool: Pool, starter: FakeStarter) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    task = await begin(pool, version)
    assert starter.waiting == []
    sandbox.answer()
    await task


async def test_the_most_recently_used_seat_is_lent_first(pool: Pool, starter: FakeStarter) -> None:
    version = version_of()
    tasks = [await begin(pool, version) for _ in range(2)]
    first, second = await starter.finish(), await starter.finish()
    second.answer()
    first.answer()
    await asyncio.gather(*tasks)
    seat, _ = await pool.acquire(version)
    assert seat.sandbox is first
    pool.give_back(seat)


async def test_failed_sandbox_is_never_lent_again(pool: Pool, starter: FakeStarter) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    seat, _ = await pool.acquire(version)
    seat.sandbox.flaw = "timed_out"
    pool.give_back(seat)
    assert starter.closed == [sandbox]
    assert starter.retired == []
    task = await begin(pool, version)
    other = await starter.finish()
    assert other is not sandbox
    other.answer()
    await task


async def test_sandbox_that_broke_the_protocol_is_never_lent_again(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    sandbox.data_received(b"\0")
    assert starter.closed == [sandbox]


async def test_sandbox_whose_caller_left_and_whose_answer_was_unreadable_is_closed(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    task = await begin(pool, version)
    sandbox = await starter.finish()
    waiting = await begin(pool, version)
    await left(task)
    sandbox.data_received((2**32 - 1).to_bytes(4, "big") + b"\x13" + b"\0" * 8)
    await ticks()
    assert starter.closed == [sandbox]
    assert not waiting.done()
    (await starter.finish()).answer()
    await waiting


async def test_waiter_cancelled_in_the_tick_of_its_grant_gives_the_seat_back(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    waiter = await begin(pool, version)
    (ticket,) = pool.plan.lines[version.id].tickets
    assert isinstance(ticket, _Ticket)
    _, made = starter.waiting.pop()
    sandbox = FakeSandbox(version)
    starter.living.append(sandbox)
    made.set_result(sandbox)
    while not ticket.seat.done():
        await asyncio.sleep(0)
    waiter.cancel()  # the seat is granted; whoever waits has not woken up yet
    assert pool.stats().busy == 1
    assert sandbox.is_usable
    await failing(waiter, asyncio.CancelledError)
    assert pool.stats().idle == 1
    assert pool.stats().busy == 0


async def test_waiter_cancelled_in_the_tick_of_the_crash_loses_no_seat(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    task = await begin(pool, version)
    sandbox = await starter.finish()
    sandbox.die()  # the future has its error; whoever waits has not woken up yet
    task.cancel()
    await failing(task, asyncio.CancelledError)
    assert starter.closed == [sandbox]
    assert pool.stats().busy == 0


async def test_waiter_cancelled_in_the_tick_of_the_answer_gives_the_seat_back(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    task = await begin(pool, version)
    sandbox = await starter.finish()
    sandbox.answer()
    task.cancel()
    await failing(task, asyncio.CancelledError)
    assert pool.stats().idle == 1


async def test_a_seat_whose_caller_left_returns_when_the_call_is_answered(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    task = await begin(pool, version)
    sandbox = await starter.finish()
    await left(task)
    assert pool.stats().busy == 1
    sandbox.answer()
    await ticks()
    assert (pool.stats().busy, pool.stats().idle) == (0, 1)


async def test_a_seat_whose_caller_left_and_whose_sandbox_died_is_closed(
    pool: Pool, starter: FakeStarter
) -> None:
    task = await begin(pool, version_of())
    sandbox = await starter.finish()
    await left(task)
    sandbox.die()
    await ticks()
    assert starter.closed == [sandbox]


async def test_a_sandbox_that_dies_between_grant_and_call_costs_no_call(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    first = await begin(pool, version)
    sandbox = await starter.finish()
    second = await begin(pool, version)
    sandbox.answer()
    while pool.plan.lines[version.id].tickets:
        await asyncio.sleep(0)
    sandbox.die()  # the seat is the second's, who has not woken up yet
    await first
    await ticks()
    assert not second.done()
    await starter.finish()
    (await starter.finish() if starter.waiting else starter.living[-1]).answer()
    assert (await second).body == b"1"


async def test_an_idle_sandbox_that_dies_leaves_the_pool(pool: Pool, starter: FakeStarter) -> None:
    sandbox = await warm(pool, starter, version_of())
    sandbox.die()
    assert starter.closed == [sandbox]
    assert pool.stats().idle == 0


async def test_a_crash_fails_one_call_and_closes_one_sandbox(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    tasks = [await begin(pool, version) for _ in range(2)]
    one, other = await starter.finish(), await starter.finish()
    one.die()
    await failing(tasks[0], FunctionCrashed)
    other.answer()
    await tasks[1]
    assert starter.closed == [one]


async def test_a_free_seat_serves_whoever_waits_longest_whatever_was_started(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    tasks = [await begin(pool, version) for _ in range(3)]
    assert pool.stats().booting == 3
    sandbox = await starter.finish()
    for task in tasks:
        sandbox.answer()
        await task
        await ticks()
    while starter.waiting:
        await starter.finish()
    assert pool.stats().idle == 3
