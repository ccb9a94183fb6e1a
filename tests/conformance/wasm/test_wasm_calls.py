"""What a WASI command is given, and what its output, its exit and its memory mean."""

from __future__ import annotations

import time

import pytest

from tests.conformance import modules, wire_client
from tests.conformance.hosted_client import Host, Seat
from tests.conformance.wasm.conftest import Opening
from tests.conformance.wire_client import ERROR, INIT_ERROR, PAYLOAD_BYTES_MAX, RESULT, frame


def test_the_host_says_which_engine_its_modules_must_be_compiled_for(host: Host) -> None:
    head = host.hello.head
    assert (head["protocol"], head["runtime"]) == (2, "wasm")
    assert head["engine"].startswith("wasmtime-")


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, True, None]}, "höllo 🔥 \u2028", None, 0, -1, 1e300, 2**53, [], "", {"": {}}],
)
def test_json_comes_back_as_it_was_sent(cases: Seat, value: object) -> None:
    assert cases.call({"do": "echo", "value": value}).result == value


def test_a_result_has_an_empty_head(cases: Seat) -> None:
    assert cases.call({"do": "echo", "value": 1}).head == {}


def test_no_output_is_null(cases: Seat) -> None:
    assert cases.call({"do": "nothing"}).body == b"null"


def test_an_empty_event_is_an_empty_object(cases: Seat) -> None:
    assert cases.call_raw(b'{"do":"size"}').result == 13
    answer = cases.call_raw(b"")  # {} names no case
    assert (answer.head["type"], answer.head["message"]) == ("Runtime.ExitError", "exit status 64")


def test_six_megabytes_pass_both_ways(cases: Seat) -> None:
    value = "x" * (PAYLOAD_BYTES_MAX - 100)
    answer = cases.call({"do": "echo", "value": value})
    assert (answer.kind, len(answer.body)) == (RESULT, len(value) + 2)


def test_output_beyond_the_limit_ends_the_call_and_nothing_else(cases: Seat) -> None:
    assert len(cases.call({"do": "repeat", "times": PAYLOAD_BYTES_MAX - 2}).body)
    for event in ({"do": "repeat", "times": PAYLOAD_BYTES_MAX}, {"do": "pour", "mb": 100}):
        answer = cases.call(event)
        assert answer.kind == ERROR
        head = answer.head
        assert head["code"] == "function_response_invalid", head
        assert head["type"] == "Function.ResponseSizeTooLarge"
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_output_that_is_not_json_is_refused_with_its_beginning(cases: Seat) -> None:
    head = cases.call({"do": "text"}).head
    assert head["code"] == "function_response_invalid"
    assert "hello, not JSON" in head["message"]


def test_memory_of_one_call_is_not_there_for_the_next(cases: Seat) -> None:
    assert [cases.call({"do": "count"}).result for _ in range(3)] == [1, 1, 1]


def test_every_byte_of_memory_is_as_the_module_begins_with_it(host: Host) -> None:
    artifact = modules.compiled(modules.DIRTY)
    with host.open(artifact) as seat, host.open(seat) as other:
        seat.ready()
        other.ready()
        for _ in range(20):
            assert seat.call(1).body == b"null"
            assert other.call(1).body == b"null"


def test_the_environment_is_the_functions_own(cases: Seat) -> None:
    said = cases.call({"do": "environment"}).result
    assert said["argv"] == ["hello", "_start"]
    env = said["env"]
    assert env.pop("HEARTH_DEADLINE_MS").isdigit()
    assert env == {
        "GREETING": "héllo",
        "EMPTY": "",
        "_HANDLER": "_start",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "HEARTH_NAMESPACE": "default",
        "HEARTH_REQUEST_ID": f"00000000-0000-0000-0000-{cases.calls:012x}",
    }


def test_the_trace_of_a_call_reaches_it(cases: Seat) -> None:
    cases.calls += 1
    head = {"id": "i", "kind": "event", "deadline_ms": int(time.time() * 1000) + 9000}
    body = b'{"do":"environment"}'
    cases.send(frame(wire_client.CALL, cases.calls, head | {"trace": "00-a-b-01"}, body))
    assert cases.receive().result["env"]["TRACEPARENT"] == "00-a-b-01"


def test_the_platforms_variables_win_over_the_functions(another: Opening) -> None:
    seat = another(env={"AWS_LAMBDA_FUNCTION_NAME": "other"})
    said = seat.call({"do": "environment"}).result
    assert said["env"]["AWS_LAMBDA_FUNCTION_NAME"] == "hello"


def test_an_http_request_is_an_event_of_format_two(cases: Seat) -> None:
    answer = cases.http(
        "/event", b'{"x": 1}', query="a=1&a=2", headers=[("content-type", "text/x")]
    )
    assert answer.head["status"] == 200
    event = answer.result
    assert event["rawPath"] == "/event"
    assert event["queryStringParameters"] == {"a": "1,2"}
    assert event["body"] == '{"x": 1}'


def test_an_object_with_a_status_code_is_the_response(cases: Seat) -> None:
    answer = cases.http("/teapot")
    assert answer.head["status"] == 418
    assert ["x-kind", "tea"] in answer.head["headers"]
    assert ["set-cookie", "a=1"] in answer.head["headers"]
    assert answer.body == b"short and stout"


def test_binary_bodies_pass_both_ways(cases: Seat) -> None:
    assert cases.http("/binary").body == b"\x00\x01\x02\xff"
    data = bytes(range(256)) * 40
    assert cases.http("/body", data, headers=[("content-type", "image/png")]).body == data


def test_a_response_that_cannot_be_one_is_refused(cases: Seat) -> None:
    head = cases.http("/elsewhere").head
    assert (head["code"], "statusCode" in head["message"]) == ("function_response_invalid", True)


def test_standard_error_is_the_log_of_the_call(cases: Seat) -> None:
    cases.call({"do": "write", "err": "a line"})
    assert cases.output(2) == b"a line\n"


def test_noise_without_an_end_of_line_is_log_too(cases: Seat) -> None:
    cases.call({"do": "noise"})
    assert cases.output(2) == bytes(range(256))


def test_an_exit_status_is_the_functions_error(cases: Seat) -> None:
    head = cases.call({"do": "fail", "status": 3}).head
    assert head["code"] == "function_error"
    assert (head["type"], head["message"]) == ("Runtime.ExitError", "exit status 3")
    assert head["trace"] == ["about to fail"]


def test_a_trap_says_what_and_where(cases: Seat) -> None:
    head = cases.call({"do": "trap"}).head
    assert (head["code"], head["type"]) == ("function_error", "Trap")
    assert "unreachable" in head["message"]
    assert any(line.strip().startswith("at ") for line in head["trace"])
    assert cases.call({"do": "echo", "value": 1}).result == 1


def test_endless_recursion_is_a_trap(cases: Seat) -> None:
    head = cases.call({"do": "recurse"}).head
    assert (head["type"], "call stack exhausted" in head["message"]) == ("Trap", True)


def test_memory_ends_at_the_limit(another: Opening) -> None:
    seat = another(memory_mb=16)
    assert seat.call({"do": "grow", "mb": 6}).result == "grown"
    head = seat.call({"do": "grow", "mb": 64}).head
    assert head["code"] == "function_out_of_memory", head
    assert "16 MB" in head["message"]
    assert seat.call({"do": "grow", "mb": 6}).result == "grown"


def test_a_module_that_begins_with_too_much_memory_is_refused(host: Host) -> None:
    text = '(module (memory (export "memory") 1024) (func (export "_start")))'
    with host.open(modules.compiled(text)) as seat:
        head = seat.init("_start", memory_mb=16).head
        assert (head["type"], "64 MB" in head["message"]) == ("OutOfMemory", True)


@pytest.mark.parametrize("path", ["/etc/passwd", "/var/task/1/module.json", ".", "/proc/self/maps"])
def test_there_is_no_file_to_open(cases: Seat, path: str) -> None:
    assert cases.call({"do": "open", "path": path}).result["descriptor"] == -1


def test_clocks_tell_the_time(cases: Seat) -> None:
    assert abs(cases.call({"do": "clock"}).result - time.time()) < 60


# --- exported handlers


def test_an_exported_function_is_given_the_event_in_memory(host: Host) -> None:
    with host.open(modules.compiled(modules.HANDLER, "echo")) as seat:
        seat.ready("echo")
        assert seat.call({"a": "ü"}).result == {"a": "ü"}
        large = "x" * 1_000_000
        assert seat.call(large).result == large


def test_an_answer_beyond_the_modules_memory_is_an_error(host: Host) -> None:
    with host.open(modules.compiled(modules.HANDLER, "echo")) as seat:
        seat.ready("astray")
        head = seat.call(1).head
        assert (head["type"], "beyond" in head["message"]) == ("Handler.BadPointer", True)


def test_a_handler_that_is_not_there_is_told_what_is(host: Host) -> None:
    with host.open(modules.compiled(modules.HANDLER, "echo")) as seat:
        answer = seat.init("absent")
        assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "HandlerNotFound")
        assert set(answer.head["found"]) == {"_initialize", "alloc", "astray", "echo", "number"}


def test_a_handler_of_another_type_is_refused(host: Host) -> None:
    with host.open(modules.compiled(modules.HANDLER, "echo")) as seat:
        head = seat.init("number").head
        assert (head["type"], "(i32) -> (i32)" in head["message"]) == ("HandlerInvalid", True)
