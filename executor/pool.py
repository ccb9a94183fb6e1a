"""Lends seats to invocations: an idle one if there is one, else a new one, else wait, bounded.

Mutable state: the lines (a version's idle seats, tickets and starts), the order of idle seats, the
memory promised, and the lines that starve for memory. It changes only in synchronous methods; what
takes time (boot, bind, init) runs in a task that changes nothing until it is done.

A ticket is not tied to a start: whichever seat of its version is free first serves the oldest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from types import TracebackType

from core.errors import FunctionFault, HearthError, NodeDraining, NodeFull
from core.limits import SEAT_WAIT_S, TICKETS_PER_FUNCTION_MAX
from core.model import Version
from executor.call import CodeProvider, LogSink, PoolStats
from executor.driver import Driver
from executor.sandbox import Sandbox
from executor.stems import Stems
from runtimes import registry

_log = logging.getLogger("hearth.executor")

_SWEEP_S = 1.0


class Seat:
    """A sandbox's place in the pool. `served` counts how often it was lent."""

    __slots__ = ("idle_since", "line", "sandbox", "served")

    def __init__(self, sandbox: Sandbox, line: _Line) -> None:
        self.sandbox = sandbox
        self.line = line
        self.idle_since = 0.0
        self.served = 0


class _Line:
    """Everything that concerns one version."""

    __slots__ = ("busy", "idle", "retired", "starting", "tickets", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.idle: list[Seat] = []  # the last is the most recently used
        self.tickets: deque[asyncio.Future[Seat]] = deque()
        self.starting = 0
        self.busy = 0
        self.retired = False

    @property
    def memory_mb(self) -> int:
        return self.version.config.memory_mb

    @property
    def is_empty(self) -> bool:
        return not (self.idle or self.tickets or self.starting or self.busy)


class Lease:
    """Exclusive use of a seat. It goes back only if the body leaves without an exception."""

    __slots__ = ("_pool", "_version", "seat")

    def __init__(self, pool: Pool, version: Version) -> None:
        self._pool = pool
        self._version = version

    async def __aenter__(self) -> Seat:
        self.seat = await self._pool.acquire(self._version)
        return self.seat

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._pool.give_back(self.seat)
        elif issubclass(kind, asyncio.CancelledError):
            self._pool.leave(self.seat)
        else:
            self._pool.discard(self.seat)


class Pool:
    """The node's seats. `repr` shows its state, for tests and logs."""

    def __init__(
        self,
        *,
        driver: Driver,
        stems: Stems,
        code: CodeProvider,
        logs: LogSink,
        memory_budget_mb: int,
        payload_bytes_max: int,
    ) -> None:
        self._driver = driver
        self._stems = stems
        self._code = code
        self._logs = logs
        self._budget_mb = memory_budget_mb
        self._payload_bytes_max = payload_bytes_max
        self._lines: dict[str, _Line] = {}
        self._idle_order: dict[Seat, None] = {}  # least recently used first
        self._starved: dict[_Line, None] = {}  # wait for memory, oldest first
        self._promised_mb = 0
        self._seats: dict[Sandbox, Seat] = {}
        self._starts: set[asyncio.Task[None]] = set()
        self._is_open = True
        self._sweeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        s = self.stats()
        return f"<Pool {s.busy} busy {s.idle} idle {s.booting} booting {s.waiting} waiting>"

    # --- lending ---------------------------------------------------------------------------------

    def lease(self, version: Version) -> Lease:
        """`async with pool.lease(version) as seat`. Errors as `acquire`."""
        return Lease(self, version)

    async def acquire(self, version: Version) -> Seat:
        """A usable seat, now busy. NodeFull after SEAT_WAIT_S without one, or what kept the
        version from starting: FunctionInitFailed, FunctionOutOfMemory, SandboxBroken, PartAway."""
        line = self._lines.get(version.id)
        if line is None:
            line = self._lines[version.id] = _Line(version)
        seat = self._pop_idle(line)
        if seat is not None:
            line.busy += 1
            return seat
        ticket = self._queue(line)
        try:
            return await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                self.give_back(ticket.result())  # granted in the very tick of the cancellation
            elif ticket in line.tickets:
                line.tickets.remove(ticket)
            raise

    def give_back(self, seat: Seat) -> None:
        """The lease ended well: lend it on, or let it rest."""
        line = seat.line
        if not seat.sandbox.is_usable or line.retired:
            self.discard(seat)
            return
        line.busy -= 1
        self._rest(seat)

    def discard(self, seat: Seat) -> None:
        """The lease ended badly: this sandbox is never lent again."""
        if self._seats.pop(seat.sandbox, None) is None:
            return
        line = seat.line
        if seat in self._idle_order:
            del self._idle_order[seat]
            line.idle.remove(seat)
        else:
            line.busy -= 1
        self._close(seat.sandbox, line)
        self._settle(line)

    def leave(self, seat: Seat) -> None:
        """The waiting was cancelled, the call goes on: the seat returns when it is answered."""
        if seat.sandbox.is_usable:
            self.give_back(seat)
        else:
            seat.sandbox.on_quiet = lambda _: self._return_quiet(seat)

    def _return_quiet(self, seat: Seat) -> None:
        seat.sandbox.on_quiet = lambda _: None
        if seat.sandbox in self._seats:
            self.give_back(seat)

    # --- state -----------------------------------------------------------------------------------

    def _pop_idle(self, line: _Line) -> Seat | None:
        while line.idle:
            seat = line.idle.pop()
            del self._idle_order[seat]
            if seat.sandbox.is_usable:
                return seat
            self._seats.pop(seat.sandbox, None)
            self._close(seat.sandbox, line)
        return None

    def _queue(self, line: _Line) -> asyncio.Future[Seat]:
        if not self._is_open:
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        if len(line.tickets) >= TICKETS_PER_FUNCTION_MAX:
            raise NodeFull("too many invocations of this function wait already", retry_after_s=1)
        loop = asyncio.get_running_loop()
        ticket: asyncio.Future[Seat] = loop.create_future()
        line.tickets.append(ticket)
        loop.call_later(SEAT_WAIT_S, self._expire_ticket, line, ticket)
        self._settle(line)
        return ticket

    def _expire_ticket(self, line: _Line, ticket: asyncio.Future[Seat]) -> None:
        if ticket.done():
            return
        if line.starting:  # a seat is being made and each step of that is bounded
            asyncio.get_running_loop().call_later(SEAT_WAIT_S, self._expire_ticket, line, ticket)
            return
        line.tickets.remove(ticket)
        text = f"no seat became free within {SEAT_WAIT_S:g} s: the node's memory is all promised"
        ticket.set_exception(NodeFull(text, retry_after_s=2))

    def _rest(self, seat: Seat) -> None:
        """A free seat: to the oldest ticket of its line, else to the idle ones."""
        line = seat.line
        while line.tickets:
            ticket = line.tickets.popleft()
            if not ticket.done():
                line.busy += 1
                ticket.set_result(seat)
                return
        seat.idle_since = time.perf_counter()
        line.idle.append(seat)
        self._idle_order[seat] = None
        self._feed_starved()

    def _settle(self, line: _Line) -> None:
        """Begin as many starts as the line's tickets still need and memory allows."""
        while len(line.tickets) > line.starting and self._is_open:
            if not self._make_room(line.memory_mb):
                self._starved[line] = None
                return
            self._promised_mb += line.memory_mb
            line.starting += 1
            task = asyncio.create_task(self._start(line))
            self._starts.add(task)
            task.add_done_callback(self._starts.discard)
        self._starved.pop(line, None)
        if line.is_empty:
            self._lines.pop(line.version.id, None)

    def _make_room(self, memory_mb: int) -> bool:
        """Evict the least recently used idle seats until so much memory is free."""
        while self._promised_mb + memory_mb > self._budget_mb:
            if not self._idle_order:
                return False
            seat = next(iter(self._idle_order))
            seat.sandbox.note("evicted: the node needed its memory")
            self._evict(seat)
        return True

    def _feed_starved(self) -> None:
        for line in list(self._starved):
            self._settle(line)
            if line in self._starved:
                return  # first come, first served: nobody overtakes the oldest

    def _evict(self, seat: Seat) -> None:
        del self._idle_order[seat]
        seat.line.idle.remove(seat)
        self._seats.pop(seat.sandbox, None)
        self._close(seat.sandbox, seat.line)
        if seat.line.is_empty:
            self._lines.pop(seat.line.version.id, None)

    def _close(self, sandbox: Sandbox, line: _Line) -> None:
        self._promised_mb -= line.memory_mb
        self._driver.close(sandbox)
        if self._starved:
            asyncio.get_running_loop().call_soon(self._feed_starved)

    def _on_died(self, sandbox: Sandbox) -> None:
        seat = self._seats.get(sandbox)
        if seat is not None and seat in self._idle_order:
            self.discard(seat)  # a busy one is discarded by its lease
        elif seat is not None:  # or, if its waiter has left, now
            asyncio.get_running_loop().call_soon(sandbox.on_quiet, sandbox)

    # --- making a seat ---------------------------------------------------------------------------

    async def _start(self, line: _Line) -> None:
        sandbox: Sandbox | None = None
        try:
            sandbox = await self._boot_and_bind(line.version)
            await sandbox.init(line.version, self._logs, self._payload_bytes_max)
        except HearthError as error:
            self._start_failed(line, sandbox, error)
        except BaseException:
            self._start_failed(line, sandbox, NodeDraining("this node is shutting down"))
            raise
        else:
            line.starting -= 1
            seat = self._seats[sandbox] = Seat(sandbox, line)
            sandbox.on_died = self._on_died
            if line.retired and not line.tickets:
                line.busy += 1
                self.discard(seat)
            else:
                self._rest(seat)

    async def _boot_and_bind(self, version: Version) -> Sandbox:
        started = time.perf_counter()
        code = await self._code.tree(version)
        try:
            runtime = registry.find(version.config.runtime)
            sandbox = await self._stems.take(runtime, version.config.network)
            try:
                await self._driver.bind(sandbox, version, code)
            except BaseException:
                self._driver.close(sandbox)
                raise
        except BaseException:
            self._code.release(code)
            raise
        sandbox.timing.boot_ms = (time.perf_counter() - started) * 1000
        return sandbox

    def _start_failed(self, line: _Line, sandbox: Sandbox | None, error: HearthError) -> None:
        line.starting -= 1
        if sandbox is not None:
            self._driver.close(sandbox)
        self._promised_mb -= line.memory_mb
        if not isinstance(error, FunctionFault | NodeDraining):
            _log.warning("a seat of %s could not be made: %s", line.version.label, error)
        while line.tickets:
            ticket = line.tickets.popleft()
            if not ticket.done():
                ticket.set_exception(error)
                break
        self._settle(line)
        self._feed_starved()

    # --- the rest of life ------------------------------------------------------------------------

    def retire(self, version_id: str) -> None:
        """Close the version's idle seats now, its busy ones after their calls."""
        line = self._lines.get(version_id)
        if line is None:
            return
        line.retired = True
        for seat in list(line.idle):
            self._evict(seat)

    def begin(self) -> None:
        """Start expiring idle seats. Needs a running loop."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def end(self) -> None:
        """Lend nothing more, and let go of what is being started."""
        self._is_open = False
        tasks = [*self._starts, *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines.values():
            for ticket in line.tickets:
                if not ticket.done():
                    ticket.set_exception(NodeDraining("this node is shutting down"))
                    with contextlib.suppress(HearthError):
                        ticket.result()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.perf_counter()
            for seat in list(self._idle_order):
                if now - seat.idle_since >= seat.line.version.config.keep_warm_s:
                    self._evict(seat)

    def stats(self) -> PoolStats:
        """Counts of this moment."""
        lines = self._lines.values()
        return PoolStats(
            stems=self._stems.count(),
            idle=len(self._idle_order),
            busy=sum(line.busy for line in lines),
            booting=sum(line.starting for line in lines),
            waiting=sum(len(line.tickets) for line in lines),
        )
