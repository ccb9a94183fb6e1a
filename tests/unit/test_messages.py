"""What frames mean, hostile ones included."""

from __future__ import annotations

import dataclasses
import json

import pytest

from core.errors import FunctionFault, ResponseInvalid
from executor.call import Timing, Usage
from executor.messages import (
    call_head,
    call_head_json,
    init_failure,
    init_head,
    logged,
    opening_of,
    outcome_of,
    stream_error,
)
from executor.stream import BodyStream
from executor.wire import Frame, FrameType, WireError
from tests.fixtures.sandboxes import event, request, version_of

TIMING = Timing(handler_ms=2.0)


def frame(kind: FrameType, head: object, body: bytes = b"") -> Frame:
    return Frame(kind, 1, json.dumps(head).encode(), body)


def test_init_carries_what_a_shim_needs() -> None:
    head = init_head(version_of(env={"A": "b"}, memory_mb=256), 1000)
    assert head["env"] == {"A": "b"}
    assert head["memory_mb"] == 256
    assert head["payload_bytes_max"] == 1000
    assert head["version"] == "1"
    assert (head["per_sandbox"], head["isolation"]) == (1, "sandbox")
    head = init_head(version_of(per_sandbox=5, isolation="request"), 1000)
    assert (head["per_sandbox"], head["isolation"]) == (5, "request")


def test_calls_say_only_what_they_have() -> None:
    assert set(call_head(event(), 1.0)) == {"id", "kind", "deadline_ms"}
    assert set(call_head(request(), 1.0)) == {"id", "kind", "deadline_ms", "http"}


def test_the_head_put_together_by_hand_is_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.messages.time.time", lambda: 1_700_000_000.1234)
    traced = dataclasses.replace(event(), trace="00-aa-bb-01")
    for call in (event(), request(), traced):
        assert json.loads(call_head_json(call, 30.0)) == call_head(call, 30.0)
    assert call_head(event(), 30.0)["deadline_ms"] == 1_700_000_030_123


def test_an_event_is_answered_with_the_raw_body() -> None:
    outcome = outcome_of(frame(FrameType.RESULT, {}, b"[1]"), event(), TIMING, None)
    assert (outcome.status, outcome.body, outcome.failure) == (200, b"[1]", None)
    assert outcome.timing is TIMING


def test_a_response_that_cannot_be_one_is_the_functions_error() -> None:
    outcome = outcome_of(frame(FrameType.RESULT, {"status": 101}), request(), TIMING, None)
    assert outcome.failure is not None
    assert outcome.failure.code == "function_response_invalid"
    assert outcome.body == b""


def test_an_error_may_name_two_codes_and_no_others() -> None:
    for code in ("function_response_invalid", "function_error"):
        failure = outcome_of(frame(FrameType.ERROR, {"code": code}), event(), TIMING, None).failure
        assert failure is not None
        assert failure.code == code
    for said in ("node_full", "", None, 5, ["function_response_invalid"]):
        failure = outcome_of(frame(FrameType.ERROR, {"code": said}), event(), TIMING, None).failure
        assert failure is not None
        assert failure.code == "function_error"


def test_texts_of_other_kinds_and_sizes_are_cut_to_shape() -> None:
    head = {
        "code": "function_error",
        "type": 5,
        "message": "m" * 100_000,
        "trace": [1, "x" * 99999],
    }
    failure = outcome_of(frame(FrameType.ERROR, head), event(), TIMING, None).failure
    assert failure is not None
    assert failure.type == "Error"
    assert len(failure.message) == 16 * 1024
    assert failure.trace[0] == ""
    assert len(failure.trace[1]) == 16 * 1024


def test_of_a_long_trace_the_end_is_kept() -> None:
    head = {"trace": [str(n) for n in range(1000)]}
    failure = outcome_of(frame(FrameType.ERROR, head), event(), TIMING, None).failure
    assert failure is not None
    assert failure.trace[-1] == "999"
    assert len(failure.trace) == 256


@pytest.mark.parametrize("kind", [FrameType.RESULT, FrameType.ERROR])
@pytest.mark.parametrize("head", [b"{", b"[]", b"\xff", b'{"status":' + b"[" * 60_000])
def test_heads_that_cannot_be_read_are_wire_errors(kind: FrameType, head: bytes) -> None:
    with pytest.raises(WireError):
        outcome_of(Frame(kind, 1, head, b""), request(), TIMING, None)


def test_heads_nested_to_the_brink_raise_nothing_else() -> None:
    for depth in range(700, 1000):  # somewhere here our own code runs out of stack
        head = b'{"status":' + b"[" * depth + b"]" * depth + b"}"
        try:
            outcome = outcome_of(Frame(FrameType.RESULT, 1, head, b""), request(), TIMING, None)
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


def test_what_was_used_is_told_with_the_outcome() -> None:
    usage = Usage(1.0, 2)
    for kind, head in ((FrameType.RESULT, {}), (FrameType.ERROR, {}), (FrameType.RESULT, {"x": 1})):
        assert outcome_of(frame(kind, head), request(), TIMING, usage).usage is usage


def nowhere() -> BodyStream:
    return BodyStream(lambda size: None, lambda: None)


def test_a_first_chunk_opens_the_answer() -> None:
    stream = nowhere()
    head = {"status": 404, "headers": [["X-Y", "z"], ["content-length", "3"]]}
    outcome = opening_of(frame(FrameType.CHUNK, head, b"ignored here"), TIMING, stream)
    assert (outcome.status, list(outcome.headers)) == (404, [("x-y", "z")])
    assert (outcome.body, outcome.stream, outcome.failure) == (b"", stream, None)


def test_a_first_chunk_that_is_no_response_is_the_functions_error() -> None:
    outcome = opening_of(frame(FrameType.CHUNK, {"status": 600}), TIMING, nowhere())
    assert outcome.failure is not None
    assert outcome.failure.code == "function_response_invalid"
    assert outcome.stream is None


@pytest.mark.parametrize("head", [b"{", b"[]", b"\xff"])
def test_chunks_and_ends_that_cannot_be_read_are_wire_errors(head: bytes) -> None:
    with pytest.raises(WireError):
        opening_of(Frame(FrameType.CHUNK, 1, head, b""), TIMING, nowhere())
    with pytest.raises(WireError):
        stream_error(Frame(FrameType.END, 1, head, b""))


@pytest.mark.parametrize("head", [b"", b"{}"])
def test_an_end_without_words_is_a_good_one(head: bytes) -> None:
    assert stream_error(Frame(FrameType.END, 1, head, b"")) == (None, False)


def test_an_end_says_what_ended_it() -> None:
    error, is_last = stream_error(frame(FrameType.END, {"type": "E", "message": "m"}))
    assert type(error) is FunctionFault
    assert (error.message, error.details) == ("m", {"type": "E", "trace": ["E: m"]})
    assert not is_last
    head = {"code": "function_response_invalid", "last": True, "trace": ["t"]}
    error, is_last = stream_error(frame(FrameType.END, head))
    assert type(error) is ResponseInvalid
    assert error.details == {"type": "Error", "trace": ["t"]}
    assert is_last
    assert stream_error(frame(FrameType.END, {"last": 1}))[1] is False


def test_what_is_logged_of_an_error_is_bounded_and_its_end() -> None:
    head = {"trace": ["x" * 5000, *[str(n) for n in range(200)]]}
    failure = outcome_of(frame(FrameType.ERROR, head), event(), TIMING, None).failure
    assert failure is not None
    assert logged(failure) == [str(n) for n in range(136, 200)]
    failure = dataclasses.replace(failure, trace=("x" * 5000,))
    assert logged(failure) == ["x" * 2048]
    failure = dataclasses.replace(failure, trace=(), type="E", message="m" * 5000)
    assert logged(failure) == [f"E: {'m' * 2045}"]
