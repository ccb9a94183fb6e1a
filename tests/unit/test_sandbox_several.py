"""Several calls at once in one sandbox, and calls whose time is nearly over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable

import pytest

from core.errors import FunctionCrashed, FunctionOutOfMemory, FunctionTimeout, HearthError
from executor.call import Outcome, Usage
from executor.sandbox import Sandbox, State
from executor.wire import FrameType
from tests.fixtures.sandboxes import Lines, Peer, event, sandbox_for_tests, version_of, wired

LAST = {"code": "function_error", "type": "Error", "message": "lost", "last": True}


async def failing(future: Awaitable[Outcome], error: type[HearthError]) -> HearthError:
    with pytest.raises(error) as caught:
        await future
    assert type(caught.value) is error
    return caught.value


class Gauge:
    """A meter that the test sets."""

    can_reset = True

    def __init__(self) -> None:
        self.cpu, self.peak, self.resets = 0, 0, 0

    def cpu_ns(self, age_max_s: float = 0.0) -> int:
        return self.cpu

    def peak_bytes(self) -> int:
        return self.peak

    def reset_peak(self, age_max_s: float = 0.0) -> None:
        self.resets += 1

    def close(self) -> None:
        pass


# --- several at once -----------------------------------------------------------------------------


async def test_answers_come_in_any_order(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=3)
    calls = [shim.call() for _ in range(3)]
    assert not shim.sandbox.is_usable
    for number in (2, 3, 1):
        shim.answer(number, b"%d" % number)
        assert shim.sandbox.is_usable
    assert [(await call).body for call in calls] == [b"1", b"2", b"3"]
    assert shim.overs == [2, 3, 1]
    shim.sandbox.hang_up()
    assert shim.overs == [2, 3, 1]


async def test_a_sandbox_has_room_for_as_many_calls_as_its_version_says(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    shim.call()
    assert shim.sandbox.is_usable
    shim.call()
    assert not shim.sandbox.is_usable
    shim.sandbox.hang_up()


async def test_the_timeout_of_one_call_leaves_the_others_alone(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=3)
    first, second, third = (shim.call() for _ in range(3))
    shim.expire(2)
    error = await failing(second, FunctionTimeout)
    assert error.details == {"timeout_s": 60.0}
    assert shim.told(FrameType.CANCEL) == [2]
    assert not shim.is_closed
    assert not shim.sandbox.is_usable
    shim.answer(1)
    assert (await first).body == b"1"
    assert not shim.is_closed
    assert shim.overs == [1]  # the second's place is not free while the function is at it
    shim.answer(3)
    assert (await third).body == b"1"
    assert shim.is_closed
    assert sorted(shim.overs) == [1, 2, 3]


@pytest.mark.parametrize("kind", [FrameType.RESULT, FrameType.ERROR])
async def test_a_late_answer_reaches_nobody_and_frees_the_place(
    kind: FrameType, lines: Lines
) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = shim.call(), shim.call()
    shim.expire(1)
    await failing(first, FunctionTimeout)
    shim.say(kind, 1, {"message": "cancelled"})
    assert shim.overs == [1]
    assert not shim.is_closed
    shim.answer(2)
    await second
    assert shim.is_closed
    assert [x.text for x in lines.lines if "cancelled" in x.text or "protocol" in x.text] == []


async def test_two_late_answers_are_one_too_many(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = shim.call(), shim.call()
    shim.expire(1)
    await failing(first, FunctionTimeout)
    shim.answer(1)
    shim.answer(1)
    await failing(second, FunctionCrashed)
    assert shim.is_closed


async def test_the_last_deadline_ends_the_sandbox(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    calls = [shim.call(), shim.call()]
    shim.expire(1)
    shim.expire(2)
    for call in calls:
        await failing(call, FunctionTimeout)
    assert shim.is_closed
    assert shim.is_cut
    assert shim.told(FrameType.CANCEL) == [1]
    assert sorted(shim.overs) == [1, 2]


async def test_what_comes_behind_the_answer_that_ended_a_sandbox_is_no_breach(
    lines: Lines,
) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = shim.call(), shim.call()
    shim.expire(1)
    answers = b"\0\0\0\x09\x13\0\0\0\x02\0\0\0\0" + b"\0\0\0\x09\x13\0\0\0\x01\0\0\0\0"
    shim.sandbox.data_received(answers)
    await failing(first, FunctionTimeout)
    await second
    assert shim.is_closed
    assert not any("protocol" in line.text for line in lines.lines)


async def test_death_fails_all_calls_and_tells_each_once(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=3)
    events = [event() for _ in range(3)]
    calls = [shim.call(call) for call in events]
    shim.answer(2)
    shim.sandbox.connection_lost(None)
    for at in (0, 2):
        await failing(calls[at], FunctionCrashed)
        assert lines.of(events[at], "platform") == [
            "the function's process ended before it answered"
        ]
    assert (await calls[1]).body == b"1"
    assert sorted(shim.overs) == [1, 2, 3]
    assert shim.is_closed
    assert shim.sandbox.flaw == "crashed"


async def test_who_crashes_after_anothers_timeout_has_not_timed_out(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = shim.call(), shim.call()
    shim.expire(1)
    shim.sandbox.why_died = lambda: FunctionOutOfMemory("too much")
    shim.sandbox.connection_lost(None)
    await failing(first, FunctionTimeout)
    await failing(second, FunctionOutOfMemory)


async def test_an_error_nobody_caught_is_told_to_every_call_that_it_ended(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    calls = [shim.call(), shim.call()]
    shim.say(FrameType.ERROR, 1, LAST)
    assert not shim.sandbox.is_usable
    assert not shim.is_closed
    shim.say(FrameType.ERROR, 2, LAST)
    for call in calls:
        failure = (await call).failure
        assert failure is not None
        assert failure.message == "lost"
    assert shim.is_closed


async def test_who_has_left_does_not_keep_the_answer_from_the_others(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = shim.call(), shim.call()
    first.cancel()
    shim.answer(1)
    shim.answer(2)
    assert (await second).body == b"1"
    assert shim.overs == [1, 2]
    assert shim.sandbox.is_usable
    shim.sandbox.hang_up()


# --- what is used --------------------------------------------------------------------------------


async def test_a_call_alone_is_told_what_it_used(lines: Lines) -> None:
    shim, gauge = await wired(lines, per_sandbox=2), Gauge()
    shim.sandbox.meter = gauge
    gauge.cpu, gauge.peak = 5_000_000, 1000
    call = shim.call()
    gauge.cpu, gauge.peak = 12_000_000, 4096
    shim.answer(1)
    assert (await call).usage == Usage(7.0, 4096, True)
    assert gauge.resets == 1
    shim.sandbox.hang_up()


async def test_nothing_is_told_of_calls_that_overlap(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=3)
    shim.sandbox.meter = Gauge()
    first, second = shim.call(), shim.call()
    shim.answer(1)
    third = shim.call()
    shim.answer(2)
    shim.answer(3)
    for call in (first, second, third):
        assert (await call).usage == Usage(None, None)
    fourth = shim.call()
    shim.answer(4)
    assert (await fourth).usage == Usage(0.0, 0, True)
    shim.sandbox.hang_up()


async def test_without_a_meter_nothing_is_told(lines: Lines) -> None:
    shim = await wired(lines)
    call = shim.call()
    shim.answer(1)
    assert (await call).usage is None
    shim.sandbox.hang_up()


# --- whose lines ---------------------------------------------------------------------------------


async def tagged(peer: Peer, lines: Lines) -> Sandbox:
    sandbox = sandbox_for_tests()
    peer.hello()
    await sandbox.meet(peer.theirs, peer.read_ends)
    begun = asyncio.create_task(sandbox.init(version_of(per_sandbox=2), lines, 1000))
    await asyncio.sleep(0)
    peer.say(FrameType.READY)
    await begun
    return sandbox


async def test_lines_go_to_the_calls_their_tags_name(peer: Peer, lines: Lines) -> None:
    sandbox = await tagged(peer, lines)
    one, two = event(), event()
    answers = [sandbox.call(one), sandbox.call(two)]
    os.write(peer.stdout, b"\x1e2\x1fsecond\n\x1e1\x1ffirst\nuntagged\n\x1e7\x1fof nobody\n")
    os.write(peer.stderr, b"\x1e1\x1fwarned\n")
    peer.say(FrameType.RESULT, 1, {}, b"1")
    await answers[0]
    os.write(peer.stdout, b"\x1e1\x1ftoo late\n\x1e2\x1fstill\n")
    peer.say(FrameType.RESULT, 2, {}, b"1")
    await answers[1]
    assert (lines.of(one), lines.of(one, "stderr")) == (["first"], ["warned"])
    assert lines.of(two) == ["second", "still"]
    assert lines.of(None) == ["untagged", "of nobody", "too late"]
    sandbox.hang_up()


async def test_half_a_line_waits_for_its_end_whoever_is_answered(peer: Peer, lines: Lines) -> None:
    sandbox = await tagged(peer, lines)
    one, two = event(), event()
    answers = [sandbox.call(one), sandbox.call(two)]
    os.write(peer.stdout, b"\x1e2\x1fbeg")
    peer.say(FrameType.RESULT, 1, {}, b"1")
    await answers[0]
    assert lines.of(two) == []
    os.write(peer.stdout, b"un\n")
    peer.say(FrameType.RESULT, 2, {}, b"1")
    await answers[1]
    assert lines.of(two) == ["begun"]
    sandbox.hang_up()


async def test_last_words_of_several_belong_to_each(peer: Peer, lines: Lines) -> None:
    sandbox = await tagged(peer, lines)
    one, two = event(), event()
    answers = [sandbox.call(one), sandbox.call(two)]
    os.write(peer.stdout, b"\x1e1\x1fdying\n\x1e2\x1ftoo")
    peer.hang_up()
    for answer in answers:
        await failing(answer, FunctionCrashed)
    assert (lines.of(one), lines.of(two)) == (["dying"], ["too"])
    assert sandbox.state is State.CLOSED


async def test_a_crash_says_what_of_its_calls_lines_is_lost(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    call = event()
    answer = shim.call(call)
    for _ in range(9):
        shim.sandbox._journal.keep("stdout", [b"\x1e1\x1f" + b"x" * 60_000])
    shim.sandbox.connection_lost(None)
    await failing(answer, FunctionCrashed)
    assert any("bytes of log dropped" in text for text in lines.of(call, "platform"))


# --- graceful timeouts ---------------------------------------------------------------------------

GRACEFUL = {"timeout_mode": "graceful", "grace_s": 10.0}


async def test_a_graceful_call_is_warned_its_grace_before_its_deadline(lines: Lines) -> None:
    shim = await wired(lines, **GRACEFUL)
    shim.call()
    call = shim.sandbox._calls[1]
    assert 9 < call.deadline - call.due < 11
    shim.sandbox.hang_up()


async def test_a_grace_longer_than_the_timeout_warns_at_once(lines: Lines) -> None:
    shim = await wired(lines, timeout_s=5.0, **GRACEFUL)
    shim.call()
    call = shim.sandbox._calls[1]
    assert call.due == call.started
    shim.sandbox.hang_up()


async def test_an_answer_within_the_grace_is_delivered_and_the_sandbox_ends(lines: Lines) -> None:
    shim = await wired(lines, **GRACEFUL)
    interrupts: list[int] = []
    shim.sandbox.interrupt = lambda: interrupts.append(1)
    call = shim.call()
    shim.warn(1)
    assert interrupts == [1]
    assert not shim.sandbox.is_usable
    assert not call.done()
    shim.answer(1, b"just in time")
    assert (await call).body == b"just in time"
    assert shim.is_closed
    assert shim.overs == [1]


async def test_an_end_within_the_grace_is_a_timeout(lines: Lines) -> None:
    shim = await wired(lines, **GRACEFUL)
    call = shim.call()
    shim.warn(1)
    shim.sandbox.connection_lost(None)
    await failing(call, FunctionTimeout)
    assert shim.is_closed


async def test_a_grace_that_nobody_uses_ends_at_the_deadline(lines: Lines) -> None:
    shim = await wired(lines, **GRACEFUL)
    call = shim.call()
    shim.warn(1)
    shim.expire(1)
    await failing(call, FunctionTimeout)
    assert shim.is_closed


async def test_one_of_several_is_warned_by_cancel_and_the_others_stay(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2, **GRACEFUL)
    interrupts: list[int] = []
    shim.sandbox.interrupt = lambda: interrupts.append(1)
    first, second = shim.call(), shim.call()
    shim.warn(1)
    assert (shim.told(FrameType.CANCEL), interrupts) == ([1], [])
    shim.sandbox.connection_lost(None)
    await failing(first, FunctionTimeout)
    await failing(second, FunctionCrashed)


async def test_a_call_in_hard_mode_is_never_warned(lines: Lines) -> None:
    shim = await wired(lines)
    shim.call()
    call = shim.sandbox._calls[1]
    assert call.due == call.deadline
    shim.sandbox.hang_up()
