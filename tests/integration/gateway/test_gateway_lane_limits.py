"""A connection's limits hold for requests in the hot lane as for all others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from core.errors import FunctionTimeout
from core.limits import HEADERS_BYTES_MAX
from executor.call import Outcome
from gateway import main, protocol
from gateway.lane import HEAD_KEPT_BYTES_MAX
from tests.fixtures.hot_path import (
    EVENT,
    HTTP,
    Answer,
    Client,
    Hot,
    outcome,
    request,
    serving_hot,
    until,
)


@pytest.fixture
async def hot(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hot]:
    """A server that sweeps often."""
    monkeypatch.setattr(main, "SWEEP_S", 0.02)
    async with serving_hot() as hot:
        yield hot


def quick(monkeypatch: pytest.MonkeyPatch, *limits: str) -> None:
    """Let these limits pass at once."""
    for limit in limits:
        monkeypatch.setattr(protocol, limit, 0.05)


async def test_a_call_in_the_lane_may_take_its_time(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, "KEEP_ALIVE_S", "CLIENT_HEAD_S", "CLIENT_BODY_IDLE_S")
    async with hot.client() as client:
        client.send(request())
        begun = await hot.runs.next()
        (connection,) = hot.connections
        for _ in range(3):
            connection.sweep(connection.now() + 1000)
        begun.end(outcome(b"1"))
        assert (await client.answer()).body == b"1"
        assert await client.rest() == b""  # idle from here on, it is closed after a while


async def test_idle_time_counts_from_the_answer(hot: Hot) -> None:
    async with hot.client() as client:
        client.send(request())
        begun = await hot.runs.next()
        (connection,) = hot.connections
        heard_at = connection.heard_at
        await until(lambda: connection.now() > heard_at + 0.01)
        begun.end(outcome())
        await client.answer()
        assert connection.heard_at > heard_at


async def test_a_slow_head_after_a_request_in_the_lane_is_a_408(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.echo()
    async with hot.client() as client:
        client.send(request())
        await client.answer()
        quick(monkeypatch, "CLIENT_HEAD_S")
        client.send(request()[:20])
        assert (await client.answer()).code == "request_timeout"
        assert await client.rest() == b""


async def test_a_paused_body_after_a_request_in_the_lane_is_a_408(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.echo()
    async with hot.client() as client:
        client.send(request())
        await client.answer()
        quick(monkeypatch, "CLIENT_BODY_IDLE_S")
        client.send(request()[:-1])
        assert (await client.answer()).code == "request_timeout"
    assert len(hot.runs.begun) == 1


@pytest.fixture
async def still(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hot]:
    """A server that sweeps when a test does."""
    monkeypatch.setattr(main, "SWEEP_S", 3600)
    async with serving_hot() as hot:
        hot.echo()
        yield hot


def is_held(hot: Hot) -> bool:
    """Whether a request that has begun to come in is held for the lane."""
    return any(connection.held for connection in hot.connections)


async def test_a_body_that_is_late_goes_the_other_way(still: Hot) -> None:
    async with still.client() as client:
        client.send(request(EVENT, b'"late"')[:-1])
        await until(lambda: is_held(still))
        (connection,) = still.connections
        connection.sweep(connection.now())
        assert connection.held is None
        client.send(b'"')
        assert (await client.answer()).body == b'"late"'
    assert [begun.in_lane for begun in still.runs.begun] == [False]


async def test_a_client_that_expects_a_word_before_its_body_gets_it_at_once(still: Hot) -> None:
    async with still.client() as client:
        client.send(request(EVENT, b'"x"', "expect: 100-continue")[:-3])
        await client.exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b'"x"')
        assert (await client.answer()).body == b'"x"'


async def test_the_same_request_again_waits_while_the_first_is_under_way(still: Hot) -> None:
    async with still.client() as client:
        client.send(request())
        await client.answer()
        still.runs.answers = None
        client.send(request())
        second = await still.runs.next(2)
        client.send(request())
        (connection,) = still.connections
        await until(lambda: len(connection.pipeline) == 1)
        assert len(still.runs.begun) == 2
        still.echo()
        second.end(outcome(b'"second"'))
        assert (await client.answer()).body == b'"second"'
        answer = await client.answer()
        assert answer.headers["x-hearth-invocation-id"] == still.runs.begun[2].call.id


async def test_a_large_head_is_not_kept(still: Hot) -> None:
    async with still.client() as client:
        for size, is_kept in ((10, True), (HEAD_KEPT_BYTES_MAX, False)):
            client.send(request(EVENT, b"{}", "x-pad: " + "x" * size))
            await client.answer()
            assert (still.connections[0].kept is not None) is is_kept


async def test_nothing_stays_of_what_was_read(still: Hot) -> None:
    async with still.client() as client:
        for is_warm in (True, False):
            still.runs.is_warm = is_warm
            client.send(request(HTTP, b"x" * 60_000))
            await client.answer()
            (connection,) = still.connections
            assert (connection.chunk, connection.held_body) == (b"", [])


async def test_a_client_that_leaves_with_requests_in_line_is_no_error(
    hot: Hot, caplog: pytest.LogCaptureFixture
) -> None:
    hot.runs.is_warm = False
    async with hot.client() as client:
        client.send(request() + request())
        await hot.runs.next()
        await until(lambda: len(hot.connections[0].pipeline) == 1)
    await until(lambda: hot.connections == [])
    await until(lambda: not hot.server.server_state.tasks)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_that_leaves_in_its_body_leaves_nothing(still: Hot) -> None:
    async with still.client() as client:
        client.send(request(EVENT, b'"late"')[:-1])
        await until(lambda: is_held(still))
        (connection,) = still.connections
    await until(lambda: still.connections == [])
    assert (connection.held, connection.held_body, connection.chunk) == (None, [], b"")
    assert still.runs.begun == []


async def test_too_large_a_head_is_a_431_in_the_lane_too(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        client.send(request())
        await client.answer()
        client.send(request(EVENT, b"{}", "x-big: " + "y" * HEADERS_BYTES_MAX))
        assert (await client.answer()).code == "headers_too_large"
    assert len(hot.runs.begun) == 1


async def test_a_client_that_does_not_take_its_answer_is_cut_off(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hot.client() as client:
        client.send(request())
        begun = await hot.runs.next()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        begun.end(outcome(b"x" * 20_000_000))
        (connection,) = hot.connections
        await until(lambda: connection.stalled_since is not None)
        client.send(request())  # more of it is not served while that lasts
        quick(monkeypatch, "CLIENT_READ_IDLE_S")
        await until(lambda: hot.connections == [])
    assert all(begun.in_lane is (at == 0) for at, begun in enumerate(hot.runs.begun))


async def test_requests_behind_one_in_the_lane_wait_for_it(hot: Hot) -> None:
    async with hot.client() as client:
        client.send(request(EVENT, b"1"))
        first = await hot.runs.next()
        client.send(request(EVENT, b"2") + request(EVENT, b"3") + request("/healthz", method="GET"))
        (connection,) = hot.connections
        await until(lambda: len(connection.pipeline) == 3)
        assert len(hot.runs.begun) == 1
        hot.echo()
        first.end(outcome(b'"first"'))
        assert [(await client.answer()).body for _ in range(4)] == [b'"first"', b"2", b"3", b"none"]
        client.send(request(EVENT, b"4"))
        assert (await client.answer()).body == b"4"
    assert [b.in_lane for b in hot.runs.begun] == [True, False, False, True]


async def test_nonsense_behind_a_request_in_the_lane_ends_the_connection(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, "CLIENT_LINGER_S")
    async with hot.client() as client:
        client.send(request())
        begun = await hot.runs.next()
        client.send(b"nonsense\r\n\r\n")
        assert b"HTTP/1.1 400" in await client.rest()
        begun.end(outcome())
        await until(lambda: hot.connections == [])


async def test_a_client_that_leaves_changes_nothing_for_the_call(hot: Hot) -> None:
    async with hot.client() as client:
        client.send(request())
        begun = await hot.runs.next()
        client.leave()
        await until(lambda: hot.connections == [])
        begun.end(outcome())
    for end in (outcome(), FunctionTimeout("late", timeout_s=1)):
        async with hot.client() as client:
            client.send(request())
            begun = await hot.runs.next(len(hot.runs.begun) + 1)
        await until(lambda: hot.connections == [])
        begun.end(end)


@pytest.mark.parametrize("is_warm", [True, False], ids=["lane", "asgi"])
async def test_an_answer_to_a_connection_that_is_closing_is_no_error(
    hot: Hot, is_warm: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hot.runs.is_warm = is_warm
    async with hot.client() as client:
        client.send(request(EVENT))
        client.send(request(EVENT))
        begun = await hot.runs.next()
        (connection,) = hot.connections
        begun.end(outcome())
        connection.transport.abort()
        await until(lambda: hot.connections == [])
        await until(lambda: not hot.server.server_state.tasks)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_fault_of_ours_does_not_leave_the_client_waiting(hot: Hot) -> None:
    wrong: Outcome = outcome(headers=[("x-a", "b\r\nx-evil: c")])
    async with hot.client() as client:
        client.send(request(HTTP))
        begun = await hot.runs.next()
        with pytest.raises(AssertionError, match="line break"):
            begun.end(wrong)
        assert await client.rest() == b""


# --- shutting down -------------------------------------------------------------------------------


async def test_a_shutdown_waits_for_a_request_that_is_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "SWEEP_S", 3600)
    answers: list[Answer] = []

    async def talk(hot: Hot, client: Client) -> None:
        await until(lambda: not hot.connections[0].held)  # it was told of the shutdown
        client.send(b'"')
        answers.append(await client.answer())

    async with contextlib.AsyncExitStack() as stack:
        async with serving_hot() as hot:
            hot.echo()
            client = await stack.enter_async_context(hot.client())
            client.send(request(EVENT, b'"late"')[:-1])
            await until(lambda: is_held(hot))
            talking = asyncio.create_task(talk(hot, client))
        await talking
    assert (answers[0].body, answers[0].headers["connection"]) == (b'"late"', "close")


async def test_a_shutdown_waits_for_a_call_in_the_lane() -> None:
    over = asyncio.Event()
    client_side: list[Answer] = []

    async def talk(hot: Hot) -> None:
        async with hot.client() as client, hot.client() as idle:
            client.send(request())
            begun = await hot.runs.next()
            await until(lambda: len(hot.connections) == 2)
            over.set()
            assert await idle.rest() == b""
            begun.end(outcome(b'"after all"'))
            client_side.append(await client.answer())
            assert await client.rest() == b""

    async with serving_hot() as hot:
        talking = asyncio.create_task(talk(hot))
        await over.wait()
    await talking
    assert client_side[0].body == b'"after all"'
    assert client_side[0].headers["connection"] == "close"
