"""Events in, results out: what every runtime makes of JSON, and what stays between calls."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import (
    CALL,
    CANCEL,
    ERROR,
    PAYLOAD_BYTES_MAX,
    READY,
    RESULT,
    Sandbox,
    frame,
)

VALUES = [
    None,
    True,
    0,
    -1,
    2**53 - 1,
    -(2**53),
    1.7976931348623157e308,
    5e-324,
    0.1,
    "",
    "héllo wörld",
    "🦊 astral, 漢字, and \u0000 NUL \u2028 \ufeff",
    [],
    {},
    {"": {"__proto__": 1, "constructor": [[[]]]}},
    [None, [False, {"a": ["b"]}]],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: json.dumps(value)[:30])
def test_a_json_value_comes_back_as_it_went(cases: Sandbox, value: Any) -> None:
    assert cases.call({"do": "echo", "value": value}).result == value


def test_half_a_surrogate_pair_survives(cases: Sandbox) -> None:
    assert cases.call_raw(b'{"do": "echo", "value": "\\ud83d"}').result == "\ud83d"


def test_a_large_integer_is_not_written_as_a_float(cases: Sandbox) -> None:
    assert cases.call({"do": "echo", "value": 2**53 - 1}).body == b"9007199254740991"


def test_the_first_answer_has_the_first_calls_number_and_an_empty_head(cases: Sandbox) -> None:
    answer = cases.call({"do": "echo", "value": 1})
    assert (answer.kind, answer.head) == (RESULT, {})


def test_a_handler_that_returns_nothing_answers_null(cases: Sandbox) -> None:
    assert cases.call({"do": "nothing"}).body == b"null"


def test_what_an_async_handler_resolves_to_is_the_result(cases: Sandbox) -> None:
    assert cases.call({"do": "later", "value": {"a": 1}}).result == {"a": 1}


def test_an_empty_body_is_an_empty_event(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(
        {
            "python": "def handler(event, context):\n    return event",
            "node": "export const handler = (event) => event;",
        }[runtime.short]
    )
    assert sandbox.init().kind == READY
    assert sandbox.call_raw(b"").result == {}


def test_the_largest_event_and_the_largest_result_pass(cases: Sandbox) -> None:
    around = len(json.dumps({"do": "echo", "value": ""}))
    value = "x" * (PAYLOAD_BYTES_MAX - around)
    assert cases.call({"do": "echo", "value": value}).result == value
    assert len(cases.call({"do": "repeat", "times": PAYLOAD_BYTES_MAX - 2}).result) > 6_000_000


def test_a_result_over_the_limit_is_an_error_that_names_both_sizes(cases: Sandbox) -> None:
    answer = cases.call({"do": "repeat", "times": PAYLOAD_BYTES_MAX - 1})
    assert answer.kind == ERROR
    assert answer.head["code"] == "function_response_invalid"
    assert answer.head["type"] == "Function.ResponseSizeTooLarge"
    assert str(PAYLOAD_BYTES_MAX) in answer.head["message"]
    assert cases.call({"do": "echo", "value": "still here"}).result == "still here"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[NaN]", b"-Infinity", b"\x00"])
def test_an_event_that_is_not_json_is_that_calls_error(cases: Sandbox, body: bytes) -> None:
    answer = cases.call_raw(body)
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.UnmarshalError")
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_an_event_nested_too_deep_does_not_end_the_sandbox(cases: Sandbox) -> None:
    value = b"[" * 100_000 + b"]" * 100_000
    assert cases.call_raw(b'{"do": "echo", "value": ' + value + b"}").kind in (ERROR, RESULT)
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_state_is_kept_between_calls_and_the_module_runs_once(cases: Sandbox) -> None:
    loaded, before = cases.call({"do": "count"}).result
    assert loaded == 1
    assert cases.call({"do": "count"}).result == [1, before + 1]


def test_the_context_says_who_is_called_and_for_how_long(cases: Sandbox) -> None:
    now = int(time.time() * 1000)
    facts = cases.call({"do": "facts"}).result
    assert facts["id"] == f"00000000-0000-0000-0000-{cases.calls:012x}"
    assert (facts["name"], facts["version"], facts["memory"]) == ("hello", "7", "128")
    assert facts["arn"].startswith("arn:aws:lambda:")
    assert facts["arn"].endswith(":function:hello:7")
    assert facts["group"] == "/aws/lambda/hello"
    assert "[7]" in facts["stream"]
    assert now + 29_000 <= facts["deadline"] <= now + 90_000
    assert 0 < facts["remaining"] <= 30_000
    assert facts.get("trace") is None


def test_the_remaining_time_is_never_negative_and_the_trace_is_passed_on(cases: Sandbox) -> None:
    cases.calls += 1
    head = {"id": "late", "kind": "event", "deadline_ms": 1000, "trace": "00-ab-cd-01"}
    cases.send(frame(CALL, cases.calls, head, b'{"do": "facts"}'))
    facts = cases.receive().result
    assert (facts["remaining"], facts["trace"], facts["id"]) == (0, "00-ab-cd-01", "late")


def test_the_environment_is_the_functions_and_nothing_else(cases: Sandbox) -> None:
    told = cases.call({"do": "environment"}).result
    env = told["env"]
    kept = {"PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"}
    expected = {
        "GREETING": "héllo",
        "EMPTY": "",
        "LAMBDA_TASK_ROOT": told["cwd"],
        "_HANDLER": "main.handler",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "HEARTH_NAMESPACE": "default",
        "TMPDIR": "/tmp",
        "HOME": "/tmp",
    }
    assert {name: value for name, value in env.items() if name not in kept} == expected
    assert env["PATH"]


def test_frames_may_arrive_byte_by_byte(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(
        {
            "python": "def handler(event, context):\n    return event",
            "node": "export const handler = (event) => event;",
        }[runtime.short]
    )
    sandbox.send_torn(sandbox.init_frame())
    assert sandbox.receive().kind == READY
    sandbox.send_torn(sandbox.call_frame("event", b'"torn"'))
    assert sandbox.receive().result == "torn"


def test_several_frames_may_arrive_at_once(cases: Sandbox) -> None:
    first = cases.call_frame("event", b'{"do": "echo", "value": 1}')
    number = cases.calls
    second = cases.call_frame("event", b'{"do": "echo", "value": 2}')
    cases.send(first + frame(CANCEL, number, {}) + second[:20])
    cases.send(second[20:])
    answers = {answer.call: answer.result for answer in (cases.receive(), cases.receive())}
    assert answers == {number: 1, number + 1: 2}


@pytest.mark.parametrize("size", [65_500, 65_536, 65_537, 131_072, 200_000])
def test_bodies_around_the_size_of_buffers_are_whole(cases: Sandbox, size: int) -> None:
    value = "".join(chr(97 + number % 26) for number in range(size))
    small = cases.call_frame("event", b'{"do": "echo", "value": 0}')
    large = cases.call_frame("event", json.dumps({"do": "echo", "value": value}).encode())
    cases.send(small + large)
    assert cases.receive().result == 0
    assert cases.receive().result == value
