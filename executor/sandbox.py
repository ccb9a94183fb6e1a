"""One sandbox, seen from the executor: its connection, its state, the calls under way in it.

States only move forward, in `_move`. From INIT on every frame is hostile: a frame that is not legal
for a call in flight ends the sandbox and nothing else.

A call's time may be over while others run on in the same sandbox. It is then told so and given up:
whoever waited has an answer, the sandbox takes no more calls, the others run to their own
deadlines, and with the last of them it ends.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from core.errors import (
    FunctionCrashed,
    FunctionInitFailed,
    HearthError,
    ResponseInvalid,
    SandboxBroken,
)
from core.limits import HELLO_TIMEOUT_S, INIT_TIMEOUT_S, STREAM_CHUNK_BYTES_MAX
from core.model import Version
from executor.alarm import Alarm
from executor.call import Call, LogSink, Outcome, Timing
from executor.function_log import FunctionLog
from executor.inflight import InFlight, Over, Told, settle
from executor.journal import Journal
from executor.logpipe import Outputs
from executor.messages import (
    call_head_json,
    init_failure,
    init_head,
    logged,
    opening_of,
    outcome_of,
    stream_error,
    timeout_error,
)
from executor.meter import Meter
from executor.state import EXPECTED_IN
from executor.state import State as State
from executor.stream import BodyStream
from executor.swift import SwiftSocket
from executor.wire import PROTOCOL, Decoder, Frame, FrameType, Head, WireError, encode, head_of
from runtimes.registry import Runtime


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
        self.interrupt: Callable[[], None] = lambda: None  # SIGTERM, by the driver
        self.meter: Meter | None = None  # the driver's, from the boot on
        self.flaw: str | None = None  # why it takes no more calls: timed_out, crashed, …
        self._decoder = Decoder(body_bytes_max)
        self._transport: asyncio.WriteTransport | None = None
        self._socket: SwiftSocket | None = None
        self._loop = asyncio.get_running_loop()
        self._phase: asyncio.Future[None] | None = None  # HELLO, then READY
        self._calls: dict[int, InFlight] = {}
        self._given_up: dict[int, InFlight] = {}  # their time is over, their last frame not here
        self._next_call = 1
        self._alarm = Alarm(self._ring)
        self._log = FunctionLog()
        self._journal = Journal(self._log.write)
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
        self.version = version
        self._log.open(version, logs)
        self._journal.is_tagged = version.config.per_sandbox > 1
        self._move(State.INIT)
        self._phase = self._loop.create_future()
        started = time.perf_counter()
        self._send(FrameType.INIT, 0, init_head(version, payload_bytes_max))
        await self._await_phase(INIT_TIMEOUT_S, f"took more than {INIT_TIMEOUT_S:.0f} s to load")
        self.timing.init_ms = (time.perf_counter() - started) * 1000

    def begin(self, call: Call, told: Told, over: Over) -> None:
        """Start one invocation. `told` hears the outcome, or FunctionTimeout, FunctionCrashed,
        FunctionOutOfMemory, ResponseInvalid; `over` that its place is free, at the latest when
        the sandbox ends."""
        if self.state is not State.READY:
            told(self.epitaph())
            over()
            return
        assert self.version is not None
        number = self._next_call
        self._next_call = number + 1
        config = self.version.config
        running = InFlight(call, number, told, over, config)
        running.is_alone = not (self._calls or self._given_up)
        for other in self._calls.values():
            other.is_alone = False
        self._calls[number] = running
        self._journal.open(number, call.id)
        self._send(FrameType.CALL, number, call_head_json(call, config.timeout_s), call.body)
        # The shim is waking up: what follows costs the call no time.
        running.watch(self.meter)
        self._alarm.by(running.due)

    def call(self, call: Call, over: Over = lambda: None) -> asyncio.Future[Outcome]:
        """As `begin`, with a future; to cancel it is to leave, and the call goes on."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self.begin(call, partial(settle, future), over)
        return future

    @property
    def is_usable(self) -> bool:
        """Whether it may be lent: loaded, alive, sound, with room for a call."""
        if self.state is not State.READY or self.flaw is not None or self.version is None:
            return False
        return len(self._calls) < self.version.config.per_sandbox

    def look(self) -> None:
        """Wait for an answer without going to sleep, for ANSWER_SPIN_S at most."""
        if self._calls and self._socket is not None and (data := self._socket.look()):
            self.data_received(data)

    def hang_up(self) -> None:
        """Drop the connection and fail what is in flight. The driver kills what is behind it."""
        if self._transport is not None:
            self._transport.abort()
        self._die()

    def note(self, text: str, invocation_id: str | None = None) -> None:
        """A line of the platform's own in the function's log."""
        self._log.write(invocation_id or self._journal.invocation_id, "platform", [text])

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
        self._socket = SwiftSocket.of(self._transport)
        if self.state is State.CLOSED:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                if self.state is State.CLOSED:
                    return  # the frame before was its end, and a good one
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
        in_flight = self._calls or self._given_up
        if not in_flight and (self._phase is None or self._phase.done()):
            raise WireError(f"it spoke without being asked, in state {self.state.name}")

    def _on_frame(self, frame: Frame) -> None:
        if frame.type >= FrameType.RESULT:  # hot: most frames are answers
            self._on_answer(frame)
            return
        expected = EXPECTED_IN[frame.type]
        if self.state is not expected or self._phase is None or self._phase.done():
            raise WireError(f"{frame.type.name} in state {self.state.name}")
        if frame.type is FrameType.HELLO:
            if head_of(frame).get("protocol") != PROTOCOL:
                text = "the shim speaks another version of the protocol; rebuild the images"
                raise WireError(text)
            self._move(State.STEM)
            self._phase.set_result(None)
            return
        if self._outputs is not None:
            self._outputs.settle()
        if frame.type is FrameType.READY:
            self._move(State.READY)
            self._phase.set_result(None)
        else:
            self._phase.set_exception(init_failure(head_of(frame)))

    def _on_answer(self, frame: Frame) -> None:
        running = self._calls.get(frame.call) or self._given_up.get(frame.call)
        if running is None:
            raise WireError(f"{frame.type.name} for call {frame.call}, which is not in flight")
        if frame.type is FrameType.CHUNK:
            self._on_chunk(running, frame)
            return
        if (running.stream is None) is (frame.type is FrameType.END):
            raise WireError(f"{frame.type.name} for call {frame.call} at the wrong moment")
        if self._outputs is not None:
            self._outputs.settle()
        if frame.call in self._given_up:
            del self._given_up[frame.call]
            self._finished(running)
        elif running.stream is not None:
            self._on_end(running, running.stream, frame)
        else:
            self._on_outcome(running, frame)

    def _on_outcome(self, running: InFlight, frame: Frame) -> None:
        try:
            outcome = outcome_of(frame, running.call, running.timing(), running.usage())
        except WireError as error:
            running.tell(ResponseInvalid(f"the sandbox's answer cannot be read: {error}"))
            raise
        del self._calls[frame.call]
        failure = outcome.failure
        if failure is not None:
            self._log.write(running.call.id, "platform", logged(failure))
            if failure.is_last:  # before anyone is lent a process that is about to end
                self.flaw = "crashed"
        running.tell(outcome)
        self._finished(running)

    def _finished(self, running: InFlight) -> None:
        """The call's last frame has come: its place is free."""
        self._journal.shut(running.number)
        if self.flaw is not None and not self._calls:
            self.hang_up()  # the others have run to their ends, or it was the only one
        running.over()

    # --- streams ---------------------------------------------------------------------------------

    def _on_chunk(self, running: InFlight, frame: Frame) -> None:
        if len(frame.body) > STREAM_CHUNK_BYTES_MAX:
            raise WireError(f"a chunk of {len(frame.body)} bytes")
        if running.stream is not None:
            running.stream.feed(frame.body)
            return
        number = running.number
        stream = BodyStream(partial(self._grant, number), partial(self._cancel, number))
        stream.feed(frame.body)
        running.stream = stream
        if running.is_told:  # given up before it began
            stream.close()
            return
        outcome = opening_of(frame, running.timing(), stream)
        if outcome.failure is not None:
            self._log.write(running.call.id, "platform", logged(outcome.failure))
            stream.close()
        running.tell(outcome)

    def _on_end(self, running: InFlight, stream: BodyStream, frame: Frame) -> None:
        error, is_last = stream_error(frame)
        del self._calls[running.number]
        if error is not None:
            trace = error.details.get("trace") or (f"{error.details['type']}: {error.message}",)
            self._log.write(running.call.id, "platform", list(trace))
        if is_last:
            self.flaw = "crashed"
        stream.finish(error)
        self._finished(running)

    def _grant(self, number: int, size: int) -> None:
        if self.state is State.READY:
            self._send(FrameType.CREDIT, number, None, size.to_bytes(4, "big"))

    def _cancel(self, number: int) -> None:
        if self.state is State.READY:
            self._send(FrameType.CANCEL, number, None)

    # --- the end ---------------------------------------------------------------------------------

    def _ring(self, until: float) -> float:
        """Deal with what is due; the time of what is due next."""
        for running in [running for running in self._calls.values() if running.due <= until]:
            if running.due < running.deadline:
                running.due = running.deadline
                self._warn(running)
            elif self.state is State.READY:  # the one before may have been the last
                self._expire(running)
        return min((running.due for running in self._calls.values()), default=math.inf)

    def _warn(self, running: InFlight) -> None:
        """The call's time is nearly over: the function may still say its answer, or end well."""
        self.flaw = self.flaw or "timed_out"
        running.is_warned = True
        if len(self._calls) == 1 and not self._given_up:
            self.interrupt()
        else:
            self._cancel(running.number)

    def _expire(self, running: InFlight) -> None:
        error = timeout_error(running.config.timeout_s)
        self.note(error.message, running.call.id)
        del self._calls[running.number]
        self._given_up[running.number] = running
        self.flaw = "timed_out"
        running.tell(error)
        if self._calls:
            self._cancel(running.number)
        else:
            self.hang_up()

    def _die(self) -> None:
        if self.state is State.CLOSED:
            return
        if self._outputs is not None:
            self._outputs.close()  # last words, before anyone is told
        error = self.epitaph()
        self._move(State.CLOSED)
        self._alarm.stop()
        self.flaw = self.flaw or error.code.removeprefix("function_")
        if self._phase is not None and not self._phase.done():
            self._phase.set_exception(error)
            self._phase.exception()  # whoever waited may have left; that is no leak
        calls = [*self._calls.values(), *self._given_up.values()]
        given_up, self._calls, self._given_up = self._given_up, {}, {}
        for running in calls:
            if running.number not in given_up:
                self._lost(running, error)
            self._journal.shut(running.number)
        self.on_died(self)
        for running in calls:
            running.over()

    def _lost(self, running: InFlight, error: HearthError) -> None:
        """The sandbox ended in the middle of the call."""
        if running.is_warned:  # it ended when it was told to
            error = timeout_error(running.config.timeout_s)
        self.note(error.message, running.call.id)
        running.tell(error)

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

    def _send(self, kind: FrameType, call: int, head: Head, body: bytes = b"") -> None:
        assert self._transport is not None
        frame = encode(kind, call, head, body)
        if self._socket is None or not self._socket.write(frame):
            self._transport.write(frame)
