"""Runs invocations on this node: admit, lend a seat, call. This is the hot path's middle."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import HearthError, NodeDraining
from core.limits import STEM_BUDGET_SHARE, STEM_MB
from core.model import Version
from core.settings import Settings
from executor.admission import Admission
from executor.call import Call, CodeProvider, LogSink, Outcome, PoolStats
from executor.driver import Driver
from executor.hosting import Hosting
from executor.inflight import Told, settle
from executor.pool import Pool
from executor.sandbox import Sandbox
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
        budget_mb = settings.memory_budget_mb or _machine_share_mb()
        self._driver = hosting = Hosting(
            driver,
            memory_mb=budget_mb,
            payload_bytes_max=settings.payload_bytes_max,
            release_code=code.release,
        )
        self._admission = Admission(settings.invocations_max)
        stems_mb = budget_mb // STEM_BUDGET_SHARE // STEM_MB * STEM_MB if settings.stems else 0
        self._stems = Stems(hosting, settings.stems, stems_mb, settings.stems_max)
        starter = Starter(
            driver=hosting,
            stems=self._stems,
            code=code,
            logs=logs,
            payload_bytes_max=settings.payload_bytes_max,
        )
        self._pool = Pool(starter, budget_mb - stems_mb)
        self._tasks: set[asyncio.Task[Outcome]] = set()
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

    # --- invoking --------------------------------------------------------------------------------

    def begin(self, version: Version, call: Call, told: Told) -> bool:
        """Start the call on a warm seat, now, without a task. True: `told` hears how it ended,
        once, later, from the event loop. False: no place or no warm seat is at hand, and nothing
        has happened; `invoke` it, which waits, or says why not."""
        admission = self._admission
        if not admission.enter(version):
            return self._pool.has_seats(version) and self._begin_later(version, call, told)
        seat = self._pool.lend(version)
        if seat is None:
            admission.leave(version.function_id)
            return False
        seat.sandbox.begin(call, told, partial(self._over, seat))
        if admission.is_alone:
            asyncio.get_running_loop().call_soon(self._look, seat.sandbox)
        return True

    def _look(self, sandbox: Sandbox) -> None:
        """With nothing else to do, wait for a quick answer without going to sleep."""
        if self._admission.is_alone:
            sandbox.look()

    async def invoke(self, version: Version, call: Call) -> Outcome:
        """Run one invocation to its outcome. The function's own error is an outcome, a value. To
        cancel this cancels the waiting, not the call, which ends by itself within its deadline.

        Raises ConcurrencyReached, NodeFull, NodeDraining, FunctionTimeout, FunctionCrashed,
        FunctionOutOfMemory, FunctionInitFailed, ResponseInvalid, SandboxBroken, PartAway."""
        started = time.perf_counter()
        await self._admission.admit(version)
        return await self._run(version, call, started)

    async def _run(self, version: Version, call: Call, started: float) -> Outcome:
        """The invocation, whose place is taken."""
        try:
            seat, why_cold = await self._pool.acquire(version)
        except BaseException:
            self._admission.leave(version.function_id)
            raise
        waited_ms = (time.perf_counter() - started) * 1000
        answer = seat.sandbox.call(call, partial(self._over, seat))
        try:
            outcome = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                settle(answer, answer.result())  # a stream began in this very tick: nobody reads it
            raise
        return _told(outcome, seat, call, waited_ms, why_cold)

    def _over(self, seat: Seat) -> None:
        """A call is over: its seat is free, and then its place."""
        self._pool.give_back(seat)
        self._admission.leave(seat.line.version.function_id)

    def _begin_later(self, version: Version, call: Call, told: Told) -> bool:
        """As `begin`, when a place becomes free."""
        started = time.perf_counter()

        def admitted(error: HearthError | None) -> None:
            if error is not None:
                told(error)
                return
            seat = self._pool.lend(version)
            if seat is not None:
                waited_ms = (time.perf_counter() - started) * 1000
                seat.sandbox.begin(
                    call, partial(_waited, told, waited_ms), partial(self._over, seat)
                )
            else:  # what was warm has ended meanwhile
                self._tasks.add(task := asyncio.create_task(self._run(version, call, started)))
                task.add_done_callback(partial(self._ran, told))

        try:
            self._admission.wait(version, admitted)
        except HearthError:
            return False
        return True

    def _ran(self, told: Told, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            told(NodeDraining("this node is shutting down", retry_after_s=1))
            return
        error = task.exception()
        assert error is None or isinstance(error, HearthError), error
        told(task.result() if error is None else error)

    # --- the rest --------------------------------------------------------------------------------

    async def check(self, version: Version) -> None:
        """Make one seat of the version, as its first warm one. Errors as `invoke`, of the start."""
        seat, _ = await self._pool.acquire(version)
        self._pool.give_back(seat)

    def keep(self, versions: Iterable[Version]) -> None:
        """All versions in use on this node, those that aliases point at: their `min_warm` seats
        are made and kept, and stems of their kinds stocked."""
        versions = list(versions)
        self._stems.expect(versions)
        self._pool.keep(versions)

    def retire(self, version_id: str) -> None:
        """The version is gone or replaced: end its seats when they are free."""
        self._pool.retire(version_id)

    async def drain(self) -> None:
        """Admit nothing more and wait, at most HEARTH_DRAIN_S, for what runs."""
        await self._admission.close(self._settings.drain_s)

    async def ping(self) -> None:
        """PartAway when no new sandbox could be made now."""
        await self._driver.ping()

    def stats(self) -> PoolStats:
        """Counts of this moment."""
        return dataclasses.replace(
            self._pool.stats(), stems=self._stems.count(), stem_levels=self._stems.levels()
        )


def _waited(told: Told, waited_ms: float, end: Outcome | HearthError) -> None:
    if isinstance(end, Outcome):
        end.timing.queue_ms = waited_ms
    told(end)


def _told(
    outcome: Outcome, seat: Seat, call: Call, waited_ms: float, why_cold: str | None
) -> Outcome:
    """The outcome with what only the executor knows: was it cold, and how long it waited."""
    timing = outcome.timing
    if why_cold is None:
        timing.queue_ms = waited_ms
        return outcome
    start = seat.sandbox.timing
    timing.boot_ms, timing.init_ms = start.boot_ms, start.init_ms
    timing.queue_ms = max(0.0, waited_ms - start.boot_ms - start.init_ms)
    facts = f"boot {start.boot_ms:.1f} ms, init {start.init_ms:.1f} ms"
    seat.sandbox.note(f"cold start, {why_cold.replace('_', ' ')}: {facts}", call.id)
    return dataclasses.replace(outcome, cold=True, why_cold=why_cold)


def _machine_share_mb() -> int:
    with Path("/proc/meminfo").open(encoding="ascii") as table:
        total_kib = int(next(line for line in table if line.startswith("MemTotal")).split()[1])
    return int(total_kib / 1024 * _MEMORY_SHARE)
