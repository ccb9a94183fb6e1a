"""Clients that are slow, rude or gone: typed errors, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from core.limits import HEADER_COUNT_MAX, HEADERS_BYTES_MAX
from core.settings import Settings
from gateway import protocol
from tests.integration.gateway.conftest import ECHO, Node, packed, running

WAIT_S = 60.0
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(node: Node) -> AsyncIterator[Wire]:
    """A plain connection to the node."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer_to(node: Node, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what comes back until the connection is closed."""
    async with connected(node) as (reader, writer):
        writer.write(request)
        return parsed(await asyncio.wait_for(reader.read(), WAIT_S))


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """One response."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def code(body: bytes) -> str:
    """The code of an error."""
    return str(json.loads(body)["error"]["code"])


def head(node: Node, target: str, *lines: str, method: str = "POST") -> bytes:
    """A head with the admin's key."""
    first = f"{method} {target} HTTP/1.1"
    key = f"authorization: Bearer {node.admin_key}"
    return "\r\n".join([first, "host: h", key, *lines, "", ""]).encode("latin-1")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own timeout is the bound."""
    while not condition():
        await asyncio.sleep(0.01)


def quick(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Let this limit pass at once; the sweep comes by once a second."""
    monkeypatch.setattr(protocol, limit, 0.05)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    with_settings: Callable[..., Settings],
) -> None:
    async with running(with_settings(payload_bytes_max=1024)) as node:
        await node.deploy("echo")
        for target in ("/v1/functions/echo/invocations", "/function/echo"):
            told = head(node, target, "content-length: 999999999999")
            status, headers, body = await answer_to(node, told)
            assert (status, code(body)) == (413, "payload_too_large")
            assert headers["connection"] == "close"
            chunk = b"400\r\n" + b"1" * 1024 + b"\r\n"
            untold = head(node, target, "transfer-encoding: chunked") + chunk + chunk
            status, headers, body = await answer_to(node, untold)
            assert (status, code(body)) == (413, "payload_too_large")
        body = b'"' + b"x" * 1022 + b'"'
        answer = await node.client.post("/v1/functions/echo/invocations", content=body)
        assert answer.status_code == 200
        assert node.gateway.executor.stats().busy == 0


async def test_an_archive_over_the_limit_is_refused_before_it_is_read(
    with_settings: Callable[..., Settings],
) -> None:
    async with running(with_settings(archive_bytes_max=100_000)) as node:
        form = "content-type: multipart/form-data; boundary=x"
        told = head(node, "/v1/functions/big", form, "content-length: 99999999", method="PUT")
        status, _, body = await answer_to(node, told)
        assert (status, code(body)) == (413, "archive_too_large")
        answer = await node.put("big", bytes(100_001))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "archive_too_large")
        endless = head(node, "/v1/functions/big", form, "transfer-encoding: chunked", method="PUT")
        part = b'--x\r\ncontent-disposition: form-data; name="archive"; filename="a"\r\n\r\n'
        data = part + b"y" * 200_000
        status, _, body = await answer_to(node, endless + b"%x\r\n%b\r\n" % (len(data), data))
        assert (status, code(body)) == (413, "archive_too_large")
        assert (await node.client.get("/v1/functions")).json()["items"] == []
        assert node.leftovers() == []


async def test_a_client_that_sends_a_huge_body_still_gets_the_413(
    with_settings: Callable[..., Settings],
) -> None:
    async with running(with_settings(payload_bytes_max=1024)) as node:
        await node.deploy("echo")
        body = bytes(30_000_000)  # far more than the kernel buffers: closing would reset
        async with connected(node) as (reader, writer):
            length = f"content-length: {len(body)}"
            writer.write(head(node, "/function/echo", length) + body)
            status, _, answer = parsed(await asyncio.wait_for(reader.read(), WAIT_S))
            assert (status, code(answer)) == (413, "payload_too_large")


async def test_a_body_that_pauses_is_a_408(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.deploy("echo")
    quick(monkeypatch, "CLIENT_BODY_IDLE_S")
    form = "content-type: multipart/form-data; boundary=x"
    for request in (
        head(node, "/v1/functions/echo/invocations", "content-length: 10") + b"123",
        head(node, "/function/echo", "transfer-encoding: chunked") + b"1\r\n1\r\n",
        head(node, "/v1/functions/up", form, "content-length: 999", method="PUT") + b"--x\r\n",
        head(node, "/v1/functions/echo", "content-length: 9", method="PATCH") + b"{",
    ):
        status, headers, body = await answer_to(node, request)
        assert (status, code(body)) == (408, "request_timeout")
        assert "x-request-id" in headers
    await until(lambda: node.leftovers() == [])
    assert node.gateway.executor.stats().busy == 0


async def test_a_head_that_does_not_end_is_a_408_and_silence_is_closed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, "CLIENT_HEAD_S")
    status, _, body = await answer_to(node, b"GET /healthz HTTP/1.1\r\nhost:")
    assert (status, code(body)) == (408, "request_timeout")
    async with connected(node) as (reader, _):
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""


async def test_an_idle_connection_is_closed_quietly(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, "KEEP_ALIVE_S")
    async with connected(node) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
        raw = await asyncio.wait_for(reader.read(), WAIT_S)
        assert raw.endswith(b'{"status":"ok"}')


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.deploy("big", "def handler(e, c): return 'x' * 6_000_000")
    quick(monkeypatch, "CLIENT_READ_IDLE_S")
    async with connected(node) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(head(node, "/v1/functions/big/invocations") * 4)
        await until(lambda: stalled(node) == 1)
        await until(lambda: stalled(node) == 0)


def stalled(node: Node) -> int:
    """Clients that do not take their answers."""
    connections: set[Any] = set(node.server.server_state.connections)
    return sum(connection.stalled_since is not None for connection in connections)


async def test_too_large_a_head_is_a_431(node: Node) -> None:
    big = "x-big: " + "y" * HEADERS_BYTES_MAX
    many = [f"x-{number}: 1" for number in range(HEADER_COUNT_MAX)]
    long_path = "/function/echo/" + "p" * HEADERS_BYTES_MAX
    unfinished = b"GET / HTTP/1.1\r\nx: " + b"y" * (HEADERS_BYTES_MAX * 2)
    for request in (
        head(node, "/healthz", big, method="GET"),
        head(node, "/healthz", *many, method="GET"),
        head(node, long_path, method="GET"),
        unfinished,
    ):
        status, headers, body = await answer_to(node, request)
        assert (status, code(body)) == (431, "headers_too_large")
        assert headers["connection"] == "close"


async def test_what_is_not_http_is_a_400(node: Node) -> None:
    for nonsense in (
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"hello\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /caf\xe9 HTTP/1.1\r\nhost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nbad name: x\r\n\r\n",
    ):
        status, headers, body = await answer_to(node, nonsense)
        assert (status, code(body)) == (400, "request_invalid"), nonsense
        assert "x-request-id" in headers


async def test_a_client_that_leaves_during_an_upload_leaves_nothing(node: Node) -> None:
    archive = packed({"main.py": ECHO, "pad.bin": bytes(500_000)})
    for sent in (1, 1_000, 3_000_000):
        async with connected(node) as (_, writer):
            form = "content-type: multipart/form-data; boundary=x"
            length = "content-length: 9000000"
            writer.write(head(node, "/v1/functions/gone", form, length, method="PUT"))
            part = b'--x\r\ncontent-disposition: form-data; name="archive"; filename="a"\r\n\r\n'
            writer.write(part + (archive * 10 + bytes(3_000_000))[:sent])
            await until(lambda: node.leftovers() != [])
        await until(lambda: node.leftovers() == [])
    assert (await node.client.get("/v1/functions")).json()["items"] == []
    await node.deploy("gone")


async def test_a_form_that_is_cut_short_or_odd_is_a_400(node: Node) -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="%b"; filename="a"\r\n\r\nabc\r\n'
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        part % b"archive",
        b"nonsense",
        part % b"other" + b"--x--",
        part % b"archive" + part % b"archive" + b"--x--",
        b"--x\r\n\r\nno name\r\n--x--",
        (part % b"config").replace(b"abc", b"{}") + b"--x--",
    ):
        answer = await node.client.put("/v1/functions/odd", content=body, headers=kind)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["code"] == "request_invalid", body
    for wrong in ("multipart/form-data", "multipart/form-data; boundary=" + "x" * 300):
        headers = {"content-type": wrong}
        answer = await node.client.put("/v1/functions/odd", content=b"x", headers=headers)
        assert answer.status_code == 400
    for wrong in ("text/plain", "application/x-tar", ""):
        headers = {"content-type": wrong}
        answer = await node.client.put("/v1/functions/odd", content=b"x", headers=headers)
        assert answer.json()["error"]["code"] == "media_type_unsupported"
        assert answer.status_code == 415
    assert node.leftovers() == []


async def test_an_archive_that_is_none_is_a_422_and_leaves_nothing(node: Node) -> None:
    for archive in (b"", b"not an archive", packed({"main.py": ECHO})[:-40], b"PK\x03\x04"):
        answer = await node.put("bad", archive)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "archive_invalid")
    assert (await node.client.get("/v1/functions")).json()["items"] == []
    assert node.leftovers() == []


async def test_a_client_that_leaves_during_its_invocation_gives_the_seat_back(node: Node) -> None:
    slow = "import time\ndef handler(e, c): time.sleep(e.get('s', 0)); print('done'); return 1"
    await node.deploy("slow", slow)
    async with connected(node) as (_, writer):
        body = b'{"s": 0.7}'
        length = f"content-length: {len(body)}"
        writer.write(head(node, "/v1/functions/slow/invocations", length) + body)
        await until(lambda: node.gateway.executor.stats().busy == 1)
    await until(lambda: node.gateway.executor.stats().busy == 0)
    assert node.gateway.executor.stats().idle == 1
    answer = await node.invoke("slow", {})
    assert (answer.json(), answer.headers["x-cold-start"]) == (1, "false")
    log = (await node.client.get("/v1/functions/slow/logs")).text
    assert log.count('"done"') == 2  # the call of the one who left was finished


async def test_a_client_that_leaves_stops_waiting_for_a_seat(
    with_settings: Callable[..., Settings],
) -> None:
    slow = "import time\ndef handler(e, c): print('ran'); time.sleep(e.get('s', 0)); return 1"
    async with running(with_settings(memory_budget_mb=128)) as node:  # room for one sandbox
        await node.deploy("slow", slow)
        first = asyncio.create_task(node.invoke("slow", {"s": 1.5}))
        await until(lambda: node.gateway.executor.stats().busy == 1)
        async with connected(node) as (_, writer):
            writer.write(head(node, "/v1/functions/slow/invocations"))
            await until(lambda: node.gateway.executor.stats().waiting == 1)
        await until(lambda: node.gateway.executor.stats().waiting == 0)
        assert not first.done()
        assert (await first).json() == 1
        log = (await node.client.get("/v1/functions/slow/logs")).text
        assert log.count('"ran"') == 1


async def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    await node.deploy("echo")
    requests = [
        head(node, "/v1/functions/echo/invocations", f"content-length: {len(body)}") + body
        for body in (b'"1"', b'"22"', b'"333"')
    ]
    last = head(node, "/healthz", "connection: close", method="GET")
    async with connected(node) as (reader, writer):
        writer.write(b"".join([*requests, last]))
        raw = await asyncio.wait_for(reader.read(), WAIT_S)
    places = [raw.index(word) for word in (b'"1"', b'"22"', b'"333"', b'{"status":"ok"}')]
    assert places == sorted(places)
    assert raw.count(b"HTTP/1.1 200") == 4


async def test_http_1_0_and_expect_are_served(node: Node) -> None:
    await node.deploy("echo")
    old = b"GET /healthz HTTP/1.0\r\n\r\n"
    status, headers, body = await answer_to(node, old)
    assert (status, headers["connection"], body) == (200, "close", b'{"status":"ok"}')
    key = f"authorization: Bearer {node.admin_key}".encode()
    old = b"POST /v1/functions/echo/invocations HTTP/1.0\r\n" + key + b"\r\n\r\n"
    status, headers, body = await answer_to(node, old)
    assert (status, headers["connection"], body) == (200, "close", b"{}")
    async with connected(node) as (reader, writer):
        lines = ("expect: 100-continue", "content-length: 3", "connection: close")
        writer.write(head(node, "/v1/functions/echo/invocations", *lines))
        interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'"a"')
        assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b'"a"')
    async with connected(node) as (reader, writer):
        large = ("expect: 100-continue", "content-length: 99999999999")
        writer.write(head(node, "/v1/functions/echo/invocations", *large))
        assert (await asyncio.wait_for(reader.read(), WAIT_S)).startswith(b"HTTP/1.1 413")


async def test_an_unread_body_does_not_spoil_the_next_request(node: Node) -> None:
    async with connected(node) as (reader, writer):
        body = b"x" * 1000
        writer.write(head(node, "/v1/none", "content-length: 1000") + body)
        writer.write(head(node, "/healthz", "connection: close", method="GET"))
        raw = await asyncio.wait_for(reader.read(), WAIT_S)
    assert raw.startswith(b"HTTP/1.1 404")
    assert raw.endswith(b'{"status":"ok"}')
    for target in ("/v1/none", "/function/none"):
        request = head(node, target, "content-length: 9999999")
        status, headers, body = await answer_to(node, request)
        assert (status, headers["connection"]) == (404, "close")


async def test_an_upgrade_is_not_made(node: Node) -> None:
    await node.deploy("echo")
    lines = ("connection: upgrade, close", "upgrade: websocket", "sec-websocket-version: 13")
    status, _, _ = await answer_to(node, head(node, "/function/echo", *lines, method="GET"))
    assert status == 200
