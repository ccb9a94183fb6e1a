"""What decides about stems and failing versions, against models that are slow and plain."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from core.errors import FunctionInitFailed, FunctionUnloadable
from core.limits import (
    INIT_FAILURES_MAX,
    INIT_PAUSE_MAX_S,
    INIT_PAUSE_S,
    STEM_BURST_S,
    STEM_MEMORY_S,
)
from executor.breaker import Breaker
from executor.demand import Demand

# Halves and wholes: sums of them are exact, and differences meet the limits exactly.
gaps = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 200.0, 599.5, 600.0, 601.0]))


@given(gaps, st.sampled_from([0.0, 0.5, 598.0, 600.0, 600.5]))
def test_the_demand_is_the_largest_burst_of_late(steps: list[float], later: float) -> None:
    demand = Demand()
    times = list(accumulate(steps))
    for at, now in enumerate(times):
        demand.note(now)
        assert demand.largest(now) == largest(times[: at + 1], now)
    end = (times[-1] if times else 0.0) + later
    assert demand.largest(end) == largest(times, end)


def largest(times: list[float], now: float) -> int:
    ends = [end for end in times if now - end <= STEM_MEMORY_S]
    return max((sum(end - STEM_BURST_S <= t <= end for t in upto(times, end)) for end in ends),
               default=0)  # fmt: skip


def upto(times: list[float], end: float) -> list[float]:
    return [t for t in times if t <= end]


class Model:
    """A breaker of one version, told by its rules."""

    def __init__(self) -> None:
        self.failures, self.pauses, self.until, self.is_probed = 0, 0, 0.0, False

    def check(self, now: float) -> bool:
        if self.failures < INIT_FAILURES_MAX:
            return True
        if now < self.until or self.is_probed:
            return False
        self.is_probed = True
        return True

    def failed(self, now: float) -> None:
        self.failures += 1
        self.is_probed = False
        if self.failures >= INIT_FAILURES_MAX and now >= self.until:
            pause_s = min(INIT_PAUSE_S * 2**self.pauses, INIT_PAUSE_MAX_S)
            self.pauses, self.until = self.pauses + 1, now + pause_s


events = st.lists(
    st.tuples(
        st.sampled_from(["check", "check", "failed", "failed", "loaded", "unknown"]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0, 64.0]),
    ),
    max_size=60,
)


@given(events)
def test_the_breaker_does_what_its_rules_say(happened: list[tuple[str, float]]) -> None:
    breaker, model, now = Breaker(), Model(), 0.0
    for what, step in happened:
        now += step
        if what == "check":
            try:
                breaker.check("v", now)
                allowed = True
            except FunctionUnloadable as error:
                allowed = False
                assert error.details["retry_after_s"] == max(model.until - now, INIT_PAUSE_S)
            assert allowed is model.check(now)
        elif what == "failed":
            breaker.failed("v", FunctionInitFailed("no"), now)
            model.failed(now)
        elif what == "loaded":
            breaker.loaded("v")
            model = Model()
        else:
            breaker.unknown("v")
            model.is_probed = False
        assert breaker.is_open("v") is (model.failures >= INIT_FAILURES_MAX)


@given(events)
def test_nobody_is_refused_longer_than_the_longest_pause(
    happened: list[tuple[str, float]],
) -> None:
    breaker, now = Breaker(), 0.0
    for what, step in happened:
        now += step
        if what == "failed":
            breaker.failed("v", FunctionInitFailed("no"), now)
    breaker.unknown("v")
    breaker.check("v", now + INIT_PAUSE_MAX_S)
