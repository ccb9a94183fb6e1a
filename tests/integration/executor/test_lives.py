"""How seats rest and end, through executor and real shims, on each driver."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from core.errors import FunctionInitFailed, FunctionTimeout, FunctionUnloadable
from core.model import Version
from executor.executor import Executor
from tests.fixtures.nodes import Bench, until
from tests.fixtures.sandboxes import ECHO, Codes, Lines, event
from tests.integration.executor.test_features import failing, told

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
