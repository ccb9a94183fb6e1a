"""The end of a sandbox's first process, in orders that a kernel seldom chooses."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from executor.first_process import FirstProcess
from executor.sandbox import Sandbox, State
from tests.fixtures.nodes import until
from tests.fixtures.sandboxes import sandbox_for_tests

LONG_S = 3600.0


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        yield process
        process.kill()


async def test_what_was_said_last_is_heard_before_a_retired_sandbox_is_closed(
    child: subprocess.Popen[bytes],
) -> None:
    sandbox, closed, died = sandbox_for_tests(), list[Sandbox](), list[Sandbox]()
    sandbox.on_died = died.append
    first = FirstProcess(os.pidfd_open(child.pid))
    first.retire(sandbox, LONG_S, closed.append)
    assert await first.ended(60)
    await asyncio.sleep(0)
    assert closed == [], "its connection has not ended yet"
    sandbox.hang_up()
    assert closed == died == [sandbox]
    first.kill()
    first.close()


async def test_a_process_that_has_ended_and_is_retired_is_closed_at_once(
    child: subprocess.Popen[bytes],
) -> None:
    sandbox, closed = sandbox_for_tests(), list[Sandbox]()
    first = FirstProcess(os.pidfd_open(child.pid))
    child.kill()
    assert await first.ended(60)
    sandbox.hang_up()
    assert sandbox.state is State.CLOSED
    first.retire(sandbox, LONG_S, closed.append)
    assert closed == [sandbox]
    first.kill()
    first.close()


async def test_the_grace_ends_also_when_nothing_else_does(child: subprocess.Popen[bytes]) -> None:
    sandbox, closed = sandbox_for_tests(), list[Sandbox]()
    first = FirstProcess(os.pidfd_open(child.pid))
    child.send_signal(signal.SIGSTOP)  # it hears nothing
    os.waitpid(child.pid, os.WUNTRACED)
    first.retire(sandbox, 0.05, closed.append)
    first.retire(sandbox, LONG_S, closed.append)
    await until(lambda: closed == [sandbox])
    assert not await first.ended(0)
    first.kill()
    assert await first.ended(60)
    first.close()
    first.close()
    first.interrupt()
    sandbox.hang_up()
