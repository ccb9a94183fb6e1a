"""The main job: deploy a function, invoke it."""

from __future__ import annotations

from tests.integration.gateway.conftest import Node


async def test_a_function_is_deployed_and_answers(node: Node) -> None:
    answer = await node.put("hello", {"main.py": "def handler(e, c):\n    return {'hi': e}"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "active"
    invoked = await node.invoke("hello", {"name": "Ada"})
    assert invoked.status_code == 200, invoked.text
    assert invoked.json() == {"hi": {"name": "Ada"}}
    assert invoked.headers["x-hearth-version"] == "1"
    assert invoked.headers["x-hearth-runtime"] == "python3.13"
    assert invoked.headers["x-cold-start"] == "false"  # the check left a warm seat
    assert "handler;dur=" in invoked.headers["server-timing"]
    assert invoked.headers["x-request-id"] == invoked.headers["x-hearth-invocation-id"]
