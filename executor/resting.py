"""Idle seats in the order of their last use: which may be frozen, and which may be evicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.limits import FREEZE_AFTER_S
from executor.seats import Line, Rest, Seat


class Resting:
    """The index of a node's idle seats. Each of its steps costs the same however many there are,
    but for `evictable`, which looks at the longest idle until it has enough."""

    def __init__(self) -> None:
        self.seats: dict[Seat, None] = {}  # least recently used first
        self.awake: dict[Seat, None] = {}  # those that may be frozen, longest idle first
        self.memory_mb = 0

    def add(self, seat: Seat, now: float) -> None:
        """Its last call is over."""
        seat.rest = Rest.IDLE
        seat.is_fresh = False
        seat.idle_since = now
        seat.line.idle[seat] = None
        self.seats[seat] = None
        self.memory_mb += seat.line.memory_mb
        if seat.line.version.config.idle == "freeze":
            self.awake[seat] = None

    def remove(self, seat: Seat) -> None:
        """It is lent, or leaves."""
        del seat.line.idle[seat]
        del self.seats[seat]
        self.awake.pop(seat, None)
        self.memory_mb -= seat.line.memory_mb

    def fall_asleep(self, now: float) -> Iterator[Seat]:
        """Those that have been idle for FREEZE_AFTER_S, each once."""
        while self.awake:
            seat = next(iter(self.awake))
            if now - seat.idle_since < FREEZE_AFTER_S:
                return
            del self.awake[seat]
            seat.is_frozen = True
            yield seat

    def spare_mb(self, kept: Iterable[Line]) -> int:
        """What they could give: all but what the lines in `kept` keep."""
        held = sum((len(line.idle) - line.spare) * line.memory_mb for line in kept)
        return self.memory_mb - held

    def evictable(self, lacking_mb: int) -> list[Seat]:
        """The least recently used that together give so much, without what is kept."""
        chosen: list[Seat] = []
        taken: dict[Line, int] = {}
        for seat in self.seats:
            if lacking_mb <= 0:
                break
            line = seat.line
            if taken.get(line, 0) < line.spare:
                taken[line] = taken.get(line, 0) + 1
                chosen.append(seat)
                lacking_mb -= seat.memory_mb
        return chosen
