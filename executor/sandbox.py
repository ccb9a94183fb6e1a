"""One sandbox, seen from the executor: its connection, its state, the calls under way in it.

States only move forward, in `_move`. From INIT on every frame is hostile: a frame that is not legal
for a call in flight ends the sandbox and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, cast

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    FunctionTimeout,
    HearthError,
    ResponseInvalid,
    SandboxBroken,
)
from core.limits import HELLO_TIMEOUT_S, INIT_TIMEOUT_S
from core.model import Version
from executor.call import Call, LogLine, LogSink, Outcome, Timing
from executor.logpipe import Journal, Outputs, Stream
from executor.meter import Meter
from executor.messages import call_head, init_failure, init_head, logged, outcome_of
from executor.wire import Decoder, Frame, FrameType, WireError, encode, head_of
from runtimes.registry import Runtime

log = logging.getLogger("hearth.executor")


class State(Enum):
    """Forward only: BOOTING → STEM → INIT → READY → CLOSED, and from each of them to CLOSED."""

    BOOTING = 0
    STEM = 1
    INIT = 2
    READY = 3
    CLOSED = 4


_EXPECTED_IN = {
    FrameType.HELLO: State.BOOTING,
    FrameType.READY: State.INIT,
    FrameType.INIT_ERROR: State.INIT,
}


class _Pending:
    """A call in flight."""

    __slots__ = ("call", "future", "started", "timer")

    def __init__(
        self, call: Call, future: asyncio.Future[Outcome], timer: asyncio.TimerHandle
    ) -> None:
        self.call = call
        self.future = future
        self.timer = timer
        self.started = time.perf_counter()

    def fail(self, error: HearthError) -> None:
        """Nothing if whoever waited has left."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # and nobody need look at it


class Sandbox(asyncio.Protocol):
    """Made by a driver, lent by the pool, closed by its driver. `on_died` is called once."""

    def __init__(
        self, *, id: str, runtime: Runtime, network: str, folder: Path, body_bytes_max: int
    ) -> None:
        self.id = id
        self.runtime = runtime
        self.network = network
        self.folder = folder
        self.state = State.BOOTING
        self.version: Version | None = None
        self.timing = Timing()  # of its boot and init, told by the first call
        self.why_died: Callable[[], HearthError | None] = lambda: None  # the driver's post-mortem
        self.on_died: Callable[[Sandbox], None] = lambda sandbox: None
        self.on_gone: Callable[[Sandbox], None] = lambda sandbox: None  # no process is left
        self.meter: Meter | None = None  # the driver's, from the boot on
        self._decoder = Decoder(body_bytes_max)
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._phase: asyncio.Future[None] | None = None  # HELLO, then READY
        self._calls: dict[int, _Pending] = {}
        self._next_call = 1
        self._when_quiet: list[Callable[[], None]] = []
        self._logs: LogSink | None = None
        self._journal = Journal(self._emit)
        self._outputs: Outputs | None = None

    def __repr__(self) -> str:
        label = self.version.label if self.version else self.runtime.name
        return f"<Sandbox {self.id} {label} {self.state.name} {len(self._calls)} calls>"

    # --- life ------------------------------------------------------------------------------------

    async def meet(self, connected: Any, pipes: tuple[int, int]) -> None:
        """Take over the accepted socket and the read ends of the log pipes; wait for HELLO.

        SandboxBroken when the shim says something else, ends, or takes too long."""
        if self.state is State.CLOSED:
            for fd in pipes:
                os.close(fd)
            raise self.epitaph()
        self._outputs = Outputs(*pipes, self._journal)
        self._phase = self._loop.create_future()
        await self._loop.create_connection(lambda: self, sock=connected)
        await self._await_phase(HELLO_TIMEOUT_S, "said no HELLO")

    async def init(self, version: Version, logs: LogSink, payload_bytes_max: int) -> None:
        """Give it a version's handler and environment. FunctionInitFailed, FunctionOutOfMemory."""
        if self.state is not State.STEM:
            raise self.epitaph()
        self.version, self._logs = version, logs
        self._move(State.INIT)
        self._phase = self._loop.create_future()
        started = time.perf_counter()
        self._send(FrameType.INIT, 0, init_head(version, payload_bytes_max))
        await self._await_phase(INIT_TIMEOUT_S, f"took more than {INIT_TIMEOUT_S:.0f} s to load")
        self.timing.init_ms = (time.perf_counter() - started) * 1000

    def call(self, call: Call) -> asyncio.Future[Outcome]:
        """Start one invocation. The future ends with the outcome, or FunctionTimeout,
        FunctionCrashed, FunctionOutOfMemory, ResponseInvalid; after an error, close the sandbox."""
        assert self.version is not None
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self.state is not State.READY:
            future.set_exception(self.epitaph())
            return future
        number = self._next_call
        self._next_call += 1
        timeout_s = self.version.config.timeout_s
        timer = self._loop.call_later(timeout_s, self._expire, number)
        self._calls[number] = _Pending(call, future, timer)
        self._journal.turn_to(call.id)
        self._send(FrameType.CALL, number, call_head(call, timeout_s), call.body)
        return future

    @property
    def is_usable(self) -> bool:
        """Whether it may be lent: loaded, alive, nothing in flight."""
        return self.state is State.READY and not self._calls

    def when_quiet(self, then: Callable[[], None]) -> None:
        """Call `then` once nothing is in flight any more: now, after the last answer, or after the
        sandbox's end."""
        if self._calls:
            self._when_quiet.append(then)
        else:
            then()

    def hang_up(self) -> None:
        """Drop the connection and fail what is in flight. The driver kills what is behind it."""
        if self._transport is not None:
            self._transport.abort()
        self._die()

    def note(self, text: str, invocation_id: str | None = None) -> None:
        """A line of the platform's own in the function's log."""
        self._emit(invocation_id or self._journal.invocation_id, "platform", [text])

    def epitaph(self) -> HearthError:
        """Why it is no more."""
        known = self.why_died()
        if known is not None:
            return known
        if self.version is None:
            return SandboxBroken(f"a {self.runtime.name} sandbox ended while it started")
        if self.state is State.INIT:
            text = "the function's process ended while its code was loaded"
            return FunctionInitFailed(text, type="Runtime.ExitError")
        return FunctionCrashed("the function's process ended before it answered")

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass
        if self.state is State.CLOSED:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._on_frame(frame)
            if not self._decoder.is_empty:
                self._require_question()
        except WireError as error:
            self.note(f"the sandbox broke the protocol and was closed: {error}")
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._die()

    # --- frames ----------------------------------------------------------------------------------

    def _require_question(self) -> None:
        # Of what nobody asked for not a part is kept: a sandbox that rests owns no memory here.
        if not self._calls and (self._phase is None or self._phase.done()):
            raise WireError(f"it spoke without being asked, in state {self.state.name}")

    def _on_frame(self, frame: Frame) -> None:
        if frame.type is FrameType.RESULT or frame.type is FrameType.ERROR:
            self._on_answer(frame)
            return
        expected = _EXPECTED_IN[frame.type]
        if self.state is not expected or self._phase is None or self._phase.done():
            raise WireError(f"{frame.type.name} in state {self.state.name}")
        if frame.type is FrameType.HELLO:
            if head_of(frame).get("protocol") != 2:
                text = "the shim speaks another version of the protocol; rebuild the images"
                raise WireError(text)
            self._move(State.STEM)
            self._phase.set_result(None)
            return
        self._settle_log()
        if frame.type is FrameType.READY:
            self._move(State.READY)
            self._phase.set_result(None)
        else:
            self._phase.set_exception(init_failure(head_of(frame)))

    def _on_answer(self, frame: Frame) -> None:
        pending = self._calls.get(frame.call)
        if pending is None:
            raise WireError(f"{frame.type.name} for call {frame.call}, which is not in flight")
        handler_ms = (time.perf_counter() - pending.started) * 1000
        self._settle_log()
        try:
            outcome = outcome_of(frame, pending.call, handler_ms)
        except WireError as error:
            pending.fail(ResponseInvalid(f"the sandbox's answer cannot be read: {error}"))
            raise
        pending.timer.cancel()
        del self._calls[frame.call]
        if outcome.failure is not None:
            self._emit(pending.call.id, "platform", logged(outcome.failure))
        if not pending.future.done():
            pending.future.set_result(outcome)
        if outcome.failure is not None and outcome.failure.is_last:
            self.hang_up()  # before anyone is lent a process that is about to end
        elif self._when_quiet and not self._calls:
            self._tell_quiet()

    def _tell_quiet(self) -> None:
        told, self._when_quiet = self._when_quiet, []
        for then in told:
            then()

    # --- the end ---------------------------------------------------------------------------------

    def _expire(self, number: int) -> None:
        pending = self._calls.pop(number, None)
        if pending is None or self.version is None:
            return
        timeout_s = self.version.config.timeout_s
        text = f"the function ran longer than its timeout of {timeout_s:g} s and was stopped"
        self.note(text, pending.call.id)
        pending.fail(FunctionTimeout(text, timeout_s=timeout_s))
        self.hang_up()

    def _die(self) -> None:
        if self.state is State.CLOSED:
            return
        if self._outputs is not None:
            self._outputs.close()  # last words, before anyone is told
        error = self.epitaph()
        self._journal.turn_to(None)
        self._move(State.CLOSED)
        if self._phase is not None and not self._phase.done():
            self._phase.set_exception(error)
            self._phase.exception()  # whoever waited may have left; that is no leak
        calls, self._calls = self._calls, {}
        for pending in calls.values():
            pending.timer.cancel()
            self.note(error.message, pending.call.id)
            pending.fail(error)
        self.on_died(self)
        self._tell_quiet()

    async def _await_phase(self, timeout_s: float, complaint: str) -> None:
        assert self._phase is not None
        try:
            async with asyncio.timeout(timeout_s):
                await self._phase
        except TimeoutError:
            if self.state is State.INIT:
                raise FunctionInitFailed(f"the code {complaint}", type="Runtime.Timeout") from None
            raise SandboxBroken(f"a {self.runtime.name} sandbox {complaint}") from None

    # --- small parts -----------------------------------------------------------------------------

    def _move(self, state: State) -> None:
        assert state.value > self.state.value, (self, state)
        self.state = state

    def _send(
        self, kind: FrameType, call: int, head: dict[str, Any] | None, body: bytes = b""
    ) -> None:
        assert self._transport is not None
        self._transport.write(encode(kind, call, head, body))

    def _settle_log(self) -> None:
        if self._outputs is not None:
            self._outputs.settle()
        self._journal.turn_to(None)

    def _emit(self, invocation_id: str | None, stream: Stream, lines: list[str]) -> None:
        version = self.version
        if version is None or self._logs is None:
            return  # a stem has no function to log for
        at = time.time()
        space, name, number = version.namespace, version.name, version.number
        found = [LogLine(at, space, name, number, invocation_id, stream, line) for line in lines]
        try:
            self._logs.write(found)
        except Exception:  # a sink at fault costs its lines, never the sandbox that wrote them
            log.exception("log lines of %s are lost", version.label)
