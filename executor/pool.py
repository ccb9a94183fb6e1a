"""Does what the plan decides: lends seats, starts, freezes, thaws and ends sandboxes.

The books are the plan's (executor/plan.py), which changes them in synchronous methods and leaves
its decisions; `_act` carries them out. What takes time (boot, bind, init) runs in a task that
changes nothing until it is done. A ticket is not tied to a start: whichever seat of its version is
free first serves the oldest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from core.errors import FunctionFault, FunctionInitFailed, HearthError, NodeDraining, NodeFull
from core.limits import FREEZE_AFTER_S, SEAT_WAIT_S, SHUTDOWN_GRACE_S, TICKETS_PER_FUNCTION_MAX
from core.model import Version
from executor.breaker import Breaker
from executor.call import PoolStats
from executor.plan import Plan
from executor.sandbox import Sandbox
from executor.seats import Begin, CallOff, Decision, Freeze, Grant, Leave, Line, Seat, Ticket
from executor.starter import Starter
from executor.stems import CalledOff

log = logging.getLogger("hearth.executor")

_SWEEP_S = 1.0
_GONE_S = 15.0  # a stop waits so long for what is ending; the driver's own patience is shorter


@dataclass(eq=False, slots=True)
class _Ticket(Ticket):
    """One that a task waits on."""

    seat: asyncio.Future[Seat] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Pool:
    """The node's seats. `repr` shows its state, for tests and logs."""

    def __init__(self, starter: Starter, memory_budget_mb: int) -> None:
        self._starter = starter
        self.plan = Plan(memory_budget_mb)
        starter.when_room(self._on_room)
        self._breaker = Breaker()
        self._seats: dict[Sandbox, Seat] = {}
        self._starts: set[asyncio.Task[Sandbox]] = set()
        self._all_gone = asyncio.Event()
        self._is_open = True
        self._sweepers: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        s = self.stats()
        return (
            f"<Pool {s.busy} busy {s.idle} idle {s.booting} booting {s.waiting} waiting, "
            f"{self.plan.promised_mb} of {self.plan.budget_mb} MB>"
        )

    # --- lending ---------------------------------------------------------------------------------

    def lend(self, version: Version) -> Seat | None:
        """A warm seat, awake, or None when there is none at hand. Give it back."""
        while (seat := self.plan.lend(version.id)) is not None:
            if seat.is_frozen:
                seat.is_frozen = False
                self._starter.thaw(seat.sandbox)
            if seat.sandbox.is_usable:
                return seat
            self.give_back(seat)
        return None

    async def acquire(self, version: Version) -> tuple[Seat, str | None]:
        """A seat, and why there was none warm, if it had to be made for this. NodeFull after
        SEAT_WAIT_S without one, or what kept the version from starting: FunctionInitFailed,
        FunctionUnloadable, FunctionOutOfMemory, SandboxBroken, PartAway."""
        seat = self.lend(version)
        if seat is not None:
            return seat, None
        ticket = await self._wait(version)
        seat = ticket.seat.result()
        if not seat.sandbox.is_usable:
            # It died between its grant and now, and has seen nothing of this call: once more.
            self.give_back(seat)
            ticket = await self._wait(version)
            seat = ticket.seat.result()
        return seat, ticket.why_cold if seat.is_fresh else None

    def has_seats(self, version: Version) -> bool:
        """Whether the version has any: it is warm, if busy."""
        line = self.plan.lines.get(version.id)
        return line is not None and line.seats > 0

    def give_back(self, seat: Seat) -> None:
        """A call of the seat is over: lend it on, let it rest, or end it if something is wrong."""
        flaw = seat.sandbox.flaw
        if flaw is not None:
            self.plan.spoil(seat, flaw, is_sound=False)
        self.plan.give_back(seat, time.monotonic())
        if self.plan.decisions:
            self._act()

    # --- waiting ---------------------------------------------------------------------------------

    async def _wait(self, version: Version) -> _Ticket:
        if not self._is_open:
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        self._require_room(version)
        if self.plan.needs_start(version.id):
            self._breaker.check(version.id, time.monotonic())
        ticket = _Ticket(self.plan.why_cold(version))
        self.plan.starts_max = self._starter.room()
        self.plan.ask(version, ticket, time.monotonic())
        self._act()
        try:
            while not ticket.seat.done():
                await asyncio.wait([ticket.seat], timeout=SEAT_WAIT_S)
                # While a seat is being made the waiting goes on: each step of that is bounded.
                if not ticket.seat.done() and not self.plan.is_starting(version.id):
                    text = f"no seat became free within {SEAT_WAIT_S:g} s, nor could one be made"
                    raise NodeFull(text, retry_after_s=2)
            ticket.seat.result()
        except BaseException:
            self._tear_up(version, ticket)
            raise
        finally:
            if not self.plan.is_starting(version.id):  # also when a seat that was there served it
                self._breaker.unknown(version.id)
        return ticket

    def _require_room(self, version: Version) -> None:
        if not self.plan.room_for(version):
            text = f"{version.config.memory_mb} MB are more than this node's "
            text += f"{self.plan.budget_mb} MB"
            raise NodeFull(f"the function's {text} for all sandboxes")
        line = self.plan.lines.get(version.id)
        if line is not None and len(line.tickets) >= TICKETS_PER_FUNCTION_MAX:
            raise NodeFull("too many invocations of this function wait already", retry_after_s=1)

    def _tear_up(self, version: Version, ticket: _Ticket) -> None:
        if self.plan.tear_up(version.id, ticket, time.monotonic()):
            self._act()
        elif ticket.seat.done() and not ticket.seat.cancelled() and not ticket.seat.exception():
            self.give_back(ticket.seat.result())  # granted in the very tick of the cancellation

    # --- acting ----------------------------------------------------------------------------------

    def _act(self) -> None:
        """Carry out what the plan has decided."""
        decisions = self.plan.decisions
        while decisions:
            decision = decisions.pop(0)
            self._carry_out(decision)
        if not self.plan.leaving and not self._is_open:
            self._all_gone.set()

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Grant(ticket, seat):
                assert isinstance(ticket, _Ticket)
                if ticket.seat.done():  # whoever waited has left in this very tick
                    self.give_back(seat)
                else:
                    ticket.seat.set_result(seat)
            case Begin(line):
                start = asyncio.create_task(self._starter.start(line.version))
                self._starts.add(start)
                start.add_done_callback(partial(self._start_ended, line))
            case CallOff(line):
                self._starter.call_off(line.version)
            case Freeze(seat):
                seat.is_frozen = self._starter.freeze(seat.sandbox)
            case Leave(seat, why):
                self._leave(seat, why)

    def _leave(self, seat: Seat, why: str) -> None:
        sandbox = seat.sandbox
        if why == "evicted":
            sandbox.note("evicted: the node needed its memory")
        self._seats.pop(sandbox, None)
        if seat.is_sound and sandbox.flaw is None:
            grace_s = seat.line.version.config.grace_s
            if not self._is_open:
                grace_s = min(grace_s, SHUTDOWN_GRACE_S)
            self._starter.retire(sandbox, grace_s)
        else:
            self._starter.close(sandbox)

    def _on_died(self, sandbox: Sandbox) -> None:
        seat = self._seats.get(sandbox)
        if seat is not None:
            self.plan.died(seat, sandbox.flaw or "crashed", time.monotonic())
            self._act()

    def _on_room(self) -> None:
        self.plan.starts_max = self._starter.room()
        self.plan.more_may_start(time.monotonic())
        if self.plan.decisions:
            self._act()

    def _on_gone(self, seat: Seat) -> None:
        if seat in self.plan.leaving:
            self.plan.gone(seat, time.monotonic())
            self._act()

    # --- making a seat ---------------------------------------------------------------------------

    def _start_ended(self, line: Line, start: asyncio.Task[Sandbox]) -> None:
        # Not in the task itself: one that is cancelled before its first step never runs.
        self._starts.discard(start)
        version, now = line.version, time.monotonic()
        self.plan.starts_max = self._starter.room()
        if start.cancelled():
            draining = NodeDraining("this node is shutting down", retry_after_s=1)
            self._start_failed(line, draining)
            return
        error = start.exception()
        if error is None:
            self._breaker.loaded(version.id)
            sandbox = start.result()
            seat = self.plan.started(line, sandbox, now)
            self._seats[sandbox] = seat
            sandbox.on_died = self._on_died
            sandbox.on_gone = lambda _: self._on_gone(seat)
            if not sandbox.is_usable:  # it ended since
                self.plan.died(seat, sandbox.flaw or "crashed", now)
            self._act()
        elif isinstance(error, CalledOff):
            self._breaker.unknown(version.id)
            self.plan.called_off(line, now)
            self._act()
        else:
            assert isinstance(error, HearthError), error
            self._start_failed(line, error)

    def _start_failed(self, line: Line, error: HearthError) -> None:
        version, now = line.version, time.monotonic()
        if isinstance(error, FunctionInitFailed):
            self._breaker.failed(version.id, error, now)
        else:
            self._breaker.unknown(version.id)
            if not isinstance(error, FunctionFault | NodeDraining):
                log.warning("a seat of %s could not be made: %s", version.label, error.message)
        if not self._breaker.is_open(version.id):
            told = [ticket] if (ticket := self.plan.start_failed(line, now)) else []
        else:
            told = self.plan.give_up(line, now)
        for ticket in told[:1]:
            _refuse(ticket, error)
        for ticket in told[1:]:
            _refuse(ticket, self._breaker.error(version.id, now))
        self._act()

    # --- the rest of life ------------------------------------------------------------------------

    def keep(self, versions: Iterable[Version]) -> None:
        """The versions in use, whole: what their `min_warm` asks is there from now on."""
        if self._is_open:
            self.plan.keep(versions, time.monotonic())
            self._act()

    def retire(self, version_id: str) -> None:
        """End the version's idle seats now, its busy ones after their calls."""
        self.plan.retire(version_id, time.monotonic())
        self._act()

    def begin(self) -> None:
        """Start freezing and expiring idle seats. Needs a running loop."""
        self._sweepers = [
            asyncio.create_task(self._every(FREEZE_AFTER_S, self.plan.freeze)),
            asyncio.create_task(self._every(_SWEEP_S, self.plan.tick)),
        ]

    async def _every(self, seconds: float, look: Callable[[float], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            look(time.monotonic())
            if self.plan.decisions:
                self._act()

    async def end(self) -> None:
        """Lend nothing more, let go of what is being started, and wait until what is idle has
        ended in its own way. What is still busy is the driver's to close."""
        self._is_open = False
        draining = NodeDraining("this node is shutting down", retry_after_s=1)
        for ticket in self.plan.end(time.monotonic()):
            _refuse(ticket, draining)
        for sandbox, seat in self._seats.items():
            if seat.calls:
                sandbox.why_died = lambda: draining  # it is not their fault
        self._act()
        tasks = [*self._starts, *self._sweepers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._act()
        if self.plan.leaving:  # more than at first: starts that had just ended well
            self._all_gone.clear()
        try:
            async with asyncio.timeout(SHUTDOWN_GRACE_S + _GONE_S):
                await self._all_gone.wait()
        except TimeoutError:
            log.warning("%d sandboxes have not ended in time", len(self.plan.leaving))

    def stats(self) -> PoolStats:
        """Counts of this moment, without stems."""
        lines = list(self.plan.all_lines())
        return PoolStats(
            idle=len(self.plan.resting.seats),
            busy=sum(line.busy for line in lines),
            booting=sum(line.starting for line in lines),
            waiting=sum(len(line.tickets) for line in lines),
            frozen=sum(seat.is_frozen for seat in self.plan.resting.seats),
            leaving=len(self.plan.leaving),
            promised_mb=self.plan.promised_mb,
        )


def _refuse(ticket: Ticket, error: HearthError) -> None:
    assert isinstance(ticket, _Ticket)
    if not ticket.seat.done():
        ticket.seat.set_exception(error)
