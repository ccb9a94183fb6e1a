"""What is particular to several calls at once in Node."""

from __future__ import annotations

import re
import select

import pytest

from runtimes.registry import RUNTIMES
from tests.conformance.conftest import Boot
from tests.conformance.wire_client import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    READY,
    RESULT,
    Sandbox,
    WireEnded,
)

pytestmark = pytest.mark.parametrize("runtime", [RUNTIMES["node24"]], ids=["node24"], indirect=True)

SEATS = 4
GATE = "let open;\nconst gate = new Promise((done) => { open = done; });\n"


def ready(boot: Boot, source: str) -> Sandbox:
    """A sandbox that takes several calls."""
    sandbox = boot(source)
    answer = sandbox.init(per_sandbox=SEATS)
    assert answer.kind == READY, answer
    return sandbox


def until_written(sandbox: Sandbox, times: int) -> None:
    """Wait until that many lines have been written to standard output."""
    while sandbox.written[1].count(b"\n") < times:
        sandbox._pump(60)


def test_handlers_that_call_back_run_side_by_side(boot: Boot) -> None:
    sandbox = ready(
        boot,
        f"{GATE}export const handler = (event, context, callback) => {{\n"
        "  if (event === 'open') { open(); callback(null, event); }\n"
        "  else gate.then(() => callback(null, event));\n"
        "};\nsetInterval(() => {}, 1e6);\n",
    )
    for event in ("a", "b", "open"):
        sandbox.start(event)
    answers = {answer.call: answer.result for answer in (sandbox.receive() for _ in range(3))}
    assert answers == {1: "a", 2: "b", 3: "open"}


def test_an_uncaught_error_ends_every_call(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async (event) => {\n"
        "  process.stdout.write('unfinished');\n  console.error('begun');\n"
        "  if (event === 3) setTimeout(() => { throw new RangeError('lost'); }, 1);\n"
        "  await new Promise(() => {});\n};\n",
    )
    for event in (1, 2, 3):
        sandbox.start(event)
    answers = [sandbox.receive() for _ in range(3)]
    assert {answer.call for answer in answers} == {1, 2, 3}
    assert all(
        (a.kind, a.head["message"], a.head["last"]) == (ERROR, "lost", True) for a in answers
    )
    assert sandbox.ends() == 1
    assert sandbox.output(1) == b"".join(b"\x1e%d\x1funfinished\n" % call for call in (1, 2, 3))


def test_after_an_uncaught_error_nothing_more_is_said(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {\n"
        "  stream.write('x'.repeat(event));\n  if (event > 1) return;\n"
        "  setTimeout(() => { throw new RangeError('lost'); }, 1);\n"
        "  setTimeout(() => { stream.write('late'); console.log('late'); }, 20);\n"
        "  await new Promise(() => {});\n});\n",
    )
    for size in (CREDIT_BYTES - 1, CREDIT_BYTES - 1, 1):  # more than the kernel holds
        sandbox.start(size)
    while b"late" not in sandbox.written[1]:
        select.select([sandbox.outputs[1]], [], [], 60)
        sandbox._drain()
    kinds = []
    with pytest.raises(WireEnded):
        while True:
            kinds.append(sandbox.receive().kind)
    assert kinds.count(END) == 3
    assert kinds[-1] == END


def test_what_is_written_in_timers_and_listeners_is_the_calls(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import { EventEmitter } from 'node:events';\nimport { readFile } from 'node:fs';\n"
        "import { setTimeout as later } from 'node:timers/promises';\n"
        "export const handler = async (event, context) => {\n"
        "  const say = (word) => console.log(event, word);\n"
        "  context.signal.addEventListener('abort', () => say('abort'));\n"
        "  await later(5); say('timer');\n"
        "  await new Promise((done) => readFile('main.mjs', () => { say('file'); done(); }));\n"
        "  const emitter = new EventEmitter().on('event', say); emitter.emit('event', 'emitter');\n"
        "  process.nextTick(say, 'tick'); queueMicrotask(() => say('microtask'));\n"
        "  say('begun');\n"
        "  await new Promise((done) => context.signal.addEventListener('abort', done));\n"
        "};\n",
    )
    calls = [sandbox.start(name) for name in ("a", "b", "c")]
    until_written(sandbox, 18)
    for call in calls:
        sandbox.cancel(call)
        assert sandbox.receive().kind == RESULT
    found = re.findall(rb"\x1e(\d)\x1f(\w) (\w+)\n", sandbox.output(1))
    assert {(int(call), name.decode()) for call, name, _ in found} == {(1, "a"), (2, "b"), (3, "c")}
    words = {word for _, _, word in found}
    assert words == {b"timer", b"file", b"emitter", b"tick", b"microtask", b"begun", b"abort"}
    assert len(found) == 21


def test_listeners_of_a_stream_write_for_its_call(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {\n"
        "  stream.on('close', () => console.log('close'));\n"
        "  const drained = new Promise((done) => stream.on('drain', () => {\n"
        "    console.log('drain'); done();\n  }));\n"
        "  if (!stream.write(Buffer.alloc(event))) await drained;\n});\n",
    )
    call = sandbox.start(CREDIT_BYTES + 10)
    left = CREDIT_BYTES
    while left > 0:
        answer = sandbox.receive()
        assert answer.kind == CHUNK
        left -= len(answer.body)
    sandbox.start(5)
    assert [frame.kind for frame in sandbox.streamed(2)][-1] != ERROR
    sandbox.output(1)
    sandbox.credit(call, 100)
    sandbox.streamed(call)
    assert set(sandbox.output(1).splitlines()) == {b"\x1e1\x1fdrain", b"\x1e1\x1fclose"}


def test_a_call_that_is_over_has_no_unfinished_lines(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "let late;\nexport const handler = async (event) => {\n"
        "  if (event) { late(); await new Promise((done) => setTimeout(done, 5)); return; }\n"
        "  new Promise((done) => { late = done; }).then(() => process.stdout.write('late'));\n"
        "};\n",
    )
    sandbox.call(0)
    sandbox.call(1)
    assert sandbox.output(1) == b"\x1e1\x1flate\n"


def test_a_line_that_never_ends_is_cut(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async () => {\n"
        "  for (let i = 0; i < 3000; i += 1) process.stdout.write('x'.repeat(1000));\n};\n",
    )
    sandbox.call(1)
    lines = sandbox.output(1).splitlines()
    assert all(line.startswith(b"\x1e1\x1fx") for line in lines)
    assert sum(len(line) - 3 for line in lines) == 3_000_000
    assert 5 < len(lines) < 50


def test_corked_output_is_still_the_calls_that_writes_it(boot: Boot) -> None:
    sandbox = ready(
        boot,
        f"{GATE}export const handler = async (event) => {{\n"
        "  process.stdout.cork();\n  process.stdout.write(`${event}\\n`);\n"
        "  if (event === 'b') open();\n  await gate;\n  process.stdout.uncork();\n};\n",
    )
    sandbox.start("a")
    sandbox.start("b")
    assert {sandbox.receive().call, sandbox.receive().call} == {1, 2}
    assert sandbox.output(1) == b"\x1e1\x1fa\n\x1e2\x1fb\n"


def test_answers_that_the_reader_does_not_take_yet_stay_whole(boot: Boot) -> None:
    sandbox = ready(boot, "export const handler = async (event) => 'x'.repeat(event);\n")
    sizes = [2_000_000, 3, 1_000_000, 200_000]
    for size in sizes:
        sandbox.start(size)
    answers = {answer.call: answer.result for answer in (sandbox.receive() for _ in sizes)}
    assert [len(answers[number]) for number in (1, 2, 3, 4)] == sizes


def test_bytes_of_an_unfinished_line_may_be_used_again(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "export const handler = async () => {\n  const bytes = Buffer.from('abc');\n"
        "  process.stdout.write(bytes);\n  bytes.fill('x');\n  process.stdout.write(bytes);\n};\n",
    )
    sandbox.call(1)
    assert sandbox.output(1) == b"\x1e1\x1fabcxxx\n"
