"""One sandbox against a peer that says whatever it likes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    FunctionTimeout,
    HearthError,
    ResponseInvalid,
    SandboxBroken,
)
from executor import sandbox as module
from executor.call import Call, LogLine, Outcome
from executor.sandbox import Sandbox, State
from executor.wire import FrameType
from tests.fixtures.sandboxes import Lines, Peer, event, request, sandbox_for_tests, version_of


async def met(peer: Peer) -> Sandbox:
    sandbox = sandbox_for_tests()
    peer.hello()
    await sandbox.meet(peer.theirs, peer.read_ends)
    return sandbox


async def ready(peer: Peer, lines: Lines, timeout_s: float = 60.0) -> Sandbox:
    sandbox = await met(peer)
    begun = asyncio.create_task(sandbox.init(version_of(timeout_s=timeout_s), lines, 1000))
    await asyncio.sleep(0)
    peer.say(FrameType.READY)
    await begun
    return sandbox


async def ended(sandbox: Sandbox) -> None:
    """Until the executor has noticed; a tick is a read of the loop, not a time."""
    while sandbox.state is not State.CLOSED:
        await asyncio.sleep(0)


async def failing(future: Awaitable[Outcome], error: type[HearthError]) -> None:
    with pytest.raises(error):
        await future


async def test_states_move_forward_to_an_answer(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    call = event()
    answer = sandbox.call(call)
    assert not sandbox.is_usable
    peer.say(FrameType.RESULT, 1, {}, b"42")
    assert (await answer).body == b"42"
    assert sandbox.is_usable
    sandbox.hang_up()
    assert sandbox.state is State.CLOSED


async def test_a_second_call_has_the_next_number(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    for number in (1, 2, 3):
        answer = sandbox.call(event())
        peer.say(FrameType.RESULT, number, {}, b"1")
        await answer
    sandbox.hang_up()


@pytest.mark.parametrize(
    "words",
    [
        lambda peer: peer.say(FrameType.READY),
        lambda peer: peer.say(FrameType.HELLO, 0, {"protocol": 1}),
        lambda peer: peer.say(FrameType.HELLO, 0, {}),
        lambda peer: peer.say(FrameType.RESULT, 1),
        lambda peer: peer.raw(b"GET / HTTP/1.1\r\n\r\n"),
        lambda peer: peer.hang_up(),
    ],
)
async def test_a_shim_that_begins_otherwise_is_broken(
    words: Callable[[Peer], None], peer: Peer
) -> None:
    sandbox = sandbox_for_tests()
    words(peer)
    with pytest.raises(SandboxBroken):
        await sandbox.meet(peer.theirs, peer.read_ends)
    assert sandbox.state is State.CLOSED


async def test_a_shim_that_says_nothing_is_given_up(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELLO_TIMEOUT_S", 0.01)
    sandbox = sandbox_for_tests()
    with pytest.raises(SandboxBroken, match="said no HELLO"):
        await sandbox.meet(peer.theirs, peer.read_ends)
    sandbox.hang_up()


async def test_code_that_never_loads_is_given_up(
    peer: Peer, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INIT_TIMEOUT_S", 0.01)
    sandbox = await met(peer)
    with pytest.raises(FunctionInitFailed) as caught:
        await sandbox.init(version_of(), lines, 1000)
    assert caught.value.details["type"] == "Runtime.Timeout"
    sandbox.hang_up()


async def test_a_process_that_ends_while_it_loads_failed_to_load(peer: Peer, lines: Lines) -> None:
    sandbox = await met(peer)
    begun = asyncio.create_task(sandbox.init(version_of(), lines, 1000))
    await asyncio.sleep(0)
    peer.hang_up()
    with pytest.raises(FunctionInitFailed):
        await begun


async def test_a_stem_that_died_cannot_be_given_code(peer: Peer, lines: Lines) -> None:
    sandbox = await met(peer)
    peer.hang_up()
    await ended(sandbox)
    with pytest.raises(SandboxBroken):
        await sandbox.init(version_of(), lines, 1000)


async def test_a_sandbox_closed_before_it_met_takes_no_descriptors(peer: Peer) -> None:
    sandbox = sandbox_for_tests()
    sandbox.hang_up()
    with pytest.raises(SandboxBroken):
        await sandbox.meet(peer.theirs, peer.read_ends)
    for fd in peer.read_ends:
        with pytest.raises(OSError):
            os.fstat(fd)
    peer.theirs.close()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([(FrameType.READY, 0)], id="READY twice"),
        pytest.param([(FrameType.HELLO, 0)], id="HELLO again"),
        pytest.param([(FrameType.INIT_ERROR, 0)], id="INIT_ERROR late"),
        pytest.param([(FrameType.RESULT, 2)], id="another call's answer"),
        pytest.param([(FrameType.RESULT, 0)], id="call 0"),
    ],
)
async def test_frames_that_are_not_legal_end_the_sandbox(
    words: Sequence[tuple[FrameType, int]], peer: Peer, lines: Lines
) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event())
    for kind, call in words:
        peer.say(kind, call, {"protocol": 2})
    await failing(answer, FunctionCrashed)
    assert sandbox.state is State.CLOSED
    assert any("broke the protocol" in line.text for line in lines.lines)
    assert peer.was_cut_off


async def test_an_answer_given_twice_ends_the_sandbox(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event())
    peer.say(FrameType.RESULT, 1, {}, b"1")
    peer.say(FrameType.RESULT, 1, {}, b"2")
    assert (await answer).body == b"1"
    await ended(sandbox)


async def test_words_that_nobody_asked_for_end_the_sandbox(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    peer.raw(b"\0")
    await ended(sandbox)


async def test_half_a_frame_behind_an_answer_is_not_kept(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event())
    frame = b"\0\0\0\x09\x13\0\0\0\x01\0\0\0\0"
    peer.raw(frame + frame[:-1])
    await answer
    await ended(sandbox)


@pytest.mark.parametrize("head", [b"{", b"[]", b'{"status":' + b"[" * 60_000])
async def test_an_answer_that_cannot_be_read_ends_the_sandbox(
    head: bytes, peer: Peer, lines: Lines
) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(request())
    length = 9 + len(head)
    prefix = length.to_bytes(4, "big") + b"\x13\0\0\0\x01" + len(head).to_bytes(4, "big")
    peer.raw(prefix + head)
    await failing(answer, ResponseInvalid)
    assert not sandbox.is_usable
    await ended(sandbox)


async def test_a_wrong_status_is_a_value_and_the_sandbox_stays(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(request())
    peer.say(FrameType.RESULT, 1, {"status": 42})
    failure = (await answer).failure
    assert failure is not None
    assert sandbox.is_usable
    sandbox.hang_up()


async def test_an_error_that_is_the_shims_last_word_closes_the_sandbox(
    peer: Peer, lines: Lines
) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event())
    peer.say(FrameType.ERROR, 1, {"type": "Error", "message": "lost", "last": True})
    failure = (await answer).failure
    assert failure is not None
    assert failure.message == "lost"
    assert sandbox.state is State.CLOSED


async def test_a_body_over_the_limit_ends_the_sandbox_at_its_prefix(
    peer: Peer, lines: Lines
) -> None:
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event())
    peer.raw((9 + 7 * 1024 * 1024).to_bytes(4, "big") + b"\x13\0\0\0\x01\0\0\0\0")
    await failing(answer, FunctionCrashed)


async def test_a_call_ends_at_its_deadline_and_its_sandbox_with_it(
    peer: Peer, lines: Lines
) -> None:
    sandbox = await ready(peer, lines, timeout_s=0.02)
    call = event()
    died: list[Sandbox] = []
    sandbox.on_died = died.append
    with pytest.raises(FunctionTimeout):
        await sandbox.call(call)
    assert died == [sandbox]
    (text,) = lines.of(call, "platform")  # and not that its process ended, too
    assert "timeout" in text


async def test_an_answer_after_the_deadline_reaches_nobody(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines, timeout_s=0.02)
    answer = sandbox.call(event())
    await failing(answer, FunctionTimeout)
    peer.hang_up()
    assert sandbox.state is State.CLOSED


async def test_a_call_on_a_dead_sandbox_fails_at_once(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    peer.hang_up()
    await ended(sandbox)
    await failing(sandbox.call(event()), FunctionCrashed)


async def test_last_words_belong_to_the_call_that_crashed(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    call = event()
    answer = sandbox.call(call)
    os.write(peer.stdout, b"one\nlast words")
    peer.hang_up()
    await failing(answer, FunctionCrashed)
    assert lines.of(call) == ["one", "last words"]


async def test_lines_before_an_answer_belong_to_it(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    calls: list[Call] = []
    for number in (1, 2):
        calls.append(event())
        answer = sandbox.call(calls[-1])
        os.write(peer.stdout, b"line %d" % number)
        os.write(peer.stderr, b"warning %d\n" % number)
        peer.say(FrameType.RESULT, number, {}, b"1")
        await answer
    sandbox.hang_up()
    assert lines.of(calls[0]) == ["line 1"]
    assert lines.of(calls[1]) == ["line 2"]
    assert lines.of(calls[1], "stderr") == ["warning 2"]


async def test_a_place_is_free_at_the_answer_or_at_the_end(peer: Peer, lines: Lines) -> None:
    over: list[str] = []
    sandbox = await ready(peer, lines)
    answer = sandbox.call(event(), lambda: over.append("answered"))
    assert over == []
    peer.say(FrameType.RESULT, 1, {}, b"1")
    await answer
    assert over == ["answered"]
    answer = sandbox.call(event(), lambda: over.append("ended"))
    peer.hang_up()
    await failing(answer, FunctionCrashed)
    assert over == ["answered", "ended"]


async def test_a_call_goes_on_when_whoever_waited_has_left(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    over = asyncio.Event()
    sandbox.call(event(), over.set).cancel()
    peer.say(FrameType.RESULT, 1, {}, b"1")
    await over.wait()
    assert sandbox.is_usable
    sandbox.hang_up()


async def test_a_log_sink_at_fault_costs_lines_alone(peer: Peer) -> None:
    class Broken(Lines):
        def write(self, lines: Sequence[LogLine]) -> None:
            raise RuntimeError("full")

    sandbox = await ready(peer, Broken())
    answer = sandbox.call(event())
    os.write(peer.stdout, b"told as the answer comes")
    peer.say(FrameType.RESULT, 1, {}, b"1")
    assert (await answer).body == b"1"
    sandbox.hang_up()
    assert sandbox.state is State.CLOSED


async def test_the_end_is_told_once_however_often_it_is_closed(peer: Peer, lines: Lines) -> None:
    sandbox = await ready(peer, lines)
    died: list[Sandbox] = []
    sandbox.on_died = died.append
    for _ in range(3):
        sandbox.hang_up()
    peer.hang_up()
    await asyncio.sleep(0)
    assert died == [sandbox]
