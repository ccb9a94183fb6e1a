"""A build's heartbeat, and the reasons for which it must stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from catalog.catalog import Catalog
from core.errors import HearthError
from core.limits import BUILD_HEARTBEAT_S
from worker.build_log import BuildLog

_TICK_S = 0.5

log = logging.getLogger("hearth.builder")


class HandedBack(Exception):
    """The builder is shutting down: somebody else, or its next start, does the build."""


class TakenOver(Exception):
    """The build is no longer this builder's: it was taken for dead, or the function is gone."""


class Pulse:
    """Tells the catalog every few seconds that the build lives and what it has printed.

    A context manager. In a thread of its own, since a build may be busy for longer than another
    builder would wait."""

    def __init__(
        self,
        catalog: Catalog,
        version_id: str,
        builder: str,
        build_log: BuildLog,
        stopping: threading.Event,
    ) -> None:
        self._catalog = catalog
        self._version_id = version_id
        self._builder = builder
        self._log = build_log
        self._stopping = stopping
        self._lost = threading.Event()
        self._done = threading.Event()
        self._telling = threading.Lock()  # or an older log could be written over a newer one
        self._interrupt: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._beat, name=f"pulse-{version_id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """HandedBack or TakenOver if the build must stop."""
        if self._lost.is_set():
            raise TakenOver
        if self._stopping.is_set():
            raise HandedBack

    def keep_log(self) -> None:
        """Have the catalog know every line so far. To be called before the version's end shows:
        who sees that reads the log, and looks in it for the reason. TakenOver, PartAway."""
        self._write_log()
        if self._lost.is_set():
            raise TakenOver

    def wait(self, seconds: float) -> None:
        """Sleep, at most so long, and `check`."""
        self.check()
        self._stopping.wait(seconds)
        self.check()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While the block waits for somebody else: when the build must stop, call `interrupt`,
        from another thread, perhaps several times."""
        self._interrupt = interrupt
        try:
            yield
        finally:
            self._interrupt = None

    def _beat(self) -> None:
        told_at, told_lines = 0.0, -1
        while not self._done.wait(_TICK_S):
            self._halt()
            due = time.monotonic() - told_at >= BUILD_HEARTBEAT_S
            if due or (self._log.lines != told_lines and time.monotonic() - told_at >= 1.0):
                told_at, told_lines = time.monotonic(), self._log.lines
                self._tell()

    def _halt(self) -> None:
        interrupt = self._interrupt
        if interrupt is not None and (self._stopping.is_set() or self._lost.is_set()):
            interrupt()

    def _tell(self) -> None:
        try:
            self._write_log()
        except HearthError as error:
            # The build goes on: if nobody hears of it for long it is taken over, and then it stops.
            log.warning("no heartbeat for %s: %s", self._version_id, error.message)

    def _write_log(self) -> None:
        with self._telling:
            if not self._catalog.heartbeat(self._version_id, self._builder, self._log.text()):
                self._lost.set()
