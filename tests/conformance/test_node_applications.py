"""Applications that take (request, response), as Node's http servers do, in place of handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance.conftest import FUNCTIONS, Boot, Stock
from tests.conformance.test_streaming import take, whole
from tests.conformance.wire_client import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    INIT_ERROR,
    PAYLOAD_BYTES_MAX,
    READY,
    RESULT,
    Frame,
    Sandbox,
)

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["node24"]], ids=["node24"], indirect=True)
SOURCE = (FUNCTIONS / "http.mjs").read_text()


@pytest.fixture(scope="module", params=[1, 4], ids=["one", "several"])
def served(runtime: Runtime, stock: Stock, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The application that does what its path says, alone or as one of several calls."""
    made = stock.take({"main.mjs": SOURCE})
    assert made.init("main:app", per_sandbox=request.param).kind == READY
    yield made
    stock.end(made)


@pytest.fixture
def sandbox(served: Sandbox) -> Sandbox:
    """The same, with what earlier tests made it write forgotten."""
    served.output(1)
    served.output(2)
    return served


def start(sandbox: Sandbox, path: str, query: str = "") -> int:
    """Begin a request and leave its answer for later; its number."""
    http = {"method": "GET", "path": path, "query": query, "headers": [], "protocol": "HTTP/1.1"}
    http |= {"source_ip": "192.0.2.7", "host": "h", "root": "/function/hello"}
    sandbox.send(sandbox.call_frame("http", b"", http))
    return sandbox.calls


def lines(sandbox: Sandbox, number: int = 1) -> list[str]:
    """What the application wrote, without the tags of calls."""
    written = sandbox.output(number).splitlines()
    return [line.rpartition(b"\x1f")[2].decode() for line in written]


def until_written(sandbox: Sandbox, count: int) -> list[str]:
    """So many lines, some of which come after an answer."""
    while sandbox.written[1].count(b"\n") < count:
        sandbox._pump(60)
    return lines(sandbox)


def test_a_request_is_as_it_came(sandbox: Sandbox) -> None:
    headers = [("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("x-forwarded-proto", "https")]
    answer = sandbox.http("/tell/caf%C3%A9%2F1", b"\xff\x00", query="a=%20&b", headers=headers)
    assert answer.result == {
        "method": "POST",
        "url": "/tell/caf%C3%A9%2F1?a=%20&b",
        "httpVersion": "1.1",
        "headers": {"x-a": "1, 2", "cookie": "a=1", "x-forwarded-proto": "https"},
        "rawHeaders": [part for pair in headers for part in pair],
        "complete": True,
        "body": "\xff\x00",
        "remoteAddress": "192.0.2.7",
        "encrypted": True,
    }
    assert ["content-type", "application/json"] in answer.head["headers"]
    assert lines(sandbox) == ["told"]
    body = b"x" * 1_000_000
    assert sandbox.http("/tell", body).result["body"] == body.decode()


def test_a_whole_response_is_one_result(sandbox: Sandbox) -> None:
    answer = sandbox.http("/whole")
    assert (answer.kind, answer.head["status"], answer.body) == (RESULT, 201, b"whole")
    pairs = [pair for pair in answer.head["headers"] if pair[0] in ("set-cookie", "x-raw")]
    assert pairs == [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-raw", "é"]]
    assert (sandbox.http("/empty").head["status"], sandbox.http("/empty").body) == (204, b"")
    assert sandbox.http("/head", method="HEAD").body == b""
    answer = sandbox.http("/several")
    assert (answer.kind, answer.body) == (RESULT, b"several")


def test_a_body_travels_as_it_is(sandbox: Sandbox) -> None:
    assert whole(sandbox.streamed(start(sandbox, "/encoded"))) == b"as it is"


def test_a_response_larger_than_a_payload_is_streamed(sandbox: Sandbox) -> None:
    answer = sandbox.http("/large", query=str(PAYLOAD_BYTES_MAX))
    assert (answer.kind, len(answer.body)) == (RESULT, PAYLOAD_BYTES_MAX)
    call = start(sandbox, "/large", str(PAYLOAD_BYTES_MAX + 1))
    assert whole(sandbox.streamed(call)) == b"x" * (PAYLOAD_BYTES_MAX + 1)


def test_pieces_leave_as_they_are_written(sandbox: Sandbox) -> None:
    call = start(sandbox, "/stream")
    head = sandbox.receive()
    assert (head.kind, head.head["status"], head.body) == (CHUNK, 200, b"")
    assert ["content-type", "text/plain"] in head.head["headers"]
    (sandbox.task / "go").touch()
    assert sandbox.receive().body == b"go"
    (sandbox.task / "on").touch()
    assert whole([head, *sandbox.streamed(call)]) == b"onend"
    for name in ("go", "on"):
        (sandbox.task / name).unlink()


@pytest.mark.parametrize(("path", "size"), [("piped", 700_000), ("pumped", 400_000)])
def test_streams_may_be_piped_into_a_response(sandbox: Sandbox, path: str, size: int) -> None:
    assert whole(sandbox.streamed(start(sandbox, f"/{path}"))) == b"x" * size
    if path == "piped":
        assert until_written(sandbox, 1)[0].startswith("piped undefined")


def test_without_credit_the_application_waits(sandbox: Sandbox) -> None:
    call = start(sandbox, "/endless")
    take(sandbox, CREDIT_BYTES)
    sandbox.credit(call, 1)
    take(sandbox, 1)  # had the shim not stopped, more than one byte would be here
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["type"]) == (END, "Cancelled")
    told = lines(sandbox)
    # One more is with the shim, and one with the response, as on a connection.
    assert told[:-1] == [str(n) for n in range(len(told) - 1)]
    assert len(told) <= CREDIT_BYTES // 65536 + 3
    assert told[-1] == "closed false true"
    assert sandbox.http("/whole").body == b"whole"


def test_a_cancel_ends_what_was_written_and_waits_for_credit(sandbox: Sandbox) -> None:
    call = start(sandbox, "/large", str(PAYLOAD_BYTES_MAX + 1))
    take(sandbox, CREDIT_BYTES)
    sandbox.cancel(call)
    assert sandbox.receive().kind == END
    assert sandbox.http("/whole").body == b"whole"


def test_a_cancel_closes_request_and_response(sandbox: Sandbox) -> None:
    call = start(sandbox, "/waits")
    assert sandbox.receive().body == b"begun"
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["type"]) == (END, "Cancelled")
    assert "closed" in lines(sandbox)


def test_a_response_tells_of_its_end(sandbox: Sandbox) -> None:
    assert sandbox.http("/events").body == b"done"
    assert until_written(sandbox, 2) == ["finish", "close true true"]


def test_an_application_that_will_never_answer_is_not_waited_for(boot: Boot) -> None:
    sandbox = boot(SOURCE)
    assert sandbox.init("main:app").kind == READY
    answer = sandbox.http("/silent")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")
    assert "nothing left to do" in answer.head["message"]
    frames = sandbox.streamed(start(sandbox, "/unfinished"))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert frames[1].head["type"] == "Runtime.ApplicationInvalid"
    call = start(sandbox, "/pumped")  # waits for nothing but credit
    take(sandbox, CREDIT_BYTES)
    sandbox.credit(call, 400_000)
    take(sandbox, 400_000 - CREDIT_BYTES)
    assert sandbox.receive().head == {}
    assert sandbox.http("/whole").body == b"whole"


@pytest.mark.parametrize("path", ["raises", "rejects"])
def test_what_raises_is_an_error_with_a_trace(sandbox: Sandbox, path: str) -> None:
    answer = sandbox.http(f"/{path}")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["message"]) == ("TypeError", "no ördér")
    assert any("main.mjs" in line for line in answer.head["trace"])


def test_what_raises_in_the_middle_is_told_by_the_end(sandbox: Sandbox) -> None:
    frames = sandbox.streamed(start(sandbox, "/raises-late"))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert (frames[0].body, frames[1].head["type"]) == (b"some", "TypeError")


def test_what_comes_after_the_end_is_for_the_log(sandbox: Sandbox) -> None:
    answer = sandbox.http("/twice")
    assert (answer.kind, answer.body) == (RESULT, b"all")
    assert b"ERR_HTTP_HEADERS_SENT" in sandbox.output(2)
    assert sandbox.http("/more").body == b"all"
    assert until_written(sandbox, 1) == ["ERR_STREAM_WRITE_AFTER_END"]


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("odd-status", "function_error", "99"),
        ("odd-name", "function_error", "bad name"),
        ("odd-value", "function_error", "Invalid character in header"),
        ("odd-body", "function_error", "must be of type string"),
        ("odd-size", "function_response_invalid", "too large"),
        ("destroys", "function_response_invalid", "closed the connection"),
    ],
)
def test_a_response_that_cannot_be_sent_is_an_error(
    sandbox: Sandbox, path: str, code: str, says: str
) -> None:
    answer = sandbox.http(f"/{path}")
    assert (answer.kind, answer.head["code"]) == (ERROR, code), answer
    assert says in answer.head["message"]
    assert sandbox.http("/whole").body == b"whole"


def test_requests_run_side_by_side_and_their_lines_are_their_own(boot: Boot) -> None:
    sandbox = boot(SOURCE)
    assert sandbox.init("main:app", per_sandbox=3).kind == READY
    calls = {start(sandbox, f"/meet/{n}", "3"): f"/meet/{n}" for n in range(3)}
    answers: list[Frame] = [sandbox.receive() for _ in calls]
    assert {answer.call: answer.body.decode() for answer in answers} == calls
    written = sandbox.output(1).splitlines()
    for call, path in calls.items():
        own = [line for line in written if line.startswith(b"\x1e%d\x1f" % call)]
        assert f"here {path}" in own[0].decode()


@pytest.mark.parametrize(
    ("handler", "body"),
    [
        ("main:server", b"whole"),
        ("main:promised", b"whole"),
        ("main:koa", b"whole"),
        ("main:fastify", b"true /whole"),
        ("main:hapi", b"whole"),
        ("main:nested.app", b"whole"),
    ],
)
def test_applications_of_many_kinds_are_known(boot: Boot, handler: str, body: bytes) -> None:
    sandbox = boot(SOURCE)
    assert sandbox.init(handler).kind == READY
    assert sandbox.http("/whole").body == body


@pytest.mark.parametrize(
    ("handler", "kind", "says"),
    [
        ("main:nothing", "HandlerNotFound", "'nothing'"),
        ("other:app", "HandlerNotFound", "no module"),
        ("main:", "HandlerNotFound", "is not module:export"),
        ("main:number", "NotAnApplication", "export a function (request, response)"),
        ("main:Application", "NotAnApplication", "is a class"),
        ("main:broken", "Error", "no database"),
    ],
)
def test_what_is_no_application_is_refused_with_a_hint(
    boot: Boot, handler: str, kind: str, says: str
) -> None:
    answer = boot(SOURCE).init(handler)
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, kind), answer
    assert says in answer.head["message"].replace('"', "'")


EVENT_2: dict[str, Any] = {
    "version": "2.0",
    "rawPath": "/tell/café 1",
    "rawQueryString": "a=1",
    "headers": {"X-A": "1"},
    "cookies": ["a=1", "b=2"],
    "requestContext": {"http": {"method": "PUT", "sourceIp": "192.0.2.9"}},
    "body": "/wA=",
    "isBase64Encoded": True,
}


def test_an_http_event_is_served_and_answered_by_an_object(sandbox: Sandbox) -> None:
    answer = sandbox.call(EVENT_2).result
    told = json.loads(answer["body"])
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    assert (told["method"], told["url"]) == ("PUT", "/tell/caf%C3%A9%201?a=1")
    assert (told["headers"]["cookie"], told["body"]) == ("a=1; b=2", "\xff\x00")
    answer = sandbox.call(EVENT_2 | {"rawPath": "/whole"}).result
    assert (answer["cookies"], answer["body"]) == (["a=1", "b=2"], "d2hvbGU=")
    event = {"httpMethod": "GET", "path": "/whole", "headers": {"x": "y"}}
    assert sandbox.call(event).result["multiValueHeaders"]["set-cookie"] == ["a=1", "b=2"]
    answer = sandbox.call(EVENT_2 | {"rawPath": "/endless"})
    assert answer.head["type"] == "Function.ResponseSizeTooLarge"
    answer = sandbox.call(EVENT_2 | {"rawPath": "/raises-late"})
    assert (answer.kind, answer.head["type"]) == (ERROR, "TypeError")


BROKEN: list[Any] = [
    {"version": "2.0", "requestContext": {"http": 7}},
    {"version": "2.0", "requestContext": {"http": {"method": "GET / HTTP/1.1\r\n"}}},
    {"httpMethod": "GET", "path": 7},
    {"httpMethod": "GET", "path": "no-slash"},
    {"httpMethod": "GET", "path": "/", "body": 7},
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
