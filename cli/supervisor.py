"""Keeps child processes alive: starts them in order, restarts what dies, stops in reverse.

One thread and one selector: it sleeps until a child writes, a child ends, a signal comes, or a
restart is due. It knows nothing of Hearth beyond the ChildSpec."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from cli.child import (
    READ_BYTES,
    STEADY_AFTER_S,
    Child,
    Lifelines,
    LogFile,
    backoff_s,
    describe_status,
)
from cli.children import ChildSpec, Lifeline
from cli.probe import ask

POLL_S = 0.03  # between two questions to a child that is starting
GUARD_GRACE_S = 20.0  # for the reader of the lifeline to finish its work and end by itself
LOUD_EVERY = 4  # failures in a row between two showings of the end of the log


class Mark(Enum):
    """What kind of news a line is."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


Say = Callable[[Mark, str], None]


class StartFailed(Exception):
    """A child ended, or did not answer, before the platform was up. The message tells why."""


class Supervisor:
    """Runs `specs`. `say` gets lines for a person, `on_change` the pids whenever they change."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        log_dir: Path,
        say: Say,
        on_change: Callable[[dict[str, int]], None] = lambda pids: None,
    ) -> None:
        self.children = [Child(spec, LogFile(log_dir / f"{spec.name}.log")) for spec in specs]
        self._say = say
        self._on_change = on_change
        self._selector = selectors.DefaultSelector()
        self._outputs: set[int] = set()  # pipes we still read, also of children that ended
        self._lifelines: Lifelines | None = None
        self._stops_asked = 0
        self._ready = False
        self._asides: list[subprocess.Popen[bytes]] = []

    # --- the life ---

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start all, call `on_ready`, stay until asked to stop, stop all. StartFailed says why."""
        with self._signals():
            try:
                if self._start_all():
                    self._ready = True
                    on_ready()
                    while not self._stops_asked:
                        self._turn(self._next_due())
                        self._restart_due()
            finally:
                self._stop_all()
                self._selector.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, lambda: ours.recv(4096))
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()

    def _on_signal(self, number: int, frame: object) -> None:
        self._stops_asked += 1

    # --- starting ---

    def _start_all(self) -> bool:
        """False when asked to stop before everything was up."""
        for child in self.children:
            began = time.monotonic()
            self._start(child)
            if not self._wait_ready(child):
                return False
            took = time.monotonic() - began
            self._say(Mark.GOOD, f"{child.spec.name} ready in {took:.1f} s")
        return not self._stops_asked

    def _start(self, child: Child) -> None:
        if child.spec.lifeline is Lifeline.READS and not self._holder_runs():
            self._renew_lifelines()
        try:
            child.start(self._lifelines, time.monotonic())
        except OSError as problem:
            raise StartFailed(f"{child.spec.name} cannot be started: {problem}") from problem
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._ended(child))
        output = child.output
        self._outputs.add(output)
        self._selector.register(output, selectors.EVENT_READ, lambda: self._read(child, output))
        if child.spec.lifeline is Lifeline.HOLDS:
            self._hand_over_lifeline()
        self._changed()

    def _wait_ready(self, child: Child) -> bool:
        deadline = time.monotonic() + child.spec.ready_timeout_s
        while not self._stops_asked:
            if not child.running:
                raise StartFailed(self._why(child, describe_status(child.status or 0)))
            problem = ask(child.spec.probe)
            if problem is None:
                return True
            if time.monotonic() > deadline:
                waited = f"not ready after {child.spec.ready_timeout_s:.0f} s: {problem}"
                raise StartFailed(self._why(child, waited))
            self._turn(POLL_S)
        return False

    def _why(self, child: Child, what: str) -> str:
        end = child.log.tail()
        told = f"{child.spec.name}: {what}"
        if not end:
            return f"{told}; it wrote nothing to {child.log.path}"
        return f"{told}; the end of {child.log.path}:\n{end}"

    # --- the lifeline between the guard (reads) and the gateway (holds) ---

    def _renew_lifelines(self) -> None:
        self._drop_lifelines()
        self._lifelines = Lifelines(*os.pipe())

    def _hand_over_lifeline(self) -> None:
        """From here on the holder alone keeps the pipe open: its end is what the reader sees."""
        if self._lifelines is not None and self._lifelines.write >= 0:
            os.close(self._lifelines.write)
            self._lifelines = Lifelines(self._lifelines.read, -1)

    def _drop_lifelines(self) -> None:
        if self._lifelines is not None:
            os.close(self._lifelines.read)
            if self._lifelines.write >= 0:
                os.close(self._lifelines.write)
            self._lifelines = None

    def _with(self, lifeline: Lifeline) -> Child | None:
        return next((c for c in self.children if c.spec.lifeline is lifeline), None)

    def _holder_runs(self) -> bool:
        holder = self._with(Lifeline.HOLDS)
        return holder is not None and holder.running

    # --- what happens while it runs ---

    def _turn(self, timeout_s: float | None) -> None:
        """Sleep until something happens, and take note of all that did."""
        for key, _ in self._selector.select(timeout_s):
            if key.fd in self._selector.get_map():  # an earlier event may have closed it
                key.data()

    def _read(self, child: Child, output: int) -> None:
        try:
            data = os.read(output, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            child.log.write(data)
        else:
            self._close_output(output)
            if child.output == output:  # not that of a later run
                child.output = -1

    def _close_output(self, output: int) -> None:
        self._outputs.remove(output)
        self._selector.unregister(output)
        os.close(output)

    def _ended(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        status = child.reap()
        if child.output in self._outputs:
            self._read(child, child.output)  # its last words, before anyone asks for them
        self._changed()
        if self._stops_asked or not self._ready or self._ends_with_its_holder(child):
            return
        now = time.monotonic()
        steady = now - child.started_at > STEADY_AFTER_S
        child.failures = 1 if steady else child.failures + 1
        wait_s = backoff_s(child.failures)
        child.restart_at = now + wait_s
        what = f"{describe_status(status)}; starting it again in {wait_s:g} s"
        loud = child.failures % LOUD_EVERY == 1
        self._say(Mark.BAD, self._why(child, what) if loud else f"{child.spec.name}: {what}")

    def _ends_with_its_holder(self, child: Child) -> bool:
        return child.spec.lifeline is Lifeline.READS and not self._holder_runs()

    def _next_due(self) -> float | None:
        due = [child.restart_at for child in self.children if child.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _restart_due(self) -> None:
        for child in self.children:
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                child.restart_at = None
                self._restart(child)

    def _restart(self, child: Child) -> None:
        if self._ends_with_its_holder(child):
            return  # it comes back together with its holder
        reader = self._with(Lifeline.READS)
        try:
            if child.spec.lifeline is Lifeline.HOLDS and reader is not None:
                if not self._settle(reader):
                    return
                self._start(reader)
            self._start(child)
        except StartFailed as problem:
            child.failures += 1
            child.restart_at = time.monotonic() + backoff_s(child.failures)
            self._say(Mark.BAD, str(problem))
        else:
            self._say(Mark.GOOD, f"{child.spec.name} started again")

    def _settle(self, reader: Child) -> bool:
        """Let the reader finish cleaning up after a holder that died. False when asked to stop."""
        self._hand_over_lifeline()
        reader.restart_at = None
        if not self._ends_within(reader, GUARD_GRACE_S, stops_max=0):
            if self._stops_asked:
                return False
            self._kill(reader)
        return True

    def _ends_within(self, child: Child, within_s: float, *, stops_max: int) -> bool:
        """Wait for a child that is about to end, while at most `stops_max` stops are asked for."""
        deadline = time.monotonic() + within_s
        while child.running and self._stops_asked <= stops_max:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._turn(left)
        return not child.running

    def _kill(self, child: Child) -> None:
        child.signal(signal.SIGKILL)
        while child.running:
            self._turn(None)

    # --- stopping ---

    def _stop_all(self) -> None:
        """In reverse order, each given its time; a second signal gives the others no more of it."""
        self._stops_asked = max(1, self._stops_asked)
        for process in self._asides:
            process.terminate()
        for child in reversed(self.children):
            child.restart_at = None
            if child.running:
                self._stop(child)
        while self._asides:
            self._turn(None)
        self._drop_lifelines()
        for output in list(self._outputs):  # a grandchild still holds it open
            self._close_output(output)
        for child in self.children:
            child.log.close()

    def _stop(self, child: Child) -> None:
        name, patience = child.spec.name, 1
        if self._ends_with_its_holder(child):
            # Killing it would leave behind what it is there to clean up: nobody hurries it.
            self._hand_over_lifeline()
            patience = sys.maxsize
        else:
            child.signal(signal.SIGTERM)
        if self._ends_within(child, child.spec.stop_timeout_s, stops_max=patience):
            self._say(Mark.NOTE, f"{name} stopped")
            return
        self._kill(child)
        self._say(Mark.BAD, f"{name} did not stop in time and was killed")

    def run_aside(self, command: Sequence[str]) -> None:
        """Run something short beside the children, on our own terminal; nobody restarts it."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        pidfd = os.pidfd_open(process.pid)

        def ended() -> None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
            process.wait()
            self._asides.remove(process)

        self._asides.append(process)
        self._selector.register(pidfd, selectors.EVENT_READ, ended)

    def _changed(self) -> None:
        pids = {c.spec.name: c.process.pid for c in self.children if c.process is not None}
        self._on_change(pids)
