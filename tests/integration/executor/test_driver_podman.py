"""What only real control groups can show: meters, and whose call ran out of memory."""

from __future__ import annotations

import pytest

from core.errors import FunctionCrashed, FunctionOutOfMemory, HearthError
from executor import cgroup
from executor.driver import Driver
from executor.sandbox import Sandbox
from tests.fixtures.nodes import Bench, bound, leaks_nothing, open_descriptors
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import ECHO, PYTHON, Codes, Lines, event

pytestmark = pytest.mark.podman

MIB = 1024 * 1024
# Eats in a child that is not process 1, so that the shim lives on; or ends without an answer.
EATS = """
import os, subprocess, sys
EAT = "b = bytearray()\\nwhile True: b += bytes(8 << 20)"
def handler(event, context):
    if "eat" in event:
        # The kernel takes the largest; whoever ends by itself would say so.
        status = subprocess.run([sys.executable, "-c", EAT]).returncode
    if "crash" in event:
        os._exit(3)
    return status if "eat" in event else "fine"
"""


@pytest.fixture
def bench(codes: Codes, lines: Lines, podman: PodmanService) -> Bench:
    return Bench(codes, lines, podman)


async def error_of(sandbox: Sandbox, body: bytes) -> HearthError:
    """As a pool calls: a call begins with a reset of the meter."""
    assert sandbox.meter is not None
    sandbox.meter.reset_peak()
    with pytest.raises(HearthError) as caught:
        await sandbox.call(event(body))
    return caught.value


async def answer_of(sandbox: Sandbox, body: bytes) -> bytes:
    assert sandbox.meter is not None
    sandbox.meter.reset_peak()
    return (await sandbox.call(event(body))).body


async def test_a_meter_tells_what_a_call_used(bench: Bench) -> None:
    source = (
        "import time\n"
        "def handler(e, c):\n"
        "  kept = b'x' * (e << 20)\n"
        "  until = time.process_time() + e / 100\n"
        "  while time.process_time() < until: pass"
    )
    before = open_descriptors()
    async with bench.driver() as driver:
        sandbox = await bound(driver, bench, source)
        meter = sandbox.meter
        assert meter is not None
        at_start = meter.cpu_ns()
        assert at_start > 0
        await sandbox.call(event(b"40"))
        assert 0.4e9 <= meter.cpu_ns() - at_start < 5e9
        if not meter.can_reset:
            pytest.skip("this kernel has no peak that can be begun anew: cgroup v2 before 6.12")
        assert meter.peak_bytes() >= 40 * MIB
        meter.reset_peak()
        await sandbox.call(event(b"1"))
        assert 1 * MIB < meter.peak_bytes() < 40 * MIB
        driver.close(sandbox)
    assert (meter.cpu_ns(), meter.peak_bytes()) == (0, 0)
    meter.reset_peak()
    await leaks_nothing(before)


async def test_a_booted_sandbox_is_metered_before_it_is_bound(bench: Bench) -> None:
    async with bench.driver() as driver:
        stem = await driver.boot(PYTHON, "none")
        assert stem.meter is not None
        assert stem.meter.cpu_ns() > 0
        assert stem.meter.peak_bytes() > MIB


async def eater(driver: Driver, bench: Bench) -> Sandbox:
    return await bound(driver, bench, EATS, memory_mb=64)


async def test_a_child_that_ate_all_memory_ends_and_its_sandbox_answers(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await eater(driver, bench)
        assert await answer_of(sandbox, b'["eat"]') == b"-9"
        assert await answer_of(sandbox, b"[]") == b'"fine"'


async def test_a_crash_in_the_call_that_ran_out_of_memory_says_so(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await eater(driver, bench)
        error = await error_of(sandbox, b'["eat", "crash"]')
        assert isinstance(error, FunctionOutOfMemory)
        assert error.details["memory_mb"] == 64


async def test_a_crash_in_a_later_call_is_not_told_as_want_of_memory(bench: Bench) -> None:
    async with bench.driver() as driver:
        sandbox = await eater(driver, bench)
        assert await answer_of(sandbox, b'["eat"]') == b"-9"
        error = await error_of(sandbox, b'["crash"]')
        assert type(error) is FunctionCrashed


async def test_what_ran_out_of_memory_in_a_call_before_does_not_hide_a_later_one(
    bench: Bench,
) -> None:
    async with bench.driver() as driver:
        sandbox = await eater(driver, bench)
        assert await answer_of(sandbox, b'["eat"]') == b"-9"
        error = await error_of(sandbox, b'["eat", "crash"]')
        assert isinstance(error, FunctionOutOfMemory)


async def test_a_sandbox_is_in_no_group_but_those_of_its_node(bench: Bench) -> None:
    settings = bench.settings()
    async with bench.driver(settings) as driver:
        sandbox = await bound(driver, bench, ECHO)
        assert driver.freeze(sandbox)
        driver.close(sandbox)
    assert bench.service is not None
    bench.service.await_nothing_of(settings.run_dir)
    assert not any(cgroup.ROOT.glob(f"*/hearth-*/{sandbox.id}"))
