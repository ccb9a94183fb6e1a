"""Every await of an invocation is cut by cancellation, cold and warm, alone and beside others: what
was taken is given back, and the next call is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bench.seats import EchoDriver, Nothing, echo_version
from core.errors import FunctionInitFailed, HearthError
from core.model import Version
from core.settings import Settings
from executor.executor import Executor
from executor.sandbox import Sandbox
from tests.fixtures.sandboxes import event

TICKS_MAX = 200  # far more than an invocation takes


class LoadsBadly(EchoDriver):
    """The code of each second sandbox does not load."""

    def __init__(self) -> None:
        self.bound = 0

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        await asyncio.sleep(0)
        self.bound += 1
        if self.bound % 2:
            raise FunctionInitFailed("it does not load", type="Error")


def books(executor: Executor) -> list[object]:
    """What is taken at the moment: places, seats in use, tickets, starts, memory that is promised
    to nobody who lives."""
    stats = executor.stats()
    living = sum(seat.memory_mb for seat in executor._pool._seats.values())
    return [
        executor._admission._total,
        stats.busy,
        stats.waiting,
        stats.booting,
        stats.leaving,
        stats.promised_mb - living,
        dict(executor._stems._binding),
    ]


EVEN = [0, 0, 0, 0, 0, 0, {}]


async def even(executor: Executor) -> None:
    """Until everything under way has ended; fails when something never does."""
    for _ in range(TICKS_MAX):
        if books(executor) == EVEN:
            return
        await asyncio.sleep(0)
    assert books(executor) == EVEN


async def cut_everywhere(
    executor: Executor, prepare: Callable[[], Coroutine[Any, Any, Version]]
) -> int:
    """Begin an invocation again and again and cancel it one tick later each time, until it ends
    before that; how many ticks it took."""
    for ticks in range(TICKS_MAX):
        version = await prepare()
        task = asyncio.create_task(executor.invoke(version, event()))
        for _ in range(ticks):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        assert not isinstance(ended, BaseException) or isinstance(
            ended, HearthError | asyncio.CancelledError
        )
        await even(executor)
        if was_done:
            return ticks
    raise AssertionError("it never ended")


@pytest.mark.parametrize("stems", [0, 2])
@pytest.mark.parametrize("driver", [EchoDriver, LoadsBadly])
@pytest.mark.parametrize("per_sandbox", [1, 3])
async def test_a_cold_invocation_cut_at_any_await_leaves_nothing_taken(
    stems: int, driver: type[EchoDriver], per_sandbox: int
) -> None:
    settings = Settings(stems=stems, memory_budget_mb=4096)
    nothing = Nothing()
    async with Executor(settings, driver(), nothing, nothing) as executor:

        async def fresh() -> Version:
            return echo_version(per_sandbox=per_sandbox)

        assert await cut_everywhere(executor, fresh) > 5


async def test_a_warm_invocation_cut_at_any_await_leaves_its_seat_warm() -> None:
    nothing = Nothing()
    async with Executor(Settings(stems=0), EchoDriver(), nothing, nothing) as executor:
        version = echo_version()
        await executor.invoke(version, event())

        async def same() -> Version:
            return version

        assert await cut_everywhere(executor, same) > 0
        assert executor.stats().idle == 1
        assert not (await executor.invoke(version, event())).cold


async def test_an_invocation_that_waits_for_memory_is_cut_at_any_await() -> None:
    nothing = Nothing()
    settings = Settings(stems=0, memory_budget_mb=128)
    async with Executor(settings, EchoDriver(), nothing, nothing) as executor:

        async def beside_another() -> Version:
            """The node is full of another function's idle seat: it has to be evicted first."""
            await executor.invoke(echo_version(memory_mb=128), event())
            return echo_version(memory_mb=128)

        assert await cut_everywhere(executor, beside_another) > 5


async def test_an_invocation_that_waits_for_a_place_is_cut_at_any_await() -> None:
    nothing = Nothing()
    async with Executor(Settings(stems=0), EchoDriver(), nothing, nothing) as executor:
        version = echo_version(concurrency=1)
        others: list[asyncio.Task[Any]] = []

        async def taken() -> Version:
            others[:] = [asyncio.create_task(executor.invoke(version, event()))]
            await asyncio.sleep(0)
            return version

        assert await cut_everywhere(executor, taken) > 1
        await asyncio.gather(*others)
