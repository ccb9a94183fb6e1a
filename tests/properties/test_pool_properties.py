"""The pool under any order of events: nobody waits while a seat could be made, nothing is lent
twice or lost, and the memory promised is the memory of what lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers, sampled_from

from core.errors import FunctionInitFailed, HearthError, PartAway
from executor import plan as module
from executor.call import Outcome
from executor.pool import Pool
from tests.fixtures.fake_starter import FakeSandbox, FakeStarter, ticks
from tests.fixtures.sandboxes import event, version_of

BUDGET_MB = 1000
SIZES_MB = (100, 300, 300, 700, 1000)
ERRORS = (FunctionInitFailed("no"), PartAway("podman", "away"), asyncio.CancelledError())
at = integers(0, 1000)


class PoolMachine(RuleBasedStateMachine):
    """Calls come, are answered, crash and are left; starts end well and badly; versions retire."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.versions = [version_of(memory_mb=size) for size in SIZES_MB]
        self.tasks: list[asyncio.Task[Outcome]] = []
        self.using: dict[FakeSandbox, asyncio.Task[Outcome] | None] = {}
        self.run(self.build())

    async def build(self) -> None:
        self.starter = FakeStarter()
        self.starter.is_slow = True
        self.pool = Pool(self.starter, BUDGET_MB)

    def run(self, work: Awaitable[object]) -> None:
        self.loop.run_until_complete(self.both(work))

    async def both(self, work: Awaitable[object]) -> None:
        await work
        await ticks()
        self.tasks = [task for task in self.tasks if not task.done()]

    async def use(self, at: int) -> Outcome:
        seat, _ = await self.pool.acquire(self.versions[at])
        sandbox = seat.sandbox
        assert isinstance(sandbox, FakeSandbox)
        assert sandbox.is_usable, "lent while in use, or after its end"
        assert sandbox in self.starter.living, "lent after it was closed"
        return await sandbox.call(event(), partial(self.pool.give_back, seat))

    def busy(self) -> list[FakeSandbox]:
        return [sandbox for sandbox in self.starter.living if sandbox._calls]

    def pick(self, things: list[FakeSandbox], at: int) -> FakeSandbox:
        return things[at % len(things)]

    @rule(at=integers(0, len(SIZES_MB) - 1))
    def somebody_calls(self, at: int) -> None:
        async def call() -> None:
            task = asyncio.create_task(self.quietly(at))
            self.tasks.append(task)  # type: ignore[arg-type]

        self.run(call())

    async def quietly(self, at: int) -> Outcome | None:
        try:
            return await self.use(at)
        except HearthError:
            return None

    @precondition(lambda self: self.starter.waiting)
    @rule(at=at)
    def a_start_ends_well(self, at: int) -> None:
        self.run(self.starter.finish(at % len(self.starter.waiting)))

    @precondition(lambda self: self.starter.waiting)
    @rule(at=at, error=sampled_from(ERRORS[:2]))
    def a_start_ends_badly(self, at: int, error: BaseException) -> None:
        self.run(self.starter.fail(error, at % len(self.starter.waiting)))

    @precondition(lambda self: self.busy())
    @rule(at=at)
    def a_call_is_answered(self, at: int) -> None:
        async def answer() -> None:
            self.pick(self.busy(), at).answer()

        self.run(answer())

    @precondition(lambda self: self.starter.living)
    @rule(at=at)
    def a_sandbox_dies(self, at: int) -> None:
        async def die() -> None:
            self.pick(self.starter.living, at).die()

        self.run(die())

    @precondition(lambda self: self.busy())
    @rule(at=at, tick=integers(0, 4))
    def an_answer_and_its_sandbox_s_end_come_together(self, at: int, tick: int) -> None:
        async def both() -> None:
            sandbox = self.pick(self.busy(), at)
            sandbox.answer()
            for _ in range(tick):
                await asyncio.sleep(0)
            sandbox.die()

        self.run(both())

    @precondition(lambda self: self.tasks)
    @rule(at=at)
    def somebody_leaves(self, at: int) -> None:
        async def leave() -> None:
            self.tasks[at % len(self.tasks)].cancel()

        self.run(leave())

    @precondition(lambda self: self.tasks and self.busy())
    @rule(at=at, tick=integers(0, 5))
    def somebody_leaves_as_a_seat_becomes_free(self, at: int, tick: int) -> None:
        async def both() -> None:
            self.pick(self.busy(), at).answer()
            for _ in range(tick):
                await asyncio.sleep(0)
            self.tasks[at % len(self.tasks)].cancel()

        self.run(both())

    @precondition(lambda self: self.tasks and self.starter.waiting)
    @rule(at=at, tick=integers(0, 5))
    def somebody_leaves_as_a_seat_is_ready(self, at: int, tick: int) -> None:
        async def both() -> None:
            version, made = self.starter.waiting.pop(at % len(self.starter.waiting))
            sandbox = FakeSandbox(version)
            self.starter.living.append(sandbox)
            made.set_result(sandbox)
            for _ in range(tick):
                await asyncio.sleep(0)
            self.tasks[at % len(self.tasks)].cancel()

        self.run(both())

    @rule(at=integers(0, len(SIZES_MB) - 1))
    def a_version_retires(self, at: int) -> None:
        async def retire() -> None:
            self.pool.retire(self.versions[at].id)

        self.run(retire())

    @precondition(lambda self: self.starter.leaving)
    @rule(at=at)
    def what_ended_has_gone(self, at: int) -> None:
        async def go() -> None:
            leaving = self.starter.leaving
            self.starter.let_go(leaving[at % len(leaving)])

        self.run(go())

    @rule(seconds=sampled_from([0.0, 1.0]))
    def patience_changes(self, seconds: float) -> None:
        setattr(module, "SEAT_WAIT_FAIR_S", seconds)  # noqa: B010

    @invariant()
    def the_memory_promised_is_that_of_what_lives_or_starts(self) -> None:
        living = sum(s.version.config.memory_mb for s in self.starter.living if s.version)
        starting = sum(version.config.memory_mb for version, _ in self.starter.waiting)
        leaving = sum(s.version.config.memory_mb for s in self.starter.leaving if s.version)
        assert self.pool.plan.promised_mb == living + starting + leaving <= BUDGET_MB

    @invariant()
    def nobody_waits_while_a_seat_could_be_made(self) -> None:
        free = BUDGET_MB - self.pool.plan.promised_mb
        first = next(iter(self.pool.plan.starving), None)
        if first is not None:
            assert first.memory_mb > free, repr(self.pool)
            assert not first.idle

    @invariant()
    def every_seat_is_idle_or_in_use_and_none_is_lost(self) -> None:
        stats = self.pool.stats()
        assert set(self.pool._seats) == set(self.starter.living)
        assert stats.busy == len(self.busy())
        assert stats.idle == len(self.starter.living) - len(self.busy())
        assert stats.booting == len(self.starter.waiting)

    @invariant()
    def what_is_empty_is_forgotten(self) -> None:
        for line in [*self.pool.plan.all_lines(), *self.pool.plan.starving]:
            assert not line.is_empty

    def teardown(self) -> None:
        setattr(module, "SEAT_WAIT_FAIR_S", 1.0)  # noqa: B010

        async def end() -> None:
            self.starter.is_slow = False
            for sandbox in list(self.starter.leaving):
                self.starter.let_go(sandbox)
            for sandbox in self.busy():
                sandbox.die()
            await self.pool.end()

        self.run(end())
        assert self.tasks == []
        assert self.starter.living == []
        assert self.pool.plan.promised_mb == 0
        self.loop.close()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
