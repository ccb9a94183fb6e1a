"""One suite for every driver: what the executor may rely on, on child processes and on Podman."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable
from pathlib import Path

import pytest

from core.errors import (
    ConcurrencyReached,
    FunctionCrashed,
    FunctionInitFailed,
    FunctionTimeout,
    NodeDraining,
    SandboxBroken,
)
from core.model import Version
from executor import sandbox as sandbox_module
from executor.call import Outcome
from executor.executor import Executor
from executor.sandbox import Sandbox, State
from tests.fixtures.nodes import Bench, leaks_nothing, open_descriptors, until
from tests.fixtures.sandboxes import ECHO, NODE, PYTHON, Codes, Lines, event, request

WAITS = "import time\ndef handler(event, context): print('begun', flush=True); time.sleep(event)"
CRASHES = (
    "import os\ndef handler(event, context): print('last words', end='', flush=True); os._exit(3)"
)
# An answer that tells one sandbox from another.
COUNTS = "n = 0\ndef handler(event, context):\n  global n; n += 1; return n"


async def failing(work: Awaitable[object], error: type[BaseException]) -> BaseException:
    with pytest.raises(error) as caught:
        await work
    return caught.value


async def begun(executor: Executor, version: Version, lines: Lines) -> asyncio.Task[Outcome]:
    """A call of WAITS that is under way."""
    call = event(b"3600")
    task = asyncio.create_task(executor.invoke(version, call))
    await until(lambda: lines.of(call) == ["begun"])
    return task


# --- the driver alone --------------------------------------------------------------------------


async def test_a_booted_sandbox_is_a_stem_and_its_end_leaves_nothing(bench: Bench) -> None:
    before = open_descriptors()
    async with bench.driver() as driver:
        stems = await asyncio.gather(driver.boot(PYTHON, "none"), driver.boot(NODE, "none"))
        assert [stem.state for stem in stems] == [State.STEM, State.STEM]
        assert all(stem.timing.boot_ms >= 0 for stem in stems)
    assert [stem.state for stem in stems] == [State.CLOSED, State.CLOSED]
    await leaks_nothing(before)


async def test_closing_is_done_once_however_often_it_is_asked(bench: Bench, codes: Codes) -> None:
    async with bench.driver() as driver:
        version = codes.version(ECHO)
        code = await codes.tree(version)
        stem = await driver.boot(PYTHON, "none")
        await driver.bind(stem, version, code)
        for _ in range(3):
            driver.close(stem)
        await until(lambda: not codes.held)
        driver.close(stem)
        assert stem.state is State.CLOSED


async def test_nothing_is_bound_to_a_sandbox_that_is_gone(bench: Bench, codes: Codes) -> None:
    async with bench.driver() as driver:
        stem = await driver.boot(PYTHON, "none")
        driver.close(stem)
        version = codes.version(ECHO)
        await failing(driver.bind(stem, version, version.layers[0]), SandboxBroken)


async def test_the_end_of_a_sandbox_is_noticed(bench: Bench, codes: Codes, lines: Lines) -> None:
    async with bench.driver() as driver:
        died: list[Sandbox] = []
        version = codes.version(CRASHES)
        stem = await driver.boot(PYTHON, "none")
        stem.on_died = died.append
        await driver.bind(stem, version, await codes.tree(version))
        await stem.init(version, lines, 1000)
        call = event()
        await failing(stem.call(call), FunctionCrashed)
        assert died == [stem]
        assert lines.of(call) == ["last words"]


@pytest.mark.parametrize("moment_s", [0, 0.02, 0.1, 0.3])
async def test_a_boot_cancelled_at_any_moment_leaves_nothing(moment_s: float, bench: Bench) -> None:
    before = open_descriptors()
    async with bench.driver() as driver:
        booting = asyncio.create_task(driver.boot(PYTHON, "none"))
        await asyncio.sleep(moment_s)
        booting.cancel()
        await asyncio.gather(booting, return_exceptions=True)
    await leaks_nothing(before)
    if bench.service is not None:
        await asyncio.to_thread(bench.service.await_nothing)


async def test_shutdown_under_cancellation_still_closes_every_sandbox(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    before = open_descriptors()
    settings = bench.settings(stems=1)
    ready = asyncio.Event()

    async def life() -> None:
        async with Executor(settings, bench.driver(settings), codes, lines) as executor:
            await executor.invoke(codes.version(ECHO), event())
            ready.set()
            await asyncio.sleep(3600)

    living = asyncio.create_task(life())
    await ready.wait()
    for _ in range(20):  # again and again while it closes
        living.cancel()
        await asyncio.sleep(0.005)
    await failing(living, asyncio.CancelledError)
    assert not codes.held
    await leaks_nothing(before)
    if bench.service is not None:
        await asyncio.to_thread(bench.service.await_nothing_of, settings.run_dir)


async def test_a_driver_left_while_it_boots_leaves_nothing(bench: Bench) -> None:
    async with bench.driver() as driver:
        boots = [asyncio.create_task(driver.boot(PYTHON, "none")) for _ in range(6)]
        await asyncio.sleep(0.05)
        for boot in boots:
            boot.cancel()
    await asyncio.gather(*boots, return_exceptions=True)
    if bench.service is not None:
        await asyncio.to_thread(bench.service.await_nothing)


# --- the executor on it ------------------------------------------------------------------------


async def test_a_seat_is_cold_once_and_warm_after(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(COUNTS)
        outcomes = [await executor.invoke(version, event()) for _ in range(3)]
        assert [(o.body, o.cold) for o in outcomes] == [(b"1", True), (b"2", False), (b"3", False)]
        assert outcomes[0].timing.init_ms > 0
        assert outcomes[1].timing.init_ms == 0


async def test_functions_in_both_languages_answer_events_and_requests(
    bench: Bench, codes: Codes
) -> None:
    node = "export const handler = async (e) => e.rawPath ? {statusCode: 201, body: e.rawPath} : e"
    python = (
        "def handler(e, c):\n"
        "  return {'statusCode': 201, 'body': e['rawPath']} if 'rawPath' in e else e"
    )
    async with bench.node() as executor:
        for version in (
            codes.version(python),
            dataclasses.replace(
                codes.version(""), layers=(str(codes.write(node, "main.mjs")),),
                config=dataclasses.replace(codes.version("").config, runtime=NODE.name),
            ),
        ):  # fmt: skip
            assert (await executor.invoke(version, event(b"[1,2]"))).body == b"[1,2]"
            outcome = await executor.invoke(version, request("/a/b"))
            assert (outcome.status, outcome.body) == (201, b"/a/b")


async def test_each_function_sees_its_own_code_and_nobody_elses(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        versions = [codes.version(f"def handler(e, c): return {n}") for n in range(3)]
        for _ in range(2):
            for number, version in enumerate(versions):
                assert (await executor.invoke(version, event())).body == b"%d" % number
        executor.retire(versions[0].id)
        await until(lambda: codes.held[versions[0].layers[0]] == 0)
        assert (await executor.invoke(versions[1], event())).body == b"1"
        assert (await executor.invoke(versions[0], event())).body == b"0"


async def test_the_functions_own_error_is_a_value_and_the_sandbox_stays(
    bench: Bench, codes: Codes
) -> None:
    async with bench.node() as executor:
        version = codes.version("def handler(e, c): raise ValueError(str(e))")
        first = await executor.invoke(version, event(b"1"))
        second = await executor.invoke(version, event(b"2"))
        assert first.failure is not None
        assert (first.failure.type, first.failure.message) == ("ValueError", "1")
        assert second.failure is not None
        assert not second.cold


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def handler(e, c) return 1", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise RuntimeError('at import')", "RuntimeError"),
        ("def other(e, c): pass", "HandlerNotFound"),
        ("import os; os._exit(0)", "Runtime.ExitError"),
        ("import sys; sys.exit(1)", "Runtime.ExitError"),
    ],
)
async def test_code_that_does_not_load_says_why_and_leaves_no_seat(
    source: str, kind: str, bench: Bench, codes: Codes
) -> None:
    async with bench.node() as executor:
        version = codes.version(source)
        error = await failing(executor.check(version), FunctionInitFailed)
        assert isinstance(error, FunctionInitFailed)
        assert error.details["type"] == kind
        assert executor.stats().idle == executor.stats().busy == 0
        await until(lambda: not codes.held)


async def test_a_checked_version_has_its_first_warm_seat(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version(ECHO)
        await executor.check(version)
        assert executor.stats().idle == 1
        assert not (await executor.invoke(version, event())).cold


async def test_a_crash_closes_one_sandbox_and_fails_one_invocation(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    async with bench.node() as executor:
        version, other = codes.version(CRASHES), codes.version(COUNTS)
        await executor.invoke(other, event())
        call = event()
        await failing(executor.invoke(version, call), FunctionCrashed)
        assert lines.of(call) == ["last words"]
        assert (await executor.invoke(other, event())).body == b"2"
        assert executor.stats().idle == 1


async def test_a_function_that_never_returns_is_stopped_at_its_timeout(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    async with bench.node() as executor:
        version, call = codes.version(WAITS, timeout_s=0.3), event(b"3600")
        await failing(executor.invoke(version, call), FunctionTimeout)
        assert "timeout" in lines.of(call, "platform")[0]
        assert (await executor.invoke(version, event(b"0"))).cold


async def test_a_caller_that_leaves_makes_no_room_for_one_more(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    source = (
        "import os, time\n"
        "def handler(e, c):\n"
        "  print('begun', flush=True)\n"
        "  while not os.path.exists(e): time.sleep(0.01)\n"
        "  return 'done'"
    )
    async with bench.node() as executor:
        version = codes.version(source, concurrency=1)
        gate = Path(version.layers[0]) / "gate"
        seen = "/var/task/gate" if bench.service else str(gate)
        call = event(json.dumps(seen).encode())
        task = asyncio.create_task(executor.invoke(version, call))
        await until(lambda: lines.of(call) == ["begun"])
        task.cancel()
        await failing(task, asyncio.CancelledError)
        await failing(executor.invoke(version, event(b'"/"')), ConcurrencyReached)
        gate.touch()
        await until(lambda: executor.stats().idle == 1)
        outcome = await executor.invoke(version, event(b'"/"'))
        assert (outcome.body, outcome.cold) == (b'"done"', False)


async def test_callers_that_leave_at_any_moment_lose_no_seat(bench: Bench, codes: Codes) -> None:
    async with bench.node(memory_budget_mb=256) as executor:
        version = codes.version(ECHO, timeout_s=5)
        for moment in range(30):
            tasks = [asyncio.create_task(executor.invoke(version, event())) for _ in range(4)]
            for _ in range(moment % 10):
                await asyncio.sleep(0)
            for task in tasks[:: 1 + moment % 2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: executor.stats().busy == executor.stats().booting == 0)
        assert 1 <= executor.stats().idle <= 2
        assert (await executor.invoke(version, event())).status == 200
        await executor.drain()


async def test_many_at_once_are_served_by_as_many_seats(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        version = codes.version("import os\ndef handler(e, c): return e")
        outcomes = await asyncio.gather(
            *[executor.invoke(version, event(b"%d" % n)) for n in range(8)]
        )
        assert [outcome.body for outcome in outcomes] == [b"%d" % n for n in range(8)]


async def test_a_drain_waits_for_what_runs_and_admits_nothing(bench: Bench, codes: Codes) -> None:
    async with bench.node(drain_s=60.0) as executor:
        version = codes.version("import time\ndef handler(e, c): time.sleep(0.5); return 1")
        running = asyncio.create_task(executor.invoke(version, event()))
        await until(lambda: executor.stats().busy == 1)
        draining = asyncio.create_task(executor.drain())
        await asyncio.sleep(0)
        await failing(executor.invoke(version, event()), NodeDraining)
        await draining
        assert (await running).body == b"1"


async def test_a_call_cut_off_by_the_shutdown_is_the_platforms_fault(
    bench: Bench, codes: Codes, lines: Lines
) -> None:
    async with bench.node(drain_s=0.01) as executor:
        running = await begun(executor, codes.version(WAITS), lines)
        await executor.drain()
    await failing(running, NodeDraining)


async def test_large_bodies_travel_both_ways(bench: Bench, codes: Codes) -> None:
    async with bench.node() as executor:
        body = json.dumps("x" * (5 * 1024 * 1024)).encode()
        assert (await executor.invoke(codes.version(ECHO), event(body))).body == body


async def test_a_mistake_of_ours_in_reading_an_answer_costs_one_sandbox(
    bench: Bench, codes: Codes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> Outcome:
        raise KeyError("a mistake of ours")

    async with bench.node() as executor:
        version = codes.version(ECHO)
        await executor.invoke(version, event())
        with monkeypatch.context() as patched:
            patched.setattr(sandbox_module, "outcome_of", mistaken)
            await failing(executor.invoke(version, event()), FunctionCrashed)
        assert (await executor.invoke(version, event())).cold


async def test_children_of_a_sandbox_end_with_it(bench: Bench, codes: Codes, lines: Lines) -> None:
    source = (
        "import subprocess\n"
        "def handler(e, c):\n"
        "  subprocess.Popen(['sleep', '3600'], start_new_session=False)\n"
        "  print('begun', flush=True)\n"
        "  import os; os._exit(1)"
    )
    async with bench.node() as executor:
        await failing(executor.invoke(codes.version(source), event()), FunctionCrashed)
