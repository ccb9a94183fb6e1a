"""Places under any order of events: none leaks, no limit is passed, nobody waits in vain."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers, sampled_from

from core.errors import HearthError
from core.limits import PLACE_WAIT_S
from executor import admission as module
from executor.admission import Admission, Waiter
from tests.fixtures.fake_starter import ticks
from tests.fixtures.sandboxes import version_of

NODE_MAX = 5
LIMITS = (1, 2, 3, 10)
at = integers(0, 1000)
which = integers(0, len(LIMITS) - 1)
moments = sampled_from(["before", "after"])


class AdmissionMachine(RuleBasedStateMachine):
    """Calls come as tasks and as callbacks, end, are cancelled at any moment, run out of time."""

    def __init__(self) -> None:
        super().__init__()
        setattr(module, "PLACE_WAIT_S", 3600.0)  # noqa: B010 (time passes when a rule says so)
        self.loop = asyncio.new_event_loop()
        self.versions = [version_of(concurrency=limit) for limit in LIMITS]
        self.admission = Admission(NODE_MAX)
        self.inside: list[int] = []  # one entry for each place taken
        self.waiters: dict[Waiter, int] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def run(self, *acts: object) -> None:
        async def all_of_it() -> None:
            for act in acts:
                assert callable(act)
                act()
            await ticks()

        self.loop.run_until_complete(all_of_it())
        self.tasks = [task for task in self.tasks if not task.done()]
        self.waiters = {waiter: v for waiter, v in self.waiters.items() if waiter.told}

    def counts(self) -> list[int]:
        return [self.inside.count(v) for v in range(len(LIMITS))]

    async def call(self, version: int) -> None:
        with contextlib.suppress(HearthError):
            await self.admission.admit(self.versions[version])
            self.inside.append(version)

    def leave(self, place: int) -> None:
        version = self.inside.pop(place % len(self.inside))
        self.admission.leave(self.versions[version].function_id)

    def expire(self) -> None:
        for waiter in self.admission._expiring:
            waiter.expires = 0.0
        self.admission._expire()

    def cancel(self, task: int) -> None:
        self.tasks[task % len(self.tasks)].cancel()

    @rule(version=which)
    def somebody_comes(self, version: int) -> None:
        self.run(lambda: self.tasks.append(self.loop.create_task(self.call(version))))

    @rule(version=which)
    def somebody_comes_without_a_task(self, version: int) -> None:
        def come() -> None:
            if self.admission.enter(self.versions[version]):
                self.inside.append(version)
            else:
                self.waiters[self.admission.wait(self.versions[version], told)] = version

        def told(error: HearthError | None) -> None:
            if error is None:
                self.inside.append(version)

        self.run(come)

    @precondition(lambda self: self.inside)
    @rule(place=at)
    def somebody_leaves(self, place: int) -> None:
        self.run(lambda: self.leave(place))

    @precondition(lambda self: self.tasks)
    @rule(task=at)
    def somebody_is_cancelled(self, task: int) -> None:
        self.run(lambda: self.cancel(task))

    @precondition(lambda self: self.tasks and self.inside)
    @rule(task=at, place=at, moment=moments)
    def somebody_is_cancelled_as_a_place_becomes_free(
        self, task: int, place: int, moment: str
    ) -> None:
        acts = [lambda: self.leave(place), lambda: self.cancel(task)]
        self.run(*(acts if moment == "after" else reversed(acts)))

    @precondition(lambda self: self.waiters)
    @rule(waiter=at)
    def somebody_gives_up(self, waiter: int) -> None:
        chosen = list(self.waiters)[waiter % len(self.waiters)]
        self.run(lambda: self.admission.give_up(chosen))

    @rule()
    def all_run_out_of_time(self) -> None:
        self.run(self.expire)

    @invariant()
    def places_are_those_of_who_is_inside(self) -> None:
        by_id = {v.function_id: n for v, n in zip(self.versions, self.counts(), strict=True) if n}
        assert self.admission._running == by_id
        assert self.admission._total == len(self.inside)

    @invariant()
    def no_limit_is_passed(self) -> None:
        assert len(self.inside) <= NODE_MAX
        assert all(n <= limit for n, limit in zip(self.counts(), LIMITS, strict=True))

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        waiting = self.admission._waiting
        for version, inside in zip(self.versions, self.counts(), strict=True):
            if version.function_id in waiting:
                assert len(self.inside) == NODE_MAX or inside == version.config.concurrency
        assert self.admission._waiting_total == sum(map(len, waiting.values()))
        assert self.admission._waiting_total == len(self.tasks) + len(self.waiters)

    def teardown(self) -> None:
        self.run(self.expire)
        assert (self.tasks, self.waiters) == ([], {})
        while self.inside:
            self.run(lambda: self.leave(0))
        self.loop.run_until_complete(self.admission.close(0))
        self.loop.close()
        setattr(module, "PLACE_WAIT_S", PLACE_WAIT_S)  # noqa: B010
        assert self.admission._running == {}


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
