"""Responses that are made while they are read, over HTTP: piece by piece, at the reader's pace,
ended by whoever leaves, and cut where the function breaks off."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.fixtures.api import connected, deploy, head, invoke, logged, read_all, until
from tests.fixtures.platform import Platform
from tests.soak.sight import rss_mb

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

PIECE = 64 * 1024
PIECES = 1024
# One sandbox serves the reader and whoever opens the gate: nothing is said before it is opened.
GATED = f"""
import asyncio

gate, made = asyncio.Semaphore(0), [0]

async def events():
    yield {{"statusCode": 200, "headers": {{"content-type": "text/event-stream"}}}}
    for number in range(3):
        await gate.acquire()
        yield f"data: {{number}}\\n\\n"

async def much():
    for number in range({PIECES}):
        made[0] += 1
        yield b"x" * {PIECE}

async def handler(event, context):
    match event["rawPath"]:
        case "/open":
            gate.release()
            return "opened"
        case "/made":
            return made[0]
        case "/much":
            return much()
    return events()
"""
GATED_NODE = f"""
let opened = 0, made = 0;
const waiting = [];
const pass = () => opened > 0 ? opened-- : new Promise((open) => waiting.push(open));
const release = () => waiting.length > 0 ? waiting.shift()() : opened++;

export const handler = awslambda.streamifyResponse(async (event, out, context) => {{
  const type = event.rawPath === "/events" ? "text/event-stream" : "application/json";
  const about = {{ statusCode: 200, headers: {{ "content-type": type }} }};
  out = awslambda.HttpResponseStream.from(out, about);
  if (event.rawPath === "/open") release();
  if (event.rawPath === "/made") out.write(String(made));
  for (let n = 0; event.rawPath === "/events" && n < 3; n++) {{
    await pass();
    out.write(`data: ${{n}}\\n\\n`);
  }}
  for (let n = 0; event.rawPath === "/much" && n < {PIECES}; n++) {{
    made++;
    const room = out.write(Buffer.alloc({PIECE}, "x"));
    if (!room) await new Promise((drained) => out.once("drain", drained));
  }}
  out.end();
}});
"""
ENDLESS = """
def numbers(path):
    try:
        yield {"statusCode": 200, "headers": {"content-type": "text/plain", "x-kind": "endless"}}
        yield "first\\n"
        if path == "/fails":
            raise ValueError("no more")
        while path != "/ends":
            yield "x" * 65536
        yield "last\\n"
    finally:
        print("it ends")

def handler(event, context):
    path = event.get("rawPath", "/ends")
    return "plain" if path == "/plain" else numbers(path)
"""
ENDLESS_NODE = """
async function* numbers(path) {
  try {
    yield { statusCode: 200, headers: { "content-type": "text/plain", "x-kind": "endless" } };
    yield "first\\n";
    if (path === "/fails") throw new RangeError("no more");
    while (path !== "/ends") yield "x".repeat(65536);
    yield "last\\n";
  } finally {
    console.log("it ends");
  }
}
export const handler = async (event) => {
  const path = event.rawPath ?? "/ends";
  return path === "/plain" ? "plain" : numbers(path);
};
"""
NODE = {"runtime": "node"}


@pytest.fixture(params=["python", "node"])
def gated(client: httpx.Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A function of each language that streams when its gate is opened, by another call."""
    name = f"gated-{request.param}"
    code, more = (GATED, {}) if request.param == "python" else (GATED_NODE, NODE)
    deploy(client, name, code, per_sandbox=2, timeout_s=120, **more)
    yield f"/function/{name}"


@pytest.fixture(params=["python", "node"])
def endless(client: httpx.Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a function of each language that streams until nobody reads."""
    name = f"endless-{request.param}"
    code, more = (ENDLESS, {}) if request.param == "python" else (ENDLESS_NODE, NODE)
    deploy(client, name, code, timeout_s=120, **more)
    yield name


def has_ended(client: httpx.Client, name: str, streams: int) -> bool:
    """Whether so many of its streams have run their last line."""
    return [line["text"] for line in logged(client, name)].count("it ends") == streams


def is_warm(client: httpx.Client, name: str) -> bool:
    """Whether the seat that streamed serves the next call."""
    answer = client.get(f"/function/{name}/plain")
    assert (answer.status_code, answer.json()) == (200, "plain")
    return answer.headers["x-cold-start"] == "false"


def test_events_arrive_as_they_are_made(
    platform: Platform, client: httpx.Client, gated: str
) -> None:
    with platform.client() as reader, reader.stream("GET", f"{gated}/events") as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["x-hearth-version"] == "1"
        pieces = answer.iter_raw()
        for number in range(3):  # the next is not made before the gate is opened once more
            assert client.get(f"{gated}/open").status_code == 200
            assert next(pieces) == f"data: {number}\n\n".encode()
        assert list(pieces) == []


def test_a_slow_reader_slows_the_function_and_costs_the_gateway_no_memory(
    platform: Platform, client: httpx.Client, gated: str
) -> None:
    assert client.get(f"{gated}/made").json() == 0
    gateway = platform.running.children["gateway"]
    before = rss_mb(gateway)
    with connected(platform) as sock:
        sock.sendall(head(platform, "GET", f"{gated}/much", "connection: close"))
        sock.recv(1, socket.MSG_PEEK)  # it has begun
        unchanged, made = 0, -1
        while unchanged < 30:  # that many answers of the very loop that would make more
            now = client.get(f"{gated}/made").json()
            unchanged, made = (unchanged + 1 if now == made else 0), now
        # What the kernel buffers for a connection at most, beside the window of 256 KiB.
        assert 0 < made < PIECES // 2
        assert rss_mb(gateway) - before < 16
        read = count(sock)
    # Heads and the lengths of chunks come beside the pieces.
    assert PIECES * PIECE < read < PIECES * (PIECE + 100)
    assert client.get(f"{gated}/made").json() == PIECES
    assert rss_mb(gateway) - before < 16


def count(sock: socket.socket) -> int:
    """How many bytes come until the end, which must be that of chunks."""
    total, end = 0, b""
    while data := sock.recv(1 << 20):
        total += len(data)
        end = (end + data)[-7:]
    assert end == b"\r\n0\r\n\r\n"
    return total


def test_a_reader_that_leaves_ends_the_generator_and_its_seat_returns(
    platform: Platform, client: httpx.Client, endless: str
) -> None:
    for number in range(1, 4):
        with platform.client() as reader, reader.stream("GET", f"/function/{endless}/") as answer:
            assert answer.headers["x-kind"] == "endless"
            if number != 2:  # once it leaves while nothing has been read but the head
                assert next(answer.iter_raw(6)) == b"first\n"
        until(partial(has_ended, client, endless, number), "the generator goes on for nobody")
        assert is_warm(client, endless)


def test_a_failure_midway_cuts_the_connection_without_the_last_chunk(
    platform: Platform, client: httpx.Client, endless: str
) -> None:
    with connected(platform) as sock:
        sock.sendall(head(platform, "GET", f"/function/{endless}/fails"))
        status, headers, body = read_all(sock)
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert body == b"6\r\nfirst\n\r\n"
    assert is_warm(client, endless)
    told = [line["text"] for line in logged(client, endless) if line["stream"] == "platform"]
    assert any("no more" in text for text in told), told


def test_a_stream_beyond_its_time_is_cut_and_its_sandbox_ends(
    platform: Platform, client: httpx.Client
) -> None:
    code = "import time\ndef handler(event, context):\n    yield 'begun'\n    time.sleep(600)\n"
    deploy(client, "too-long", code, timeout_s=0.5)
    with connected(platform) as sock:
        sock.sendall(head(platform, "GET", "/function/too-long"))
        status, _, body = read_all(sock)
    assert (status, body) == (200, b"5\r\nbegun\r\n")
    until(
        lambda: any("timeout of 0.5 s" in line["text"] for line in logged(client, "too-long")),
        "nobody says why",
    )
    again = client.stream("GET", "/function/too-long")
    with again as answer:
        assert answer.headers["x-cold-start-reason"] == "timed_out"


def test_http_1_0_gets_the_bytes_as_they_are_and_a_reset_when_they_are_not_all(
    platform: Platform, endless: str
) -> None:
    with connected(platform) as sock:
        target = f"/function/{endless}/ends"
        sock.sendall(head(platform, "GET", target).replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, headers, body = read_all(sock)
    assert (status, body) == (200, b"first\nlast\n")
    assert not {"transfer-encoding", "content-length"} & headers.keys()
    with connected(platform) as sock:
        target = f"/function/{endless}/fails"
        sock.sendall(head(platform, "GET", target).replace(b"HTTP/1.1", b"HTTP/1.0"))
        with pytest.raises(ConnectionResetError):
            read_all(sock)


def test_head_has_the_streams_headers_and_ends_it(
    platform: Platform, client: httpx.Client, endless: str
) -> None:
    answer = client.head(f"/function/{endless}/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-kind"] == "endless"
    until(partial(has_ended, client, endless, 1), "the generator goes on for nobody")
    assert is_warm(client, endless)  # and the connection is not out of step


def test_an_event_is_answered_by_a_stream_too(client: httpx.Client, endless: str) -> None:
    answer = invoke(client, endless, {})
    assert (answer.status_code, answer.text) == (200, "first\nlast\n")
    assert answer.headers["transfer-encoding"] == "chunked"
    code = "def handler(event, context):\n    for n in range(event):\n        yield {'n': n}\n"
    deploy(client, "lines", code)
    lines = invoke(client, "lines", 3).text.splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert invoke(client, "lines", 0).content == b""
