"""What a thousand idle seats add to a call: an executor on sandboxes that answer at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from bench.client import say
from bench.rows import Row, median_of
from core.model import FunctionConfig, Version, VersionStatus
from core.settings import Settings
from executor.call import Call, LogLine
from executor.executor import Executor
from executor.sandbox import Sandbox, State
from executor.wire import FrameType, encode
from runtimes.registry import Runtime

SEATS = 1000
CALLS = 2000
ROUNDS = 15


class _Echo:
    """The wire of a sandbox that answers in the next tick."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._calls = 0

    def write(self, data: bytes) -> None:
        """A CALL, answered; INIT is answered by READY."""
        kind, number = FrameType.RESULT, self._calls
        if data[4] == FrameType.INIT:
            kind = FrameType.READY
        elif data[4] != FrameType.CALL:
            return
        self._calls += 1
        answer = encode(kind, number, None, b"{}" if kind is FrameType.RESULT else b"")
        asyncio.get_running_loop().call_soon(self._sandbox.data_received, answer)

    def abort(self) -> None:
        """Nothing is behind it."""


class EchoDriver:
    """Sandboxes without processes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        sandbox = Sandbox(
            id="echo", runtime=runtime, network=network, folder=Path("/"), body_bytes_max=1024
        )
        sandbox.state = State.STEM
        sandbox._transport = cast(asyncio.WriteTransport, _Echo(sandbox))
        return sandbox

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        pass

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        raise NotImplementedError

    def show(self, host: Sandbox, code: str, name: str) -> None:
        raise NotImplementedError

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        raise NotImplementedError

    def freeze(self, sandbox: Sandbox) -> bool:
        return True

    def thaw(self, sandbox: Sandbox) -> None:
        pass

    def interrupt(self, sandbox: Sandbox) -> None:
        pass

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        self.close(sandbox)

    def close(self, sandbox: Sandbox) -> None:
        sandbox.hang_up()
        asyncio.get_running_loop().call_soon(sandbox.on_gone, sandbox)

    async def ping(self) -> None:
        pass


class Nothing:
    """Code that is nowhere, logs that nobody reads."""

    async def tree(self, version: Version) -> str:
        return "/"

    def release(self, path: str) -> None:
        pass

    def write(self, lines: Sequence[LogLine]) -> None:
        pass


def seats_1000() -> Row:
    """Microseconds of one call through the executor, with 1,000 idle seats and with one."""
    say(f"a call beside {SEATS} idle seats")
    one, many = asyncio.run(_both())
    value, spread = median_of(many)
    floor = median_of(one)[0]
    met = value <= 1.1 * floor
    return Row("seats_1000_us", value, "µs", floor, spread, "ratio ≤ 1.1", met)


async def _both() -> tuple[list[float], list[float]]:
    settings = Settings(stems=0, memory_budget_mb=200_000)
    nothing = Nothing()
    async with (
        Executor(settings, EchoDriver(), nothing, nothing) as small,
        Executor(settings, EchoDriver(), nothing, nothing) as large,
    ):
        versions = [echo_version() for _ in range(SEATS)]
        await _call_us(small, versions[:1], 1)
        await _call_us(large, versions, SEATS)
        assert large.stats().idle == SEATS
        one, many = [], []
        for _ in range(ROUNDS):
            one.append(await _call_us(small, versions[:1], CALLS))
            many.append(await _call_us(large, versions[:1], CALLS))
    return one, many


async def _call_us(executor: Executor, versions: Sequence[Version], calls: int) -> float:
    started = time.perf_counter()
    for number in range(calls):
        call = Call(id="bench", kind="event", body=b"{}")
        outcome = await executor.invoke(versions[number % len(versions)], call)
        assert outcome.body == b"{}"
    return (time.perf_counter() - started) / calls * 1e6


def echo_version(**config: Any) -> Version:
    made = Version(
        id=f"v_{uuid.uuid4().hex}",
        function_id=f"fn_{uuid.uuid4().hex}",
        namespace="default",
        name="echo",
        number=1,
        config=FunctionConfig(runtime="python3.13"),
        archive_digest="",
        archive_bytes=0,
        layers=(),
        status=VersionStatus.ACTIVE,
        error=None,
        created_at=datetime.now(UTC),
    )
    return replace(made, config=replace(made.config, **config))
