"""The hot lane: what takes it, what does not, and that a client cannot tell the two ways apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from core.errors import FunctionTimeout
from core.model import Role
from executor.call import Failure
from gateway import main
from gateway.lane import BODY_BYTES_MAX
from tests.fixtures.hot_path import BODY_BYTES_MAX as PAYLOAD_BYTES_MAX
from tests.fixtures.hot_path import (
    EVENT,
    HTTP,
    Answer,
    Hot,
    facts_of,
    key,
    outcome,
    request,
    serving_hot,
    show,
    until,
    version,
)


@pytest.fixture
async def hot(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hot]:
    """A server that sweeps often."""
    monkeypatch.setattr(main, "SWEEP_S", 0.02)
    async with serving_hot() as hot:
        yield hot


async def both_ways(hot: Hot, asked: bytes, end: Any, method: str = "POST") -> list[Answer]:
    """The answers of the lane and of the other way to the same request."""
    answers = []
    for is_warm in (True, False):
        hot.runs.is_warm = is_warm
        async with hot.client() as client:
            client.send(asked)
            begun = await hot.runs.next(len(hot.runs.begun) + 1)
            assert begun.in_lane is is_warm
            begun.end(end)
            answers.append(await client.answer(method))
    return answers


# --- the two ways are one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "method", "end"),
    [
        (EVENT, "POST", outcome(b'{"a": 1}')),
        (EVENT, "POST", outcome(b"x" * 200_000)),
        (HTTP, "GET", outcome(b"text", status=201, headers=[("x-a", "\xe9"), ("x-a", "2")])),
        (HTTP, "HEAD", outcome(b"text")),
        (HTTP, "HEAD", outcome(b"")),
        (HTTP, "DELETE", outcome(b"", status=204)),
        (HTTP, "GET", outcome(b"", status=304)),
        (EVENT, "POST", outcome(b"", failure=Failure("function_error", "KeyError", "no"))),
        (EVENT, "POST", outcome(b"", failure=Failure("e", "Runtime.UnmarshalError", "no"))),
        (HTTP, "HEAD", outcome(b"", failure=Failure("function_error", "KeyError", "no"))),
        (EVENT, "POST", outcome(b"1", cold=True, why_cold="evicted")),
        (EVENT, "POST", FunctionTimeout("it took too long", timeout_s=1)),
    ],
)
async def test_a_client_cannot_tell_the_two_ways_apart(
    hot: Hot, target: str, method: str, end: Any
) -> None:
    asked = request(target, b"", "x-request-id: r-1", method=method)
    lane, other = await both_ways(hot, asked, end, method)
    assert (lane.status, lane.body) == (other.status, other.body)
    assert facts_of(lane.headers) == facts_of(other.headers)
    assert list(lane.headers) == list(other.headers)
    ids = [begun.call.id for begun in hot.runs.begun]
    assert [lane.headers["x-hearth-invocation-id"], other.headers["x-hearth-invocation-id"]] == ids
    calls = [begun.call for begun in hot.runs.begun]
    assert calls[0].http == calls[1].http
    assert calls[0].body == calls[1].body


async def test_a_call_is_the_same_by_both_ways(hot: Hot) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    lines = (
        "x-a: 1",
        "cookie: hearth_s=1; b=2",
        "x-forwarded-for: 6.6.6.6",
        f"traceparent: {trace}",
    )
    asked = request(f"{HTTP}/a%20b/c?d=e&f", b"body", *lines, method="PUT")
    await both_ways(hot, asked, outcome())
    lane, other = (begun.call for begun in hot.runs.begun)
    assert lane.http == other.http
    assert (lane.kind, lane.body, lane.trace) == (other.kind, other.body, other.trace)
    assert lane.http is not None
    assert (lane.http["path"], lane.http["query"], lane.trace) == ("/a%20b/c", "d=e&f", trace)
    assert ["cookie", "b=2"] in lane.http["headers"]
    assert "authorization" not in dict(lane.http["headers"])


async def test_a_stranger_to_a_public_function_learns_as_little(hot: Hot) -> None:
    show(hot.view, version(auth="none"))
    secret = outcome(b"", failure=Failure("function_error", "KeyError", "secret", ("secret",)))
    for answer in await both_ways(hot, request(auth=None), secret):
        assert (answer.status, answer.code) == (502, "function_error")
        assert b"secret" not in answer.body


# --- what does not take it -----------------------------------------------------------------------

FALLS_BACK = {
    "HTTP/1.0": request(version="1.0"),
    "HTTP/1.0 that stays": request(EVENT, b"{}", "connection: keep-alive", version="1.0"),
    "the last request": request(EVENT, b"{}", "connection: close"),
    "an upgrade": request(EVENT, b"", "connection: upgrade, close", "upgrade: h2c"),
    "a query of an event": request(f"{EVENT}?qualifier=latest", b"{}"),
    "chunks": (
        b"POST /function/hello HTTP/1.1\r\nauthorization: Bearer hk_of_the_test\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "a large body": request(HTTP, b"x" * (BODY_BYTES_MAX + 1)),
}


@pytest.mark.parametrize("why", FALLS_BACK)
async def test_what_is_not_ordinary_goes_the_other_way(hot: Hot, why: str) -> None:
    hot.echo()
    async with hot.client() as client:
        client.send(FALLS_BACK[why])
        assert (await client.answer()).status == 200
    assert [begun.in_lane for begun in hot.runs.begun] == [False]


async def test_a_request_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "SWEEP_S", 3600)  # a sweep in between would send it the other way
    whole = request(EVENT, b'"abc"')
    size = len(whole)
    async with serving_hot() as hot:
        hot.echo()
        for cuts in ([10], [size - 5], [size - 3], [20, size - 5, size - 1]):
            async with hot.client() as client:
                for start, end in pairwise([0, *cuts, size]):
                    heard = [connection.chunk_bytes for connection in hot.connections]
                    client.send(whole[start:end])
                    if end < size:  # the server has read this piece
                        await until(partial(has_read, hot, heard, end - start))
                assert (await client.answer()).body == b'"abc"'
            await until(lambda: hot.connections == [])
        assert [begun.in_lane for begun in hot.runs.begun] == [True] * 4


def has_read(hot: Hot, before: list[int], size: int) -> bool:
    """Whether the one connection has read a piece of this size last."""
    found = [connection.chunk_bytes for connection in hot.connections]
    return found == [size] != before


REFUSED = {
    "unauthenticated": (401, [request(auth=None), request(auth="hk_unknown")]),
    "function_not_found": (404, [request("/function/none"), request("/function/other.hello")]),
    "alias_not_found": (404, [request("/function/hello:beta")]),
    "name_invalid": (422, [request("/function/%20")]),
    "request_invalid": (400, [request(EVENT, b"{"), request(HTTP, b"", "host: " + "h" * 301)]),
    "payload_too_large": (413, [request(HTTP, b"x" * (PAYLOAD_BYTES_MAX + 1))]),
    "feature_unavailable": (
        501,
        [
            request(EVENT, b"{}", "prefer: respond-async"),
            request(HTTP, b"{}", "idempotency-key: k"),
            request(EVENT, b"{}", "x-callback-url: https://example.org"),
            request(f"{EVENT}?mode=async"),
            request("/async-function/hello"),
        ],
    ),
}


@pytest.mark.parametrize("code", REFUSED)
async def test_errors_are_decided_in_one_place_before_anything_begins(hot: Hot, code: str) -> None:
    status, requests = REFUSED[code]
    for asked in requests:
        async with hot.client() as client:
            client.send(asked)
            answer = await client.answer()
            assert (answer.status, answer.code) == (status, code), asked[:80]
    assert hot.runs.begun == []


async def test_a_small_payload_limit_holds_in_the_lane(hot: Hot) -> None:
    hot.server.config.loaded_app._invoke._payload_bytes_max = 10
    async with hot.client() as client:
        client.send(request(HTTP, b"x" * 11))
        assert (await client.answer()).code == "payload_too_large"
    assert hot.runs.begun == []


async def test_what_is_not_an_invocation_is_not_the_lanes(hot: Hot) -> None:
    async with hot.client() as client:
        for target, method in ((EVENT, "GET"), ("/healthz", "GET"), ("/v1/functions", "POST")):
            client.send(request(target, b"", method=method))
            assert (await client.answer()).status == 404
    assert hot.asked == [EVENT, "/healthz", "/v1/functions"]
    assert hot.runs.begun == []


async def test_the_lane_is_asked_once_for_each_request(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        for number, is_warm in enumerate((True, True, False, False, True), 1):
            hot.runs.is_warm = is_warm
            client.send(request())
            await client.answer()
            assert hot.runs.asked_count == number


# --- one head again and again --------------------------------------------------------------------


async def test_a_head_that_comes_again_is_not_parsed_again_and_its_body_is_its_own(
    hot: Hot,
) -> None:
    hot.echo()
    bodies = [b'"a"', b'"b"', b'"c"', b'"longer"', b'"d"', b'"e"']
    async with hot.client() as client:
        for body in bodies:
            client.send(request(EVENT, body))
            assert (await client.answer()).body == body
    assert all(begun.in_lane for begun in hot.runs.begun)
    ids = {begun.call.id for begun in hot.runs.begun}
    assert len(ids) == len(bodies)


async def test_heads_of_one_length_are_not_mistaken_for_each_other(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        for target in ("/function/hello/a", "/function/hello/b", "/function/hello/a"):
            client.send(request(target))
            await client.answer()
            assert hot.runs.begun[-1].call.http["path"] == target[-2:]  # type: ignore[index]
        client.send(request(EVENT, b"{}", auth="hk_of_the_tesT"))
        assert (await client.answer()).status == 401


async def test_a_key_that_is_taken_away_opens_nothing_from_then_on(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        for keys, status in (
            ([key()], 200),
            ([key("hk_other")], 401),
            ([key(functions=("other",))], 403),
            ([key(role=Role.VIEWER)], 403),
            ([key(namespace="elsewhere")], 404),
            ([key()], 200),
        ):
            show(hot.view, version(), keys=keys)
            for _ in range(2):
                client.send(request("/function/default.hello", b"{}"))
                assert (await client.answer()).status == status


async def test_a_key_expires_between_two_requests(
    hot: Hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.echo()
    show(hot.view, version(), keys=[key(expires_at=datetime.now(UTC) + timedelta(hours=1))])
    async with hot.client() as client:
        client.send(request())
        assert (await client.answer()).status == 200
        later = datetime.now(UTC).timestamp() + 3601
        monkeypatch.setattr("gateway.auth.time.time", lambda: later)
        client.send(request())
        assert (await client.answer()).code == "unauthenticated"


async def test_the_next_request_runs_the_version_that_is_latest_then(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        for number in (1, 2, 3):
            show(hot.view, version(number))
            client.send(request())
            assert (await client.answer()).headers["x-hearth-version"] == str(number)
        show(hot.view, version(3, enabled=False))
        client.send(request())
        assert (await client.answer()).code == "function_disabled"


async def test_both_versions_of_a_split_are_run(hot: Hot) -> None:
    hot.echo()
    show(hot.view, version(1), version(2), weights={1: 0.5})
    async with hot.client() as client:
        seen: set[str] = set()
        while len(seen) < 2:
            client.send(request())
            seen.add((await client.answer()).headers["x-hearth-version"])
    assert all(begun.in_lane for begun in hot.runs.begun)


async def test_the_lane_is_left_when_seats_are_gone_and_found_again(hot: Hot) -> None:
    hot.echo()
    async with hot.client() as client:
        for is_warm in (True, True, False, False, True, True):
            hot.runs.is_warm = is_warm
            client.send(request())
            assert (await client.answer()).status == 200
    assert [b.in_lane for b in hot.runs.begun] == [True, True, False, False, True, True]
