"""The pool: what is lent, what never again, who waits and who does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    HearthError,
    NodeDraining,
    NodeFull,
    PartAway,
)
from core.model import Version
from executor import pool as module
from executor.call import Outcome
from executor.pool import Pool
from tests.fixtures.fake_starter import FakeSandbox, FakeStarter, ticks
from tests.fixtures.sandboxes import event, version_of

BUDGET_MB = 1024
Task = asyncio.Task[Outcome]


@pytest.fixture
def starter() -> FakeStarter:
    return FakeStarter()


@pytest.fixture
async def pool(starter: FakeStarter) -> AsyncIterator[Pool]:
    """Whatever a test did, what it counts must come out even at the end."""
    made = Pool(starter, BUDGET_MB)
    yield made
    await made.end()
    await ticks()
    for sandbox in list(starter.living):
        sandbox.die()
    await ticks()
    assert repr(made) == f"<Pool 0 busy 0 idle 0 booting 0 waiting, 0 of {BUDGET_MB} MB>"
    assert starter.living == []
    assert made._lines == {}
    assert made._retired == set()


async def use(pool: Pool, version: Version) -> Outcome:
    async with pool.lease(version) as seat:
        return await seat.sandbox.call(event())


async def begin(pool: Pool, version: Version) -> Task:
    task = asyncio.create_task(use(pool, version))
    await ticks()
    return task


async def warm(pool: Pool, starter: FakeStarter, version: Version) -> FakeSandbox:
    """An idle seat of the version."""
    task = await begin(pool, version)
    sandbox = await starter.finish(len(starter.waiting) - 1)
    sandbox.answer()
    await task
    return sandbox


async def failing(work: Awaitable[object], error: type[BaseException]) -> None:
    with pytest.raises(error):
        await work


async def left(task: Task) -> None:
    task.cancel()
    await failing(task, asyncio.CancelledError)


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
    async with pool.lease(version) as seat:
        assert seat.sandbox is first


async def test_failed_sandbox_is_never_lent_again(pool: Pool, starter: FakeStarter) -> None:
    version = version_of()
    sandbox = await warm(pool, starter, version)
    with pytest.raises(RuntimeError):
        async with pool.lease(version):
            raise RuntimeError
    assert starter.closed == [sandbox]
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
    (ticket,) = pool._lines[version.id].tickets
    _, made = starter.waiting.pop()
    sandbox = FakeSandbox(version)
    starter.living.append(sandbox)
    made.set_result(sandbox)
    while not ticket.done():
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
    sandbox.answer()  # the seat goes to the second …
    sandbox.die()  # … who has not woken up yet
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


@pytest.mark.parametrize("error", [FunctionInitFailed("no"), PartAway("podman", "away")])
async def test_what_keeps_a_sandbox_from_starting_is_told_to_one_waiter_each(
    error: HearthError, pool: Pool, starter: FakeStarter
) -> None:
    tasks = [await begin(pool, version := version_of())]
    tasks.append(await begin(pool, version))
    await starter.fail(error)
    await failing(tasks[0], type(error))
    assert not tasks[1].done()
    await starter.fail(error)
    await failing(tasks[1], type(error))


async def test_a_failed_start_is_made_up_for_while_somebody_waits(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    first = await begin(pool, version)
    sandbox = await starter.finish()
    waiting = [await begin(pool, version) for _ in range(2)]
    sandbox.answer()  # serves the first of them: one start, one ticket are left
    await starter.fail(PartAway("podman", "away"))
    await failing(waiting[1], PartAway)
    sandbox.answer()
    await asyncio.gather(first, waiting[0])
    while starter.waiting:
        await starter.finish()


async def test_a_function_is_refused_that_no_node_of_this_size_could_run(
    pool: Pool, starter: FakeStarter
) -> None:
    idle = await warm(pool, starter, version_of())
    await failing(use(pool, version_of(memory_mb=BUDGET_MB + 1)), NodeFull)
    assert starter.living == [idle]


async def test_idle_seats_make_room_least_recently_used_first(
    pool: Pool, starter: FakeStarter
) -> None:
    old, new = version_of(memory_mb=512), version_of(memory_mb=512)
    first, second = await warm(pool, starter, old), await warm(pool, starter, new)
    task = await begin(pool, old)  # used again: now it is the other's turn
    first.answer()
    await task
    third = await begin(pool, version_of(memory_mb=512))
    assert starter.closed == [second]
    (await starter.finish()).answer()
    await third


async def test_nothing_is_evicted_in_vain(pool: Pool, starter: FakeStarter) -> None:
    busy = await begin(pool, version_of(memory_mb=512))
    sandbox = await starter.finish()
    idle = await warm(pool, starter, version_of(memory_mb=256))
    large = await begin(pool, version_of(memory_mb=1024))
    assert starter.closed == []
    assert pool.stats().waiting == 1
    sandbox.answer()
    await busy
    await ticks()
    assert set(starter.closed) == {idle, sandbox}
    (await starter.finish()).answer()
    await large


async def test_nobody_waits_behind_somebody_who_does_not_fit(
    pool: Pool, starter: FakeStarter
) -> None:
    busy = await begin(pool, version_of(memory_mb=768))
    sandbox = await starter.finish()
    large = await begin(pool, version_of(memory_mb=512))
    small = await begin(pool, version_of(memory_mb=256))
    assert [version.config.memory_mb for version, _ in starter.waiting] == [256]
    (await starter.finish()).answer()
    await small
    sandbox.answer()
    await busy
    await ticks()
    (await starter.finish()).answer()
    await large


async def test_memory_that_becomes_free_goes_to_whoever_starves_longest(
    pool: Pool, starter: FakeStarter
) -> None:
    busy = await begin(pool, version_of(memory_mb=1024))
    sandbox = await starter.finish()
    versions = [version_of(memory_mb=1024) for _ in range(3)]
    tasks = [await begin(pool, version) for version in versions]
    sandbox.die()
    await failing(busy, FunctionCrashed)
    for version, task in zip(versions, tasks, strict=True):
        await ticks()
        ((started, _),) = starter.waiting
        assert started is version
        (await starter.finish()).answer()
        await task


async def test_a_crash_does_not_let_its_function_overtake_the_starving(
    pool: Pool, starter: FakeStarter
) -> None:
    greedy, patient = version_of(memory_mb=1024), version_of(memory_mb=1024)
    busy = await begin(pool, greedy)
    sandbox = await starter.finish()
    waiting = await begin(pool, patient)
    again = await begin(pool, greedy)
    sandbox.die()
    await failing(busy, FunctionCrashed)
    await ticks()
    assert [version for version, _ in starter.waiting] == [patient]
    (await starter.finish()).answer()
    await waiting
    await ticks()
    (await starter.finish()).answer()
    await again


async def test_a_busy_function_does_not_keep_its_seats_from_the_starving_for_ever(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEAT_WAIT_FAIR_S", 0.0)
    greedy, patient = version_of(memory_mb=1024), version_of(memory_mb=1024)
    tasks = [await begin(pool, greedy)]
    sandbox = await starter.finish()
    waiting = await begin(pool, patient)
    tasks.append(await begin(pool, greedy))
    sandbox.answer()
    await ticks()
    assert starter.closed == [sandbox]
    (await starter.finish()).answer()
    await waiting
    await ticks()
    (await starter.finish()).answer()
    await asyncio.gather(*tasks)


async def test_a_seat_does_not_end_for_somebody_it_would_not_help(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEAT_WAIT_FAIR_S", 0.0)
    small, other = version_of(memory_mb=128), version_of(memory_mb=896)
    tasks = [await begin(pool, small), await begin(pool, other)]
    one, two = await starter.finish(), await starter.finish()
    large = await begin(pool, version_of(memory_mb=1024))
    one.answer()
    await tasks[0]
    assert one in starter.living
    two.answer()
    await tasks[1]
    await ticks()
    (await starter.finish()).answer()
    await large


async def test_waiting_for_a_seat_has_an_end(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEAT_WAIT_S", 0.01)
    busy = await begin(pool, version_of(memory_mb=1024))
    sandbox = await starter.finish()
    with pytest.raises(NodeFull) as caught:
        await use(pool, version_of(memory_mb=1024))
    assert caught.value.details["retry_after_s"] > 0
    sandbox.answer()
    await busy


async def test_waiting_goes_on_while_a_seat_is_being_made(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEAT_WAIT_S", 0.01)
    task = await begin(pool, version_of())
    await asyncio.sleep(0.05)
    assert not task.done()
    (await starter.finish()).answer()
    await task


async def test_a_function_has_only_so_many_tickets(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICKETS_PER_FUNCTION_MAX", 2)
    version = version_of()
    tasks = [await begin(pool, version) for _ in range(2)]
    await failing(use(pool, version), NodeFull)
    for task in tasks:
        await left(task)
    while starter.waiting:
        await starter.finish()


async def test_a_ticket_torn_up_is_no_reason_to_start_a_seat(
    pool: Pool, starter: FakeStarter
) -> None:
    busy = await begin(pool, version_of(memory_mb=1024))
    sandbox = await starter.finish()
    await left(await begin(pool, version_of(memory_mb=1024)))
    sandbox.die()
    await failing(busy, FunctionCrashed)
    await ticks()
    assert starter.waiting == []


async def test_retiring_closes_idle_seats_now_and_busy_ones_after_their_call(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    tasks = [await begin(pool, version) for _ in range(2)]
    idle, busy = await starter.finish(), await starter.finish()
    idle.answer()
    await tasks[0]
    pool.retire(version.id)
    assert starter.closed == [idle]
    assert pool.stats().busy == 1
    busy.answer()
    await tasks[1]
    assert starter.closed == [idle, busy]


async def test_a_version_retired_while_it_starts_serves_who_waits_and_closes(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    task = await begin(pool, version)
    pool.retire(version.id)
    sandbox = await starter.finish()
    sandbox.answer()
    await task
    assert starter.closed == [sandbox]


async def test_a_start_that_nobody_waits_for_any_more_closes_when_retired(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    await left(await begin(pool, version))
    pool.retire(version.id)
    sandbox = await starter.finish()
    assert starter.closed == [sandbox]


async def test_a_version_called_again_after_it_was_retired_has_seats_that_stay(
    pool: Pool, starter: FakeStarter
) -> None:
    version = version_of()
    old = await begin(pool, version)
    first = await starter.finish()
    pool.retire(version.id)
    second = await warm(pool, starter, version)
    first.answer()
    await old
    assert starter.closed == [first]
    assert starter.living == [second]


async def test_retiring_what_nobody_knows_is_nothing(pool: Pool) -> None:
    pool.retire("v_unknown")


async def test_seats_rest_as_long_as_their_version_says(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP_S", 0.01)
    short = await warm(pool, starter, version_of(keep_warm_s=0))
    long = await warm(pool, starter, version_of(keep_warm_s=3600))
    pool.begin()
    while short in starter.living:
        await asyncio.sleep(0.01)
    assert starter.living == [long]


async def test_a_busy_seat_never_expires(
    pool: Pool, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP_S", 0.01)
    pool.begin()
    task = await begin(pool, version_of(keep_warm_s=0))
    sandbox = await starter.finish()
    await asyncio.sleep(0.05)
    assert starter.closed == []
    sandbox.answer()
    await task


async def test_the_end_tells_everybody_who_waits(pool: Pool, starter: FakeStarter) -> None:
    starting = await begin(pool, version_of(memory_mb=1024))
    starving = await begin(pool, version_of(memory_mb=1024))
    await pool.end()
    await failing(starting, NodeDraining)
    await failing(starving, NodeDraining)
    await failing(use(pool, version_of()), NodeDraining)


async def test_a_call_cut_off_by_the_end_is_not_the_functions_fault(
    pool: Pool, starter: FakeStarter
) -> None:
    task = await begin(pool, version_of())
    sandbox = await starter.finish()
    await pool.end()
    sandbox.die()
    await failing(task, NodeDraining)


async def test_an_end_that_is_cancelled_still_tells_everybody(
    pool: Pool, starter: FakeStarter
) -> None:
    starving = [await begin(pool, version_of(memory_mb=1024)) for _ in range(2)]
    ending = asyncio.create_task(pool.end())
    await asyncio.sleep(0)
    ending.cancel()
    await failing(ending, asyncio.CancelledError)
    for task in starving:
        await failing(task, NodeDraining)
