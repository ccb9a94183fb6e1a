"""A response's body between a sandbox and its reader: credit, ends, and readers who leave."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import FunctionCrashed, FunctionTimeout
from core.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES
from executor.stream import BodyStream
from executor.wire import WireError

HALF = STREAM_WINDOW_BYTES // 2
CHUNK = b"x" * STREAM_CHUNK_BYTES_MAX


class Ends:
    """What the stream told the shim."""

    def __init__(self) -> None:
        self.grants: list[int] = []
        self.cancels = 0

    def cancel(self) -> None:
        self.cancels += 1

    def stream(self) -> BodyStream:
        return BodyStream(self.grants.append, self.cancel)


@pytest.fixture
def ends() -> Ends:
    return Ends()


async def test_bytes_are_read_as_they_came_and_then_the_end(ends: Ends) -> None:
    stream = ends.stream()
    for chunk in (b"one", b"", b"two"):
        stream.feed(chunk)
    stream.finish()
    assert [await stream.read() for _ in range(4)] == [b"one", b"two", b"", b""]
    assert (ends.grants, ends.cancels) == ([], 0)


async def test_a_reader_waits_for_bytes_and_for_the_end(ends: Ends) -> None:
    stream = ends.stream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.feed(b"")  # is no news
    await asyncio.sleep(0)
    assert not reading.done()
    stream.feed(b"late")
    assert await reading == b"late"
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.finish()
    assert await reading == b""


async def test_an_error_comes_after_the_bytes_before_it_and_stays(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(b"before")
    stream.finish(FunctionCrashed("gone"))
    assert await stream.read() == b"before"
    for _ in range(2):
        with pytest.raises(FunctionCrashed):
            await stream.read()


async def test_the_first_end_counts(ends: Ends) -> None:
    stream = ends.stream()
    stream.finish()
    stream.finish(FunctionCrashed("gone"))
    assert await stream.read() == b""
    other = ends.stream()
    other.finish(FunctionTimeout("late"))
    other.finish()
    with pytest.raises(FunctionTimeout):
        await other.read()


async def test_what_comes_after_the_end_is_read_by_nobody(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(b"in time")
    stream.finish(FunctionTimeout("late"))
    stream.feed(b"too late")
    assert await stream.read() == b"in time"
    with pytest.raises(FunctionTimeout):
        await stream.read()
    assert ends.grants == []


async def test_credit_is_given_by_the_half_window_and_for_what_was_read_alone(ends: Ends) -> None:
    stream = ends.stream()
    for _ in range(STREAM_WINDOW_BYTES // len(CHUNK)):
        stream.feed(CHUNK)
    assert ends.grants == []
    while not ends.grants:
        await stream.read()
    assert ends.grants == [HALF]
    for _ in range(HALF // len(CHUNK)):
        stream.feed(CHUNK)
    with pytest.raises(WireError):
        stream.feed(b"x")


async def test_the_whole_window_may_come_at_once_and_not_a_byte_more(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(b"x" * STREAM_WINDOW_BYTES)
    with pytest.raises(WireError, match="1 bytes of a stream with a credit of 0"):
        stream.feed(b"x")


async def test_nothing_is_granted_after_the_end(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(b"x" * STREAM_WINDOW_BYTES)
    stream.finish()
    assert len(await stream.read()) == STREAM_WINDOW_BYTES
    assert ends.grants == []


async def test_closing_tells_the_function_once_and_drops_what_was_there(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(CHUNK * 3)
    for _ in range(3):
        stream.close()
    assert ends.cancels == 1
    assert ends.grants == [len(CHUNK) * 3]  # the function goes on until it obeys
    assert await stream.read() == b""
    stream.feed(CHUNK)
    stream.feed(CHUNK)
    assert await stream.read() == b""
    assert ends.grants == [len(CHUNK) * 3, len(CHUNK) * 2]


async def test_closing_what_has_ended_tells_nobody(ends: Ends) -> None:
    stream = ends.stream()
    stream.feed(CHUNK * 3)
    stream.finish()
    stream.close()
    assert (ends.cancels, ends.grants) == (0, [])
    assert await stream.read() == b""


async def test_closing_wakes_who_reads(ends: Ends) -> None:
    stream = ends.stream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.close()
    assert await reading == b""


async def test_a_reader_who_leaves_loses_nothing(ends: Ends) -> None:
    stream = ends.stream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    reading.cancel()
    stream.feed(b"in the tick of the cancellation")
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await stream.read() == b"in the tick of the cancellation"


async def test_a_reader_cancelled_as_bytes_come_loses_nothing(ends: Ends) -> None:
    stream = ends.stream()
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    stream.feed(b"bytes")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await stream.read() == b"bytes"
