"""Reads what a sandbox writes to its descriptors 1 and 2, line by line, never more than a budget.

Both pipes of a sandbox share one `Journal`, which knows whose lines they are, how much of one
invocation is kept, and how fast a sandbox may write before it is made to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

from core.limits import LOG_LINE_BYTES_MAX, LOG_READ_CHUNK_BYTES
from executor.journal import WINDOW_S, Journal, Stream

_PIPE_BYTES = 64 * 1024  # the kernel's default: what a drain may find at most


class LogPipe:
    """The read end of one pipe, on the running loop. Close it, or it is a leak."""

    __slots__ = ("_fd", "_journal", "_loop", "_partial", "_resume", "_stream")

    def __init__(self, fd: int, stream: Stream, journal: Journal) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._stream: Stream = stream
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._partial = b""
        self._resume: asyncio.TimerHandle | None = None
        self._loop.add_reader(fd, self._on_readable)

    def drain(self) -> None:
        """Take what is in the pipe now, an unfinished line too. At most one pipe's capacity, so
        that a process which goes on writing cannot hold the answer back. Where lines carry tags
        only whole ones are passed on: the rest of it may be another call's."""
        taken = 0
        while self._fd >= 0 and taken < _PIPE_BYTES:
            size = self._read()
            if size <= 0:
                break
            taken += size
        if not self._journal.is_tagged:
            self.flush()

    def flush(self) -> None:
        """Pass on an unfinished line as it is."""
        if self._partial:
            self._journal.keep(self._stream, [self._partial])
            self._partial = b""

    def close(self) -> None:
        """Last words, then the descriptor. Any number of times."""
        if self._fd < 0:
            return
        self.drain()
        self.flush()
        self._forget()

    def _forget(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        size = self._read()
        if size == 0:  # every writer is gone
            self.close()
            return
        if self._journal.is_flooded(max(size, 0)):
            # The pipe fills up and the function's write waits: the flood pays for itself.
            self._loop.remove_reader(self._fd)
            self._resume = self._loop.call_at(self._loop.time() + WINDOW_S, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._on_readable)

    def _read(self) -> int:
        """Bytes taken; 0 at the end of the pipe, -1 when nothing is there now."""
        try:
            data = os.read(self._fd, LOG_READ_CHUNK_BYTES)
        except BlockingIOError:
            return -1
        if not data:
            return 0
        self._take(data)
        return len(data)

    def _take(self, data: bytes) -> None:
        if self._journal.is_full:
            self._journal.drop(len(data) + len(self._partial))
            self._partial = b""
            return
        *lines, rest = (self._partial + data).split(b"\n")
        if len(rest) > LOG_LINE_BYTES_MAX:
            lines.append(rest)
            rest = self._journal.tag_of(rest)  # what follows is the same call's
        self._partial = rest
        if lines:
            self._journal.keep(self._stream, lines)


class Outputs:
    """Both pipes of a sandbox. Close it, or it is a leak."""

    __slots__ = ("_journal", "_pipes", "_poll")

    def __init__(self, stdout: int, stderr: int, journal: Journal) -> None:
        self._journal = journal
        self._pipes = (LogPipe(stdout, "stdout", journal), LogPipe(stderr, "stderr", journal))
        self._poll = select.poll()
        for fd in (stdout, stderr):
            self._poll.register(fd, select.POLLIN)

    def settle(self) -> None:
        """Pass on all that was written until now."""
        # One question for both costs a quarter of two reads that find nothing: the usual case. A
        # number that was closed, or is another's by now, makes it look in vain and no more.
        if self._poll.poll(0):
            for pipe in self._pipes:
                pipe.drain()
        elif not self._journal.is_tagged:
            for pipe in self._pipes:
                pipe.flush()

    def close(self) -> None:
        """Last words, then the descriptors. Any number of times."""
        for pipe in self._pipes:
            pipe.close()
