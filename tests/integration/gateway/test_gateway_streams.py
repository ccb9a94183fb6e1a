"""Responses that are written while they are made, by both ways into the hot path."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from core.errors import FunctionCrashed, FunctionFault
from core.limits import CLIENT_READ_IDLE_S
from executor.call import Outcome
from gateway import main, protocol
from tests.fixtures.hot_path import (
    EVENT,
    HTTP,
    Client,
    Hot,
    Tap,
    outcome,
    request,
    serving_hot,
    until,
)

PIECE = b"x" * 65_536
KERNEL_BYTES = 64 * 1024  # asked for of both sockets; it gives twice as much


@pytest.fixture(params=["lane", "asgi"])
async def hot(request: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hot]:
    """A server, for each of the two ways."""
    monkeypatch.setattr(main, "SWEEP_S", 0.02)
    async with serving_hot() as hot:
        hot.runs.is_warm = request.param == "lane"
        yield hot
        assert {begun.in_lane for begun in hot.runs.begun} <= {hot.runs.is_warm}


def streaming(tap: Tap, **facts: Any) -> Outcome:
    """An outcome whose body has only begun."""
    told = {"headers": [("content-type", "text/event-stream")], **facts}
    return outcome(b"", stream=tap, **told)


async def begin(hot: Hot, client: Client, tap: Tap, asked: bytes = b"", **facts: Any) -> None:
    """Let a request be answered by this stream."""
    client.send(asked or request(HTTP, b""))
    begun = await hot.runs.next(len(hot.runs.begun) + 1)
    begun.end(streaming(tap, **facts))


async def test_every_piece_arrives_when_it_is_made(hot: Hot) -> None:
    tap = Tap()
    async with hot.client() as client:
        await begin(hot, client, tap, status=202)
        status, headers = await client.head()  # before there is a first piece
        assert (status, headers["transfer-encoding"]) == (202, "chunked")
        assert headers["content-type"] == "text/event-stream"
        assert headers["x-cold-start"] == "false"
        assert headers["server-timing"].startswith("queue;dur=0.10")
        assert {"x-hearth-invocation-id", "x-hearth-version", "x-request-id"} <= set(headers)
        assert "content-length" not in headers
        for piece in (b"data: 1\n\n", b"data: 22\n\n"):
            tap.put(piece)
            await client.exactly(b"%x\r\n%b\r\n" % (len(piece), piece))
        tap.put(b"")
        await client.exactly(b"0\r\n\r\n")
        await until(lambda: tap.closed_count > 0)
        client.send(request("/healthz", b"", method="GET"))  # the connection goes on
        assert (await client.answer()).body == b"none"


async def test_an_event_may_stream_too(hot: Hot) -> None:
    tap = Tap(b"abc", b"")
    async with hot.client() as client:
        await begin(hot, client, tap, request(EVENT))
        _, headers = await client.head()
        assert headers["content-type"] == "text/event-stream"
        await client.exactly(b"3\r\nabc\r\n0\r\n\r\n")


async def test_an_empty_stream_is_an_empty_response(hot: Hot) -> None:
    async with hot.client() as client:
        await begin(hot, client, Tap(b""))
        await client.head()
        await client.exactly(b"0\r\n\r\n")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_what_has_no_body_closes_the_stream_at_once(
    hot: Hot, method: str, status: int
) -> None:
    tap = Tap()
    async with hot.client() as client:
        await begin(hot, client, tap, request(HTTP, b"", method=method), status=status)
        told, headers = await client.head()
        assert told == status
        assert "transfer-encoding" not in headers
        await until(lambda: tap.closed_count > 0)
        assert tap.read_count == 0
        client.send(request("/healthz", b"", method="GET"))
        assert (await client.answer()).body == b"none"


async def test_a_last_answer_closes_the_connection_after_its_end(hot: Hot) -> None:
    hot.runs.is_warm = False
    async with hot.client() as client:
        tap = Tap(b"abc", b"")
        await begin(hot, client, tap, request(HTTP, b"", "connection: close"))
        _, headers = await client.head()
        assert headers["connection"] == "close"
        assert await client.rest() == b"3\r\nabc\r\n0\r\n\r\n"


async def test_http_1_0_gets_it_raw_until_the_connection_ends(hot: Hot) -> None:
    hot.runs.is_warm = False
    async with hot.client() as client:
        await begin(hot, client, Tap(b"abc", b"def", b""), request(HTTP, b"", version="1.0"))
        _, headers = await client.head()
        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"abcdef"


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FunctionFault("no", type="E"), FunctionCrashed("gone")])
async def test_a_stream_that_breaks_off_ends_without_its_end(
    hot: Hot, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tap = Tap(b"abc", error)
    async with hot.client() as client:
        await begin(hot, client, tap)
        await client.head()
        assert await client.rest() == b"3\r\nabc\r\n"
    assert tap.closed_count > 0
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert error.code in record.getMessage()
    assert hot.runs.begun[0].call.id in record.getMessage()


async def test_a_raw_stream_that_breaks_off_is_reset(hot: Hot) -> None:
    hot.runs.is_warm = False
    tap = Tap()
    async with hot.client() as client:
        await begin(hot, client, tap, request(HTTP, b"", version="1.0"))
        await client.head()
        tap.put(b"abc")
        await client.exactly(b"abc")
        tap.put(FunctionCrashed("gone"))
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_requests_behind_a_stream_wait_for_its_end(hot: Hot) -> None:
    tap = Tap()
    async with hot.client() as client:
        await begin(hot, client, tap)
        await client.head()
        client.send(request("/healthz", b"", method="GET"))
        (connection,) = hot.connections
        await until(lambda: len(connection.pipeline) == 1)
        assert hot.asked == []
        tap.put(b"")
        await client.exactly(b"0\r\n\r\n")
        assert (await client.answer()).body == b"none"


async def test_nonsense_behind_a_stream_ends_both_and_stands_in_no_response(
    hot: Hot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "CLIENT_LINGER_S", 0.2)
    tap = Tap(b"abc")
    async with hot.client() as client:
        await begin(hot, client, tap)
        await client.head()
        await client.exactly(b"3\r\nabc\r\n")
        client.send(b"nonsense\r\n\r\n")
        assert await client.rest() == b""
        tap.put(b"def")
        await until(lambda: tap.closed_count > 0)
    await until(lambda: hot.connections == [])
    await until(lambda: not hot.server.server_state.tasks)
    gc.collect()  # a task's own end may only be told when it is collected
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_stream_for_a_connection_that_is_closing_is_closed(
    hot: Hot, caplog: pytest.LogCaptureFixture
) -> None:
    tap = Tap(b"abc")
    async with hot.client() as client:
        client.send(request(HTTP, b""))
        begun = await hot.runs.next()
        begun.end(streaming(tap))
        (connection,) = hot.connections
        connection.transport.abort()
        await until(lambda: tap.closed_count > 0)
    await until(lambda: not hot.server.server_state.tasks)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_writing_task_that_is_cancelled_before_it_began_closes_the_stream() -> None:
    tap = Tap(b"abc")
    async with serving_hot() as hot, hot.client() as client:
        client.send(request(HTTP, b""))
        begun = await hot.runs.next()
        begun.end(streaming(tap))
        (connection,) = hot.connections
        assert connection.running is not None
        connection.running[1].cancel()
        await until(lambda: tap.closed_count > 0)
    assert tap.read_count == 0


# --- clients that leave or do not read -----------------------------------------------------------


async def test_a_client_that_leaves_closes_a_stream_that_waits(hot: Hot) -> None:
    tap = Tap(b"abc")
    async with hot.client() as client:
        await begin(hot, client, tap)
        await client.head()
    await until(lambda: tap.closed_count > 0)
    await until(lambda: not hot.server.server_state.tasks)


async def test_a_client_that_left_before_its_stream_began_closes_it(hot: Hot) -> None:
    tap = Tap(b"abc")
    async with hot.client() as client:
        client.send(request(HTTP, b""))
        begun = await hot.runs.next()
    await until(lambda: hot.connections == [])
    if begun.in_lane:  # in the other way the wait was cancelled: the executor sees to the stream
        begun.end(streaming(tap))
        assert (tap.closed_count, tap.read_count) == (1, 0)


async def stalled(hot: Hot, client: Client, tap: Tap) -> None:
    """A stream of more than anybody buffers, whose client has stopped to read."""
    for _ in range(200):
        tap.put(PIECE)
    await begin(hot, client, tap)
    await client.head()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = hot.connections
    await until(lambda: connection.stalled_since is not None)


def small(sock: socket.socket) -> socket.socket:
    """With little room in the kernel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
    return sock


async def hold_back(hot: Hot) -> None:
    """A slow reader slows the function, and everything arrives in the end."""
    tap = Tap()
    sock = small(socket.socket())
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", hot.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    client = Client(reader, writer)
    await stalled(hot, client, tap)
    (connection,) = hot.connections
    held = tap.read_count
    for _ in range(20):  # many turns of the loop: nothing more is asked for
        await asyncio.sleep(0.001)
    assert tap.read_count == held
    assert held < 150  # the rest stands in the function
    transport: Any = connection.transport
    assert transport._transport.get_write_buffer_size() < 3 * len(PIECE)
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]
    tap.put(b"")
    assert (await client.body()).count(b"x") == 200 * len(PIECE)
    client.leave()


async def test_a_slow_reader_slows_the_function(hot: Hot) -> None:
    await hold_back(hot)


def on_uvloop(scenario: Callable[[Hot], Coroutine[Any, Any, None]], *, is_warm: bool) -> None:
    """Run it on the loop that a node has."""

    async def served() -> None:
        async with serving_hot() as hot:
            hot.runs.is_warm = is_warm
            await scenario(hot)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(served())


@pytest.mark.parametrize("is_warm", [True, False], ids=["lane", "asgi"])
def test_a_slow_reader_slows_the_function_on_uvloop_too(is_warm: bool) -> None:
    on_uvloop(hold_back, is_warm=is_warm)


async def test_a_client_that_leaves_while_it_is_waited_for_closes_the_stream(hot: Hot) -> None:
    tap = Tap()
    async with hot.client() as client:
        await stalled(hot, client, tap)
    await until(lambda: tap.closed_count > 0)
    await until(lambda: not hot.server.server_state.tasks)


async def test_a_reader_that_stalls_for_a_minute_is_cut_off(hot: Hot) -> None:
    tap = Tap()
    async with hot.client() as client:
        await stalled(hot, client, tap)
        (connection,) = hot.connections
        since = connection.stalled_since
        assert since is not None
        connection.sweep(since + CLIENT_READ_IDLE_S - 1)
        assert tap.closed_count == 0
        connection.sweep(since + CLIENT_READ_IDLE_S + 1)
        await until(lambda: tap.closed_count > 0)


async def test_a_stream_may_be_silent_for_as_long_as_it_likes(hot: Hot) -> None:
    tap = Tap()
    async with hot.client() as client:
        await begin(hot, client, tap)
        await client.head()
        (connection,) = hot.connections
        connection.sweep(connection.now() + 100_000)
        tap.put(b"still here")
        await client.exactly(b"a\r\nstill here\r\n")


# --- shutting down -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_warm", [True, False], ids=["lane", "asgi"])
async def test_a_shutdown_waits_for_a_stream_and_then_cuts_it(
    is_warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "LAST_ANSWERS_S", 0.3)
    finished, endless = Tap(), Tap()
    async with contextlib.AsyncExitStack() as stack:
        async with serving_hot() as hot:
            hot.runs.is_warm = is_warm
            first = await stack.enter_async_context(hot.client())
            second = await stack.enter_async_context(hot.client())
            for client, tap in ((first, finished), (second, endless)):
                await begin(hot, client, tap)
                await client.head()
            finished.put(b"last")
            finished.put(b"")
        assert await first.rest() == b"4\r\nlast\r\n0\r\n\r\n"
        assert await second.rest() == b""
    assert finished.closed_count > 0
    assert endless.closed_count > 0
