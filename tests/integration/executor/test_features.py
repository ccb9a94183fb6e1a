"""What a version may ask of its sandboxes, through executor and real shims, on each driver."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from core.errors import (
    FunctionCrashed,
    FunctionFault,
    FunctionInitFailed,
    FunctionTimeout,
    FunctionUnloadable,
    HearthError,
)
from core.limits import STREAM_WINDOW_BYTES
from core.model import Version
from executor.call import Call, Outcome
from executor.executor import Executor
from tests.fixtures.nodes import Bench, until
from tests.fixtures.sandboxes import ECHO, Codes, Lines, event

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
        assert len({a[1] for a in answers}) == len({a[2] for a in answers}) == 4  # type: ignore[index]
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


# --- the end, gently ---------------------------------------------------------------------------

CLOSES = """
import signal, sys, time
def end(*_):
    print("closing", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
def handler(event, context):
    return event
"""


def said(lines: Lines, text: str) -> bool:
    return any(line.text == text for line in lines.lines)


@pytest.mark.parametrize("how", ["expired", "retired", "drained"])
async def test_a_retired_sandbox_may_close_what_it_holds(
    how: str, bench: Bench, codes: Codes, lines: Lines
) -> None:
    async with bench.node() as executor:
        keep_warm_s = 0 if how == "expired" else 600
        version = codes.version(CLOSES, keep_warm_s=keep_warm_s)
        await executor.invoke(version, event())
        if how == "retired":
            executor.retire(version.id)
        if how != "drained":
            await until(lambda: said(lines, "closing"))
            await until(lambda: executor.stats().leaving == 0)
    assert said(lines, "closing")


async def test_a_function_that_will_not_end_is_ended_after_its_grace(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    source = (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n" + ECHO
    )
    async with bench.node() as executor:
        version = codes.version(source, grace_s=0.3)
        await executor.invoke(version, event())
        executor.retire(version.id)
        assert executor.stats().promised_mb > 0
        await until(lambda: executor.stats().leaving == 0)
        assert said(lines, "no")
        assert executor.stats().promised_mb == 0


async def test_a_graceful_timeout_lets_the_function_answer(bench: Bench, codes: Codes) -> None:
    source = (
        "import signal, time\n"
        "class Soon(Exception): pass\n"
        "def warn(*_): raise Soon\n"
        "signal.signal(signal.SIGTERM, warn)\n"
        "def handler(e, c):\n"
        "  try: time.sleep(3600)\n"
        "  except Soon: return 'in time'"
    )
    config = {"timeout_mode": "graceful", "timeout_s": 60.0, "grace_s": 59.5}
    async with bench.node() as executor:
        version = codes.version(source, **config)
        assert await told(executor, version) == "in time"
        await until(lambda: executor.stats().idle == executor.stats().busy == 0)


async def test_a_graceful_timeout_that_is_not_heard_ends_as_a_timeout(
    bench: Bench, codes: Codes
) -> None:
    config = {"timeout_mode": "graceful", "timeout_s": 60.0, "grace_s": 59.5}
    source = "import time\ndef handler(e, c): time.sleep(3600)"
    async with bench.node() as executor:
        await failing(executor.invoke(codes.version(source, **config), event()), FunctionTimeout)


# --- rest --------------------------------------------------------------------------------------

BUSY_BEHIND = """
import os, threading, time
def burn():
    while True: pass
threading.Thread(target=burn, daemon=True).start()
def handler(event, context):
    return time.process_time()
"""


async def test_an_idle_function_burns_no_cpu(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(BUSY_BEHIND)
        await told(executor, version)
        await until(lambda: executor.stats().frozen == 1)
        before = float(str(await told(executor, version)))
        await until(lambda: executor.stats().frozen == 1)
        await asyncio.sleep(2)
        after = float(str(await told(executor, version)))
        # Awake it would have burned two seconds; what it burns until it is frozen stays.
        assert after - before < 1.5


async def test_a_function_may_ask_to_run_on(bench: Bench, codes: Codes) -> None:
    source = (
        "import threading, time\n"
        "n = [0]\n"
        "def count():\n"
        "  while True:\n"
        "    time.sleep(0.01); n[0] += 1\n"
        "threading.Thread(target=count, daemon=True).start()\n"
        "def handler(e, c): return n[0]"
    )
    async with bench.node() as executor:
        version = codes.version(source, idle="run")
        first = int(str(await told(executor, version)))
        await asyncio.sleep(1)
        assert executor.stats().frozen == 0
        assert int(str(await told(executor, version))) > first + 10


async def test_warm_seats_are_there_before_anybody_calls(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(ECHO, min_warm=2, keep_warm_s=0)
        executor.keep([version])
        await until(lambda: executor.stats().idle == 2)
        assert not (await executor.invoke(version, event())).cold
        await asyncio.sleep(1.5)  # they would have expired
        assert executor.stats().idle == 2
        executor.keep([])
        await until(lambda: executor.stats().idle == 0)


async def test_code_that_never_loads_is_not_tried_on_every_call(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version("raise RuntimeError('no database')")
        for _ in range(3):
            await failing(executor.invoke(version, event()), FunctionInitFailed)
        error = await failing(executor.invoke(version, event()), FunctionUnloadable)
        assert error.details["last"] == {"type": "RuntimeError", "message": "no database"}
        (Path(version.layers[0]) / "main.py").write_text(ECHO)
        with contextlib.suppress(FunctionUnloadable):
            while True:  # until a probe is let through, it is refused at once
                await executor.invoke(version, event())
                break
        await until_loaded(executor, version)


async def until_loaded(executor: Executor, version: Version) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await executor.invoke(version, event())
            except FunctionUnloadable as error:
                await asyncio.sleep(float(error.details["retry_after_s"]) / 4)
            else:
                return


async def test_what_made_a_start_cold_is_told(bench: Bench, codes: Codes, lines: Lines) -> None:
    async with bench.node() as executor:
        version = codes.version(ECHO, keep_warm_s=0)
        call = event()
        first = await executor.invoke(version, call)
        assert (first.cold, first.why_cold) == (True, "first_call")
        assert "cold start, first call" in lines.of(call, "platform")[0]
        await until(lambda: executor.stats().idle == 0)
        assert (await executor.invoke(version, event())).why_cold == "expired"
        assert first.timing.init_ms > 0
