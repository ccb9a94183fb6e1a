"""What the plan counts: seats, tickets, lines of what concerns one version; and what it decides."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from core.limits import WARM_RETRY_S
from core.model import Version
from executor.sandbox import Sandbox


class Rest(Enum):
    """What a seat does at the moment."""

    BUSY = "busy"  # at least one call is in it
    IDLE = "idle"
    LEAVING = "leaving"  # never lent again; its memory is not free yet


@dataclass(eq=False, slots=True)
class Seat:
    """A sandbox's place in the pool."""

    sandbox: Sandbox
    line: Line
    rest: Rest = Rest.BUSY
    calls: int = 0  # that were lent it and have not given it back
    idle_since: float = 0.0
    is_frozen: bool = False  # its processes are stopped; whoever is lent it thaws it
    is_sound: bool = True  # may be asked to end; else it is killed
    why_spoiled: str | None = None  # then it takes no more calls, and leaves with its last one
    is_fresh: bool = True  # has not rested yet: whoever is lent it waited for its start

    @property
    def memory_mb(self) -> int:
        """What it was promised."""
        return self.line.memory_mb


@dataclass(eq=False, slots=True)
class Ticket:
    """One invocation that waits for a seat. Whoever waits says what its grant means."""

    why_cold: str


@dataclass(eq=False, slots=True)
class Line:
    """Everything that concerns one version."""

    version: Version
    memory_mb: int = field(init=False)
    slots: int = field(init=False)  # calls that one seat takes at once
    idle: dict[Seat, None] = field(default_factory=dict)  # most recently used last; also frozen
    open: dict[Seat, None] = field(default_factory=dict)  # busy, with room for another call
    tickets: deque[Ticket] = field(default_factory=deque)
    seats: int = 0  # busy and idle ones
    busy: int = 0
    starting: int = 0
    kept: int = 0  # how many seats it has at least, whatever comes: min_warm of a version in use
    retry_at: float = 0.0  # when a kept seat that could not be made is tried again
    failures: int = 0  # of such tries in a row
    is_retired: bool = False

    def __post_init__(self) -> None:
        self.memory_mb = self.version.config.memory_mb
        self.slots = self.version.config.per_sandbox

    def pause(self, now: float) -> None:
        """A start has failed: what is kept is tried again later, each time after a longer pause."""
        self.retry_at = now + WARM_RETRY_S[min(self.failures, len(WARM_RETRY_S) - 1)]
        self.failures += 1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to remember."""
        return not (self.seats or self.tickets or self.starting or self.kept)

    @property
    def wanted(self) -> int:
        """Seats that its tickets still need and that are not being made; below 0: too many are."""
        return -(-len(self.tickets) // self.slots) - self.starting

    @property
    def missing(self) -> int:
        """Seats that it should always have, and that are not even being made."""
        return 0 if self.is_retired else max(0, self.kept - self.seats - self.starting)

    @property
    def spare(self) -> int:
        """Idle seats that may be taken from it: more than it keeps."""
        return min(len(self.idle), max(0, self.seats - self.kept))


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket's wait is over: the seat is its."""

    ticket: Ticket
    seat: Seat


@dataclass(frozen=True, slots=True)
class Begin:
    """Start a sandbox for the line."""

    line: Line


@dataclass(frozen=True, slots=True)
class CallOff:
    """One of the line's starts is not needed any more, if it has cost nothing yet."""

    line: Line


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop the seat's processes until it is lent again."""

    seat: Seat


@dataclass(frozen=True, slots=True)
class Leave:
    """End the seat's sandbox: gently when it is sound, at once when it is not."""

    seat: Seat
    why: str


Decision = Grant | Begin | CallOff | Freeze | Leave
