"""Who gets which seat, what is started, frozen, evicted and let go: decided here, done in pool.py.

Deterministic, without I/O and without a clock: every method takes what happened and the time,
changes the books, and leaves what is to be done in `decisions`, in order. `lend` and `give_back` of
a warm seat cost the same whatever the number of seats.

The rules. A free seat goes to the oldest ticket of its version. Nobody waits while a seat could be
made, if need be by evicting whoever was used least recently; what a version keeps is never evicted,
and nothing is evicted in vain. Who waits longest for memory is served first, and after
SEAT_WAIT_FAIR_S a busy function's seat ends in its favour. Memory is free when the process is gone,
not before. Nothing is begun, and nobody evicted, for a start that could only wait for its stem.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from core.limits import (
    SEAT_WAIT_FAIR_S,
    STARTS_AT_ONCE_MAX,
)
from core.model import Version
from executor.ends import Ends
from executor.resting import Resting
from executor.sandbox import Sandbox
from executor.seats import (
    Begin,
    CallOff,
    Decision,
    Freeze,
    Grant,
    Leave,
    Line,
    Rest,
    Seat,
    Ticket,
)


class Plan:
    """The books of one node's pool."""

    def __init__(self, budget_mb: int) -> None:
        self.budget_mb = budget_mb
        self.promised_mb = 0  # to starts, seats and those that are leaving
        self.leaving_mb = 0  # of that, what comes back by itself
        self.lines: dict[str, Line] = {}
        self.retired: dict[Line, None] = {}  # no longer in `lines`, but not empty yet
        self.resting = Resting()
        self.leaving: dict[Seat, None] = {}
        self.starving: dict[Line, float] = {}  # since when they wait for memory, oldest first
        self.kept: dict[Line, None] = {}
        self.starting = 0
        self.starts_max = STARTS_AT_ONCE_MAX  # as many as have a stem, or a boot of their own
        self.decisions: list[Decision] = []
        self._yielding: dict[Seat, None] = {}  # busy, and ending in favour of who starves
        self._ends = Ends()

    # --- lending ---------------------------------------------------------------------------------

    def lend(self, version_id: str) -> Seat | None:
        """A warm seat, or None: then `ask`. The fullest first, then the most recently used."""
        line = self.lines.get(version_id)
        if line is None or line.tickets:
            return None
        if line.open:
            seat = next(reversed(line.open))
        elif line.idle:
            seat = next(reversed(line.idle))
            self.resting.remove(seat)
            line.busy += 1
        else:
            return None
        self._seize(seat)
        return seat

    def give_back(self, seat: Seat, now: float) -> None:
        """One call of the seat is over. Tell what is wrong with the seat before, by `spoil`."""
        seat.calls -= 1
        if seat.why_spoiled is None:
            if seat.line.is_retired:
                self.spoil(seat, "retired", is_sound=True)
            elif self.starving and self._must_yield(seat, now):
                self.spoil(seat, "evicted", is_sound=True)
        if seat.why_spoiled is None:
            self._offer(seat, now)
        elif not seat.calls:
            seat.line.busy -= 1
            self._yielding.pop(seat, None)
            self._leave(seat, seat.why_spoiled, now)

    def spoil(self, seat: Seat, why: str, *, is_sound: bool) -> None:
        """The seat takes no more calls and leaves with its last one."""
        seat.why_spoiled = seat.why_spoiled or why
        seat.is_sound = seat.is_sound and is_sound
        seat.line.open.pop(seat, None)
        if why == "evicted":
            self._yielding[seat] = None

    def died(self, seat: Seat, why: str, now: float) -> None:
        """The seat's process is no more. A busy one leaves when its calls are given back."""
        if seat.rest is Rest.BUSY:
            self.spoil(seat, why, is_sound=False)
        elif seat.rest is Rest.IDLE:
            seat.is_sound = False
            self._evict(seat, why, now)

    def gone(self, seat: Seat, now: float) -> None:
        """What left has ended: its memory is free."""
        del self.leaving[seat]
        self.leaving_mb -= seat.memory_mb
        self.promised_mb -= seat.memory_mb
        self._feed(now)

    # --- waiting ---------------------------------------------------------------------------------

    def ask(self, version: Version, ticket: Ticket, now: float) -> None:
        """Wait for a seat of the version."""
        line = self._line_of(version)
        line.tickets.append(ticket)
        self._settle(line, now)

    def tear_up(self, version_id: str, ticket: Ticket, now: float) -> bool:
        """Wait no more; whether the ticket still waited."""
        lines = [self.lines.get(version_id), *self.retired]
        for line in lines:
            if line is not None and line.version.id == version_id and ticket in line.tickets:
                line.tickets.remove(ticket)
                self._settle(line, now)
                return True
        return False

    def why_cold(self, version: Version) -> str:
        """Why there is no warm seat for the version now."""
        line = self.lines.get(version.id)
        if line is not None and (line.seats or line.starting):
            return "burst"
        return self._ends.of(version)

    def needs_start(self, version_id: str) -> bool:
        """Whether one more ticket of the version would make for one more start."""
        line = self.lines.get(version_id)
        return line is None or -(-(len(line.tickets) + 1) // line.slots) > line.starting

    def is_starting(self, version_id: str) -> bool:
        """Whether a seat of the version is being made."""
        return any(x.starting for x in self.all_lines() if x.version.id == version_id)

    def room_for(self, version: Version) -> bool:
        """Whether a node of this size could ever run it."""
        return version.config.memory_mb <= self.budget_mb

    # --- starts ----------------------------------------------------------------------------------

    def started(self, line: Line, sandbox: Sandbox, now: float) -> Seat:
        """A start has ended well."""
        line.starting -= 1
        self.starting -= 1
        line.failures = 0
        line.seats += 1
        line.busy += 1
        seat = Seat(sandbox, line)
        if line.is_retired and not line.tickets:
            line.busy -= 1
            self._leave(seat, "retired", now)
        else:
            self._offer(seat, now)
        return seat

    def start_failed(self, line: Line, now: float) -> Ticket | None:
        """A start has ended otherwise; the ticket that is to hear of it, if one waits."""
        self._unpromise(line)
        told = line.tickets.popleft() if line.tickets else None
        line.pause(now)
        self._settle(line, now)
        return told

    def give_up(self, line: Line, now: float) -> list[Ticket]:
        """A start has failed, and no other is tried: the tickets that are to hear of it."""
        self._unpromise(line)
        line.pause(now)
        unserved = list(line.tickets)
        line.tickets.clear()
        self._settle(line, now)
        return unserved

    def called_off(self, line: Line, now: float) -> None:
        """A start was given up, as `CallOff` asked, before it cost anything."""
        self._unpromise(line)
        self._settle(line, now)

    # --- the rest of life ------------------------------------------------------------------------

    def keep(self, versions: Iterable[Version], now: float) -> None:
        """The versions in use, whole: of each at least its `min_warm` seats are there from now on,
        whether or not it is called."""
        wanted = {v.id: v for v in versions if v.config.min_warm and self.room_for(v)}
        for line in list(self.kept):
            if line.version.id not in wanted:
                line.kept = 0
                del self.kept[line]
                self._forget_if_empty(line)
        for version in wanted.values():
            line = self._line_of(version)
            line.kept = version.config.min_warm
            self.kept[line] = None
        self._warm(now)
        self._feed(now)  # what is not kept any more may be evicted

    def retire(self, version_id: str, now: float) -> None:
        """Let go of the version's idle seats now, of its busy ones after their calls."""
        line = self.lines.pop(version_id, None)
        if line is None:
            return
        line.is_retired = True
        line.kept = 0
        self.kept.pop(line, None)
        while line.idle:  # others may be evicted beside it, for whoever waits
            self._evict(next(iter(line.idle)), "retired", now)
        if not line.is_empty:
            self.retired[line] = None

    def freeze(self, now: float) -> None:
        """A moment has passed: freeze what has been idle that long."""
        self.decisions += map(Freeze, self.resting.fall_asleep(now))

    def tick(self, now: float) -> None:
        """Time has passed: let go of what was idle too long, make what should always be there."""
        for line in [line for line in self.lines.values() if line.idle]:
            keep_s = line.version.config.keep_warm_s
            while line.spare and now - (seat := next(iter(line.idle))).idle_since >= keep_s:
                self._evict(seat, "expired", now)
        self._warm(now)
        self._feed(now)  # what is being made may be what somebody waited for in vain

    def end(self, now: float) -> list[Ticket]:
        """The node stops: everything idle leaves; the tickets that nobody serves any more."""
        self.starving.clear()
        self.kept.clear()
        unserved: list[Ticket] = []
        for line in [*self.lines.values(), *self.retired]:
            line.kept = 0
            unserved += line.tickets
            line.tickets.clear()
            line.is_retired = True
            while line.idle:
                self._evict(next(iter(line.idle)), "drained", now)
            self._settle(line, now)
        return unserved

    def all_lines(self) -> Iterator[Line]:
        """Every line, retired ones too."""
        yield from self.lines.values()
        yield from self.retired

    # --- parts -----------------------------------------------------------------------------------

    def _line_of(self, version: Version) -> Line:
        line = self.lines.get(version.id)
        if line is None:
            line = self.lines[version.id] = Line(version)
        return line

    def _seize(self, seat: Seat) -> None:
        seat.rest = Rest.BUSY
        seat.calls += 1
        slots = seat.line.slots
        if slots > 1:
            if seat.calls < slots:
                seat.line.open[seat] = None
            else:
                seat.line.open.pop(seat, None)

    def _offer(self, seat: Seat, now: float) -> None:
        """A seat with room: to the oldest tickets of its line; without a call left it rests."""
        line = seat.line
        while line.tickets and seat.calls < line.slots:
            ticket = line.tickets.popleft()
            self._seize(seat)
            self.decisions.append(Grant(ticket, seat))
        if seat.calls:
            if seat.calls < line.slots:
                line.open[seat] = None
        else:
            line.open.pop(seat, None)
            line.busy -= 1
            self.resting.add(seat, now)
        if self.starving or line.wanted < 0:
            self._settle(line, now)

    def _evict(self, seat: Seat, why: str, now: float) -> None:
        self.resting.remove(seat)
        self._leave(seat, why, now)

    def _leave(self, seat: Seat, why: str, now: float) -> None:
        self._let_go(seat, why)
        self._settle(seat.line, now)

    def _let_go(self, seat: Seat, why: str) -> None:
        seat.line.seats -= 1
        seat.rest = Rest.LEAVING
        self.leaving[seat] = None
        self.leaving_mb += seat.memory_mb
        self._ends.note(seat.line.version, why)
        self.decisions.append(Leave(seat, why))

    def more_may_start(self, now: float) -> None:
        """`starts_max` has risen."""
        if self.starving:
            self._feed(now)

    def _unpromise(self, line: Line) -> None:
        line.starting -= 1
        self.starting -= 1
        self.promised_mb -= line.memory_mb

    def _begin(self, line: Line) -> None:
        self.promised_mb += line.memory_mb
        line.starting += 1
        self.starting += 1
        self._ends.note(line.version, "start_failed")  # until it has ended in another way
        self.decisions.append(Begin(line))

    def _settle(self, line: Line, now: float) -> None:
        """After every change: begin what the line's tickets still need, after those who starve
        longer; call off what they do not need any more."""
        surplus = min(-line.wanted, line.starting) - max(0, line.kept - line.seats)
        for _ in range(surplus):
            self.decisions.append(CallOff(line))
        if line.wanted > 0:
            self.starving.setdefault(line, now)
        self._feed(now)
        self._forget_if_empty(line)

    def _forget_if_empty(self, line: Line) -> None:
        if line.is_empty:
            self.retired.pop(line, None)
            if self.lines.get(line.version.id) is line:
                del self.lines[line.version.id]

    def _feed(self, now: float) -> None:
        """Begin what fits, one start for each line in turn, longest starving first; nobody waits
        behind somebody who does not fit, and nobody takes what somebody before them waits for."""
        reserved = waiting = 0  # memory, and starts, that lines before are about to take
        turns = deque(self.starving)
        while turns:
            line = turns.popleft()
            if line.wanted <= 0:
                del self.starving[line]
            elif self.starting + waiting >= self.starts_max:
                continue
            elif self._make_room(line.memory_mb, reserved, now):
                self._begin(line)
                del self.starving[line]  # it has had its turn
                self.starving[line] = now
                turns.append(line)
            elif line.memory_mb <= self._coming_mb() - reserved:
                reserved += line.memory_mb
                waiting += 1

    def _coming_mb(self) -> int:
        """Free now, or once those that are leaving have gone."""
        return self.budget_mb - self.promised_mb + self.leaving_mb

    def _make_room(self, memory_mb: int, reserved: int, now: float) -> bool:
        """Whether so much memory is free beside what is reserved. If it could be, the least
        recently used idle seats are sent away for it; none of them when that would not do."""
        free, coming = self.budget_mb - self.promised_mb, self._coming_mb()
        if memory_mb <= free and memory_mb + reserved <= coming:
            return True
        lacking = memory_mb + reserved - coming
        if 0 < lacking <= self.resting.spare_mb(self.kept):
            for seat in self.resting.evictable(lacking):
                self.resting.remove(seat)
                self._let_go(seat, "evicted")
                self._forget_if_empty(seat.line)
            return memory_mb <= free  # it had to wait for what others wait for, not for more
        return False

    def _must_yield(self, seat: Seat, now: float) -> bool:
        """Whether a line has starved so long that this seat ends in its favour; else a busy
        function would keep for ever what it has."""
        line, since = next(iter(self.starving.items()))
        if line is seat.line or now - since < SEAT_WAIT_FAIR_S:
            return False
        if seat.line.seats <= seat.line.kept:
            return False
        coming = self._coming_mb() + self.resting.spare_mb(self.kept)
        coming += sum(other.memory_mb for other in self._yielding)
        return coming < line.memory_mb <= coming + seat.memory_mb

    def _warm(self, now: float) -> None:
        """Begin the seats that lines should always have, where there is memory for them."""
        for line in list(self.kept):
            while line.missing and now >= line.retry_at and self.starting < self.starts_max:
                if not self._make_room(line.memory_mb, 0, now):
                    break
                self._begin(line)
