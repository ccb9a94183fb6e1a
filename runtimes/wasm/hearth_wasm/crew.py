"""Threads: one leads, waiting for frames and running each call itself, so that a short call passes
through no other thread. A call that takes longer than a tick keeps its thread, and another leads.

A watcher sees to that, and to deadlines. It sleeps while nothing runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

TICK_S = 0.004  # how long a call may hold up the others
CALM_TICKS = 25  # without a call, then the watcher sleeps until it is woken
THREADS_MAX = 200
STACK_BYTES = 2 * 1024 * 1024


class Work(Protocol):
    """What is run: a call, or loading a module."""

    deadline: float  # Unix time, seconds

    def run(self) -> None: ...

    def end(self, why: str) -> None: ...


class Crew:
    """`step` waits for events and handles them; it calls `run` for what may take long, and returns
    when `leads` no longer says that the thread leads. `glance` is `step` for a watcher that has
    nobody to lead: it only looks at who hung up. `turn` turns the engine's epoch."""

    def __init__(
        self, step: Callable[[], None], glance: Callable[[], None], turn: Callable[[], None]
    ) -> None:
        self._step, self._glance, self._turn = step, glance, turn
        self._guard = threading.Lock()
        self._leader = threading.get_ident()
        self._current: Work | None = None  # what the leader runs
        self._since = 0.0  # when it began; 0 while the leader waits
        self._long: set[Work] = set()  # what others run
        self._parked: list[tuple[int, threading.Lock]] = []
        self._threads = 1
        self._seen = 0  # calls, to tell a calm moment
        self._is_dozing = False
        self._bell = threading.Lock()
        self._bell.acquire()

    def serve(self) -> None:
        """The first leader's life; never returns."""
        threading.stack_size(STACK_BYTES)
        threading.Thread(target=self._watch, name="watcher", daemon=True).start()
        self._lead_or_park()

    def leads(self) -> bool:
        """Whether this thread does."""
        return self._leader == threading.get_ident()

    def run(self, work: Work) -> None:
        """By the leader: whatever takes longer than a tick goes on beside the next leader."""
        self._current = work
        self._seen += 1
        self._since = time.monotonic()
        if self._is_dozing:
            self._wake()
        try:
            work.run()
        finally:
            with self._guard:
                if self._current is work:
                    self._current, self._since = None, 0.0
                else:
                    self._long.discard(work)

    # --- workers

    def _lead_or_park(self) -> None:
        me, mine = threading.get_ident(), threading.Lock()
        mine.acquire()
        while True:
            while self._leader == me:
                self._step()
            with self._guard:
                self._parked.append((me, mine))
            mine.acquire()

    def _begin(self, started: threading.Lock) -> None:
        with self._guard:
            self._leader = threading.get_ident()
        started.release()
        self._lead_or_park()

    # --- the watcher

    def _watch(self) -> None:
        calm, seen = 0, -1
        while True:
            now = time.monotonic()
            since = self._since
            if since and now - since >= TICK_S:
                self._pass_on(since)
            self._end_overdue()
            calm = calm + 1 if self._seen == seen and not self._since else 0
            seen = self._seen
            if calm >= CALM_TICKS:
                self._doze()
                calm = 0
            else:
                time.sleep(TICK_S)

    def _pass_on(self, since: float) -> None:
        """Another leads, unless the leader has just come back or nobody is left to lead."""
        with self._guard:
            if self._since != since or self._current is None:
                return
            if not self._parked and self._threads >= THREADS_MAX:
                next_one = None
            else:
                self._long.add(self._current)
                self._current, self._since = None, 0.0
                next_one = self._parked.pop() if self._parked else (0, threading.Lock())
                self._leader = next_one[0]
        if next_one is None:
            self._glance()
        elif next_one[0]:
            next_one[1].release()
        else:
            next_one[1].acquire()
            self._threads += 1
            threading.Thread(target=self._begin, args=(next_one[1],), daemon=True).start()
            next_one[1].acquire()

    def _end_overdue(self) -> None:
        with self._guard:
            running = [*self._long, *([self._current] if self._current else [])]
        now = time.time()
        overdue = [work for work in running if now > work.deadline]
        for work in overdue:
            work.end("deadline")
        if overdue:
            self._turn()

    def _doze(self) -> None:
        """Until a call begins, or one that runs must end."""
        self._is_dozing = True
        with self._guard:
            deadlines = [work.deadline for work in self._long]
        left = min(deadlines) - time.time() if deadlines else -1.0
        if not self._since and (left > 0 or not deadlines):  # else one began meanwhile
            self._bell.acquire(timeout=min(left, threading.TIMEOUT_MAX) if deadlines else -1)
        self._is_dozing = False

    def _wake(self) -> None:
        self._is_dozing = False
        if self._bell.locked():
            self._bell.release()
