"""Lends seats to invocations: an idle one if there is one, else a new one, else wait, bounded.

Mutable state: the lines (a version's idle seats, tickets and starts), the order of idle seats, the
memory promised, and the lines that starve for memory. It changes only in synchronous methods; what
takes time (boot, bind, init) runs in a task that changes nothing until it is done.

A ticket is not tied to a start: whichever seat of its version is free first serves the oldest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from types import TracebackType

from core.errors import FunctionFault, HearthError, NodeDraining, NodeFull
from core.limits import SEAT_WAIT_FAIR_S, SEAT_WAIT_S, TICKETS_PER_FUNCTION_MAX
from core.model import Version
from executor.call import PoolStats
from executor.sandbox import Sandbox
from executor.seats import Line, Seat
from executor.starter import Starter

log = logging.getLogger("hearth.executor")

_SWEEP_S = 1.0


class Lease:
    """Exclusive use of a seat. It goes back only if the body leaves without an exception."""

    __slots__ = ("_pool", "_version", "seat")

    def __init__(self, pool: Pool, version: Version) -> None:
        self._pool = pool
        self._version = version

    async def __aenter__(self) -> Seat:
        self.seat = await self._pool.acquire(self._version)
        self.seat.served += 1
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
            # The waiting was cancelled; the call goes on, and the seat returns when it is over.
            self.seat.sandbox.when_quiet(partial(self._pool.give_back, self.seat))
        else:
            self._pool.discard(self.seat)


class Pool:
    """The node's seats. `repr` shows its state, for tests and logs."""

    def __init__(self, starter: Starter, memory_budget_mb: int) -> None:
        self._starter = starter
        self._budget_mb = memory_budget_mb
        self._promised_mb = 0
        self._lines: dict[str, Line] = {}
        self._retired: set[Line] = set()  # no longer in `_lines`, but not empty yet
        self._seats: dict[Sandbox, Seat] = {}
        self._idle_order: dict[Seat, None] = {}  # least recently used first
        self._starved: dict[Line, float] = {}  # since when they wait for memory, oldest first
        self._starts: set[asyncio.Task[None]] = set()
        self._is_open = True
        self._sweeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        s = self.stats()
        return (
            f"<Pool {s.busy} busy {s.idle} idle {s.booting} booting {s.waiting} waiting, "
            f"{self._promised_mb} of {self._budget_mb} MB>"
        )

    # --- lending ---------------------------------------------------------------------------------

    def lease(self, version: Version) -> Lease:
        """`async with pool.lease(version) as seat`. Errors as `acquire`."""
        return Lease(self, version)

    async def acquire(self, version: Version) -> Seat:
        """A usable seat, now busy. NodeFull after SEAT_WAIT_S without one, or what kept the
        version from starting: FunctionInitFailed, FunctionOutOfMemory, SandboxBroken, PartAway."""
        line = self._lines.get(version.id)
        if line is not None and (seat := self._pop_idle(line)) is not None:
            line.busy += 1
            return seat
        seat = await self._wait(version)
        if not seat.sandbox.is_usable:
            # It died between its grant and now, and has seen nothing of this call: once more.
            self.discard(seat)
            seat = await self._wait(version)
        return seat

    def give_back(self, seat: Seat) -> None:
        """The lease ended well: lend it on, or let it rest."""
        if not seat.sandbox.is_usable or seat.line.retired or self._must_yield(seat):
            self.discard(seat)
        else:
            seat.line.busy -= 1
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
        self._close(seat)
        self._settle(line)

    # --- waiting ---------------------------------------------------------------------------------

    async def _wait(self, version: Version) -> Seat:
        line = self._line_for(version)
        ticket: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        line.tickets.append(ticket)
        self._settle(line)
        try:
            while not ticket.done():
                await asyncio.wait([ticket], timeout=SEAT_WAIT_S)
                # While a seat is being made the waiting goes on: each step of that is bounded.
                if not ticket.done() and not line.starting:
                    text = f"no seat became free within {SEAT_WAIT_S:g} s: all memory is promised"
                    raise NodeFull(text, retry_after_s=2)
            return ticket.result()
        except BaseException:
            self._tear_up(line, ticket)
            raise

    def _line_for(self, version: Version) -> Line:
        if not self._is_open:
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        if version.config.memory_mb > self._budget_mb:
            text = f"{version.config.memory_mb} MB are more than this node's {self._budget_mb} MB"
            raise NodeFull(f"the function's {text} for all sandboxes")
        line = self._lines.get(version.id)
        if line is None:
            line = self._lines[version.id] = Line(version)
        if len(line.tickets) >= TICKETS_PER_FUNCTION_MAX:
            raise NodeFull("too many invocations of this function wait already", retry_after_s=1)
        return line

    def _tear_up(self, line: Line, ticket: asyncio.Future[Seat]) -> None:
        if ticket in line.tickets:
            line.tickets.remove(ticket)
            self._settle(line)
        elif ticket.done() and ticket.exception() is None:
            self.give_back(ticket.result())  # granted in the very tick of the cancellation

    # --- state -----------------------------------------------------------------------------------

    def _pop_idle(self, line: Line) -> Seat | None:
        while line.idle:
            seat = line.idle.pop()
            del self._idle_order[seat]
            if seat.sandbox.is_usable:
                return seat
            del self._seats[seat.sandbox]
            self._close(seat)
        return None

    def _rest(self, seat: Seat) -> None:
        """A free seat: to the oldest ticket of its line, else to the idle ones."""
        line = seat.line
        if line.tickets:
            line.busy += 1
            line.tickets.popleft().set_result(seat)
        else:
            seat.idle_since = time.perf_counter()
            line.idle.append(seat)
            self._idle_order[seat] = None
        if self._starved:
            self._feed()

    def _must_yield(self, seat: Seat) -> bool:
        """Whether a line has starved so long that this seat ends in its favour; else a busy
        function would keep for ever what it has."""
        if not self._starved:
            return False
        line, since = next(iter(self._starved.items()))
        if line is seat.line or time.perf_counter() - since < SEAT_WAIT_FAIR_S:
            return False
        return self._free_mb() + seat.memory_mb >= line.memory_mb

    def _settle(self, line: Line) -> None:
        """After every change: begin what its tickets still need, after those who starve longer."""
        if line.wants_seats:
            self._starved.setdefault(line, time.perf_counter())
        self._feed()
        if line.is_empty:
            self._retired.discard(line)
            if self._lines.get(line.version.id) is line:
                del self._lines[line.version.id]

    def _feed(self) -> None:
        """Begin every start that memory allows, oldest need first. Who does not fit does not hold
        up others: nobody waits while a seat could be made."""
        for line in list(self._starved):
            began = False
            while self._is_open and line.wants_seats and self._make_room(line.memory_mb):
                self._begin(line)
                began = True
            if not line.wants_seats:
                del self._starved[line]
            elif began:  # it has had its turn
                del self._starved[line]
                self._starved[line] = time.perf_counter()

    def _begin(self, line: Line) -> None:
        self._promised_mb += line.memory_mb
        line.starting += 1
        task = asyncio.create_task(self._start(line))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    def _free_mb(self) -> int:
        """What could be promised if every idle seat were evicted."""
        idle_mb = sum(seat.memory_mb for seat in self._idle_order)
        return self._budget_mb - self._promised_mb + idle_mb

    def _make_room(self, memory_mb: int) -> bool:
        """Evict the least recently used idle seats until so much memory is free; none of them
        when that would not do."""
        if self._promised_mb + memory_mb <= self._budget_mb:
            return True
        if memory_mb > self._free_mb():
            return False
        while self._promised_mb + memory_mb > self._budget_mb:
            seat = next(iter(self._idle_order))
            seat.sandbox.note("evicted: the node needed its memory")
            self._evict(seat)
        return True

    def _evict(self, seat: Seat) -> None:
        line = seat.line
        del self._idle_order[seat]
        line.idle.remove(seat)
        del self._seats[seat.sandbox]
        self._close(seat)
        if line.is_empty and self._lines.get(line.version.id) is line:
            del self._lines[line.version.id]

    def _close(self, seat: Seat) -> None:
        self._promised_mb -= seat.memory_mb
        self._starter.close(seat.sandbox)

    def _on_died(self, sandbox: Sandbox) -> None:
        seat = self._seats.get(sandbox)
        if seat is not None and seat in self._idle_order:
            self.discard(seat)  # a busy one is discarded by its lease

    # --- making a seat ---------------------------------------------------------------------------

    async def _start(self, line: Line) -> None:
        try:
            sandbox = await self._starter.start(line.version)
        except HearthError as error:
            self._start_failed(line, error)
        except BaseException:
            self._start_failed(line, NodeDraining("this node is shutting down", retry_after_s=1))
            raise
        else:
            line.starting -= 1
            seat = self._seats[sandbox] = Seat(sandbox, line)
            sandbox.on_died = self._on_died
            if line.tickets or not line.retired:
                self._rest(seat)
            else:
                line.busy += 1
                self.discard(seat)

    def _start_failed(self, line: Line, error: HearthError) -> None:
        line.starting -= 1
        self._promised_mb -= line.memory_mb
        if not isinstance(error, FunctionFault | NodeDraining):
            log.warning("a seat of %s could not be made: %s", line.version.label, error)
        if line.tickets:
            line.tickets.popleft().set_exception(error)
        self._settle(line)

    # --- the rest of life ------------------------------------------------------------------------

    def retire(self, version_id: str) -> None:
        """Close the version's idle seats now, its busy ones after their calls."""
        line = self._lines.pop(version_id, None)
        if line is None:
            return
        line.retired = True
        for seat in list(line.idle):
            self._evict(seat)
        if not line.is_empty:
            self._retired.add(line)

    def begin(self) -> None:
        """Start expiring idle seats. Needs a running loop."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def end(self) -> None:
        """Lend nothing more, and let go of what is being started."""
        self._is_open = False
        draining = NodeDraining("this node is shutting down", retry_after_s=1)
        for line in [*self._lines.values(), *self._retired]:
            while line.tickets:
                line.tickets.popleft().set_exception(draining)
            self._settle(line)
        for sandbox in self._seats:
            sandbox.why_died = lambda: draining  # it is not their fault
        tasks = [*self._starts, *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.perf_counter()
            for seat in list(self._idle_order):
                if now - seat.idle_since >= seat.line.version.config.keep_warm_s:
                    self._evict(seat)

    def stats(self) -> PoolStats:
        """Counts of this moment, without stems."""
        lines = [*self._lines.values(), *self._retired]
        return PoolStats(
            idle=len(self._idle_order),
            busy=sum(line.busy for line in lines),
            booting=sum(line.starting for line in lines),
            waiting=sum(len(line.tickets) for line in lines),
        )
