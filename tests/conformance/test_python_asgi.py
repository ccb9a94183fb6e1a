"""ASGI applications in place of handlers: what they are told, and how what they send travels."""

from __future__ import annotations

import signal
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

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)
SOURCE = (FUNCTIONS / "asgi.py").read_text()
TEXT = [["content-type", "text/plain"]]


def ready(boot: Boot, handler: str = "main:app", **changes: Any) -> Sandbox:
    """A sandbox that serves one of the sandbox."""
    sandbox = boot(SOURCE)
    answer = sandbox.init(handler, **changes)
    assert answer.kind == READY, answer
    return sandbox


def start(sandbox: Sandbox, path: str, query: str = "") -> int:
    """Begin a request and leave its answer for later; its number."""
    http = {"method": "GET", "path": path, "query": query, "headers": [], "protocol": "HTTP/1.1"}
    http |= {"source_ip": "192.0.2.7", "host": "h", "root": "/function/hello"}
    sandbox.send(sandbox.call_frame("http", b"", http))
    return sandbox.calls


def lines(sandbox: Sandbox, number: int = 1) -> list[bytes]:
    """What the application wrote, without the tags of calls."""
    return [line.rpartition(b"\x1f")[2] for line in sandbox.output(number).splitlines()]


@pytest.fixture(scope="module", params=[1, 4], ids=["one", "several"])
def served(runtime: Runtime, stock: Stock, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The application that does what its path says, alone or as one of several calls."""
    made = stock.take({"main.py": SOURCE})
    assert made.init("main:app", per_sandbox=request.param).kind == READY
    yield made
    stock.end(made)


@pytest.fixture
def sandbox(served: Sandbox) -> Sandbox:
    """The same, with what earlier tests made it write forgotten."""
    served.output(1)
    served.output(2)
    return served


def test_a_scope_is_the_request_as_it_came(sandbox: Sandbox) -> None:
    headers = [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2"), ("accept", "é")]
    answer = sandbox.http("/tell/caf%C3%A9%2F1", b"\xff\x00", query="a=%20&b", headers=headers)
    told = answer.result
    assert answer.head == {"status": 200, "headers": [["content-type", "application/json"]]}
    assert told.pop("asgi")["version"] == "3.0"
    assert told == {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/tell/café/1",
        "raw_path": "/tell/caf%C3%A9%2F1",
        "root_path": "",
        "query_string": "a=%20&b",
        "headers": [list(pair) for pair in headers],
        "client": ["192.0.2.7", 0],
        "server": ["api.example.com", 8080],
        "state": {},
        "request_id": f"00000000-0000-0000-0000-{sandbox.calls:012x}",
        "body": ["http.request", "\xff\x00", False],
    }
    assert lines(sandbox) == ["told /tell/café/1".encode()]


def test_what_named_the_function_is_the_root_path(sandbox: Sandbox) -> None:
    start(sandbox, "/tell/x%20y")
    told = sandbox.receive().result
    assert (told["root_path"], told["path"]) == ("/function/hello", "/function/hello/tell/x y")
    assert (told["raw_path"], told["server"]) == ("/function/hello/tell/x%20y", ["h", 80])


def test_a_whole_response_is_one_result(sandbox: Sandbox) -> None:
    answer = sandbox.http("/plain")
    pairs = [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-raw", "é"]]
    assert (answer.kind, answer.body) == (RESULT, b"whole")
    assert answer.head == {"status": 201, "headers": pairs}
    answer = sandbox.http("/empty")
    assert (answer.kind, answer.head, answer.body) == (RESULT, {"status": 204, "headers": []}, b"")
    answer = sandbox.http("/pieces")
    assert (answer.kind, answer.body) == (RESULT, b"whole")


def test_a_response_larger_than_a_payload_is_streamed(sandbox: Sandbox) -> None:
    answer = sandbox.http("/large", query=str(PAYLOAD_BYTES_MAX))
    assert (answer.kind, len(answer.body)) == (RESULT, PAYLOAD_BYTES_MAX)
    call = start(sandbox, "/large", str(PAYLOAD_BYTES_MAX + 1))
    assert whole(sandbox.streamed(call)) == b"x" * (PAYLOAD_BYTES_MAX + 1)
    call = start(sandbox, "/large", str(PAYLOAD_BYTES_MAX + 1))
    take(sandbox, CREDIT_BYTES)
    sandbox.cancel(call)
    assert sandbox.receive().kind == END


def test_pieces_leave_as_they_are_sent(sandbox: Sandbox) -> None:
    call = start(sandbox, "/stream")
    head = sandbox.receive()
    assert (head.kind, head.head, head.body) == (CHUNK, {"status": 200, "headers": TEXT}, b"")
    (sandbox.task / "go").touch()
    assert sandbox.receive().body == b"go"
    (sandbox.task / "on").touch()
    assert whole([head, *sandbox.streamed(call)]) == b"onend"
    for name in ("go", "on"):
        (sandbox.task / name).unlink()


def test_without_credit_the_application_waits(sandbox: Sandbox) -> None:
    call = start(sandbox, "/endless")
    take(sandbox, CREDIT_BYTES)
    sandbox.credit(call, 1)
    take(sandbox, 1)  # had the shim not stopped, more than one byte would be here
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.head["code"], end.head["type"]) == (END, "function_error", "OSError")
    told = lines(sandbox)
    assert told[:-1] == [str(n).encode() for n in range(CREDIT_BYTES // 65536 + 1)]
    assert told[-1].startswith(b"left: ")
    assert sandbox.http("/plain").body == b"whole"


def test_tasks_may_send_at_the_same_time(sandbox: Sandbox) -> None:
    sent = whole(sandbox.streamed(start(sandbox, "/together")))
    assert sorted(sent) == sorted(b"a" * 300_000 + b"b" * 300_000)


def test_a_cancel_is_a_disconnect(sandbox: Sandbox) -> None:
    call = start(sandbox, "/waits")
    assert sandbox.receive().body == b"begun"
    sandbox.cancel(call)
    assert sandbox.receive().kind == END
    assert lines(sandbox) == [b"http.disconnect"]


def test_an_application_that_hears_no_disconnect_is_cancelled(sandbox: Sandbox) -> None:
    call = start(sandbox, "/deaf")
    while not sandbox.written[1]:
        sandbox._pump(60)
    sandbox.cancel(call)
    answer = sandbox.receive()
    assert (answer.kind, answer.head["type"]) == (ERROR, "CancelledError")
    assert lines(sandbox) == [b"begun", b"ended"]
    assert sandbox.http("/plain").body == b"whole"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("silent", "before http.response.start"),
        ("twice", "'http.response.start' was sent after the response began"),
        ("early", "'http.response.body' was sent before http.response.start"),
        ("odd-body", "not bytes"),
        ("odd-type", "'websocket.accept'"),
        ("odd-message", "list"),
        ("odd-status", "status '200'"),
        ("odd-number", "status 99"),
        ("odd-header", "not two bytes objects"),
        ("odd-headers", "not a list"),
        ("odd-name", "'bad name'"),
        ("odd-value", "cannot be sent"),
        ("odd-size", "too large"),
    ],
)
def test_what_breaks_the_interface_is_an_invalid_response(
    sandbox: Sandbox, path: str, says: str
) -> None:
    answer = sandbox.http(f"/{path}")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid"), answer
    assert says in answer.head["message"]
    assert sandbox.http("/plain").body == b"whole"


def test_what_is_sent_after_the_end_is_for_the_log(sandbox: Sandbox) -> None:
    answer = sandbox.http("/more")
    assert (answer.kind, answer.body) == (RESULT, b"all")
    assert b"was sent after the response's end" in sandbox.output(2)


def test_what_raises_is_an_error_with_a_trace(sandbox: Sandbox) -> None:
    answer = sandbox.http("/raises")
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["message"]) == ("ValueError", "no ördér")
    assert "in raises" in answer.head["trace"][-2] + answer.head["trace"][-3]
    assert sandbox.http("/leaves").head["type"] == "Runtime.ExitError"


def test_what_raises_in_the_middle_is_told_by_the_end(sandbox: Sandbox) -> None:
    for path, kind in (("raises-late", "ValueError"), ("unfinished", "Runtime.ApplicationInvalid")):
        frames = sandbox.streamed(start(sandbox, f"/{path}"))
        assert [frame.kind for frame in frames] == [CHUNK, END]
        assert (frames[0].body, frames[1].head["type"]) == (b"some", kind)


def test_an_error_page_reaches_the_client_and_the_error_the_log(sandbox: Sandbox) -> None:
    answer = sandbox.http("/raises-after")
    assert (answer.kind, answer.head["status"], answer.body) == (RESULT, 500, b"sorry")
    assert "ValueError: no ördér".encode() in sandbox.output(2)


def test_requests_run_side_by_side_and_their_lines_are_their_own(boot: Boot) -> None:
    sandbox = ready(boot, per_sandbox=3)
    calls = {start(sandbox, f"/meet/{n}", "3"): f"/function/hello/meet/{n}" for n in range(3)}
    answers: list[Frame] = [sandbox.receive() for _ in calls]
    assert {answer.call: answer.body.decode() for answer in answers} == calls
    written = sandbox.output(1).splitlines()
    for call, path in calls.items():
        own = [line for line in written if line.startswith(b"\x1e%d\x1f" % call)]
        assert [line.rpartition(b"\x1f")[2].decode() for line in own] == [
            f"here {path}",
            f"gone {path}",
        ]


# --- the lifespan ---


@pytest.mark.parametrize("per_sandbox", [1, 4])
def test_a_lifespan_begins_before_the_first_request_and_ends_with_the_sandbox(
    boot: Boot, per_sandbox: int
) -> None:
    sandbox = ready(boot, "main:living", per_sandbox=per_sandbox)
    assert sandbox.output(1) == b"starting\n"
    assert sandbox.http("/").body == b"started"
    sandbox.stop()
    assert sandbox.ends() == 128 + signal.SIGTERM
    assert sandbox.output(1) == b"stopping\n"


@pytest.mark.parametrize(
    ("handler", "kind", "message"),
    [
        ("main:fails", "LifespanFailed", "no database"),
        ("main:fails_loudly", "KeyError", "'no database'"),
        ("main:breaks", "KeyError", "'no database'"),
        ("main:leaves_at_start", "Runtime.ExitError", "no database"),
    ],
)
def test_a_lifespan_that_fails_is_an_init_error(
    boot: Boot, handler: str, kind: str, message: str
) -> None:
    answer = boot(SOURCE).init(handler)
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, kind), answer
    assert message in answer.head["message"]


def test_a_lifespan_that_hangs_ends_with_the_connection(boot: Boot) -> None:
    sandbox = boot(SOURCE)
    sandbox.send(sandbox.init_frame("main:hangs"))
    while not sandbox.written[1]:
        sandbox._pump(60)
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


@pytest.mark.parametrize("handler", ["naive", "wrapped", "Endpoint", "nested.app"])
def test_an_application_needs_no_lifespan(boot: Boot, handler: str) -> None:
    sandbox = ready(boot, f"main:{handler}")
    answer = sandbox.http("/plain")
    assert (answer.kind, answer.body) == (RESULT, b"naive" if handler == "naive" else b"whole")
    assert sandbox.output(2) == b""


# --- what is no application ---


@pytest.mark.parametrize(
    ("handler", "kind", "says"),
    [
        ("main:nothing", "HandlerNotFound", "'nothing' in module 'main' does not exist"),
        ("main:number", "HandlerNotFound", "is not callable"),
        ("other:app", "HandlerNotFound", "no module 'other'"),
        ("main:", "HandlerNotFound", "is not module:attribute"),
        ("main:of_asgi_2", "NotAnApplication", "guarantee_single_callable"),
        ("main:create_app", "NotAnApplication", "app = create_app()"),
        ("main:handler", "NotAnApplication", "takes 4 arguments"),
        ("main:tell_event", "NotAnApplication", "is named with a dot"),
    ],
)
def test_what_is_no_application_is_refused_with_a_hint(
    boot: Boot, handler: str, kind: str, says: str
) -> None:
    answer = boot(SOURCE).init(handler)
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, kind), answer
    assert says in answer.head["message"]
    assert answer.head["trace"] == []


def test_a_process_for_each_request_is_not_for_an_event_loop(boot: Boot) -> None:
    answer = boot(SOURCE).init("main:app", isolation="request")
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "IsolationUnsupported")
