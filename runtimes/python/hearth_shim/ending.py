"""How this process ends: at once, or after the function's exit hooks when it was idle."""

from __future__ import annotations

import _thread
import atexit
import os
import select
import signal
import sys
from asyncio import AbstractEventLoop
from os import _exit as exit_now
from os import killpg, register_at_fork
from typing import Any, NoReturn

from .output import flush
from .wire import Wire

STOPPED = 128 + signal.SIGTERM


class Life:
    """Whether a call (or INIT) is under way, and what to do with a stop signal."""

    def __init__(self) -> None:
        self.busy = False
        self.group = 0  # of processes that no namespace ends together with this one
        self.loop: AbstractEventLoop | None = None  # that runs also while this process is idle
        self.is_leaving = False

    def on_stop(self, *_: Any) -> None:
        """SIGTERM, unless the function has a handler of its own."""
        if self.busy:
            self.end(STOPPED)
        self.busy = True  # another one ends the hooks too
        if self.loop is None:
            retire(STOPPED)
        self.is_leaving = True  # hooks may want a loop of their own: first this one stops
        self.loop.call_soon_threadsafe(self.loop.stop)

    def end(self, status: int) -> NoReturn:
        """End now, without hooks, with everything that must not outlive this process."""
        try:
            if self.group:
                killpg(self.group, signal.SIGKILL)
        except OSError:
            pass
        finally:
            exit_now(status)

    def end_at_hangup(self, descriptor: int) -> None:
        """A thread that sleeps until the wire ends: a busy handler does not outlive it."""
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        while not poll.poll():
            pass
        self.end(0)


def watch(wire: Wire, life: Life) -> None:
    """Obey signals and the end of the connection, whatever the function does."""
    # Handlers of ours rather than SIG_IGN: an ignored signal would be inherited by subprocesses.
    # As process 1 of its container the default action of SIGTERM would be to ignore it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, life.on_stop)
    # A forked child keeps no copy of the wire, or the executor would never see it end.
    register_at_fork(after_in_child=wire.close)
    watch_hangup(wire, life)


def watch_hangup(wire: Wire, life: Life) -> None:
    """End with the connection from here on."""
    _thread.start_new_thread(life.end_at_hangup, (wire.sock.fileno(),))


def leave(error: BaseException) -> NoReturn:
    """End as a Python program does that raised this and caught it nowhere."""
    if not isinstance(error, SystemExit):
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            retire(1)
    if isinstance(error.code, int):
        retire(error.code & 0xFF)
    if error.code is not None:
        os.write(2, f"{error.code}\n".encode(errors="backslashreplace"))
    retire(0 if error.code is None else 1)


def retire(status: int) -> NoReturn:
    """End after the function's exit hooks. Its threads are not waited for."""
    try:
        atexit._run_exitfuncs()
        flush()
    finally:
        exit_now(status)
