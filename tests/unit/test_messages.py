"""What frames mean, hostile ones included."""

from __future__ import annotations

import json

import pytest

from executor.messages import call_head, init_failure, init_head, outcome_of
from executor.wire import Frame, FrameType, WireError
from tests.fixtures.sandboxes import event, request, version_of


def frame(kind: FrameType, head: object, body: bytes = b"") -> Frame:
    return Frame(kind, 1, json.dumps(head).encode(), body)


def test_init_carries_what_a_shim_needs() -> None:
    head = init_head(version_of(env={"A": "b"}, memory_mb=256), 1000)
    assert head["env"] == {"A": "b"}
    assert head["memory_mb"] == 256
    assert head["payload_bytes_max"] == 1000
    assert head["version"] == "1"


def test_calls_say_only_what_they_have() -> None:
    assert set(call_head(event(), 1.0)) == {"id", "kind", "deadline_ms"}
    assert set(call_head(request(), 1.0)) == {"id", "kind", "deadline_ms", "http"}


def test_an_event_is_answered_with_the_raw_body() -> None:
    outcome = outcome_of(frame(FrameType.RESULT, {}, b"[1]"), event(), 2.0)
    assert (outcome.status, outcome.body, outcome.failure) == (200, b"[1]", None)
    assert outcome.timing.handler_ms == 2.0


def test_a_response_that_cannot_be_one_is_the_functions_error() -> None:
    outcome = outcome_of(frame(FrameType.RESULT, {"status": 101}), request(), 1.0)
    assert outcome.failure is not None
    assert outcome.failure.code == "function_response_invalid"
    assert outcome.body == b""


def test_an_error_may_name_two_codes_and_no_others() -> None:
    for code in ("function_response_invalid", "function_error"):
        failure = outcome_of(frame(FrameType.ERROR, {"code": code}), event(), 1.0).failure
        assert failure is not None
        assert failure.code == code
    for said in ("node_full", "", None, 5, ["function_response_invalid"]):
        failure = outcome_of(frame(FrameType.ERROR, {"code": said}), event(), 1.0).failure
        assert failure is not None
        assert failure.code == "function_error"


def test_texts_of_other_kinds_and_sizes_are_cut_to_shape() -> None:
    head = {
        "code": "function_error",
        "type": 5,
        "message": "m" * 100_000,
        "trace": [1, "x" * 99999],
    }
    failure = outcome_of(frame(FrameType.ERROR, head), event(), 1.0).failure
    assert failure is not None
    assert failure.type == "Error"
    assert len(failure.message) == 16 * 1024
    assert failure.trace[0] == ""
    assert len(failure.trace[1]) == 16 * 1024


def test_of_a_long_trace_the_end_is_kept() -> None:
    head = {"trace": [str(n) for n in range(1000)]}
    failure = outcome_of(frame(FrameType.ERROR, head), event(), 1.0).failure
    assert failure is not None
    assert failure.trace[-1] == "999"
    assert len(failure.trace) == 256


@pytest.mark.parametrize("kind", [FrameType.RESULT, FrameType.ERROR])
@pytest.mark.parametrize("head", [b"{", b"[]", b"\xff", b'{"status":' + b"[" * 60_000])
def test_heads_that_cannot_be_read_are_wire_errors(kind: FrameType, head: bytes) -> None:
    with pytest.raises(WireError):
        outcome_of(Frame(kind, 1, head, b""), request(), 1.0)


def test_heads_nested_to_the_brink_raise_nothing_else() -> None:
    for depth in range(700, 1000):  # somewhere here our own code runs out of stack
        head = b'{"status":' + b"[" * depth + b"]" * depth + b"}"
        try:
            outcome = outcome_of(Frame(FrameType.RESULT, 1, head, b""), request(), 1.0)
        except WireError:
            continue
        assert outcome.failure is not None


def test_what_kept_code_from_loading_is_told_whole() -> None:
    error = init_failure({"type": "SyntaxError", "message": "m", "trace": ["t"], "found": ["f", 1]})
    assert error.message == "m"
    assert error.details == {"type": "SyntaxError", "trace": ["t"], "found": ["f", ""]}


def test_an_init_failure_without_words_still_is_one() -> None:
    assert init_failure({}).message == "the code could not be loaded"
    assert init_failure({"found": "x", "trace": 1, "message": []}).details == {"type": "Error"}
