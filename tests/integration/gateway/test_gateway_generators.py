"""Functions that stream, through a whole node: the shim's chunks reach the client as they are."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.fixtures.hot_path import Client, until
from tests.integration.gateway.conftest import Node

# Without isolation a function can look at the test's own files.
CODE = """
import pathlib, time
def handler(event, context):
    said = event.get("queryStringParameters", event)
    folder = pathlib.Path(said["folder"])
    yield {"statusCode": 201, "headers": {"content-type": "text/event-stream"}}
    yield "data: first\\n\\n"
    if said["do"] == "wait":
        while not (folder / "go").exists():
            time.sleep(0.005)
        yield "data: second\\n\\n"
    elif said["do"] == "raise":
        raise KeyError("in the middle")
    else:
        for number in range(1000):
            (folder / "made").write_text(str(number))
            yield b"x" * 65536
"""


async def asked(node: Node, do: str, folder: Path) -> Client:
    """A client that has sent its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    query = f"do={do}&folder={quote(str(folder))}"
    lines = f"GET /function/gen?{query} HTTP/1.1\r\nhost: h\r\n"
    writer.write(f"{lines}authorization: Bearer {node.admin_key}\r\n\r\n".encode())
    client = Client(reader, writer)
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (201, "text/event-stream")
    assert headers["transfer-encoding"] == "chunked"
    await client.exactly(b"d\r\ndata: first\n\n\r\n")
    return client


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
async def test_events_arrive_when_they_are_made(node: Node, tmp_path: Path, is_warm: bool) -> None:
    await node.deploy("gen", CODE)
    (tmp_path / "go").touch()
    if is_warm:
        (await asked(node, "wait", tmp_path)).leave()
        await until(lambda: node.gateway.executor.stats().idle == 1)
    (tmp_path / "go").unlink()
    client = await asked(node, "wait", tmp_path)
    assert node.gateway.executor.stats().busy == 1
    (tmp_path / "go").touch()
    await client.exactly(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
    await until(lambda: node.gateway.executor.stats().busy == 0)
    client.leave()


async def test_an_event_invocation_streams_and_is_json_no_more(node: Node, tmp_path: Path) -> None:
    await node.deploy("gen", CODE)
    (tmp_path / "go").touch()
    event = {"do": "wait", "folder": str(tmp_path)}
    answer = await node.invoke("gen", event)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == "data: first\n\ndata: second\n\n"


async def test_a_generator_that_raises_ends_the_response_without_its_end(
    node: Node, tmp_path: Path
) -> None:
    await node.deploy("gen", CODE)
    with pytest.raises(httpx.RemoteProtocolError):
        await node.client.get("/function/gen", params={"do": "raise", "folder": str(tmp_path)})
    await until(lambda: node.gateway.executor.stats().busy == 0)
    lines = (await node.client.get("/v1/functions/gen/logs")).text
    assert "in the middle" in lines


async def test_a_client_that_does_not_read_stops_the_generator_and_leaving_ends_it(
    node: Node, tmp_path: Path
) -> None:
    await node.deploy("gen", CODE)
    client = await asked(node, "flood", tmp_path)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    made = tmp_path / "made"
    connections = node.server.server_state.connections
    stalled = lambda c: getattr(c, "stalled_since", None) is not None  # noqa: E731
    await until(lambda: any(map(stalled, connections)))
    before = None
    while before != made.read_text():  # until it stands still
        before = made.read_text()
        await asyncio.sleep(0.2)
    assert int(before) < 900
    client.leave()
    await until(lambda: node.gateway.executor.stats().busy == 0)
    assert int(made.read_text()) < 900
    assert json.loads((await node.client.get("/readyz")).text)
