"""Streamed answers through a sandbox: what may come when, who hears of the end, and what is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionFault,
    FunctionTimeout,
    HearthError,
    ResponseInvalid,
)
from core.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES
from executor.call import Outcome, Stream
from executor.wire import FrameType, encode
from tests.fixtures.sandboxes import Lines, Wired, event, request, wired

HEAD = {"status": 201, "headers": [["Content-Type", "text/plain"]]}
CHUNK, END, RESULT, ERROR = FrameType.CHUNK, FrameType.END, FrameType.RESULT, FrameType.ERROR
CRASHED = {"type": "ValueError", "message": "half way", "trace": ["line 1", "line 2"]}
BIG = b"x" * STREAM_CHUNK_BYTES_MAX


def stream_of(answer: asyncio.Future[Outcome]) -> Stream:
    """Of an answer that has begun."""
    stream = answer.result().stream
    assert stream is not None
    return stream


async def begun(shim: Wired, first: bytes = b"") -> Stream:
    """The stream of a call whose answer has begun, the sandbox's next one."""
    answer = shim.call()
    shim.say(CHUNK, shim._count, HEAD, first)
    return stream_of(answer)


async def rest_of(stream: Stream) -> tuple[bytes, HearthError | None]:
    """All that is left, and what ended it."""
    read = b""
    try:
        while chunk := await stream.read():
            read += chunk
    except HearthError as error:
        return read, error
    return read, None


async def test_the_answer_begins_with_its_first_chunk_and_ends_with_end(lines: Lines) -> None:
    shim = await wired(lines)
    answer = shim.call(request())
    shim.say(CHUNK, 1, HEAD, b"one ")
    outcome = answer.result()
    assert (outcome.status, list(outcome.headers)) == (201, [("content-type", "text/plain")])
    assert (outcome.body, outcome.failure, outcome.usage) == (b"", None, None)
    shim.say(CHUNK, 1, None, b"two")
    assert shim.overs == []
    assert not shim.sandbox.is_usable
    shim.say(END, 1)
    assert shim.overs == [1]
    assert shim.sandbox.is_usable
    assert await rest_of(stream_of(answer)) == (b"one two", None)
    shim.sandbox.hang_up()
    assert shim.overs == [1]


async def test_a_first_chunk_may_be_its_head_alone(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim)
    shim.say(END, 1)
    assert await stream.read() == b""
    shim.sandbox.hang_up()


def again(kind: FrameType) -> Callable[[Wired], None]:
    return lambda shim: shim.say(kind, 1)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([again(END)], id="END without CHUNK"),
        pytest.param([lambda shim: shim.say(CHUNK, 1, HEAD), again(RESULT)], id="RESULT in it"),
        pytest.param([lambda shim: shim.say(CHUNK, 1, HEAD), again(ERROR)], id="ERROR in it"),
        pytest.param(
            [lambda shim: shim.say(CHUNK, 1, HEAD), lambda shim: shim.say(CHUNK, 2, HEAD)],
            id="another call's CHUNK",
        ),
        pytest.param([lambda shim: shim.say(CHUNK, 1, HEAD, BIG + b"x")], id="too large first"),
        pytest.param(
            [
                lambda shim: shim.say(CHUNK, 1, HEAD),
                lambda shim: shim.say(CHUNK, 1, None, BIG + b"x"),
            ],
            id="too large later",
        ),
        pytest.param([lambda shim: shim.say(CHUNK, 0, HEAD)], id="CHUNK of no call"),
        pytest.param(
            [
                lambda shim: shim.say(CHUNK, 1, HEAD),
                lambda shim: shim.sandbox.data_received(
                    b"\0\0\0\x0a\x16\0\0\0\x01" + b"\0\0\0\x01" + b"{"
                ),
            ],
            id="END that cannot be read",
        ),
        pytest.param(
            [
                lambda shim: shim.sandbox.data_received(
                    b"\0\0\0\x0a\x15\0\0\0\x01" + b"\0\0\0\x01" + b"{"
                ),
            ],
            id="CHUNK that cannot be read",
        ),
    ],
)
async def test_chunks_out_of_order_end_the_sandbox_and_the_call(
    words: list[Callable[[Wired], None]], lines: Lines
) -> None:
    shim = await wired(lines)
    answer = shim.call()
    for word in words:
        assert not shim.is_closed
        word(shim)
    assert shim.is_closed
    assert shim.is_cut
    assert shim.overs == [1]
    with pytest.raises(FunctionCrashed):
        await stream_of(answer).read()
    assert any("broke the protocol" in line.text for line in lines.lines)


@pytest.mark.parametrize("kind", [CHUNK, END, RESULT, ERROR])
async def test_nothing_may_follow_the_end(kind: FrameType, lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim, b"all")
    shim.say(END, 1)
    shim.say(kind, 1)
    assert shim.is_closed
    assert await rest_of(stream) == (b"all", None)


async def test_a_breach_ends_its_own_sandbox_and_no_other(lines: Lines) -> None:
    good, bad = await wired(lines), await wired(lines)
    stream = await begun(good, b"well")
    await begun(bad)
    bad.say(RESULT, 1)
    assert bad.is_closed
    good.say(END, 1)
    assert await rest_of(stream) == (b"well", None)
    good.sandbox.hang_up()


async def test_who_sends_beyond_the_credit_ends(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim)
    for _ in range(STREAM_WINDOW_BYTES // len(BIG)):
        shim.say(CHUNK, 1, None, BIG)
    assert not shim.is_closed
    shim.say(CHUNK, 1, None, b"x")
    assert shim.is_closed
    read, error = await rest_of(stream)
    assert len(read) == STREAM_WINDOW_BYTES
    assert isinstance(error, FunctionCrashed)


async def test_credit_follows_the_reader(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim)
    sent = 0
    for _ in range(20):
        while sent + len(BIG) <= STREAM_WINDOW_BYTES + shim.granted(1):
            shim.say(CHUNK, 1, None, BIG)
            sent += len(BIG)
        assert await stream.read() == BIG
    assert sent > 20 * len(BIG)
    assert sent - 20 * len(BIG) <= STREAM_WINDOW_BYTES
    assert shim.written[-1].head == {}
    shim.sandbox.hang_up()


async def test_each_stream_has_its_own_credit(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    first, second = await begun(shim), await begun(shim)
    for _ in range(STREAM_WINDOW_BYTES // len(BIG)):
        shim.say(CHUNK, 1, None, BIG)
    shim.say(CHUNK, 2, None, BIG)
    shim.say(END, 2)
    assert await rest_of(second) == (BIG, None)
    for _ in range(2):
        await first.read()
    assert (shim.granted(1), shim.granted(2)) == (STREAM_WINDOW_BYTES // 2, 0)
    shim.sandbox.hang_up()


async def test_closing_a_stream_cancels_its_call_and_drops_the_rest(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim, b"unread")
    stream.close()
    stream.close()
    assert shim.told(FrameType.CANCEL) == [1]
    assert shim.overs == []
    for _ in range(10):  # far more than a window: whoever does not obey is not stopped by it
        shim.say(CHUNK, 1, None, BIG)
    assert shim.granted(1) >= 6 * len(BIG)
    assert await stream.read() == b""
    shim.say(END, 1, CRASHED)
    assert shim.overs == [1]
    assert shim.sandbox.is_usable
    shim.sandbox.hang_up()


async def test_an_answer_that_begins_when_nobody_waits_is_cancelled(lines: Lines) -> None:
    shim = await wired(lines)
    shim.call().cancel()
    shim.say(CHUNK, 1, HEAD, b"for nobody")
    assert shim.told(FrameType.CANCEL) == [1]
    shim.say(END, 1)
    assert shim.overs == [1]
    shim.sandbox.hang_up()


async def test_the_deadline_ends_a_stream_in_its_middle(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim, b"in time")
    shim.expire(1)
    assert shim.is_closed
    assert shim.overs == [1]
    read, error = await rest_of(stream)
    assert read == b"in time"
    assert isinstance(error, FunctionTimeout)


async def test_a_stream_past_its_deadline_is_dropped_while_others_run(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    stream, other = await begun(shim, b"in time"), await begun(shim)
    shim.expire(1)
    shim.say(CHUNK, 1, None, b"too late")
    shim.say(END, 1)
    assert shim.overs == [1]
    read, error = await rest_of(stream)
    assert (read, type(error)) == (b"in time", FunctionTimeout)
    shim.say(CHUNK, 2, None, b"still here")
    shim.say(END, 2)
    assert await rest_of(other) == (b"still here", None)
    assert shim.is_closed


async def test_an_answer_that_begins_past_its_deadline_is_dropped(lines: Lines) -> None:
    shim = await wired(lines, per_sandbox=2)
    late, other = shim.call(), shim.call()
    shim.expire(1)
    shim.say(CHUNK, 1, HEAD, b"too late")
    shim.say(CHUNK, 1, None, b"and more")
    assert shim.told(FrameType.CANCEL) == [1, 1]
    shim.say(END, 1)
    with pytest.raises(FunctionTimeout):
        await late
    shim.answer(2)
    assert (await other).body == b"1"
    assert shim.is_closed


async def test_a_crash_comes_after_the_bytes_before_it(lines: Lines) -> None:
    shim = await wired(lines)
    stream = await begun(shim, b"before")
    shim.say(CHUNK, 1, None, b" it")
    shim.sandbox.connection_lost(None)
    read, error = await rest_of(stream)
    assert (read, type(error)) == (b"before it", FunctionCrashed)
    assert shim.overs == [1]


@pytest.mark.parametrize(
    ("code", "kind"),
    [("function_error", FunctionFault), ("function_response_invalid", ResponseInvalid)],
)
async def test_an_error_in_the_middle_is_told_the_reader_and_logged(
    code: str, kind: type[HearthError], lines: Lines
) -> None:
    shim = await wired(lines)
    call = event()
    answer = shim.call(call)
    shim.say(CHUNK, 1, HEAD, b"half")
    shim.say(END, 1, {**CRASHED, "code": code})
    read, error = await rest_of(stream_of(answer))
    assert (read, type(error)) == (b"half", kind)
    assert error is not None
    assert error.message == "half way"
    assert error.details == {"type": "ValueError", "trace": ["line 1", "line 2"]}
    assert lines.of(call, "platform") == ["line 1", "line 2"]
    assert shim.sandbox.is_usable
    shim.sandbox.hang_up()


async def test_an_error_that_is_the_shims_last_word_ends_the_sandbox_of_a_stream(
    lines: Lines,
) -> None:
    shim = await wired(lines, per_sandbox=2)
    stream, other = await begun(shim), shim.call()
    shim.say(END, 1, {**CRASHED, "last": True})
    assert isinstance((await rest_of(stream))[1], FunctionFault)
    assert not shim.sandbox.is_usable
    assert not shim.is_closed
    shim.say(ERROR, 2, {**CRASHED, "last": True})
    assert (await other).failure is not None
    assert shim.is_closed


@pytest.mark.parametrize(
    "head",
    [{}, {"status": 99}, {"status": "200"}, {"status": 200, "headers": [["a b", "c"]]}],
)
async def test_a_bad_head_is_the_functions_error_and_the_rest_is_dropped(
    head: dict[str, object], lines: Lines
) -> None:
    shim = await wired(lines)
    call = event()
    answer = shim.call(call)
    shim.say(CHUNK, 1, head, b"body")
    outcome = answer.result()
    assert outcome.failure is not None
    assert outcome.failure.code == "function_response_invalid"
    assert (outcome.status, outcome.body, outcome.stream) == (502, b"", None)
    assert lines.of(call, "platform") != []
    assert shim.told(FrameType.CANCEL) == [1]
    for _ in range(10):
        shim.say(CHUNK, 1, None, BIG)
    assert shim.overs == []
    shim.say(END, 1)
    assert shim.overs == [1]
    assert shim.sandbox.is_usable
    shim.sandbox.hang_up()


async def test_a_stream_warned_of_its_deadline_may_end_well(lines: Lines) -> None:
    shim = await wired(lines, timeout_mode="graceful", grace_s=1.0)
    stream = await begun(shim, b"one")
    shim.warn(1)
    shim.say(CHUNK, 1, None, b" two")
    shim.say(END, 1)
    assert await rest_of(stream) == (b"one two", None)
    assert shim.is_closed
    other = await wired(lines, timeout_mode="graceful", grace_s=1.0)
    stream = await begun(other, b"one")
    other.warn(1)
    other.sandbox.connection_lost(None)
    assert isinstance((await rest_of(stream))[1], FunctionTimeout)


async def test_a_stream_that_comes_in_one_read_is_whole(lines: Lines) -> None:
    shim = await wired(lines)
    answer = shim.call()
    frames = encode(CHUNK, 1, HEAD, b"a") + encode(CHUNK, 1, None, b"b") + encode(END, 1, None)
    shim.sandbox.data_received(frames)
    assert await rest_of(stream_of(answer)) == (b"ab", None)
    shim.sandbox.hang_up()
