"""Who may come in at all, who waits for a moment, and who is told what."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from core.errors import ConcurrencyReached, HearthError, NodeDraining, NodeFull
from core.limits import PLACE_WAIT_S
from core.model import Version
from executor import admission as module
from executor.admission import Admission, Waiter
from tests.fixtures.fake_starter import ticks
from tests.fixtures.sandboxes import version_of


class Answers:
    """What waiters were told, in order: None is a place."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self.errors: dict[str, HearthError | None] = {}

    def wait(self, name: str, version: Version) -> Waiter:
        def told(error: HearthError | None) -> None:
            assert name not in self.errors, "told twice"
            self.order.append(name)
            self.errors[name] = error

        return self.admission.wait(version, told)

    async def all_told(self, count: int) -> None:
        while len(self.order) < count:
            await asyncio.sleep(0.001)


def patience(monkeypatch: pytest.MonkeyPatch, seconds: float = 3600.0) -> None:
    """Nobody is refused while the test goes on."""
    monkeypatch.setattr(module, "PLACE_WAIT_S", seconds)


# --- places --------------------------------------------------------------------------------------


def test_a_function_may_run_as_often_as_its_concurrency_says() -> None:
    admission, version = Admission(10), version_of(concurrency=2)
    assert admission.enter(version)
    assert admission.enter(version)
    assert not admission.enter(version)
    admission.leave(version.function_id)
    assert admission.enter(version)
    assert not admission.enter(version)


def test_concurrency_counts_all_versions_of_a_function() -> None:
    admission, first = Admission(10), version_of(concurrency=1)
    second = dataclasses.replace(first, id="v_2", number=2)
    assert admission.enter(first)
    assert not admission.enter(second)


def test_one_function_at_its_limit_does_not_keep_others_out() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    assert admission.enter(version)
    assert not admission.enter(version)
    assert admission.enter(version_of(concurrency=1))


def test_the_node_has_a_cap_of_its_own() -> None:
    admission, first = Admission(2), version_of()
    assert admission.enter(first)
    assert admission.enter(version_of())
    assert not admission.enter(version_of())
    admission.leave(first.function_id)
    assert admission.enter(version_of())


def test_nothing_is_kept_of_functions_that_have_left() -> None:
    admission = Admission(10)
    for _ in range(3):
        version = version_of()
        admission.enter(version)
        admission.leave(version.function_id)
    assert (admission._running, admission._total) == ({}, 0)


# --- waiting -------------------------------------------------------------------------------------


async def test_a_place_is_handed_on_in_the_order_of_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    admission, version = Admission(10), version_of(concurrency=1)
    answers = Answers(admission)
    admission.enter(version)
    for name in "abc":
        answers.wait(name, version)
    assert answers.order == []
    for _ in "abc":
        admission.leave(version.function_id)
    assert answers.order == ["a", "b", "c"]
    assert set(answers.errors.values()) == {None}
    admission.leave(version.function_id)
    assert admission._total == 0


async def test_nobody_overtakes_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    admission, small = Admission(10), version_of(concurrency=1)
    large = dataclasses.replace(
        small, id="v_2", config=dataclasses.replace(small.config, concurrency=5)
    )
    answers = Answers(admission)
    admission.enter(small)
    answers.wait("first", small)
    assert not admission.enter(large)  # there would be room for it
    admission.leave(small.function_id)
    assert answers.order == ["first"]
    assert admission.enter(large)


async def test_functions_take_turns_at_the_places_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch)
    admission, others = Admission(2), [version_of(), version_of()]
    noisy, quiet = version_of(), version_of()
    answers = Answers(admission)
    for other in others:
        admission.enter(other)
    for name in ("noisy 1", "noisy 2", "noisy 3"):
        answers.wait(name, noisy)
    answers.wait("quiet", quiet)
    for other in others:
        admission.leave(other.function_id)
    assert answers.order == ["noisy 1", "quiet"]


async def test_a_functions_own_place_goes_to_its_next(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    admission, mine, other = Admission(1), version_of(), version_of()
    answers = Answers(admission)
    admission.enter(mine)
    answers.wait("other", other)
    answers.wait("mine", mine)
    admission.leave(mine.function_id)
    assert answers.order == ["mine"]
    admission.leave(mine.function_id)
    assert answers.order == ["mine", "other"]


async def test_who_waits_for_the_function_is_not_given_a_place_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch)
    admission, full, other = Admission(2), version_of(concurrency=1), version_of()
    answers = Answers(admission)
    admission.enter(full)
    admission.enter(other)
    answers.wait("for the function", full)
    answers.wait("for the node", version_of())
    admission.leave(other.function_id)
    assert answers.order == ["for the node"]


async def test_who_waits_no_more_is_told_nothing_and_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch)
    admission, version = Admission(10), version_of(concurrency=1)
    answers = Answers(admission)
    admission.enter(version)
    waiter = answers.wait("gone", version)
    answers.wait("next", version)
    assert admission.give_up(waiter)
    assert not admission.give_up(waiter)
    admission.leave(version.function_id)
    assert answers.order == ["next"]
    admission.leave(version.function_id)
    assert not admission.give_up(waiter)
    assert admission._total == 0


# --- refusals ------------------------------------------------------------------------------------


async def test_who_finds_no_place_is_refused_and_not_before_its_time() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    admission.enter(version)
    began = time.monotonic()
    with pytest.raises(ConcurrencyReached) as caught:
        await admission.admit(version)
    assert time.monotonic() - began >= PLACE_WAIT_S
    assert caught.value.details == {"concurrency": 1, "retry_after_s": 1}
    assert admission._waiting == {}
    assert admission._waiting_total == 0
    await ticks()
    assert not admission._expiring


async def test_the_node_full_is_another_refusal_than_the_function() -> None:
    admission = Admission(1)
    admission.enter(version_of())
    with pytest.raises(NodeFull) as caught:
        await admission.admit(version_of())
    assert caught.value.details["retry_after_s"] == 1


async def test_a_full_function_on_a_full_node_hears_of_what_it_can_change() -> None:
    admission, version = Admission(1), version_of(concurrency=1)
    admission.enter(version)
    with pytest.raises(ConcurrencyReached):
        await admission.admit(version)


async def test_each_is_refused_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    answers = Answers(admission)
    admission.enter(version)
    waiters = [answers.wait("first", version)]
    await asyncio.sleep(PLACE_WAIT_S / 2)
    waiters.append(answers.wait("second", version))
    told_at: list[float] = []
    while len(told_at) < 2:
        told_at += [time.monotonic()] * (len(answers.order) - len(told_at))
        await asyncio.sleep(0)
    assert answers.order == ["first", "second"]
    for waiter, at in zip(waiters, told_at, strict=True):
        assert at >= waiter.expires
    assert admission._timer is None


async def test_those_who_were_served_do_not_delay_the_refusal_of_the_rest() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    answers = Answers(admission)
    admission.enter(version)
    for name in ("served", "refused"):
        answers.wait(name, version)
    admission.leave(version.function_id)
    await answers.all_told(2)
    assert answers.errors["served"] is None
    assert isinstance(answers.errors["refused"], ConcurrencyReached)


async def test_only_so_many_wait_and_the_rest_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch)
    monkeypatch.setattr(module, "PLACE_WAITERS_MAX", 2)
    admission, version = Admission(10), version_of(concurrency=1)
    answers = Answers(admission)
    admission.enter(version)
    waiter = answers.wait("a", version)
    answers.wait("b", version)
    with pytest.raises(ConcurrencyReached):
        answers.wait("c", version)
    admission.give_up(waiter)
    answers.wait("d", version)


async def test_who_waits_again_as_it_is_refused_is_refused_again_and_one_clock_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PLACE_WAIT_S", 0.002)
    admission, version = Admission(10), version_of(concurrency=1)
    loop: Any = asyncio.get_running_loop()
    admission.enter(version)
    refused = 0

    def told(error: HearthError | None) -> None:
        nonlocal refused
        refused += 1
        if refused < 20:
            admission.wait(version, told)

    admission.wait(version, told)
    admission.wait(version, lambda error: None)
    while refused < 20:
        await asyncio.sleep(0.001)
        assert [x._callback for x in loop._scheduled].count(admission._expire) <= 1
    assert admission._waiting_total == 0


# --- leaving in the middle -----------------------------------------------------------------------


async def test_who_is_cancelled_while_it_waits_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch)
    admission, version = Admission(10), version_of(concurrency=1)
    admission.enter(version)
    waiting = asyncio.create_task(admission.admit(version))
    await ticks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    admission.leave(version.function_id)
    assert admission._total == 0
    assert admission.enter(version)


@pytest.mark.parametrize("is_first", [True, False], ids=["admitted first", "cancelled first"])
async def test_who_is_cancelled_in_the_tick_of_its_admission_gives_the_place_back(
    is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience(monkeypatch)
    admission, version = Admission(10), version_of(concurrency=1)
    admission.enter(version)
    waiting = asyncio.create_task(admission.admit(version))
    behind = asyncio.create_task(admission.admit(version))
    await ticks()
    if is_first:
        admission.leave(version.function_id)
    waiting.cancel()
    if not is_first:
        admission.leave(version.function_id)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await behind  # has the place now
    admission.leave(version.function_id)
    assert (admission._total, admission._running) == (0, {})


async def test_who_is_cancelled_in_the_tick_of_its_refusal_has_no_place_to_give_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    admission.enter(version)
    waiting = asyncio.create_task(admission.admit(version))
    await ticks()
    (waiter,) = admission._waiting[version.function_id]
    waiter.expires = 0.0
    admission._expire()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert admission._total == 1


# --- the end -------------------------------------------------------------------------------------


async def test_a_closed_node_admits_nobody_and_waits_for_the_last() -> None:
    admission, version = Admission(10), version_of()
    admission.enter(version)
    closing = asyncio.create_task(admission.close(60))
    await ticks()
    assert not admission.enter(version_of())
    with pytest.raises(NodeDraining):
        await admission.admit(version_of())
    assert not closing.done()
    admission.leave(version.function_id)
    await closing
    await admission.close(60)  # any number of times


async def test_closing_tells_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    patience(monkeypatch)
    admission, version = Admission(10), version_of(concurrency=1)
    admission.enter(version)
    waiting = [asyncio.create_task(admission.admit(version)) for _ in range(3)]
    await ticks()
    await admission.close(0)
    for task in waiting:
        with pytest.raises(NodeDraining):
            await task
    admission.leave(version.function_id)
    assert admission._total == 0


async def test_closing_waits_no_longer_than_it_is_told() -> None:
    admission = Admission(10)
    admission.enter(version_of())
    await admission.close(0.01)
    assert admission._total == 1
