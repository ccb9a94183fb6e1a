"""How many stems bursts of cold starts ask for."""

from __future__ import annotations

from core.limits import STEM_BURST_S, STEM_MEMORY_S
from executor.demand import Demand


def test_nothing_asked_for_is_nothing_kept() -> None:
    assert Demand().largest(1000.0) == 0


def test_cold_starts_within_a_moment_are_a_burst() -> None:
    demand = Demand()
    for at in (0.0, STEM_BURST_S / 2, STEM_BURST_S):
        demand.note(at)
    assert demand.largest(STEM_BURST_S) == 3
    demand.note(STEM_BURST_S + 0.001)  # the first is not of this one
    assert demand.largest(STEM_BURST_S + 0.001) == 3


def test_steady_calls_are_no_burst() -> None:
    demand = Demand()
    for number in range(100):
        demand.note(number * (STEM_BURST_S + 0.1))
    assert demand.largest(100 * STEM_BURST_S) == 1


def test_the_largest_burst_is_remembered_so_long_and_then_the_next_largest() -> None:
    demand = Demand()
    for _ in range(20):
        demand.note(0.0)
    for _ in range(5):
        demand.note(100.0)
    demand.note(200.0)
    assert demand.largest(STEM_MEMORY_S) == 20
    assert demand.largest(STEM_MEMORY_S + 0.001) == 5
    assert demand.largest(100.0 + STEM_MEMORY_S) == 5
    assert demand.largest(100.1 + STEM_MEMORY_S) == 1
    assert demand.largest(200.1 + STEM_MEMORY_S) == 0


def test_what_is_remembered_is_bounded_by_the_largest_burst() -> None:
    demand = Demand()
    for number in range(10_000):
        demand.note(number / 5)
    assert len(demand._recent) == int(STEM_BURST_S * 5) + 1
    assert len(demand._bursts) <= len(demand._recent)
