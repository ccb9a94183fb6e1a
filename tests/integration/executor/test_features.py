"""What a version may ask of its sandboxes, through executor and real shims, on each driver."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionFault,
    FunctionInitFailed,
    FunctionTimeout,
    HearthError,
)
from core.limits import STREAM_WINDOW_BYTES
from core.model import Version
from executor.call import Call, Outcome
from executor.executor import Executor
from tests.fixtures.nodes import Bench, until
from tests.fixtures.sandboxes import ECHO, Codes, event

# Answers when the file it is told of is there: a test decides, not a clock.
GATED = """
import asyncio, os
async def handler(event, context):
    print("begun", event["name"], flush=True)
    while not os.path.exists(event["gate"]):
        await asyncio.sleep(0.005)
    print("done", event["name"])
    return event["name"]
"""


class Gate:
    """A file that the function sees when the test makes it."""

    def __init__(self, bench: Bench, version: Version, name: str) -> None:
        self._file = Path(version.layers[0]) / name
        self.seen = f"/var/task/{name}" if bench.service else str(self._file)

    def open(self) -> None:
        self._file.touch()


async def told(executor: Executor, version: Version, body: bytes = b"{}") -> object:
    """The result of a call that must succeed."""
    outcome = await executor.invoke(version, event(body))
    assert outcome.failure is None, outcome.failure
    return json.loads(outcome.body)


async def everything(outcome: Outcome) -> bytes:
    """A streamed body to its end."""
    assert outcome.stream is not None
    whole = b""
    while chunk := await outcome.stream.read():
        whole += chunk
    return whole


async def failing(work: object, error: type[HearthError]) -> HearthError:
    with pytest.raises(error) as caught:
        await work  # type: ignore[misc]
    return caught.value


# --- streaming ---------------------------------------------------------------------------------


async def test_a_generator_streams_and_its_seat_returns(bench: Bench, codes: Codes) -> None:
    source = "def handler(e, c):\n  for n in range(3):\n    print('line', n)\n    yield f'{n};'"
    async with bench.node() as executor:
        version = codes.version(source)
        call = event()
        outcome = await executor.invoke(version, call)
        assert (outcome.status, await everything(outcome)) == (200, b"0;1;2;")
        await until(lambda: executor.stats().idle == 1)
        assert bench.lines.of(call) == ["line 0", "line 1", "line 2"]
        assert not (await executor.invoke(version, event())).cold


async def test_a_slow_reader_slows_the_function(bench: Bench, codes: Codes) -> None:
    source = (
        "def handler(e, c):\n"
        "  for n in range(1000):\n"
        "    print(n, flush=True)\n"
        "    yield b'x' * 16384"
    )
    async with bench.node() as executor:
        call = event()
        outcome = await executor.invoke(codes.version(source), call)
        ahead = STREAM_WINDOW_BYTES // 16384
        await until(lambda: len(bench.lines.of(call)) >= ahead)
        await asyncio.sleep(0.2)  # it could have yielded everything by now
        assert len(bench.lines.of(call)) <= ahead + 2
        assert len(await everything(outcome)) == 1000 * 16384


async def test_a_reader_that_leaves_ends_the_generator(bench: Bench, codes: Codes) -> None:
    source = (
        "def handler(e, c):\n  try:\n    while True: yield b'x' * 1024\n  finally: print('closed')"
    )
    async with bench.node() as executor:
        version, call = codes.version(source), event()
        outcome = await executor.invoke(version, call)
        assert outcome.stream is not None
        await outcome.stream.read()
        outcome.stream.close()
        await until(lambda: executor.stats().idle == 1)
        assert bench.lines.of(call) == ["closed"]


async def test_a_stream_that_fails_midway_says_so_after_what_came(
    bench: Bench, codes: Codes
) -> None:
    source = "def handler(e, c):\n  yield 'first'\n  raise ValueError('broke')"
    async with bench.node() as executor:
        version = codes.version(source)
        outcome = await executor.invoke(version, event())
        assert outcome.stream is not None
        assert await outcome.stream.read() == b"first"
        error = await failing(outcome.stream.read(), FunctionFault)
        assert error.message == "broke"
        await until(lambda: executor.stats().idle == 1)


async def test_a_stream_ends_at_the_deadline(bench: Bench, codes: Codes) -> None:
    source = "import time\ndef handler(e, c):\n  yield 'first'\n  time.sleep(3600)"
    async with bench.node() as executor:
        outcome = await executor.invoke(codes.version(source, timeout_s=0.5), event())
        assert outcome.stream is not None
        assert await outcome.stream.read() == b"first"
        await failing(outcome.stream.read(), FunctionTimeout)
        await until(lambda: executor.stats().idle == executor.stats().busy == 0)


# --- several calls in one sandbox --------------------------------------------------------------


async def gated(
    bench: Bench, executor: Executor, version: Version, names: str
) -> tuple[dict[str, Gate], dict[str, asyncio.Task[Outcome]], dict[str, Call]]:
    """Calls that are all under way."""
    gates = {name: Gate(bench, version, name) for name in names}
    calls = {
        name: event(json.dumps({"name": name, "gate": gates[name].seen}).encode()) for name in names
    }
    tasks = {}
    for name, call in calls.items():
        tasks[name] = asyncio.create_task(executor.invoke(version, call))
        await until(lambda name=name, call=call: f"begun {name}" in bench.lines.of(call))
    return gates, tasks, calls


async def test_calls_share_one_sandbox_and_keep_their_lines(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(GATED, per_sandbox=3)
        gates, tasks, calls = await gated(bench, executor, version, "abc")
        assert executor.stats().busy == 1
        for name in "cab":
            gates[name].open()
            assert (await tasks[name]).body == f'"{name}"'.encode()
            assert bench.lines.of(calls[name]) == [f"begun {name}", f"done {name}"]
        assert executor.stats().idle == 1


async def test_a_full_sandbox_is_joined_by_a_second(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(GATED, per_sandbox=2)
        gates, tasks, _ = await gated(bench, executor, version, "abc")
        assert executor.stats().busy == 2
        for name, task in tasks.items():
            gates[name].open()
            await task


async def test_one_of_several_times_out_and_the_others_run_on(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(GATED, per_sandbox=3, timeout_s=1.5)
        first = asyncio.create_task(
            executor.invoke(version, event(b'{"name": "stuck", "gate": "/nowhere"}'))
        )
        await until(lambda: any("begun" in line.text for line in bench.lines.lines))
        await asyncio.sleep(0.5)
        gates, tasks, _ = await gated(bench, executor, version, "ab")
        assert executor.stats().busy == 1
        await failing(first, FunctionTimeout)
        for name in "ab":
            gates[name].open()
            assert (await tasks[name]).body == f'"{name}"'.encode()
        await until(lambda: executor.stats().idle == executor.stats().busy == 0)
        gate = Gate(bench, version, "a")
        body = json.dumps({"name": "next", "gate": gate.seen}).encode()
        assert (await executor.invoke(version, event(body))).why_cold == "timed_out"


async def test_a_crash_fails_exactly_the_calls_inside(bench: Bench, codes: Codes) -> None:
    source = GATED + "    \nOLD = handler\nasync def handler(event, context):\n"
    source += "    if event['name'] == 'x': os._exit(3)\n    return await OLD(event, context)\n"
    async with bench.node() as executor:
        version = codes.version(source, per_sandbox=2)
        gates, tasks, _ = await gated(bench, executor, version, "abc")  # two here, one there
        gates["d"] = Gate(bench, version, "d")
        crash = executor.invoke(version, event(b'{"name": "x", "gate": ""}'))
        await failing(crash, FunctionCrashed)
        lost = "c"
        await failing(tasks[lost], FunctionCrashed)
        for name in "ab":
            gates[name].open()
            assert (await tasks[name]).body == f'"{name}"'.encode()


async def test_a_handler_that_is_not_async_cannot_take_several(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        check = executor.check(codes.version(ECHO, per_sandbox=2))
        error = await failing(check, FunctionInitFailed)
        assert error.details["type"] == "HandlerNotAsync"


# --- a process for each request ----------------------------------------------------------------


async def test_nothing_leaks_from_one_request_to_the_next(bench: Bench, codes: Codes) -> None:
    source = (
        "import os, random, tempfile\n"
        "seen, folder = [], tempfile.mkdtemp() if False else '/tmp'\n"
        "def handler(e, c):\n"
        "  seen.append(e)\n"
        "  return [seen, os.getpid(), random.random()]"
    )
    async with bench.node() as executor:
        version = codes.version(source, isolation="request")
        answers = [await told(executor, version, b"%d" % n) for n in range(4)]
        assert [a[0] for a in answers] == [[0], [1], [2], [3]]  # type: ignore[index]
        assert len({a[1] for a in answers}) == 4  # type: ignore[index]
        assert len({a[2] for a in answers}) == 4  # type: ignore[index]
        assert executor.stats().idle == 1
        assert not (await executor.invoke(version, event())).cold


async def test_a_forked_request_streams_and_fails_as_any_other(bench: Bench, codes: Codes) -> None:
    source = (
        "import os\n"
        "def handler(e, c):\n"
        "  if e == 'stream': return (f'{n};' for n in range(3))\n"
        "  if e == 'raise': raise ValueError('no')\n"
        "  if e == 'crash': os._exit(9)\n"
        "  return e"
    )
    async with bench.node() as executor:
        version = codes.version(source, isolation="request")
        outcome = await executor.invoke(version, event(b'"stream"'))
        assert await everything(outcome) == b"0;1;2;"
        failure = (await executor.invoke(version, event(b'"raise"'))).failure
        assert failure is not None
        assert failure.type == "ValueError"
        await failing(executor.invoke(version, event(b'"crash"')), FunctionCrashed)
        assert await told(executor, version, b"1") == 1
