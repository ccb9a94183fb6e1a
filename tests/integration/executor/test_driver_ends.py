"""Freezing, asking to end, and ending, for every driver: what the pool may rely on."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from core.errors import FunctionCrashed
from executor.driver import Driver
from executor.process_driver import ProcessDriver
from executor.sandbox import Sandbox, State
from tests.fixtures.nodes import Bench, bound, leaks_nothing, open_descriptors, until
from tests.fixtures.sandboxes import ECHO, PYTHON, event

# Works without being asked, so that whether it runs can be seen from outside.
WORKS = """
import threading
def work():
    while True: sum(range(1000))
threading.Thread(target=work, daemon=True).start()
def handler(e, c): return e
"""
# Says goodbye: first a line, then one more that is not finished.
POLITE = """
import os, signal, sys
def leave(*_):
    print("closing connections")
    sys.stdout.write("goodbye")
    sys.stdout.flush()
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
def handler(e, c): return e
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
def handler(e, c): return e
"""
GRACE_S = 0.5
LONG_S = 3600.0


def cpu_ns(driver: Driver, sandbox: Sandbox) -> int:
    """Processor time of a sandbox, by the kernel's books."""
    if sandbox.meter is not None:
        return sandbox.meter.cpu_ns()
    assert isinstance(driver, ProcessDriver)
    pid = driver._processes[sandbox.id]._child.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * (10**9 // os.sysconf("SC_CLK_TCK"))


async def stands_still(driver: Driver, sandbox: Sandbox) -> None:
    """Until it uses no processor any more; then it must not for a while."""
    async with asyncio.timeout(60):
        before = -1
        while (now := cpu_ns(driver, sandbox)) != before:
            before = now
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert cpu_ns(driver, sandbox) == before


class Ends:
    """Counts who died and who is gone."""

    def __init__(self, *sandboxes: Sandbox) -> None:
        self.died: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        for sandbox in sandboxes:
            sandbox.on_died = lambda s: self.died.update([s.id])
            sandbox.on_gone = lambda s: self.gone.update([s.id])

    async def once(self, *sandboxes: Sandbox) -> None:
        """Until all are gone; each was told of once."""
        wanted = Counter([s.id for s in sandboxes])
        await until(lambda: not wanted - self.gone)
        assert self.died == self.gone == wanted


async def test_a_frozen_sandbox_uses_no_processor_until_it_is_thawed(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, WORKS)
        for _ in range(2):
            assert driver.freeze(sandbox)
            await stands_still(driver, sandbox)
            at_rest = cpu_ns(driver, sandbox)
            driver.thaw(sandbox)
            await until(lambda: cpu_ns(driver, sandbox) > at_rest)  # noqa: B023


async def test_a_call_to_a_frozen_sandbox_is_answered_after_the_thaw(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, WORKS)
        driver.freeze(sandbox)
        await stands_still(driver, sandbox)
        answer = sandbox.call(event(b"7"))
        await asyncio.sleep(0.2)
        assert not answer.done()
        driver.thaw(sandbox)
        assert (await answer).body == b"7"


async def test_freezing_and_thawing_any_number_of_times_is_fine(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, ECHO)
        driver.thaw(sandbox)
        for _ in range(3):
            assert driver.freeze(sandbox)
            assert driver.freeze(sandbox)
            driver.thaw(sandbox)
            driver.thaw(sandbox)
            assert (await sandbox.call(event(b"1"))).body == b"1"
        driver.close(sandbox)
        assert not driver.freeze(sandbox)
        driver.thaw(sandbox)


async def test_a_closed_sandbox_is_gone_once_frozen_busy_or_booted(bench: Bench) -> None:
    before = open_descriptors()
    async with bench.driver() as driver:
        frozen, busy = [await bound(driver, bench, WORKS) for _ in range(2)]
        stem = await driver.boot(PYTHON, "none")
        ends = Ends(frozen, busy, stem)
        driver.freeze(frozen)
        busy.call(event())
        for sandbox in (frozen, busy, stem):
            driver.close(sandbox)
            driver.close(sandbox)
        await ends.once(frozen, busy, stem)
        assert sum(bench.codes.held.values()) == 0
    await ends.once(frozen, busy, stem)
    await leaks_nothing(before)


async def test_the_end_of_the_driver_is_told_for_every_sandbox(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandboxes = [await bound(driver, bench, ECHO) for _ in range(2)]
        ends = Ends(*sandboxes)
        driver.freeze(sandboxes[0])
    await ends.once(*sandboxes)


async def test_a_crashed_sandbox_is_gone_once_it_is_closed(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, "import os\ndef handler(e, c): os._exit(1)")
        ends = Ends(sandbox)
        with pytest.raises(FunctionCrashed):
            await sandbox.call(event())
        assert not ends.gone
        driver.close(sandbox)
        await ends.once(sandbox)


async def test_what_is_told_of_the_end_may_fail(bench: Bench) -> None:
    def fails(sandbox: Sandbox) -> None:
        raise KeyError("a mistake of ours")

    before = open_descriptors()
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, ECHO)
        sandbox.on_gone = fails
        driver.close(sandbox)
    assert not bench.codes.held
    await leaks_nothing(before)


async def test_an_interrupt_runs_the_functions_own_handler_and_no_more(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, STUBBORN)
        driver.interrupt(sandbox)
        await until(lambda: bench.lines.of(None) == ["no"])
        assert (await sandbox.call(event(b"2"))).body == b"2"
        driver.close(sandbox)
        driver.interrupt(sandbox)


async def test_who_is_retired_closes_its_connections_and_its_last_words_are_kept(
    bench: Bench,
) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, POLITE)
        ends = Ends(sandbox)
        driver.retire(sandbox, LONG_S)
        await ends.once(sandbox)
        assert bench.lines.of(None) == ["closing connections", "goodbye"]
        assert not bench.codes.held


async def test_a_frozen_sandbox_is_thawed_to_retire(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, POLITE)
        ends = Ends(sandbox)
        driver.freeze(sandbox)
        driver.retire(sandbox, LONG_S)
        await ends.once(sandbox)
        assert bench.lines.of(None) == ["closing connections", "goodbye"]


async def test_a_stem_retires_at_once(bench: Bench) -> None:
    async with bench.driver() as driver:
        stem = await driver.boot(PYTHON, "none")
        ends = Ends(stem)
        driver.retire(stem, LONG_S)
        await ends.once(stem)


@pytest.mark.parametrize("freezes_again", [False, True], ids=["stubborn", "frozen"])
async def test_nobody_stays_longer_than_its_grace(bench: Bench, freezes_again: bool) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, STUBBORN)
        ends = Ends(sandbox)
        started = time.monotonic()
        driver.retire(sandbox, GRACE_S)
        if freezes_again:
            driver.freeze(sandbox)
        await ends.once(sandbox)
        assert time.monotonic() - started >= GRACE_S


async def test_a_call_under_way_is_answered_within_the_grace(bench: Bench) -> None:
    source = STUBBORN.replace("return e", "import time; print('begun'); time.sleep(0.3); return e")
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, source)
        ends, call = Ends(sandbox), event(b"3")
        answer = sandbox.call(call)
        await until(lambda: bench.lines.of(call) == ["begun"])
        driver.retire(sandbox, 2 * GRACE_S)
        assert (await answer).body == b"3"
        assert bench.lines.of(call) == ["begun", "no"]
        await ends.once(sandbox)


async def test_an_answer_that_comes_in_one_moment_with_the_end_is_heard(bench: Bench) -> None:
    source = STUBBORN.replace(
        "return e", "import os, threading; threading.Timer(0.1, os._exit, [0]).start(); return e"
    )
    body = b'"' + b"x" * 100_000 + b'"'
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, source)
        ends = Ends(sandbox)
        answer = sandbox.call(event(body))
        driver.retire(sandbox, LONG_S)
        await asyncio.sleep(0)
        time.sleep(0.5)  # the loop learns of both in one round
        assert (await answer).body == body
        await ends.once(sandbox)


async def test_retiring_again_and_closing_meanwhile_are_fine(bench: Bench) -> None:
    before = open_descriptors()
    async with bench.driver() as driver:
        sandboxes = [await bound(driver, bench, STUBBORN) for _ in range(3)]
        ends = Ends(*sandboxes)
        again, closed, dead = sandboxes
        for sandbox in (again, closed):
            driver.retire(sandbox, GRACE_S if sandbox is again else LONG_S)
        driver.retire(again, LONG_S)
        driver.close(closed)
        driver.retire(closed, LONG_S)
        driver.close(dead)
        driver.retire(dead, LONG_S)
        await ends.once(*sandboxes)
        driver.retire(again, LONG_S)
        assert [s.state for s in sandboxes] == [State.CLOSED] * 3
    await ends.once(*sandboxes)
    await leaks_nothing(before)


async def test_a_sandbox_that_died_unseen_retires(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, "import os\ndef handler(e, c): os._exit(1)")
        ends = Ends(sandbox)
        sandbox.call(event()).cancel()
        await until(lambda: ends.died)
        driver.retire(sandbox, LONG_S)
        await ends.once(sandbox)


async def test_the_end_of_the_driver_waits_for_no_grace(bench: Bench) -> None:
    before = open_descriptors()
    async with bench.driver() as driver:
        sandboxes = [await bound(driver, bench, STUBBORN) for _ in range(2)]
        ends = Ends(*sandboxes)
        for sandbox in sandboxes:
            driver.retire(sandbox, LONG_S)
    await ends.once(*sandboxes)
    assert not bench.codes.held
    await leaks_nothing(before)
