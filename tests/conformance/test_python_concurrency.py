"""Several calls at once in one Python sandbox, as far as it is particular to Python."""

from __future__ import annotations

import pytest

from runtimes.registry import RUNTIMES, Runtime
from tests.conformance.conftest import Boot
from tests.conformance.test_concurrency import answers, started, tagged, until_written
from tests.conformance.wire_client import CHUNK, END, ERROR, INIT_ERROR, READY, Sandbox

pytestmark = pytest.mark.parametrize(
    "runtime", [RUNTIMES["python3.13"]], ids=["python3.13"], indirect=True
)


def ready(boot: Boot, source: str, per_sandbox: int = 4) -> Sandbox:
    """A sandbox that takes several calls of this function."""
    sandbox = boot(source)
    answer = sandbox.init(per_sandbox=per_sandbox)
    assert answer.kind == READY, answer
    return sandbox


@pytest.mark.parametrize(
    "handler",
    [
        "async def handler(event, context): return [event]",
        "async def handler(event, context): yield [event]",
        "class H:\n    async def __call__(self, event, context): return [event]\nhandler = H()",
        "class H:\n    async def at(self, event, context): return [event]\nhandler = H().at",
        "from functools import partial\nasync def f(a, event, context): return [event]\n"
        "handler = partial(f, 1)",
    ],
)
def test_whatever_is_async_takes_several_calls(boot: Boot, handler: str) -> None:
    sandbox = ready(boot, handler)
    answer = sandbox.call(1)
    assert answer.body.strip() == b"[1]"
    if answer.kind == CHUNK:
        assert sandbox.receive().kind == END


@pytest.mark.parametrize(
    "handler",
    [
        "handler = lambda event, context: [event]",
        "def handler(event, context): yield event",
        "import asyncio\nhandler = lambda event, context: asyncio.sleep(0)",
        "handler = int",
    ],
)
def test_whatever_may_block_is_refused(boot: Boot, handler: str) -> None:
    answer = boot(handler).init(per_sandbox=2)
    assert (answer.kind, answer.head["type"]) == (INIT_ERROR, "HandlerNotAsync")


def test_a_thread_that_was_handed_the_context_writes_for_its_call(
    boot: Boot, runtime: Runtime
) -> None:
    sandbox = started(boot, runtime)
    sandbox.call([{"thread": "handed over\n"}])
    assert tagged(sandbox) == [(1, b"handed over")]
    sandbox.call([{"own_thread": "on its own\n"}])
    assert sandbox.output() == b"on its own\n"


def test_print_and_the_buffer_below_are_tagged_too(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    sandbox.call([{"print": "printed"}, {"buffer": "bytes "}, {"print": "text"}])
    assert tagged(sandbox) == [(1, b"printed"), (1, b"bytes text")]


def test_a_task_that_outlives_its_call_writes_for_nobody(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio\nevents, tasks = [], []\n"
        "async def later():\n    await events[0].wait()\n    print('late')\n    events[1].set()\n"
        "async def handler(event, context):\n"
        "    if event == 1:\n        events.extend([asyncio.Event(), asyncio.Event()])\n"
        "        tasks.append(asyncio.create_task(later()))\n"
        "    else:\n        events[0].set()\n        await events[1].wait()\n",
    )
    sandbox.call(1)
    sandbox.call(2)
    assert sandbox.output() == b"late\n"


def test_an_exit_is_that_calls_error_alone(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    other = sandbox.start([{"wait": "go"}, "other"])
    answer = sandbox.call([{"exit": 3}])
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.ExitError")
    sandbox.start([{"open": "go"}])
    assert answers(sandbox, 2)[other].result == "other"


def test_an_exit_in_a_task_is_the_error_of_who_waits_for_it(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio, sys\nasync def leave(): sys.exit(4)\n"
        "async def handler(event, context):\n"
        "    if event: await asyncio.create_task(leave())\n    return event\n",
    )
    answer = sandbox.call(1)
    assert (answer.kind, answer.head["type"]) == (ERROR, "Runtime.ExitError")
    assert sandbox.call(0).result == 0


def test_stopping_the_loop_stops_no_call(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    other = sandbox.start([{"wait": "go"}, "other"])
    assert sandbox.call([{"stop": 0}, {"sleep": 0}, "stopped"]).result == "stopped"
    sandbox.start([{"open": "go"}])
    assert answers(sandbox, 2)[other].result == "other"


def test_cancelling_every_task_answers_every_call(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    one = sandbox.start([{"out": "begun\n"}, {"wait": "never"}])
    until_written(sandbox, b"begun")
    two = sandbox.start([{"cancel_all": 0}, {"sleep": 1}])
    found = answers(sandbox, 2)
    assert {call: answer.head["type"] for call, answer in found.items()} == {
        one: "CancelledError",
        two: "CancelledError",
    }


def test_a_call_beyond_the_seats_breaks_the_wire(boot: Boot, runtime: Runtime) -> None:
    sandbox = started(boot, runtime)
    for _ in range(9):
        sandbox.start([{"wait": "never"}])
    assert sandbox.ends() == 70
    assert b"hearth: the wire broke" in sandbox.output(2)


def test_a_stream_that_never_waits_lets_others_run(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "async def handler(event, context):\n"
        "    while event == 'flood': yield b'x'\n    yield 'short'\n",
    )
    flood = sandbox.start("flood")
    assert sandbox.receive().kind == CHUNK
    short = sandbox.start("short")
    between = 0
    while (frame := sandbox.receive()).call != short:
        assert frame.kind == CHUNK
        between += 1
    assert frame.body == b"short"
    assert between < 10_000  # its credit alone would be for 262,144
    sandbox.cancel(flood)
    ends: list[int] = []
    while len(ends) < 2:
        frame = sandbox.receive()
        if frame.kind == END:
            ends.append(frame.call)
    assert sorted(ends) == [flood, short]


def test_an_async_function_may_return_a_plain_generator(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "async def handler(event, context):\n    return (f'{n} ' for n in range(event))\n",
    )
    frames = sandbox.streamed(sandbox.start(3))
    assert [frame.body for frame in frames] == [b"0 ", b"1 ", b"2 ", b""]


def test_a_stubborn_generator_is_closed_all_the_same(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import asyncio\nasync def handler(event, context):\n"
        "    while True:\n        try:\n            yield 'tick'\n"
        "            print('waits')\n            await asyncio.sleep(600)\n"
        "        except asyncio.CancelledError: print('ignored')\n",
    )
    call = sandbox.start(1)
    until_written(sandbox, b"waits")
    sandbox.cancel(call)
    frames = sandbox.streamed(call)
    assert [frame.kind for frame in frames] == [CHUNK, END]
    assert frames[-1].head["type"] == "CancelledError"
    assert (1, b"ignored") in tagged(sandbox)


def test_closing_descriptors_harms_no_answer(boot: Boot) -> None:
    sandbox = ready(
        boot,
        "import os, sys\nasync def handler(event, context):\n    sys.stdout.write('unfinished')\n"
        "    if event == 1: os.close(1); os.close(2)\n"
        "    if event == 2: sys.stdout.close()\n"
        "    return event\n",
    )
    assert [sandbox.call(number).result for number in (1, 2)] == [1, 2]
    answer = sandbox.call(3)
    assert (answer.kind, answer.head["type"]) == (ERROR, "ValueError")
