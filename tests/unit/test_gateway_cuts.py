"""However a client's bytes are cut, the same requests are read out of them, in order."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from gateway.protocol import Connection
from gateway.view import View
from tests.fixtures.hot_path import (
    EVENT,
    HTTP,
    Held,
    edge,
    outcome,
    request,
    show,
    until,
    version,
)

ANSWERED_S = 30.0
BODIES = st.sampled_from([b"1", b"2", b'"a"', b'"b"', b"[]", b'"\\r\\n\\r\\n"', b" " * 300 + b"3"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, often with the same head as another."""
    target = draw(st.sampled_from([EVENT, EVENT, f"{HTTP}/x"]))
    body = draw(BODIES)
    if draw(st.integers(0, 4)) == 0:
        head = f"POST {target} HTTP/1.1\r\ntransfer-encoding: chunked\r\n"
        key = "authorization: Bearer hk_of_the_test\r\n\r\n"
        return f"{head}{key}".encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    lines = draw(st.sampled_from([(), (), ("x-a: 1",), ("expect: 100-continue",)]))
    return request(target, body, *lines)


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Kept."""
        self.written += data

    @property
    def answers(self) -> int:
        """How many."""
        return self.written.count(b"HTTP/1.1 200")

    def get_extra_info(self, name: str) -> Any:
        """Addresses."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def _nothing(self) -> None:
        pass

    close = abort = pause_reading = resume_reading = set_protocol = _nothing


async def served(chunks: list[bytes], count: int, *, waits: list[bool]) -> tuple[Held, bytes]:
    """Feed the chunks; after some of them wait until nothing is under way. The calls and all that
    was written."""
    runs, view = Held(), View(cast(Any, None), lambda _: None)
    runs.answers = lambda call: outcome(b"<%b>" % call.body)
    show(view, version())
    app = edge(runs, view, [])
    config = uvicorn.Config(
        app, interface="asgi3", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    wire = Wire()
    connection = Connection(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(cast(Any, wire))
    for chunk, wait in zip(chunks, waits, strict=True):
        connection.data_received(chunk)
        if wait:
            await until(lambda: wire.answers >= len(runs.begun))
    await until(lambda: wire.answers == count)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return runs, wire.written


def run(chunks: list[bytes], count: int, waits: list[bool]) -> tuple[Held, bytes]:
    """The same, in a loop of its own, and not for ever."""
    return asyncio.run(asyncio.wait_for(served(chunks, count, waits=waits), ANSWERED_S))


@settings(max_examples=150, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=6), st.integers(), st.sampled_from([0, 1, 3, 30]))
def test_however_bytes_are_cut_the_same_calls_are_made_in_order(
    asked: list[bytes], seed: int, cuts: int
) -> None:
    rolled = random.Random(seed)
    whole = b"".join(asked)
    starts = [sum(map(len, asked[:at])) for at in range(1, len(asked))]
    bounds = {0, *(start for start in starts if rolled.random() < 0.7)}
    bounds |= {rolled.randrange(len(whole)) for _ in range(cuts)}
    at = [*sorted(bounds), len(whole)]
    chunks = [whole[a:b] for a, b in itertools.pairwise(at)]
    waits = [rolled.random() < 0.7 for _ in chunks]
    runs, written = run(chunks, len(asked), waits)
    expected = [a.split(b"\r\n\r\n", 1)[1] for a in asked]
    bodies = [b.split(b"\r\n")[1] if b.endswith(b"\r\n0\r\n\r\n") else b for b in expected]
    assert [begun.call.body for begun in runs.begun] == bodies
    assert len({begun.call.id for begun in runs.begun}) == len(asked)
    for begun in runs.begun:  # the answers come in the same order
        for part in (begun.call.id.encode(), b"<%b>" % begun.call.body):
            before, found, written = written.partition(part)
            assert found, before


def test_a_kept_head_is_told_from_its_like_with_more_or_less_behind_it() -> None:
    one = request(HTTP, b"1")  # its body may be anything
    for chunks in (
        [one, one + one],
        [one + one, one + one],
        [one, one[:-1], b"1"],
        [one, one, one[:50], one[50:] + one],
    ):
        count = sum(map(len, chunks)) // len(one)
        runs, _ = run(chunks, count, [True] * len(chunks))
        assert [begun.call.body for begun in runs.begun] == [b"1"] * count
        assert runs.begun[0].in_lane


def test_the_lane_is_among_what_is_tried() -> None:
    asked = [request(EVENT, b"%d" % number) for number in range(3)]
    runs, _ = run(asked, 3, [True] * 3)
    assert [begun.in_lane for begun in runs.begun] == [True] * 3
    whole = [b"".join(asked)]
    runs, _ = run(whole, 3, [True])
    assert [begun.in_lane for begun in runs.begun] == [True, False, False]


pytestmark = pytest.mark.timeout(300)
