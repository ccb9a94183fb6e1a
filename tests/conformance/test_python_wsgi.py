"""WSGI applications in place of handlers: what they are told, and how what they send travels."""

from __future__ import annotations

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
    READY,
    RESULT,
    Sandbox,
)

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)
SOURCE = (FUNCTIONS / "wsgi.py").read_text()
TEXT = {"status": 200, "headers": [["content-type", "text/plain"]]}


@pytest.fixture(scope="module", params=["sandbox", "request"])
def served(runtime: Runtime, stock: Stock, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The application that does what its path says, in one process or in one for each request."""
    made = stock.take({"main.py": SOURCE})
    assert made.init("main:app", isolation=request.param).kind == READY
    yield made
    stock.end(made)


@pytest.fixture
def sandbox(served: Sandbox) -> Sandbox:
    """The same, with what earlier tests made it write forgotten."""
    served.output(1)
    served.output(2)
    return served


def start(sandbox: Sandbox, path: str) -> int:
    """Begin a request and leave its answer for later; its number."""
    http = {"method": "GET", "path": path, "query": "", "headers": [], "protocol": "HTTP/1.1"}
    http |= {"source_ip": "192.0.2.7", "host": "h", "root": "/function/h%C3%A9llo"}
    sandbox.send(sandbox.call_frame("http", b"", http))
    return sandbox.calls


def test_an_environ_is_the_request_as_it_came(sandbox: Sandbox) -> None:
    headers = [("content-type", "text/x"), ("x-a", "1"), ("x-a", "2"), ("x_a", "3")]
    headers += [("cookie", "a=1"), ("cookie", "b=2"), ("x-forwarded-proto", "https")]
    answer = sandbox.http("/tell/caf%C3%A9%2F1", b"\xff\x00", query="a=%20&b", headers=headers)
    assert answer.head == {"status": 200, "headers": [["content-type", "application/json"]]}
    assert answer.result == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/tell/cafÃ©/1",
        "QUERY_STRING": "a=%20&b",
        "REQUEST_URI": "/tell/caf%C3%A9%2F1?a=%20&b",
        "RAW_URI": "/tell/caf%C3%A9%2F1?a=%20&b",
        "SERVER_NAME": "api.example.com",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "2",
        "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_FORWARDED_PROTO": "https",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "https",
        "wsgi.input_terminated": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "body": "\xff\x00",
        "request_id": f"00000000-0000-0000-0000-{sandbox.calls:012x}",
    }
    assert sandbox.output(2) == b"to the log\n"


def test_what_named_the_function_is_the_script_name(sandbox: Sandbox) -> None:
    start(sandbox, "/tell/x%20y")
    told = sandbox.receive().result
    assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/function/hÃ©llo", "/tell/x y")
    assert told["REQUEST_URI"] == "/function/h%C3%A9llo/tell/x%20y"


def test_a_whole_response_is_one_result(sandbox: Sandbox) -> None:
    answer = sandbox.http("/whole")
    pairs = [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-raw", "é"]]
    assert (answer.kind, answer.body) == (RESULT, b"whole")
    assert answer.head == {"status": 201, "headers": pairs}
    answer = sandbox.http("/empty")
    assert (answer.kind, answer.head, answer.body) == (RESULT, {"status": 204, "headers": []}, b"")
    answer = sandbox.http("/length")
    assert (answer.kind, answer.body, sandbox.output()) == (RESULT, b"whole", b"closed\n")


@pytest.mark.parametrize(
    ("path", "body", "closed"),
    [
        ("late", b"late", b""),
        ("longer", b"wholeand more", b""),
        ("writes", b"written at once and returned", b"closed\n"),
    ],
)
def test_several_pieces_are_a_stream(
    sandbox: Sandbox, path: str, body: bytes, closed: bytes
) -> None:
    frames = sandbox.streamed(start(sandbox, f"/{path}"))
    assert whole(frames) == body
    assert sandbox.output() == closed


def test_pieces_leave_as_they_are_made(sandbox: Sandbox) -> None:
    call = start(sandbox, "/stream")
    (sandbox.task / "go").touch()
    first = sandbox.receive()
    assert (first.kind, first.head, first.body) == (CHUNK, TEXT, b"go")
    (sandbox.task / "on").touch()
    assert whole([first, *sandbox.streamed(call)]) == b"goonend"
    for name in ("go", "on"):
        (sandbox.task / name).unlink()


@pytest.mark.parametrize(("path", "close"), [("endless", [b"closed"]), ("writes-endlessly", [])])
def test_without_credit_nothing_more_is_asked(
    sandbox: Sandbox, path: str, close: list[bytes]
) -> None:
    call = start(sandbox, f"/{path}")
    take(sandbox, CREDIT_BYTES)
    sandbox.credit(call, 1)
    take(sandbox, 1)  # had the shim not stopped, more than one byte would be here
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["code"]) == (END, "function_error")
    made = [str(n).encode() for n in range(CREDIT_BYTES // 65536 + 1)]
    assert sandbox.output().splitlines() == made + close
    assert sandbox.http("/whole").body == b"whole"


def test_a_response_may_be_taken_back_until_it_has_left(sandbox: Sandbox) -> None:
    answer = sandbox.http("/corrected")
    assert (answer.kind, answer.head["status"], answer.body) == (RESULT, 500, b"sorry")
    frames = sandbox.streamed(start(sandbox, "/corrected-late"))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert (frames[1].head["type"], frames[1].head["message"]) == ("ValueError", "no ördér")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("silent", "before start_response"),
        ("early", "before start_response"),
        ("twice", "called twice"),
        ("odd-status", "status 200 is not like '200 OK'"),
        ("odd-number", "status '99 Low'"),
        ("odd-header", "not two strings"),
        ("odd-headers", "not a list"),
        ("odd-name", "'bad name'"),
        ("odd-value", "cannot be sent"),
        ("odd-letter", "HTTP cannot carry"),
        ("odd-answer", "NoneType, not an iterable"),
        ("odd-text", "put it in a list"),
        ("odd-piece", "not bytes"),
    ],
)
def test_what_breaks_the_interface_is_an_invalid_response(
    sandbox: Sandbox, path: str, says: str
) -> None:
    answer = sandbox.http(f"/{path}")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid"), answer
    assert says in answer.head["message"]
    assert sandbox.http("/whole").body == b"whole"


def test_what_raises_is_an_error_with_a_trace(sandbox: Sandbox) -> None:
    answer = sandbox.http("/raises")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["message"]) == ("ValueError", "no ördér")
    assert any("in raises" in line for line in answer.head["trace"])
    assert sandbox.http("/leaves").head["type"] == "Runtime.ExitError"
    assert sandbox.http("/breaks").head["type"] == "ValueError"
    assert sandbox.output() == b"closed\n"
    frames = sandbox.streamed(start(sandbox, "/raises-late"))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert (frames[0].body, frames[1].head["type"]) == (b"some", "ValueError")


def test_what_raises_after_the_end_is_for_the_log(sandbox: Sandbox) -> None:
    answer = sandbox.http("/closes-badly")
    assert (answer.kind, answer.head["status"], answer.body) == (RESULT, 200, b"whole")
    assert "ValueError: no ördér".encode() in sandbox.output(2)


def test_an_http_event_is_served_and_answered_by_an_object(sandbox: Sandbox) -> None:
    event: dict[str, Any] = {"version": "2.0", "rawPath": "/whole", "requestContext": {}}
    event["requestContext"]["http"] = {"method": "GET"}
    answer = sandbox.call(event).result
    assert (answer["statusCode"], answer["cookies"]) == (201, ["a=1", "b=2"])
    assert sandbox.call(event | {"rawPath": "/late"}).result["body"] == "late"
    answer = sandbox.call(event | {"rawPath": "/raises-late"})
    assert (answer.kind, answer.head["type"]) == (ERROR, "ValueError")
    assert sandbox.call({}).head["code"] == "function_error"


def test_isolated_requests_leave_nothing_to_the_next(sandbox: Sandbox, served: Sandbox) -> None:
    first, second = sandbox.http("/forgets"), sandbox.http("/forgets")
    assert (first.body, second.body) in [(b"1 False", b"2 False"), (b"1 True", b"1 True")]


@pytest.mark.parametrize("handler", ["Application", "an_object", "of_any", "an_object.__call__"])
def test_whatever_takes_two_arguments_is_an_application(boot: Boot, handler: str) -> None:
    sandbox = boot(SOURCE)
    assert sandbox.init(f"main:{handler}").kind == READY
    assert sandbox.http("/whole").body == b"whole"


def test_several_requests_at_once_are_refused(boot: Boot) -> None:
    answer = boot(SOURCE).init("main:app", per_sandbox=2)
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "HandlerNotAsync")
    assert "speaks WSGI" in answer.head["message"]
