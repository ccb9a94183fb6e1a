"""Reads what a sandbox writes to its descriptors 1 and 2, line by line, never more than a budget.

Both pipes of a sandbox share one `Journal`, which knows whose lines they are at the moment, how
much of one invocation is kept, and how fast a sandbox may write before it is made to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Literal

from core.limits import (
    LOG_INVOCATION_BYTES_MAX,
    LOG_LINE_BYTES_MAX,
    LOG_READ_CHUNK_BYTES,
    LOG_SEAT_BYTES_PER_S,
)

Stream = Literal["stdout", "stderr", "platform"]
Emit = Callable[[str | None, Stream, list[str]], None]

_WINDOW_S = 0.1
_PIPE_BYTES = 64 * 1024  # the kernel's default: what a drain may find at most
_LINE_COST_BYTES = 32  # a line costs more to keep than its bytes: a flood of empty ones is a flood


class Journal:
    """Whose lines these are, and how many bytes of them are kept."""

    __slots__ = ("_dropped", "_emit", "_kept", "_read", "_since", "invocation_id")

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.invocation_id: str | None = None
        self._kept = 0
        self._dropped = 0
        self._since = 0.0  # the window in which `_read` bytes were read
        self._read = 0

    def turn_to(self, invocation_id: str | None) -> None:
        """Lines from here on belong to another invocation; says what the last one lost."""
        if self._dropped:
            note = f"{self._dropped} bytes of log dropped: more than {LOG_INVOCATION_BYTES_MAX}"
            self._emit(self.invocation_id, "platform", [note])
        self._kept = self._dropped = 0
        self.invocation_id = invocation_id

    @property
    def is_full(self) -> bool:
        """Whether further bytes are only counted."""
        return self._kept >= LOG_INVOCATION_BYTES_MAX

    def drop(self, size: int) -> None:
        """Count bytes that nobody will see."""
        self._dropped += size

    def keep(self, stream: Stream, raw_lines: list[bytes]) -> None:
        """Pass lines on while there is room for them."""
        lines: list[str] = []
        for at, raw in enumerate(raw_lines):
            if self.is_full:
                self._dropped += sum(map(len, raw_lines[at:]))
                break
            shown = raw[:LOG_LINE_BYTES_MAX]
            self._dropped += len(raw) - len(shown)
            self._kept += len(shown) + _LINE_COST_BYTES
            lines.append(shown.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"))
        if lines:
            self._emit(self.invocation_id, stream, lines)

    def is_flooded(self, size: int) -> bool:
        """Count bytes just read; whether that was more than a sandbox may write in a window."""
        now = time.monotonic()
        if now - self._since > _WINDOW_S:
            self._since, self._read = now, 0
        self._read += size
        return self._read > LOG_SEAT_BYTES_PER_S * _WINDOW_S


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
        that a process which goes on writing cannot hold the answer back."""
        taken = 0
        while self._fd >= 0 and taken < _PIPE_BYTES:
            size = self._read()
            if size <= 0:
                break
            taken += size
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
            self._resume = self._loop.call_at(self._loop.time() + _WINDOW_S, self._go_on)

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
            rest = b""
        self._partial = rest
        if lines:
            self._journal.keep(self._stream, lines)


class Outputs:
    """Both pipes of a sandbox. Close it, or it is a leak."""

    __slots__ = ("_pipes", "_poll")

    def __init__(self, stdout: int, stderr: int, journal: Journal) -> None:
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
        else:
            for pipe in self._pipes:
                pipe.flush()

    def close(self) -> None:
        """Last words, then the descriptors. Any number of times."""
        for pipe in self._pipes:
            pipe.close()
