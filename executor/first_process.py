"""A sandbox's first process, held by a descriptor: signals reach it and nobody else, and its end is
noticed once. With it the kernel ends all others of its pid namespace, and before it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Callable

from executor.sandbox import Sandbox, State

log = logging.getLogger("hearth.executor")

_TO_THE_THREAD = 1  # PIDFD_SIGNAL_THREAD: of a process's descriptor, its main thread


class FirstProcess:
    """Takes over a pidfd, on the running loop. Close it, or it is a leak."""

    __slots__ = ("_deadline", "_ended", "_loop", "_pidfd", "_then")

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._then: Callable[[], None] = lambda: None
        self._deadline: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)

    def interrupt(self) -> None:
        """SIGTERM. Nothing when it has ended."""
        if self._pidfd >= 0:
            _interrupt_main_thread(self._pidfd)

    def retire(self, sandbox: Sandbox, grace_s: float, close: Callable[[Sandbox], None]) -> None:
        """SIGTERM, and `close` once it has ended, at the latest after `grace_s`. A second time is
        nothing: the first one's grace holds."""
        if self._deadline is not None:
            return
        self._deadline = self._loop.call_later(grace_s, close, sandbox)
        self._then = lambda: _close_after_last_words(sandbox, close)
        if self._ended.is_set():
            self._then()
        else:
            self.interrupt()

    def kill(self) -> None:
        """SIGKILL, whatever was promised before. Nothing when it has ended."""
        self._then = lambda: None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self, timeout_s: float) -> bool:
        """Whether it ended within the time. Polls nothing."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give the descriptor back. Any number of times."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pidfd = -1

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._ended.set()
        self._then()


def _interrupt_main_thread(pidfd: int) -> None:
    """A thread that was just thawed counts as having a signal, and the kernel would give this one
    to another thread. Python runs handlers in its main thread alone, which would sleep on."""
    with contextlib.suppress(ProcessLookupError):
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM, None, _TO_THE_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)  # before Linux 6.9


def tell_gone(sandbox: Sandbox) -> None:
    """That no process of it is left. Whoever hears it keeps nothing from being given back."""
    try:
        sandbox.on_gone(sandbox)
    except Exception:
        log.exception("the end of %r could not be told", sandbox)


def _close_after_last_words(sandbox: Sandbox, close: Callable[[Sandbox], None]) -> None:
    """Its answer and the end of its connection are here, but may not have been read yet."""
    if sandbox.state is State.CLOSED:
        close(sandbox)
        return
    told = sandbox.on_died

    def tell_and_close(sandbox: Sandbox) -> None:
        told(sandbox)
        close(sandbox)

    sandbox.on_died = tell_and_close
