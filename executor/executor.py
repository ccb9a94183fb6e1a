"""Runs invocations on this node: admit, lease, call. This is the hot path's middle."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from core.model import Version
from core.settings import Settings
from executor.admission import Admission
from executor.call import Call, CodeProvider, LogSink, Outcome, PoolStats
from executor.driver import Driver
from executor.pool import Pool
from executor.seats import Seat
from executor.starter import Starter
from executor.stems import Stems
from runtimes.registry import RUNTIMES

_MEMORY_SHARE = 0.7


class Executor:
    """`async with Executor(…) as executor`: entered it serves, left it has closed every sandbox."""

    def __init__(
        self, settings: Settings, driver: Driver, code: CodeProvider, logs: LogSink
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._admission = Admission(settings.invocations_max)
        self._stems = Stems(driver, settings.stems)
        starter = Starter(
            driver=driver,
            stems=self._stems,
            code=code,
            logs=logs,
            payload_bytes_max=settings.payload_bytes_max,
        )
        self._pool = Pool(starter, settings.memory_budget_mb or _machine_share_mb())
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._driver)
        self._stack.push_async_callback(self._stems.stop)
        self._stack.push_async_callback(self._pool.end)
        self._stems.start(RUNTIMES.values())
        self._pool.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def invoke(self, version: Version, call: Call) -> Outcome:
        """Run one invocation to its outcome. The function's own error is an outcome, a value.

        Raises ConcurrencyReached, NodeFull, NodeDraining, FunctionTimeout, FunctionCrashed,
        FunctionOutOfMemory, FunctionInitFailed, ResponseInvalid, SandboxBroken, PartAway."""
        started = time.perf_counter()
        with self._admission.admit(version) as place:
            async with self._pool.lease(version) as seat:
                leased = time.perf_counter()
                try:
                    outcome = await seat.sandbox.call(call)
                except asyncio.CancelledError:
                    # Whoever leaves does not make room for one more: the call goes on.
                    place.keep_until(seat.sandbox.when_quiet)
                    raise
                return _told(outcome, seat, (leased - started) * 1000)

    async def check(self, version: Version) -> None:
        """Make one seat of the version, as its first warm one. Errors as `invoke`, of the start."""
        async with self._pool.lease(version):
            pass

    def retire(self, version_id: str) -> None:
        """The version is gone or replaced: close its seats when they are free."""
        self._pool.retire(version_id)

    async def drain(self) -> None:
        """Admit nothing more and wait, at most HEARTH_DRAIN_S, for what runs."""
        await self._admission.close(self._settings.drain_s)

    async def ping(self) -> None:
        """PartAway when no new sandbox could be made now."""
        await self._driver.ping()

    def stats(self) -> PoolStats:
        """Counts of this moment."""
        return dataclasses.replace(self._pool.stats(), stems=self._stems.count())


def _told(outcome: Outcome, seat: Seat, waited_ms: float) -> Outcome:
    """The outcome with what only the executor knows: was it cold, and how long it waited."""
    timing = outcome.timing
    if seat.served > 1:
        timing.queue_ms = waited_ms
        return outcome
    start = seat.sandbox.timing
    timing.boot_ms, timing.init_ms = start.boot_ms, start.init_ms
    timing.queue_ms = max(0.0, waited_ms - start.boot_ms - start.init_ms)
    return dataclasses.replace(outcome, cold=True)


def _machine_share_mb() -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as table:
        total_kib = int(next(line for line in table if line.startswith("MemTotal")).split()[1])
    return int(total_kib / 1024 * _MEMORY_SHARE)
