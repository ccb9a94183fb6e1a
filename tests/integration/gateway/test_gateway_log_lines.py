"""Logs of functions over HTTP."""

from __future__ import annotations

import json

from tests.integration.gateway.conftest import Node


async def test_logs_of_invocations_are_read_as_json_lines(node: Node) -> None:
    await node.deploy("talks", "def handler(e, c):\n  for i in range(e['n']): print('line', i)")
    answer = await node.invoke("talks", {"n": 3})
    log = await node.client.get("/v1/functions/talks/logs")
    assert log.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in log.text.splitlines()]
    assert [line["text"] for line in lines] == ["line 0", "line 1", "line 2"]
    assert {line["invocation_id"] for line in lines} == {answer.headers["x-hearth-invocation-id"]}
    assert lines[0]["stream"] == "stdout"
    last = await node.client.get("/v1/functions/talks/logs?tail=1")
    assert json.loads(last.text)["text"] == "line 2"
    since = await node.client.get("/v1/functions/talks/logs", params={"since": lines[1]["at"]})
    assert since.text.count("\n") in (2, 3)
    assert (await node.client.get("/v1/functions/talks/logs?since=10m")).text == log.text
    future = {"since": "2999-01-01T00:00:00+00:00"}
    assert (await node.client.get("/v1/functions/talks/logs", params=future)).text == ""
    for query in ("since=yesterday", "since=2026-01-01T00:00:00", "tail=0", "x=1"):
        assert (await node.client.get(f"/v1/functions/talks/logs?{query}")).status_code == 400
    assert (await node.client.get("/v1/functions/none/logs")).status_code == 404
