"""Invocations over HTTP: what of a request a function sees, what of its answer a client sees."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from core.limits import HEADERS_BYTES_MAX
from core.settings import Settings
from gateway.invoke import EVENT_CHECKED_BYTES_MAX
from tests.integration.gateway.conftest import Node, running

ANSWER = """
import json
def handler(event, context):
    return json.loads(event["headers"]["x-answer"])
"""


async def answer_with(node: Node, answer: Any, method: str = "GET") -> httpx.Response:
    """The response to a function that answers just this. The function is `answers`."""
    headers = {"x-answer": json.dumps(answer)}
    return await node.client.request(method, "/function/answers", headers=headers)


async def raw(node: Node, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to these bytes, the connection being closed after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head, body


async def seen(node: Node, target: str, *lines: str, method: str = "GET") -> dict[str, Any]:
    """The event that `echo` gets for a request of exactly these lines."""
    head = [f"{method} {target} HTTP/1.1", f"authorization: Bearer {node.admin_key}", *lines]
    request = "\r\n".join([*head, "connection: close", "", ""]).encode("latin-1")
    status, body = await raw(node, request)
    assert status.startswith(b"HTTP/1.1 200"), status + body
    return dict(json.loads(body))


async def test_a_function_sees_the_request_in_payload_format_2(node: Node) -> None:
    await node.deploy("echo")
    answer = await node.client.post(
        "/function/echo/a/b?x=1&x=2&y=",
        content=b'{"n": 1}',
        headers={"content-type": "application/json", "cookie": "a=1; b=2"},
    )
    event = answer.json()
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/a/b"
    assert event["rawQueryString"] == "x=1&x=2&y="
    assert event["queryStringParameters"] == {"x": "1,2", "y": ""}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["body"] == '{"n": 1}'
    assert event["isBase64Encoded"] is False
    http = event["requestContext"]["http"]
    assert (http["method"], http["sourceIp"], http["protocol"]) == (
        "POST",
        "127.0.0.1",
        "HTTP/1.1",
    )
    assert event["requestContext"]["domainName"] == f"127.0.0.1:{node.port}"
    assert event["requestContext"]["requestId"] == answer.headers["x-hearth-invocation-id"]


async def test_paths_and_queries_arrive_as_they_were_sent(node: Node) -> None:
    await node.deploy("echo")
    for target, path, query in (
        ("/function/echo", "/", ""),
        ("/function/echo/", "/", ""),
        ("/function/echo?", "/", ""),
        ("/function/echo//a//b", "//a//b", ""),
        ("/function/echo/caf%C3%A9/%E2%82%AC", "/café/€", ""),
        ("/function/echo/a%2Fb", "/a/b", ""),
        ("/function/echo/a%20b?c=d%20e+f&%3D=%26", "/a b", "c=d%20e+f&%3D=%26"),
        ("/function/echo%3Alatest/x", "/x", ""),
        ("/function/echo/../echo/x", "/../echo/x", ""),
        ("/function/echo/x;v=1?a=b?c=d#", "/x;v=1", "a=b?c=d"),
        ("/function/echo/v1/functions/y/invocations", "/v1/functions/y/invocations", ""),
        ("http://elsewhere:1/function/echo/abs", "/abs", ""),
    ):
        event = await seen(node, target, "host: h")
        assert (event["rawPath"], event["rawQueryString"]) == (path, query), target


async def test_headers_that_are_not_the_functions_do_not_reach_it(node: Node) -> None:
    await node.deploy("echo")
    event = await seen(
        node,
        "/function/echo",
        "host: example.org:8080",
        "X-Kept: yes",
        "x-kept: twice",
        "keep-alive: 1",
        "te: trailers",
        "proxy-authorization: x",
        "proxy-connection: x",
        "connection: x-named, keep-alive",
        "x-named: dropped",
        "upgrade: h2c",
        "X-Hearth-Anything: x",
        "x-forwarded-for: 6.6.6.6",
        "x-forwarded-host: evil",
        "forwarded: for=6.6.6.6",
        "x-real-ip: 6.6.6.6",
        "cookie: a=1; hearth_session=secret; b=2",
        "x-latin: \xe9",
    )
    assert event["headers"] == {
        "host": "example.org:8080",
        "x-kept": "yes,twice",
        "x-latin": "\xe9",
        "cookie": "a=1; b=2",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-port": "8080",
    }
    assert event["cookies"] == ["a=1", "b=2"]
    assert "secret" not in json.dumps(event)


async def test_only_an_authorization_that_was_consumed_is_removed(node: Node) -> None:
    await node.deploy("echo", config={"auth": "none"})
    for sent in ("Basic dTpw", "Bearer a-token-of-theirs"):
        answer = await node.client.get("/function/echo", headers={"authorization": sent})
        assert answer.json()["headers"]["authorization"] == sent
    assert "authorization" not in (await node.client.get("/function/echo")).json()["headers"]
    elsewhere = await node.key("viewer", namespace="elsewhere")
    answer = await node.client.get("/function/default.echo", headers=elsewhere)
    assert "authorization" not in answer.json()["headers"]


async def test_bodies_travel_as_they_are_both_ways(node: Node) -> None:
    code = """
import base64
def handler(event, context):
    raw = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    body = base64.b64encode(raw).decode()
    headers = {"content-type": "image/png"}
    return {"statusCode": 200, "headers": headers, "body": body, "isBase64Encoded": True}
"""
    await node.deploy("echo", code)
    for size in (1, 1000, 65_536, 65_537, 3_000_000):
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        answer = await node.client.post("/function/echo", content=body)
        assert answer.content == body
        assert answer.headers["content-length"] == str(size)
        assert answer.headers["content-type"] == "image/png"

        async def chunked(body: bytes = body) -> Any:
            for start in range(0, len(body), 40_000):
                yield body[start : start + 40_000]

        answer = await node.client.post("/function/echo", content=chunked())
        assert answer.content == body


async def test_a_function_chooses_status_headers_and_cookies(node: Node) -> None:
    await node.deploy("answers", ANSWER)
    answer = await answer_with(
        node,
        {
            "statusCode": 302,
            "headers": {
                "Location": "/elsewhere",
                "X-Many": ["a", "b"],
                "content-type": "text/plain",
            },
            "cookies": ["a=1; Path=/", "hearth_session=stolen", "b=2"],
            "body": "moved",
        },
    )
    assert (answer.status_code, answer.text) == (302, "moved")
    assert answer.headers["location"] == "/elsewhere"
    assert answer.headers.get_list("x-many") == ["a", "b"]
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]


async def test_headers_that_are_the_gateways_are_not_the_functions_to_say(node: Node) -> None:
    await node.deploy("answers", ANSWER)
    said = {
        "Connection": "close",
        "Transfer-Encoding": "chunked",
        "Content-Length": "1",
        "Keep-Alive": "1",
        "X-Hearth-Version": "9",
        "X-Request-Id": "theirs",
        "X-Cold-Start": "maybe",
        "Date": "never",
        "Set-Cookie": "HEARTH_x=1",
    }
    answer = await answer_with(node, {"statusCode": 200, "headers": said, "body": "whole"})
    assert answer.text == "whole"
    assert answer.headers.get_list("x-hearth-version") == ["1"]
    assert answer.headers.get_list("content-length") == ["5"]
    assert answer.headers["x-request-id"] != "theirs"
    assert answer.headers["x-cold-start"] in ("true", "false")
    assert len(answer.headers.get_list("date")) == 1
    for name in ("connection", "transfer-encoding", "keep-alive", "set-cookie"):
        assert name not in answer.headers, name


async def test_204_and_304_have_no_body_and_head_none_either(node: Node) -> None:
    await node.deploy("answers", ANSWER)
    for status in (204, 304):
        answer = await answer_with(node, {"statusCode": status, "body": "too much"})
        assert (answer.status_code, answer.content) == (status, b"")
        assert "content-length" not in answer.headers
    head = await answer_with(node, {"statusCode": 200, "body": "hello"}, "HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5")
    error = await node.client.head("/function/none")
    assert (error.status_code, error.content) == (404, b"")
    assert (await answer_with(node, {"statusCode": 200, "body": "after"})).text == "after"


@pytest.mark.parametrize("status", [200, 201, 206, 400, 404, 418, 500, 503, 599])
async def test_any_final_status_passes(node: Node, status: int) -> None:
    await node.deploy("answers", ANSWER)
    answer = await answer_with(node, {"statusCode": status, "body": "b"})
    assert (answer.status_code, answer.text) == (status, "b")
    assert answer.headers["x-hearth-version"] == "1"


async def test_an_answer_that_cannot_be_a_response_is_a_502(node: Node) -> None:
    await node.deploy("answers", ANSWER)
    for wrong in (
        {"statusCode": 100},
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": "x"},
        {"statusCode": 200, "headers": {"a b": "c"}},
        {"statusCode": 200, "headers": {"a": "b\r\nx-evil: 1"}},
        {"statusCode": 200, "headers": {"": "x"}},
        {"statusCode": 200, "cookies": ["a\nb"]},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
    ):
        answer = await answer_with(node, wrong)
        assert answer.status_code == 502, wrong
        assert answer.json()["error"]["code"] == "function_response_invalid", wrong
        assert "x-evil" not in answer.headers


async def test_any_other_json_is_a_200(node: Node) -> None:
    await node.deploy("answers", ANSWER)
    for value in ("text", 1, None, [1, 2], {"no": "status"}, True):
        answer = await answer_with(node, value)
        assert (answer.status_code, answer.json()) == (200, value)
        assert answer.headers["content-type"] == "application/json"


async def test_every_method_reaches_the_function(node: Node) -> None:
    await node.deploy("method", "def handler(e, c): return e['requestContext']['http']['method']")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        answer = await node.client.request(method, "/function/method/x")
        assert answer.json() == method


async def test_a_sane_request_id_is_kept_and_any_other_replaced(node: Node) -> None:
    await node.deploy("echo")
    for path in ("/function/echo", "/v1/functions", "/v1/none", "/function/none"):
        for sane in ("abc-1.2_3", "x" * 128):
            answer = await node.client.get(path, headers={"x-request-id": sane})
            assert answer.headers.get_list("x-request-id") == [sane], path
            if answer.status_code >= 400:
                assert answer.json()["error"]["request_id"] == sane
        for odd in ("a b", "x" * 129, "", "é", "<script>"):
            headers = {b"x-request-id": odd.encode()}
            answer = await node.client.get(path, headers=headers)
            (ours,) = answer.headers.get_list("x-request-id")
            assert len(ours) == 36, path


async def test_a_traceparent_is_passed_on(node: Node) -> None:
    await node.deploy("trace", "def handler(e, c): return c.traceparent")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await node.invoke("trace", headers={"traceparent": trace})
    assert answer.json() == trace
    assert (await node.invoke("trace", headers={"traceparent": "00-x"})).json() is None
    assert (await node.invoke("trace")).json() is None


async def test_an_event_must_be_json_and_none_is_an_empty_object(node: Node) -> None:
    await node.deploy("echo")
    path = "/v1/functions/echo/invocations"
    assert (await node.client.post(path)).json() == {}
    long_text = '"' + "x" * EVENT_CHECKED_BYTES_MAX + '"'
    for body in ("null", "0", '"text"', "[]", ' {"a": [1.5, true]} ', "1e3", long_text):
        answer = await node.client.post(path, content=body)
        assert answer.json() == json.loads(body), body[:20]
    too_long = "{" + " " * EVENT_CHECKED_BYTES_MAX
    for body in ("{", "nope", "{'a': 1}", "NaN", "[1,]", "1 2", '"\xff"', too_long):
        answer = await node.client.post(path, content=body.encode("latin-1"))
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"]["code"] == "request_invalid", body[:20]


async def test_guarantees_that_are_not_given_yet_are_refused(node: Node) -> None:
    await node.deploy("echo")
    path = "/v1/functions/echo/invocations"
    for headers, feature in (
        ({"prefer": "respond-async"}, "async"),
        ({"prefer": "respond-async, wait=10"}, "async"),
        ({"idempotency-key": "k"}, "idempotency"),
        ({"x-callback-url": "https://example.org"}, "callbacks"),
    ):
        for target in (path, "/function/echo"):
            answer = await node.client.post(target, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (501, "feature_unavailable")
            assert error["feature"] == feature
    answer = await node.client.post(f"{path}?mode=async")
    assert answer.json()["error"]["feature"] == "async"
    assert (await node.client.post(f"{path}?mode=sync")).status_code == 200
    assert (await node.client.post("/async-function/echo")).status_code == 501
    follow = await node.client.get("/v1/functions/echo/logs?follow=true")
    assert follow.json()["error"]["feature"] == "follow"
    for query in ("qualifer=prod", "mode=fast", "qualifier=1&qualifier=latest"):
        assert (await node.client.post(f"{path}?{query}")).status_code == 400, query


async def test_limits_of_concurrency_and_time_are_typed_errors(node: Node) -> None:
    code = "import time\ndef handler(e, c): time.sleep(e['s']); return 1"
    await node.deploy("slow", code, {"concurrency": 1, "timeout_s": 0.5})
    first = asyncio.create_task(node.invoke("slow", {"s": 60}))
    while node.gateway.executor.stats().busy == 0:
        await asyncio.sleep(0.01)
    second = await node.invoke("slow", {"s": 0})
    assert (second.status_code, second.json()["error"]["code"]) == (429, "concurrency_reached")
    assert second.headers["retry-after"] == "1"
    timeout = await first
    assert (timeout.status_code, timeout.json()["error"]["code"]) == (504, "function_timeout")
    assert timeout.headers["x-hearth-version"] == "1"
    assert "x-hearth-invocation-id" in timeout.headers


async def test_a_crash_is_a_typed_error_and_the_next_call_works(node: Node) -> None:
    await node.deploy("crash", "import os\ndef handler(e, c): os._exit(1) if e else 0; return 2")
    answer = await node.invoke("crash", {"now": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "function_crashed")
    again = await node.invoke("crash")
    assert again.json() == 2
    assert again.headers["x-cold-start"] == "true"


async def test_a_trusted_proxy_says_who_calls_and_nobody_else_does(
    with_settings: Callable[..., Settings],
) -> None:
    async with running(with_settings(trusted_proxies=("127.0.0.0/8", "10.0.0.1"))) as node:
        await node.deploy("echo")
        event = await seen(
            node,
            "/function/echo",
            "host: inside",
            "x-forwarded-for: 6.6.6.6, 203.0.113.9, 10.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: hearth.example",
        )
        assert event["requestContext"]["http"]["sourceIp"] == "203.0.113.9"
        assert event["requestContext"]["domainName"] == "hearth.example"
        assert event["headers"]["x-forwarded-proto"] == "https"
        assert event["headers"]["x-forwarded-port"] == "443"
        chain = event["headers"]["x-forwarded-for"]
        assert chain == "6.6.6.6, 203.0.113.9, 10.0.0.1, 127.0.0.1"


async def test_a_head_with_the_largest_headers_still_reaches_the_function(node: Node) -> None:
    await node.deploy("echo")
    value = "\xff" * (HEADERS_BYTES_MAX - 200)
    event = await seen(node, "/function/echo", "host: h", f"x-big: {value}")
    assert event["headers"]["x-big"] == value
    host = await node.client.get("/function/echo", headers={"host": "h" * 301})
    assert (host.status_code, host.json()["error"]["code"]) == (400, "request_invalid")


async def test_base64_of_the_event_is_undone(node: Node) -> None:
    await node.deploy("echo")
    answer = await node.client.post("/function/echo", content=b"\x00\xff")
    event = answer.json()
    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == b"\x00\xff"
