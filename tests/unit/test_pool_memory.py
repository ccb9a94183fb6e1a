"""The pool when there is not enough: who waits, who does not, and what ends for whom."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    HearthError,
    NodeDraining,
    NodeFull,
    PartAway,
)
from executor import plan as plan_module
from executor import pool as module
from executor.pool import Pool
from tests.fixtures.fake_starter import (
    BUDGET_MB,
    FakeStarter,
    begin,
    failing,
    left,
    ticks,
    use,
    warm,
)
from tests.fixtures.sandboxes import version_of


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
    monkeypatch.setattr(plan_module, "SEAT_WAIT_FAIR_S", 0.0)
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
    monkeypatch.setattr(plan_module, "SEAT_WAIT_FAIR_S", 0.0)
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
