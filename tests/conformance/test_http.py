"""Requests in, responses out: AWS's payload format 2.0, the same from every runtime."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

import pytest

from tests.conformance.wire_client import ERROR, PAYLOAD_BYTES_MAX, RESULT, Frame, Sandbox

JSON_TYPE = ["content-type", "application/json"]
NOISE = bytes(range(256)) * 4


def told(cases: Sandbox, response: Any) -> Frame:
    """What becomes of a response that the function returns as it is."""
    headers = [("content-type", "application/json")]
    return cases.http("/as-told", json.dumps(response).encode(), headers=headers)


def test_an_event_has_every_field_of_the_format(cases: Sandbox) -> None:
    headers = [("user-agent", "curl/8"), ("x-a", "1"), ("x-a", "2"), ("accept", "*/*")]
    before = int(time.time() * 1000)
    answer = cases.http("/event/caf%C3%A9%2F1", query="a=1&b=2", method="GET", headers=headers)
    event = answer.result
    context = event.pop("requestContext")
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/event/café/1",
        "rawQueryString": "a=1&b=2",
        "queryStringParameters": {"a": "1", "b": "2"},
        "headers": {"user-agent": "curl/8", "x-a": "1,2", "accept": "*/*"},
        "isBase64Encoded": False,
    }
    assert before <= context.pop("timeEpoch") <= int(time.time() * 1000)
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context.pop("time"))
    assert context == {
        "accountId": "anonymous",
        "apiId": "hello",
        "domainName": "api.example.com:8080",
        "domainPrefix": "api",
        "http": {
            "method": "GET",
            "path": "/event/café/1",
            "protocol": "HTTP/1.1",
            "sourceIp": "192.0.2.7",
            "userAgent": "curl/8",
        },
        "requestId": f"00000000-0000-0000-0000-{cases.calls:012x}",
        "routeKey": "$default",
        "stage": "$default",
    }


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", None),
        ("a=1&a=2&b=", {"a": "1,2", "b": ""}),
        ("flag", {"flag": ""}),
        ("a=x+y%20z%2B&%C3%A9=%F0%9F%A6%8A", {"a": "x y z+", "é": "🦊"}),
        ("a=b=c&&=v", {"a": "b=c", "": "v"}),
        ("bad=%zz%4&raw=%ff%C3", {"bad": "%zz%4", "raw": "\ufffd\ufffd"}),
        ("?a=1;b=2", {"?a": "1;b=2"}),
        ("__proto__=1&constructor=2", {"__proto__": "1", "constructor": "2"}),
    ],
)
def test_a_query_is_decoded(cases: Sandbox, query: str, parameters: dict[str, str] | None) -> None:
    event = cases.http("/event", query=query).result
    assert event["rawQueryString"] == query
    assert event.get("queryStringParameters") == parameters


@pytest.mark.parametrize(
    ("path", "decoded"),
    [("/", "/"), ("/a//b/../c", "/a//b/../c"), ("/%", "/%"), ("/%e2%82x", "/\ufffdx")],
)
def test_a_path_is_decoded_and_otherwise_left_alone(
    cases: Sandbox, path: str, decoded: str
) -> None:
    assert cases.http(path).result["rawPath"] == decoded


def test_cookies_are_a_list_and_stay_one_header(cases: Sandbox) -> None:
    headers = [("cookie", "a=1; b=x=y;"), ("cookie", "c=3")]
    event = cases.http("/event", headers=headers).result
    assert event["cookies"] == ["a=1", "b=x=y", "c=3"]
    assert event["headers"]["cookie"] == "a=1; b=x=y;; c=3"


def test_a_header_may_have_any_name(cases: Sandbox) -> None:
    headers = [("__proto__", "1"), ("constructor", "2"), ("x", "")]
    assert cases.http("/event", headers=headers).result["headers"] == dict(headers)


TEXT_TYPES = [
    "text/plain",
    "text/html; charset=utf-8",
    "application/json",
    "APPLICATION/JSON ;v=1",
    "application/x-www-form-urlencoded",
    "application/javascript",
    "application/problem+json",
    "image/svg+xml",
]
BINARY_TYPES = ["", "image/png", "application/octet-stream", "application/jsonx", "multipart/x"]


@pytest.mark.parametrize("content_type", TEXT_TYPES)
def test_a_text_body_arrives_as_text(cases: Sandbox, content_type: str) -> None:
    text = "\ufeffhéllo 🦊 \u0000"
    headers = [("content-type", content_type)]
    event = cases.http("/event", text.encode(), headers=headers).result
    assert (event["body"], event["isBase64Encoded"]) == (text, False)


@pytest.mark.parametrize("content_type", BINARY_TYPES)
def test_any_other_body_arrives_as_base64(cases: Sandbox, content_type: str) -> None:
    event = cases.http("/event", b"plain", headers=[("content-type", content_type)]).result
    assert (event["body"], event["isBase64Encoded"]) == ("cGxhaW4=", True)


def test_a_body_that_only_says_it_is_text_arrives_as_base64(cases: Sandbox) -> None:
    event = cases.http("/event", NOISE, headers=[("content-type", "text/plain")]).result
    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == NOISE


def test_an_empty_body_is_no_body(cases: Sandbox) -> None:
    event = cases.http("/event", headers=[("content-type", "application/json")]).result
    assert "body" not in event
    assert event["isBase64Encoded"] is False


def test_binary_bodies_pass_both_ways_up_to_the_limit(cases: Sandbox) -> None:
    body = (NOISE * (PAYLOAD_BYTES_MAX // len(NOISE) + 1))[:PAYLOAD_BYTES_MAX]
    answer = cases.http("/body", body, headers=[("content-type", "image/png")])
    assert answer.head["status"] == 200
    assert answer.head["headers"] == [["content-type", "application/octet-stream"]]
    assert answer.body == body


def test_a_response_over_the_limit_is_an_error(cases: Sandbox) -> None:
    # Base64 of text is text: this body fits on the way in, and is one byte too long once quoted.
    body = b"x" * (PAYLOAD_BYTES_MAX - 200)
    answer = cases.http("/event", body, headers=[("content-type", "text/plain")])
    assert (answer.kind, answer.head["type"]) == (ERROR, "Function.ResponseSizeTooLarge")


@pytest.mark.parametrize(
    ("response", "status", "headers", "body"),
    [
        ({"statusCode": 204}, 204, [JSON_TYPE], b""),
        ({"statusCode": "404", "body": "é"}, 404, [JSON_TYPE], "é".encode()),
        ({"statusCode": 200.0, "body": None, "headers": None}, 200, [JSON_TYPE], b""),
        (
            {"statusCode": 302, "headers": {"Location": "/x", "Content-Type": "text/plain"}},
            302,
            [["location", "/x"], ["content-type", "text/plain"]],
            b"",
        ),
        (
            {"statusCode": 200, "headers": {"x": ["1", 2, True], "y": 1.5, "z": ""}},
            200,
            [["x", "1"], ["x", "2"], ["x", "true"], ["y", "1.5"], ["z", ""], JSON_TYPE],
            b"",
        ),
        (
            {"statusCode": 200, "cookies": ["a=1; Path=/", "b=2"], "body": ""},
            200,
            [["set-cookie", "a=1; Path=/"], ["set-cookie", "b=2"], JSON_TYPE],
            b"",
        ),
        ({"statusCode": 200, "body": {"a": ["é"]}}, 200, [JSON_TYPE], '{"a":["é"]}'.encode()),
        ({"statusCode": 200, "body": [1]}, 200, [JSON_TYPE], b"[1]"),
        ({"statusCode": 200, "body": 5}, 200, [JSON_TYPE], b"5"),
        ({"statusCode": 200, "body": "aGk=", "isBase64Encoded": False}, 200, [JSON_TYPE], b"aGk="),
        ({"statusCode": 200, "body": "aGk=", "isBase64Encoded": True}, 200, [JSON_TYPE], b"hi"),
        ({"statusCode": 200, "body": "aG\nk ", "isBase64Encoded": True}, 200, [JSON_TYPE], b"hi"),
        ({"statusCode": 200, "body": "", "isBase64Encoded": True}, 200, [JSON_TYPE], b""),
        ({"statusCode": 200, "body": "\ud83d"}, 200, [JSON_TYPE], b"\xef\xbf\xbd"),
    ],
)
def test_a_response_is_sent_as_described(
    cases: Sandbox, response: Any, status: int, headers: list[list[str]], body: bytes
) -> None:
    answer = told(cases, response)
    assert answer.kind == RESULT, answer
    assert answer.head == {"status": status, "headers": headers}
    assert answer.body == body


@pytest.mark.parametrize("value", [None, 1, "text", [1, "é"], {}, {"body": "no status"}])
def test_any_other_value_is_a_json_response(cases: Sandbox, value: Any) -> None:
    answer = told(cases, value)
    assert answer.head == {"status": 200, "headers": [JSON_TYPE]}
    assert answer.result == value


@pytest.mark.parametrize(
    ("response", "named"),
    [
        ({"statusCode": None}, "statusCode"),
        ({"statusCode": 99}, "99"),
        ({"statusCode": 600}, "600"),
        ({"statusCode": True}, "statusCode"),
        ({"statusCode": "ok"}, "statusCode"),
        ({"statusCode": 200.5}, "200.5"),
        ({"statusCode": [200]}, "statusCode"),
        ({"statusCode": 200, "headers": ["a"]}, "headers"),
        ({"statusCode": 200, "headers": "a"}, "headers"),
        ({"statusCode": 200, "headers": {"x": None}}, "x"),
        ({"statusCode": 200, "headers": {"x": {"y": 1}}}, "x"),
        ({"statusCode": 200, "headers": {"x": "a\r\nb: c"}}, "x"),
        ({"statusCode": 200, "headers": {"bad name": "a"}}, "bad name"),
        ({"statusCode": 200, "headers": {"": "a"}}, "header"),
        ({"statusCode": 200, "headers": {"x": "y" * 200_000}}, "headers"),
        ({"statusCode": 200, "cookies": "a=1"}, "cookies"),
        ({"statusCode": 200, "cookies": [1]}, "cookie"),
        ({"statusCode": 200, "cookies": ["a\nb"]}, "set-cookie"),
        ({"statusCode": 200, "body": "a", "isBase64Encoded": "yes"}, "isBase64Encoded"),
        ({"statusCode": 200, "body": "a", "isBase64Encoded": True}, "base64"),
        ({"statusCode": 200, "body": "!!!!", "isBase64Encoded": True}, "base64"),
        ({"statusCode": 200, "body": "aGk=aGk=", "isBase64Encoded": True}, "base64"),
        ({"statusCode": 200, "body": "a-_b", "isBase64Encoded": True}, "base64"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_no_response_is_an_error_that_names_the_field(
    cases: Sandbox, response: Any, named: str
) -> None:
    answer = told(cases, response)
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")
    assert named in answer.head["message"]
    assert told(cases, 1).result == 1
