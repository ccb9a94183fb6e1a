"""HTTP events for Python's web applications: served as requests, answered by objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance.conftest import FUNCTIONS, Stock
from tests.conformance.wire_client import ERROR, READY, Sandbox

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)


@pytest.fixture(scope="module")
def sandbox(runtime: Runtime, stock: Stock) -> Iterator[Sandbox]:
    """The application of functions/asgi.py that does what its path says."""
    made = stock.take({"main.py": (FUNCTIONS / "asgi.py").read_text()})
    assert made.init("main:app").kind == READY
    yield made
    stock.end(made)


EVENT_2: dict[str, Any] = {
    "version": "2.0",
    "rawPath": "/tell/café 1",
    "rawQueryString": "a=1",
    "headers": {"Host": "api.example.com", "X-A": "1", "x-forwarded-proto": "https"},
    "cookies": ["a=1", "b=2"],
    "requestContext": {"http": {"method": "PUT", "sourceIp": "192.0.2.9"}},
    "body": "/wA=",
    "isBase64Encoded": True,
}


def test_an_http_event_is_served_and_answered_by_an_object(sandbox: Sandbox) -> None:
    answer = sandbox.call(EVENT_2).result
    told = json.loads(answer.pop("body"))
    assert answer == {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "cookies": [],
        "isBase64Encoded": False,
    }
    assert (told["method"], told["path"], told["raw_path"]) == (
        *("PUT", "/tell/café 1", "/tell/caf%C3%A9%201"),
    )
    assert (told["query_string"], told["body"]) == ("a=1", ["http.request", "\xff\x00", False])
    assert (told["scheme"], told["server"]) == ("https", ["api.example.com", 443])
    assert ["cookie", "a=1; b=2"] in told["headers"]
    answer = sandbox.call(EVENT_2 | {"rawPath": "/plain"}).result
    assert (answer["cookies"], answer["body"]) == (["a=1", "b=2"], "d2hvbGU=")


def test_an_event_of_the_older_format_too(sandbox: Sandbox) -> None:
    event = {
        "httpMethod": "GET",
        "path": "/tell",
        "multiValueHeaders": {"X-A": ["1", "2"]},
        "multiValueQueryStringParameters": {"a": ["1", "é"]},
        "body": None,
    }
    told = json.loads(sandbox.call(event).result["body"])
    assert told["headers"] == [["x-a", "1"], ["x-a", "2"]]
    assert told["query_string"] == "a=1&a=%C3%A9"
    answer = sandbox.call(event | {"path": "/plain"}).result
    assert answer["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
    balanced: dict[str, Any] = {
        "queryStringParameters": {"a": "%C3%A9"},
        "requestContext": {"elb": {}},
    }
    balanced |= {"httpMethod": "GET", "path": "/tell", "headers": {"x": "y"}}
    assert json.loads(sandbox.call(balanced).result["body"])["query_string"] == "a=%C3%A9"


def test_an_event_may_fail_as_a_request_does(sandbox: Sandbox) -> None:
    for path, code in (("/raises-late", "function_error"), ("/early", "function_response_invalid")):
        answer = sandbox.call(EVENT_2 | {"rawPath": path})
        assert (answer.kind, answer.head["code"]) == (ERROR, code)
    answer = sandbox.call(EVENT_2 | {"rawPath": "/endless"})
    assert answer.head["type"] == "Function.ResponseSizeTooLarge"


BROKEN: list[Any] = [
    {"version": "2.0", "requestContext": {"http": 7}},
    {"version": "2.0", "requestContext": {"http": {"method": "GET / HTTP/1.1\r\n"}}},
    {"version": "2.0", "requestContext": {"http": {"method": "GET"}}, "headers": [1]},
    {"httpMethod": "GET", "path": 7},
    {"httpMethod": "GET", "path": "no-slash"},
    {"httpMethod": "GET", "path": "/", "body": "é", "isBase64Encoded": True},
    {"httpMethod": "GET", "path": "/", "multiValueHeaders": {"x": 7}},
]


@pytest.mark.parametrize("event", BROKEN)
def test_an_http_event_that_is_none_is_an_error(sandbox: Sandbox, event: Any) -> None:
    answer = sandbox.call(event)
    assert (answer.kind, answer.head["type"]) == (ERROR, "NotAnHttpEvent"), answer
    assert "not a whole HTTP event" in answer.head["message"]


@pytest.mark.parametrize("event", [{}, [], "text", {"version": "2.0"}, {"httpMethod": 1}])
def test_another_event_is_an_error_that_says_what_to_do(sandbox: Sandbox, event: Any) -> None:
    answer = sandbox.call(event)
    assert (answer.kind, answer.head["type"]) == (ERROR, "NotAnHttpEvent")
    assert "call it over HTTP at /function/hello/" in answer.head["message"]
