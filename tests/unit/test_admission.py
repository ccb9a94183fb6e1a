"""Who may come in at all."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from core.errors import ConcurrencyReached, NodeDraining, NodeFull
from executor.admission import Admission
from tests.fixtures.sandboxes import version_of


def test_a_function_may_run_as_often_as_its_concurrency_says() -> None:
    admission, version = Admission(10), version_of(concurrency=2)
    with admission.admit(version), admission.admit(version):
        with pytest.raises(ConcurrencyReached) as caught:
            admission.admit(version)
        assert caught.value.details["retry_after_s"] == 1
    with admission.admit(version):
        pass


def test_concurrency_counts_all_versions_of_a_function() -> None:
    admission, first = Admission(10), version_of(concurrency=1)
    second = dataclasses.replace(first, id="v_2", number=2)
    with admission.admit(first), pytest.raises(ConcurrencyReached):
        admission.admit(second)


def test_one_function_at_its_limit_does_not_keep_others_out() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    with admission.admit(version), admission.admit(version_of()):
        pass


def test_the_node_has_a_cap_of_its_own() -> None:
    admission = Admission(2)
    with admission.admit(version_of()), admission.admit(version_of()), pytest.raises(NodeFull):
        admission.admit(version_of())
    with admission.admit(version_of()):
        pass


def test_a_place_is_given_back_after_an_exception_too() -> None:
    admission, version = Admission(1), version_of(concurrency=1)
    for _ in range(3):
        with pytest.raises(RuntimeError), admission.admit(version):
            raise RuntimeError
    with admission.admit(version):
        pass


def test_a_place_that_is_kept_outlives_the_with_and_is_given_back_once() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    ends: list[Callable[[], None]] = []
    with admission.admit(version) as place:
        place.keep_until(ends.append)
    with pytest.raises(ConcurrencyReached):
        admission.admit(version)
    ends[0]()
    with admission.admit(version):
        pass


def test_a_place_kept_until_now_is_given_back_once() -> None:
    admission, version = Admission(10), version_of(concurrency=1)
    with admission.admit(version) as place:
        place.keep_until(lambda end: end())
    with admission.admit(version), pytest.raises(ConcurrencyReached):
        admission.admit(version)


async def test_a_closed_node_admits_nobody_and_waits_for_the_last() -> None:
    admission = Admission(10)
    place = admission.admit(version_of())
    closing = asyncio.create_task(admission.close(60))
    await asyncio.sleep(0)
    with pytest.raises(NodeDraining):
        admission.admit(version_of())
    assert not closing.done()
    with place:
        pass
    await closing
    await admission.close(60)  # any number of times


async def test_closing_waits_no_longer_than_it_is_told() -> None:
    admission = Admission(10)
    with admission.admit(version_of()):
        await admission.close(0.01)
