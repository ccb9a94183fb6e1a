"""Several calls at once in one sandbox: side by side, each with its own output and its own end."""

from __future__ import annotations

import re
from typing import Any

from runtimes.registry import Runtime
from tests.conformance.conftest import FUNCTIONS, Boot
from tests.conformance.wire_client import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    INIT_ERROR,
    READY,
    RESULT,
    Frame,
    Sandbox,
)

SEATS = 8

# What a write of no call looks like is as it was written; a tagged line says its call.
TAGGED = re.compile(rb"\x1e(\d+)\x1f([^\n]*)\n")


def source(runtime: Runtime) -> str:
    """The function that does what its event says."""
    return (FUNCTIONS / f"concurrency{runtime.suffixes[0]}").read_text()


def started(boot: Boot, runtime: Runtime, kind: str = "whole") -> Sandbox:
    """A sandbox that takes several calls, its output at import forgotten."""
    sandbox = boot(source(runtime))
    answer = sandbox.init(f"main.{kind}", per_sandbox=SEATS)
    assert answer.kind == READY, answer
    assert sandbox.output(1) == b"at import\n"
    return sandbox


def answers(sandbox: Sandbox, count: int) -> dict[int, Frame]:
    """The next answers, by call."""
    found = [sandbox.receive() for _ in range(count)]
    assert len({answer.call for answer in found}) == count
    return {answer.call: answer for answer in found}


def tagged(sandbox: Sandbox, number: int = 1) -> list[tuple[int, bytes]]:
    """Call and text of each tagged line written to a descriptor; nothing else may be there."""
    out = sandbox.output(number)
    assert TAGGED.sub(b"", out) == b"", out
    return [(int(call), line) for call, line in TAGGED.findall(out)]


def until_written(sandbox: Sandbox, text: bytes) -> None:
    """Wait until the function has written this to standard output."""
    while text not in sandbox.written[1]:
        sandbox._pump(60)


def test_calls_run_side_by_side_and_answer_in_any_order(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    for number in range(1, SEATS):
        assert sandbox.start([{"wait": f"gate {number + 1}"}, {"open": f"gate {number}"}, number])
    sandbox.start([{"open": f"gate {SEATS}"}, SEATS])
    order = [sandbox.receive() for _ in range(SEATS)]
    assert [answer.call for answer in order] == list(range(SEATS, 0, -1))
    assert [answer.result for answer in order] == list(range(SEATS, 0, -1))


def test_each_call_has_its_own_context(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    for _ in range(3):
        sandbox.start([{"wait": "all"}, {"id": 1}])
    sandbox.start([{"open": "all"}, {"id": 1}])
    found = answers(sandbox, 4)
    assert {call: answer.result[-2:] for call, answer in found.items()} == {
        call: f"{call:02}" for call in range(1, 5)
    }


def test_one_calls_error_is_no_other_calls(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    sandbox.start([{"wait": "go"}, "fine"])
    sandbox.start([{"wait": "go"}, {"raise": "not fine"}])
    sandbox.send(sandbox.call_frame("event", b"{"))
    sandbox.start([{"open": "go"}, None])
    found = answers(sandbox, 4)
    assert found[1].result == "fine"
    assert (found[2].kind, found[2].head["message"]) == (ERROR, "not fine")
    assert found[3].head["type"] == "Runtime.UnmarshalError"
    assert sandbox.call(["on"]).result == "on"


def test_every_line_says_whose_it_is(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    steps = [{"out": "a\n"}, {"err": "e\n"}, {"log": "logged"}, {"wait": "go"}, {"out": "b\nc\n"}]
    one = sandbox.start(steps)
    two = sandbox.start([*steps, {"task": "from a task\n"}])
    three = sandbox.start([{"open": "go"}, {"out": "opened\n"}])
    answers(sandbox, 3)
    out, err = tagged(sandbox, 1), tagged(sandbox, 2)
    assert [line for call, line in out if call == one] == [b"a", b"b", b"c"]
    assert [line for call, line in out if call == two] == [b"a", b"b", b"c", b"from a task"]
    assert [line for call, line in out if call == three] == [b"opened"]
    for call in (one, two):
        words = [line for number, line in err if number == call]
        assert words[0] == b"e"
        assert words[1].endswith(b"logged")
        assert len(words) == 2


def test_an_unfinished_line_waits_for_its_call(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    one = sandbox.start([{"out": "one "}, {"wait": "1"}, {"out": "and one\nrest of one"}])
    two = sandbox.start([{"out": "two "}, {"open": "1"}, {"wait": "2"}, {"out": "and two\n"}])
    first = sandbox.receive()
    assert first.call == one
    assert tagged(sandbox) == [(one, b"one and one"), (one, b"rest of one")]
    three = sandbox.start([{"open": "2"}])
    assert set(answers(sandbox, 2)) == {two, three}
    assert tagged(sandbox) == [(two, b"two and two")]


def test_lines_are_whole_however_long_and_many(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    text = "".join(f"{number:04}" + "-" * 200 + "\n" for number in range(500))
    for _ in range(4):
        sandbox.start([{"wait": "go"}, {"out": text}, {"out": "ünfinished 🦊"}])
    sandbox.start([{"open": "go"}])
    answers(sandbox, 5)
    lines = tagged(sandbox)
    for call in range(1, 5):
        assert (
            b"\n".join(line for number, line in lines if number == call)
            == (text + "ünfinished 🦊").encode()
        )


def test_what_has_no_context_is_written_as_it_is(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    sandbox.start([{"raw": "straight\n"}, {"run": "from a subprocess"}, {"out": "told\n"}])
    assert sandbox.receive().kind == RESULT
    assert sandbox.output(1) == b"straight\nfrom a subprocess\n\x1e1\x1ftold\n"


def test_one_call_at_a_time_is_not_tagged(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(source(runtime))
    assert sandbox.init("main.whole", per_sandbox=1).kind == READY
    sandbox.call([{"out": "plain\n"}, {"err": "plain"}])
    assert sandbox.output(1) == b"at import\nplain\n"
    assert sandbox.output(2) == b"plain"


def test_a_cancel_ends_one_call_and_no_other(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    one = sandbox.start([{"out": "begun\n"}, {"wait": "never"}])
    two = sandbox.start([{"wait": "go"}, "two"])
    until_written(sandbox, b"begun")
    sandbox.cancel(one)
    answer = sandbox.receive()
    assert (answer.call, answer.kind, answer.head["code"]) == (one, ERROR, "function_error")
    kind = {"python": "CancelledError", "node": "AbortError"}[runtime.short]
    assert answer.head["type"] == kind
    sandbox.start([{"open": "go"}])
    assert answers(sandbox, 2)[two].result == "two"


def test_a_call_that_is_cancelled_at_once_is_answered_once(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    frame = sandbox.call_frame("event", b'[{"wait": "never"}]')
    sandbox.cancel(sandbox.calls)  # before there is such a call: it means nothing
    sandbox.send(frame)
    sandbox.cancel(sandbox.calls)
    sandbox.cancel(sandbox.calls)
    answer = sandbox.receive()
    assert (answer.call, answer.kind) == (1, ERROR)
    assert sandbox.call(["on"]).result == "on"


def test_a_call_may_make_something_of_its_cancel(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    call = sandbox.start([{"stubborn": "partial"}])
    until_written(sandbox, b"begun")
    sandbox.cancel(call)
    assert sandbox.receive().result == "partial"
    sandbox.cancel(call)
    assert sandbox.call(["on"]).result == "on"


def test_an_async_call_alone_in_its_sandbox_is_cancelled_too(boot: Boot, runtime: Runtime) -> None:
    sandbox = boot(source(runtime))
    assert sandbox.init("main.whole", per_sandbox=1).kind == READY
    call = sandbox.start([{"out": "begun\n"}, {"wait": "never"}])
    until_written(sandbox, b"begun")
    sandbox.cancel(call)
    answer = sandbox.receive()
    assert (answer.call, answer.kind) == (call, ERROR)
    assert sandbox.call(["on"]).result == "on"


def test_streams_run_side_by_side_each_with_its_own_credit(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime, "stream")
    slow = sandbox.start([CREDIT_BYTES, "more of slow"])
    got = 0
    while got < CREDIT_BYTES:
        got += len(sandbox.receive().body)
    fast = sandbox.start(["fast", CREDIT_BYTES])
    frames = sandbox.streamed(fast)
    assert frames[-1].kind == END
    assert sum(len(frame.body) for frame in frames) == CREDIT_BYTES + 4
    sandbox.credit(slow, 1000)
    rest = sandbox.streamed(slow)
    assert [(frame.kind, frame.body) for frame in rest] == [(CHUNK, b"more of slow"), (END, b"")]


def test_a_cancelled_stream_ends_and_no_other(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime, "stream")
    one = sandbox.start(["first of one", {"wait": "never"}])
    assert sandbox.receive().body == b"first of one"
    two = sandbox.start(["first of two", {"wait": "go"}, "second of two"])
    assert sandbox.receive().body == b"first of two"
    sandbox.cancel(one)
    end = sandbox.receive()
    assert (end.call, end.kind, end.head["code"]) == (one, END, "function_error")
    three = sandbox.start([{"open": "go"}])
    by_call: dict[int, list[Any]] = {two: [], three: []}
    while sum(kinds.count(END) for kinds in by_call.values()) < 2:
        frame = sandbox.receive()
        by_call[frame.call] += [frame.body, frame.kind] if frame.body else [frame.kind]
    assert by_call == {two: [b"second of two", CHUNK, END], three: [CHUNK, END]}


def test_the_connections_end_ends_all_calls(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    sandbox.start([{"wait": "never"}])
    sandbox.start([{"out": "begun\n"}, {"wait": "never"}])
    until_written(sandbox, b"begun")
    sandbox.wire.close()
    assert sandbox.exit_status() == 0


def test_large_events_and_results_pass_side_by_side(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    one = sandbox.start([{"wait": "go"}, "x" * 1_000_000])
    two = sandbox.start([{"wait": "go"}, "y" * 2_000_000])
    sandbox.start([{"open": "go"}])
    found = answers(sandbox, 3)
    assert found[one].result == "x" * 1_000_000
    assert found[two].result == "y" * 2_000_000


def test_many_calls_one_after_the_other_leave_nothing_behind(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    for number in range(200):
        assert sandbox.call([{"out": "unfinished"}, number]).result == number
    assert len(tagged(sandbox)) == 200


def test_a_handler_that_is_not_async_is_refused(boot: Boot, runtime: Runtime) -> None:
    source = {
        "python": "def handler(event, context):\n    return event\n",
        "node": "export const handler = (event) => event;\n",
    }
    sandbox = boot(source[runtime.short])
    answer = sandbox.init(per_sandbox=2)
    if runtime.short == "python":
        assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "HandlerNotAsync")
        assert "async def" in answer.head["message"]
        assert answer.head["trace"] == []
    else:  # Node's handlers are all asynchronous enough
        assert answer.kind == READY
        assert sandbox.call(5).result == 5
