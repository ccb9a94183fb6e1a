"""Versions that never load: exact counts, pauses and words."""

from __future__ import annotations

import pytest

from core.errors import FunctionInitFailed, FunctionUnloadable
from core.limits import INIT_FAILING_MAX, INIT_FAILURES_MAX, INIT_PAUSE_MAX_S, INIT_PAUSE_S
from executor.breaker import Breaker

V = "v_1"
NO = FunctionInitFailed("no module named x", type="ImportError")


def opened(now: float = 0.0) -> Breaker:
    """One whose version has just failed for the last time it may."""
    breaker = Breaker()
    for _ in range(INIT_FAILURES_MAX):
        breaker.check(V, now)
        breaker.failed(V, NO, now)
    return breaker


def refusal(breaker: Breaker, now: float) -> FunctionUnloadable:
    with pytest.raises(FunctionUnloadable) as caught:
        breaker.check(V, now)
    return caught.value


def test_a_version_may_fail_some_times_before_it_is_refused() -> None:
    breaker = Breaker()
    for _ in range(INIT_FAILURES_MAX):
        breaker.check(V, 0.0)
        assert not breaker.is_open(V)
        breaker.failed(V, NO, 0.0)
    assert breaker.is_open(V)
    error = refusal(breaker, 0.0)
    assert error.details["last"] == {"type": "ImportError", "message": "no module named x"}
    assert error.details["retry_after_s"] == INIT_PAUSE_S
    assert "3 times in a row; the next try is in 1 s" in error.message
    assert error.message.endswith("The last failure: no module named x")


def test_other_versions_are_none_of_its_business() -> None:
    breaker = opened()
    assert not breaker.is_open("v_2")
    breaker.check("v_2", 0.0)


def test_after_the_pause_one_try_at_a_time_is_let_through() -> None:
    breaker = opened()
    refusal(breaker, INIT_PAUSE_S - 0.001)
    breaker.check(V, INIT_PAUSE_S)
    error = refusal(breaker, INIT_PAUSE_S)
    assert error.details["retry_after_s"] == INIT_PAUSE_S
    breaker.unknown(V)  # it told nothing
    breaker.check(V, INIT_PAUSE_S)
    refusal(breaker, INIT_PAUSE_S)


def test_each_failed_try_doubles_the_pause_up_to_its_limit() -> None:
    breaker, now = opened(), 0.0
    pause_s = INIT_PAUSE_S
    for _ in range(10):
        assert refusal(breaker, now).details["retry_after_s"] == pytest.approx(pause_s)
        refusal(breaker, now + pause_s * 0.99)
        now += pause_s
        breaker.check(V, now)
        breaker.failed(V, NO, now)
        pause_s = min(2 * pause_s, INIT_PAUSE_MAX_S)
    assert pause_s == INIT_PAUSE_MAX_S


def test_starts_that_fail_beside_one_another_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    for at in range(50):
        breaker.failed(V, NO, at * INIT_PAUSE_S / 100)
    breaker.check(V, INIT_PAUSE_S)


def test_a_try_that_succeeds_makes_all_forgotten() -> None:
    breaker = opened()
    breaker.check(V, INIT_PAUSE_S)
    breaker.loaded(V)
    assert not breaker.is_open(V)
    for _ in range(INIT_FAILURES_MAX - 1):
        breaker.failed(V, NO, INIT_PAUSE_S)
        breaker.check(V, INIT_PAUSE_S)
    breaker.failed(V, NO, 100.0)
    assert refusal(breaker, 100.0).details["retry_after_s"] == INIT_PAUSE_S


def test_a_success_between_failures_begins_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(INIT_FAILURES_MAX - 1):
            breaker.failed(V, NO, 0.0)
        breaker.loaded(V)
    breaker.check(V, 0.0)


def test_the_last_failure_is_the_one_that_is_told() -> None:
    breaker = opened()
    breaker.failed(V, FunctionInitFailed("another"), 0.5)
    assert refusal(breaker, 0.5).details["last"] == {"type": None, "message": "another"}


def test_only_so_many_failing_versions_are_remembered() -> None:
    breaker = opened()
    for number in range(INIT_FAILING_MAX):
        breaker.failed(f"v_other_{number}", NO, 0.0)
    assert not breaker.is_open(V)
    breaker.check(V, 0.0)
    assert len(breaker._records) == INIT_FAILING_MAX


def test_nothing_is_kept_of_versions_that_load() -> None:
    breaker = Breaker()
    breaker.check(V, 0.0)
    breaker.loaded(V)
    breaker.unknown(V)
    assert breaker._records == {}
