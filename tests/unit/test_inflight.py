"""What one call in flight tells, and to whom."""

from __future__ import annotations

import pytest

from core.errors import FunctionCrashed, FunctionTimeout, HearthError
from core.model import FunctionConfig
from executor.call import Outcome, Timing, Usage
from executor.inflight import InFlight
from executor.stream import BodyStream
from tests.fixtures.sandboxes import event

CONFIG = FunctionConfig(runtime="python3.13", timeout_s=2.0)
DONE = Outcome(200, (), b"1", cold=False, timing=Timing())


class Gauge:
    """A meter of one process that has used something before, on an old kernel."""

    can_reset = False

    def __init__(self) -> None:
        self.cpu = 3_000_000_000

    def cpu_ns(self, age_max_s: float = 0.0) -> int:
        return self.cpu

    def peak_bytes(self) -> int:
        return 77

    def reset_peak(self, age_max_s: float = 0.0) -> None:
        pass

    def close(self) -> None:
        pass


def running(said: list[Outcome | HearthError]) -> InFlight:
    return InFlight(event(), 1, said.append, lambda: None, CONFIG)


def test_whoever_waits_hears_once() -> None:
    said: list[Outcome | HearthError] = []
    call = running(said)
    assert not call.is_told
    call.tell(DONE)
    assert call.is_told
    call.tell(FunctionCrashed("gone"))
    assert said == [DONE]


async def test_after_an_answer_has_begun_its_reader_hears_of_errors() -> None:
    said: list[Outcome | HearthError] = []
    call = running(said)
    call.stream = BodyStream(lambda size: None, lambda: None)
    call.tell(DONE)
    call.tell(FunctionTimeout("late"))
    assert said == [DONE]
    with pytest.raises(FunctionTimeout):
        await call.stream.read()


def test_what_is_used_is_what_was_added_since_it_began() -> None:
    gauge = Gauge()
    call = InFlight(event(), 1, lambda said: None, lambda: None, CONFIG)
    call.watch(gauge)
    gauge.cpu += 1_500_000
    assert call.usage() == Usage(1.5, 77, is_peak_own=False)
    call.is_alone = False
    assert call.usage() == Usage(None, None)


def test_without_a_meter_there_is_no_usage() -> None:
    assert running([]).usage() is None


def test_time_is_counted_from_the_beginning() -> None:
    call = running([])
    call.started -= 1.0
    assert call.timing().handler_ms >= 1000
