"""What the pool counts: seats, and lines of everything that concerns one version."""

from __future__ import annotations

import asyncio
from collections import deque

from core.model import Version
from executor.sandbox import Sandbox


class Seat:
    """A sandbox's place in the pool. `served` counts how often it was lent."""

    __slots__ = ("idle_since", "line", "sandbox", "served")

    def __init__(self, sandbox: Sandbox, line: Line) -> None:
        self.sandbox = sandbox
        self.line = line
        self.idle_since = 0.0
        self.served = 0

    @property
    def memory_mb(self) -> int:
        """What it was promised."""
        return self.line.memory_mb


class Line:
    """Everything that concerns one version."""

    __slots__ = ("busy", "idle", "memory_mb", "retired", "starting", "tickets", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.memory_mb = version.config.memory_mb
        self.idle: list[Seat] = []  # the last is the most recently used
        self.tickets: deque[asyncio.Future[Seat]] = deque()
        self.starting = 0
        self.busy = 0
        self.retired = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to remember."""
        return not (self.idle or self.tickets or self.starting or self.busy)

    @property
    def wants_seats(self) -> bool:
        """Whether somebody waits for whom no seat is being made."""
        return len(self.tickets) > self.starting
