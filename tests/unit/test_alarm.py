"""One timer for many deadlines."""

from __future__ import annotations

import asyncio
import math
import time

from executor.alarm import SLACK_S, Alarm


class Deadlines:
    """Some moments, and when the alarm came to each."""

    def __init__(self, *after_s: float) -> None:
        now = time.perf_counter()
        self.waiting = [now + s for s in after_s]
        self.met: list[tuple[float, float]] = []
        self.rings = 0
        self.over = asyncio.Event()
        self.alarm = Alarm(self.ring)

    def ring(self, until: float) -> float:
        self.rings += 1
        now = time.perf_counter()
        self.met += [(due, now) for due in self.waiting if due <= until]
        self.waiting = [due for due in self.waiting if due > until]
        if not self.waiting:
            self.over.set()
        return min(self.waiting, default=math.inf)


async def test_it_rings_for_each_and_for_none_before_its_time() -> None:
    deadlines = Deadlines(0.05, 0.01, 0.03)
    for due in list(deadlines.waiting):
        deadlines.alarm.by(due)
    await asyncio.wait_for(deadlines.over.wait(), 30)
    assert [due for due, _ in deadlines.met] == sorted(due for due, _ in deadlines.met)
    assert all(now >= due - SLACK_S for due, now in deadlines.met)
    assert deadlines.rings <= 6  # each may be a little early once


async def test_what_is_due_later_sets_no_timer() -> None:
    deadlines = Deadlines(30.0)
    deadlines.alarm.by(deadlines.waiting[0])
    timer = deadlines.alarm._timer
    for later in range(100):
        deadlines.alarm.by(deadlines.waiting[0] + later)
    assert deadlines.alarm._timer is timer
    deadlines.alarm.stop()


async def test_an_earlier_one_takes_the_place_of_a_later_one() -> None:
    deadlines = Deadlines(30.0)
    deadlines.alarm.by(deadlines.waiting[0])
    later = deadlines.alarm._timer
    deadlines.waiting = [time.perf_counter()]
    deadlines.alarm.by(deadlines.waiting[0])
    assert later is not None
    assert later.cancelled()
    await asyncio.wait_for(deadlines.over.wait(), 30)
    assert len(deadlines.met) == 1


async def test_a_stopped_one_is_silent_and_can_be_set_again() -> None:
    deadlines = Deadlines(0.0)
    deadlines.alarm.by(deadlines.waiting[0])
    deadlines.alarm.stop()
    deadlines.alarm.stop()
    await asyncio.sleep(0.02)
    assert deadlines.rings == 0
    deadlines.alarm.by(deadlines.waiting[0])
    await asyncio.wait_for(deadlines.over.wait(), 30)
