"""Handlers that stream: CHUNKs as things are yielded, one END, never more than credit allows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtimes.registry import Runtime
from tests.conformance.conftest import FUNCTIONS, Boot
from tests.conformance.wire_client import (
    CHUNK,
    CHUNK_BYTES_MAX,
    CREDIT_BYTES,
    END,
    ERROR,
    READY,
    RESULT,
    Frame,
    Sandbox,
)

OCTETS = {"status": 200, "headers": [["content-type", "application/octet-stream"]]}


@pytest.fixture(params=["synchronous", "asynchronous", "returned", "several"])
def sandbox(boot: Boot, runtime: Runtime, request: pytest.FixtureRequest) -> Sandbox:
    """A function that streams what its event says; "several" takes several calls at once."""
    suffix = runtime.suffixes[0]
    made = boot((FUNCTIONS / f"streaming{suffix}").read_text())
    several = request.param == "several"
    handler = "main.asynchronous" if several else f"main.{request.param}"
    assert made.init(handler, per_sandbox=4 if several else 1).kind == READY
    return made


def whole(frames: list[Frame]) -> bytes:
    """The bytes of a stream that ended well."""
    assert [frame.kind for frame in frames] == [CHUNK] * (len(frames) - 1) + [END], frames
    assert frames[-1].head == {}, frames
    assert frames[-1].body == b""
    assert all(frame.head == {} for frame in frames[1:])
    assert all(0 < len(frame.body) <= CHUNK_BYTES_MAX for frame in frames[1:-1])
    return b"".join(frame.body for frame in frames)


def lines(sandbox: Sandbox) -> list[bytes]:
    """What the function wrote to descriptor 1, without the tags of calls."""
    return [line.rpartition(b"\x1f")[2] for line in sandbox.output(1).splitlines()]


def test_what_is_yielded_is_written_as_it_comes(sandbox: Sandbox) -> None:
    event = [{"bytes": 3}, "tëxt 🦊", {"a": [1, "é"]}, None, 5, [True]]
    frames = sandbox.streamed(sandbox.start(event))
    assert whole(frames) == 'xxxtëxt 🦊{"a":[1,"é"]}\nnull\n5\n[true]\n'.encode()
    assert frames[0].head == OCTETS
    assert len(frames) == len(event) + 1
    assert lines(sandbox) == [b"over"]
    assert whole(sandbox.streamed(sandbox.start(["again"]))) == b"again"


def test_an_http_call_streams_alike(sandbox: Sandbox) -> None:
    text = [("content-type", "application/json")]
    steps = [{"statusCode": 201, "headers": {"Content-Type": "text/plain"}}, "héllo"]
    first = sandbox.http("/", json.dumps(steps).encode(), headers=text)
    assert first.kind == CHUNK
    assert first.head == {"status": 201, "headers": [["content-type", "text/plain"]]}
    assert whole([first, *sandbox.streamed(1)]) == "héllo".encode()


@pytest.mark.parametrize(
    ("head", "status", "headers", "body"),
    [
        ({"statusCode": 204}, 204, [["content-type", "application/json"]], b""),
        (
            {"statusCode": "404", "headers": {"Content-Type": "text/plain"}, "body": "é"},
            404,
            [["content-type", "text/plain"]],
            "é".encode(),
        ),
        (
            {
                "statusCode": 200,
                "headers": {"x": ["1", 2], "content-type": "text/html"},
                "cookies": ["a=1"],
                "body": "aGk=",
                "isBase64Encoded": True,
            },
            200,
            [["x", "1"], ["x", "2"], ["content-type", "text/html"], ["set-cookie", "a=1"]],
            b"hi",
        ),
    ],
)
def test_an_object_with_a_status_is_the_head(
    sandbox: Sandbox,
    head: dict[str, Any],
    status: int,
    headers: list[list[str]],
    body: bytes,
) -> None:
    frames = sandbox.streamed(sandbox.start([head, "rest", {"statusCode": 500}]))
    assert frames[0].head == {"status": status, "headers": headers}
    assert frames[0].body == body
    assert whole(frames) == body + b'rest{"statusCode":500}\n'


def test_the_first_chunk_leaves_before_the_second_value_is_there(sandbox: Sandbox) -> None:
    call = sandbox.start([{"statusCode": 202}, {"wait": "go"}, "later", {"wait": "on"}])
    first = sandbox.receive()
    assert (first.kind, first.head["status"], first.body) == (CHUNK, 202, b"")
    (sandbox.task / "go").touch()
    second = sandbox.receive()
    assert second.body == b"later"
    (sandbox.task / "on").touch()
    assert whole([first, second, *sandbox.streamed(call)]) == b"later"


def test_nothing_yielded_is_an_empty_200(sandbox: Sandbox) -> None:
    frames = sandbox.streamed(sandbox.start([]))
    assert whole(frames) == b""
    assert (len(frames), frames[0].head) == (2, OCTETS)


def test_an_empty_value_is_no_chunk_but_the_first(sandbox: Sandbox) -> None:
    frames = sandbox.streamed(sandbox.start(["", "", {"bytes": 0}, "a", ""]))
    assert (len(frames), whole(frames)) == (3, b"a")


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        ({"raise": "no ördér"}, "function_error", "no ördér"),
        ({"odd": True}, "function_response_invalid", ""),
    ],
)
def test_what_fails_before_the_first_chunk_is_an_error(
    sandbox: Sandbox, step: Any, code: str, says: str
) -> None:
    (answer,) = sandbox.streamed(sandbox.start([step, "never"]))
    assert (answer.kind, answer.head["code"]) == (ERROR, code)
    assert says in answer.head["message"]
    assert lines(sandbox) == [b"over"]
    assert whole(sandbox.streamed(sandbox.start(["on"]))) == b"on"


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        ({"raise": "no ördér"}, "function_error", "no ördér"),
        ({"odd": True}, "function_response_invalid", ""),
    ],
)
def test_what_fails_later_is_told_by_the_end(
    sandbox: Sandbox, step: Any, code: str, says: str
) -> None:
    frames = sandbox.streamed(sandbox.start(["some", step, "never"]))
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert frames[0].body == b"some"
    assert frames[1].head["code"] == code
    assert says in frames[1].head["message"]
    assert isinstance(frames[1].head["trace"], list)
    assert lines(sandbox) == [b"over"]
    assert whole(sandbox.streamed(sandbox.start(["on"]))) == b"on"


@pytest.mark.parametrize(
    "head",
    [
        {"statusCode": 99},
        {"statusCode": 200, "headers": {"x": "a\r\nb: c"}},
        {"statusCode": 200, "headers": {"x": "y" * 200_000}},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
    ],
    ids=["status", "header", "large", "base64"],
)
def test_a_bad_head_is_an_error(sandbox: Sandbox, head: Any) -> None:
    (answer,) = sandbox.streamed(sandbox.start([head, "never"]))
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_response_invalid")


def test_a_large_value_comes_in_pieces(sandbox: Sandbox) -> None:
    frames = sandbox.streamed(sandbox.start([{"bytes": 1_000_001}, "end"]))
    assert whole(frames) == b"x" * 1_000_001 + b"end"
    assert len(frames[0].body) == CHUNK_BYTES_MAX


def test_a_stream_may_be_longer_than_any_payload(sandbox: Sandbox) -> None:
    frames = sandbox.streamed(sandbox.start([{"bytes": 700_000}] * 12))
    assert len(whole(frames)) == 8_400_000


def take(sandbox: Sandbox, size: int) -> None:
    """Read CHUNKs whose bodies are exactly that long together."""
    while size > 0:
        answer = sandbox.receive()
        assert answer.kind == CHUNK, answer
        size -= len(answer.body)
    assert size == 0


def test_without_credit_nothing_is_sent_and_nothing_more_is_asked(sandbox: Sandbox) -> None:
    step = CREDIT_BYTES // 4
    event: list[Any] = []
    for number in range(8):
        event += [{"write": str(number)}, {"bytes": step}]
    call = sandbox.start(event)
    take(sandbox, CREDIT_BYTES)
    sandbox.credit(call, 1)
    take(sandbox, 1)  # had the shim not stopped, more than one byte would be here
    assert lines(sandbox) == [b"0", b"1", b"2", b"3", b"4"]
    sandbox.credit(call, 100)
    take(sandbox, 100)
    assert lines(sandbox) == []
    sandbox.credit(call, step - 101)
    take(sandbox, step - 101)
    sandbox.credit(call, 10 * step)
    take(sandbox, 3 * step)
    assert sandbox.receive().kind == END
    assert lines(sandbox) == [b"5", b"6", b"7", b"over"]


def test_credit_that_comes_early_counts(sandbox: Sandbox) -> None:
    call = sandbox.start([{"wait": "go"}, {"bytes": CREDIT_BYTES + 1000}, {"wait": "never"}])
    sandbox.credit(call, 600)
    sandbox.credit(call, 401)
    (sandbox.task / "go").touch()
    take(sandbox, CREDIT_BYTES + 1000)


@pytest.mark.parametrize("over", [0, 1])
def test_a_cancel_ends_a_stream_that_waits_for_credit(sandbox: Sandbox, over: int) -> None:
    call = sandbox.start([{"bytes": CREDIT_BYTES + over}, {"write": "asked"}, "never"])
    take(sandbox, CREDIT_BYTES)
    sandbox.cancel(call)
    end = sandbox.receive()
    assert (end.kind, end.call, end.body) == (END, call, b"")
    assert end.head["code"] == "function_error"
    assert lines(sandbox) == [b"over"]  # without credit it was not asked for more
    assert whole(sandbox.streamed(sandbox.start(["on"]))) == b"on"


def test_a_cancel_is_noticed_before_the_next_chunk(sandbox: Sandbox) -> None:
    call = sandbox.start(["some", {"wait": "go"}, *["more"] * 10_000])
    assert sandbox.receive().body == b"some"
    sandbox.cancel(call)
    (sandbox.task / "go").touch()
    end = sandbox.receive()
    assert (end.kind, end.head["code"]) == (END, "function_error"), end
    assert lines(sandbox) == [b"over"]
    assert whole(sandbox.streamed(sandbox.start(["on"]))) == b"on"


def test_a_cancel_before_the_first_chunk_is_answered_by_an_error(sandbox: Sandbox) -> None:
    call = sandbox.start([{"write": "begun"}, {"wait": "go"}, *["more"] * 10_000])
    while not sandbox.written[1]:
        sandbox._pump(60)
    sandbox.cancel(call)
    (sandbox.task / "go").touch()
    answer = sandbox.receive()
    assert (answer.kind, answer.head["code"]) == (ERROR, "function_error")
    assert lines(sandbox) == [b"begun", b"over"]


def test_a_cancel_after_the_end_means_nothing(sandbox: Sandbox) -> None:
    call = sandbox.start(["some"])
    assert whole(sandbox.streamed(call)) == b"some"
    sandbox.cancel(call)
    sandbox.credit(call, 1000)
    assert whole(sandbox.streamed(sandbox.start(["on"]))) == b"on"


def test_a_stream_that_waits_for_credit_ends_with_the_connection(sandbox: Sandbox) -> None:
    sandbox.start([{"bytes": CREDIT_BYTES + 1}])
    take(sandbox, CREDIT_BYTES)
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_what_was_written_is_there_before_the_end(sandbox: Sandbox) -> None:
    call = sandbox.start(["a", {"write": "first"}, "b", {"write": "second"}])
    assert whole(sandbox.streamed(call)) == b"ab"
    assert lines(sandbox) == [b"first", b"second", b"over"]


def test_an_event_that_is_not_json_is_an_error_as_ever(sandbox: Sandbox) -> None:
    answer = sandbox.call_raw(b"{")
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.UnmarshalError")


def test_a_handler_that_returns_no_stream_is_answered_by_a_result(
    boot: Boot, runtime: Runtime
) -> None:
    source = {
        "python": "def handler(event, context):\n"
        "    return iter_of(event) if event else [1]\n"
        "def iter_of(event):\n    yield event\n",
        "node": "async function* steps(event) { yield event; }\n"
        "export const handler = (event) => (event ? steps(event) : [1]);\n",
    }
    sandbox = boot(source[runtime.short])
    assert sandbox.init().kind == READY
    assert sandbox.call("").kind == RESULT
    assert whole(sandbox.streamed(sandbox.start("text"))) == b"text"
    assert sandbox.call("").result == [1]
