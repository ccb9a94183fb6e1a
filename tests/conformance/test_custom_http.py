"""The Runtime API in the hands of somebody who gets it wrong: every call ends, just once."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.puppet import API, PUPPET, post, puppet, shared_puppet, started
from tests.conformance.wire_client import (
    ERROR,
    READY,
    Sandbox,
)

__all__ = ["puppet", "shared_puppet"]

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["custom"]], ids=["custom"], indirect=True)

GET = f"GET {API}invocation/next HTTP/1.1\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"
BODIES = "Content-Length: 3\r\n\r\nabc"
BROKEN = [
    ("garbage\r\n\r\n", 400, "not HTTP"),
    ("\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "not HTTP"),
    (f"GET {API}invocation/next HTTP/2.0\r\n\r\n", 505, "HTTP/1.1"),
    ("GET / HTTP/1.1\r\n\r\n", 404, "no such path"),
    (f"GET {API}invocation HTTP/1.1\r\n\r\n", 404, "no such path"),
    (f"POST {API}invocation/a/b/c HTTP/1.1\r\n{BODIES}", 404, "no such path"),
    (f"POST {API}invocation/next HTTP/1.1\r\n{BODIES}", 405, "only GET"),
    (f"PUT {API}invocation/{{id}}/response HTTP/1.1\r\n{BODIES}", 405, "only POST"),
    (GET + "x: " + "y" * 70_000, 431, "65536 bytes"),
    (GET + "x: y\r\n" * 101 + "\r\n", 431, "100 headers"),
    (GET + "no colon\r\n\r\n", 400, "no name and value"),
    (GET + "a b: c\r\n\r\n", 400, "no name and value"),
    (GET + "Content-Length: -1\r\n\r\n", 400, "cannot be believed"),
    (GET + "Content-Length: 1e3\r\n\r\n", 400, "cannot be believed"),
    (GET + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "said twice"),
    (GET + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "cannot be believed"),
    (GET + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "only chunked"),
    (post("response", path="invocation/nobodys/response"), 400, "InvalidRequestID"),
    (post("error", "{}", path="invocation/nobodys/error"), 400, "InvalidRequestID"),
    (post("", "{}", path="init/error"), 403, "InvalidStateTransition"),
    (
        post("response", "1", "Lambda-Runtime-Function-Response-Mode: odd"),
        400,
        "InvalidFunctionResponseMode",
    ),
    (
        post("response", "1", "Expect: 100-continue", path="invocation/nobodys/response"),
        400,
        "InvalidRequestID",
    ),
    (f"POST {API}invocation/x/error HTTP/1.1\r\n{CHUNKED}zz\r\n", 400, "a chunk has no length"),
    (f"POST {API}invocation/x/error HTTP/1.1\r\n{CHUNKED}1\r\nab\r\n", 400, "longer than it"),
]


@pytest.mark.parametrize(("text", "status", "says"), BROKEN, ids=range(len(BROKEN)))
def test_a_request_that_is_none_is_refused_and_harms_no_call(
    puppet: Sandbox, text: str, status: int, says: str
) -> None:
    (answer,) = puppet.call({"raw": [text], "answers": 1}).result
    assert answer[0] == status
    assert says in answer[1]


def test_requests_may_come_in_pieces_and_several_at_once(puppet: Sandbox) -> None:
    unknown = post("response", path="invocation/nobodys/response")
    answers = puppet.call({"raw": [*unknown, unknown + unknown], "answers": 3}).result
    assert [status for status, _ in answers] == [400, 400, 400]


def test_an_answer_may_be_chunked_and_expect_a_word_first(puppet: Sandbox) -> None:
    code = """
with connect() as own, own.makefile("rb") as file:
    head = f"POST {API}invocation/{ID}/response HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n"
    own.sendall(head.encode() + b"Expect: 100-continue\\r\\n\\r\\n")
    first = file.readline() + file.readline()
    for byte in b"2;name=value\\r\\n[1\\r\\n2\\r\\n,2\\r\\n1\\r\\n]\\r\\n0\\r\\nX: y\\r\\n\\r\\n":
        own.sendall(bytes([byte]))
    print(first, read_answer(file)[0])
result = "answered"
"""
    assert puppet.call({"run": code}).result == [1, 2]
    assert puppet.call({"run": ""}).result == "done"
    assert puppet.output(1) == b"b'HTTP/1.1 100 Continue\\r\\n\\r\\n' 202\n"


def test_a_second_answer_is_refused(puppet: Sandbox) -> None:
    code = "ask('POST', f'invocation/{ID}/response', b'1')\nresult = 'answered'\n"
    for what in ("response", "error"):
        again = f"print(ask('POST', f'invocation/{{ID}}/{what}', b'{{}}'))"
        assert puppet.call({"run": code + again}).result == 1
        assert puppet.call({"run": ""}).result == "done"
        said = puppet.output(1)
        assert said.startswith(b"[403,")
        assert b"InvalidStateTransition" in said


def test_two_answers_at_once_are_one(puppet: Sandbox) -> None:
    code = """
head = f"POST {API}invocation/{ID}/response HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n"
with connect() as own, own.makefile("rb") as file:
    own.sendall(head.encode() + b"1")
    print(ask("POST", f"invocation/{ID}/response", b"5")[0], end=" ")
    print(ask("POST", f"invocation/{ID}/error", b"{}")[0], end=" ")
    own.sendall(b"7")
    print(read_answer(file)[0])
result = "answered"
"""
    assert puppet.call({"run": code}).result == 17
    puppet.call({"run": ""})
    assert puppet.output(1) == b"403 403 202\n"


def test_a_response_over_the_limit_is_refused_and_told(boot: Boot) -> None:
    sandbox = started(boot, payload_bytes_max=1000)
    code = "print(ask('POST', f'invocation/{ID}/response', b'x' * %d)[0])\nresult = 'answered'\n"
    for size in (1001, 3_000_000):
        answer = sandbox.call({"run": code % size})
        assert answer.head["type"] == "Function.ResponseSizeTooLarge"
        assert answer.head["code"] == "function_response_invalid"
        assert sandbox.call({"run": ""}).result == "done"
        assert sandbox.output(1) == b"413\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [("{", "not JSON"), ("\xff", "not JSON"), ("", "not JSON"), ("NaN", "not JSON")],
)
def test_a_response_that_is_not_json_is_told(puppet: Sandbox, body: str, says: str) -> None:
    text = post("response", body)
    answer = puppet.call({"run": f"speak([{text!r}], 1)\nresult = 'answered'"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")
    assert answer.head["type"] == "Runtime.MarshalError"
    assert says in answer.head["message"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ('{"errorType": "A", "errorMessage": "m", "stackTrace": ["x"]}', 202, ("A", "m", ["x"])),
        ('{"errorMessage": {"a": 1}, "stackTrace": "x\\ny"}', 202, ("H", '{"a":1}', ["x", "y"])),
        ("", 202, ("H", "", [])),
        ("[]", 400, ("H", "the error's body cannot be read: it is no object", [])),
        ("{", 400, ("H", "the error's body cannot be read: ", [])),
    ],
)
def test_an_error_is_told_whatever_its_body_is(
    puppet: Sandbox, body: str, status: int, told: tuple[str, str, list[str]]
) -> None:
    text = post("error", body, "Lambda-Runtime-Function-Error-Type: H")
    answer = puppet.call({"run": f"print(speak([{text!r}], 1)[0][0])\nresult = 'answered'"})
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert (answer.head["type"], answer.head["trace"]) == (told[0], told[2])
    assert answer.head["message"].startswith(told[1])
    assert puppet.call({"run": ""}).result == "done"
    assert puppet.output(1) == f"{status}\n".encode()


def test_a_connection_that_ends_within_an_answer_ends_the_call(puppet: Sandbox) -> None:
    text = post("response", "1")[:-1]
    answer = puppet.call({"run": f"speak([{text!r}], 0)\nresult = 'answered'"})
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.TruncatedResponse")
    assert puppet.call({"run": ""}).result == "done"


def test_many_connections_are_bounded_and_given_back(puppet: Sandbox) -> None:
    code = """
import contextlib
with contextlib.ExitStack() as stack:
    held = [stack.enter_context(connect()) for _ in range(70)]
    file = stack.enter_context(held[-1].makefile("rb"))
    result = read_answer(file)[0]
"""
    assert puppet.call({"run": code}).result == 503
    assert puppet.call({"run": "result = ask('GET', 'nothing')[0]"}).result == 404


def test_two_processes_may_take_calls_in_turn(boot: Boot) -> None:
    start = "os.fork()"
    sandbox = boot({"bootstrap": PUPPET})
    assert sandbox.init("start.code", env={"START": start}).kind == READY
    seen: list[int] = []
    while len(set(seen)) < 2:  # until the second one has asked, too
        seen.append(sandbox.call({"run": "result = os.getpid()"}).result)
    turns = [sandbox.call({"run": "result = os.getpid()"}).result for _ in range(10)]
    assert turns[::2] == turns[:1] * 5
    assert turns[1::2] == turns[1:2] * 5
    assert len(set(turns)) == 2


def test_who_left_while_asking_is_given_no_call(puppet: Sandbox) -> None:
    code = f"with connect() as own: own.sendall({(GET + chr(13) + chr(10)).encode()!r})"
    for _ in range(3):
        assert puppet.call({"run": code}).result == "done"
    assert puppet.call({"run": "result = 1"}).result == 1
