"""What the function writes: streams as it expects them, and whose line is whose.

With several calls at once every line is written whole, with its call's number in front.
"""

from __future__ import annotations

import io
import logging
import select
import sys
import threading
from contextvars import ContextVar
from os import write as write_bytes
from typing import Any

HELD_BYTES_MAX = 256 * 1024  # of an unfinished line; a longer one is written as several

CALL: ContextVar[int] = ContextVar("hearth_call", default=0)  # whose context this is; 0: nobody's


def prepare_output() -> None:
    """Streams and logging as functions expect them."""
    sys.stdout = sys.__stdout__ = output(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = output(2)  # type: ignore[misc]
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)


def output(descriptor: int) -> io.TextIOWrapper:
    """A stream that writes each line before the next statement: last words survive os._exit."""
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """The root logger's handler: writes to whatever sys.stderr is at that moment."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def flush() -> None:
    """Push out what Python still buffers of the function's output."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass


class Tagged(io.BufferedIOBase):
    """Bytes to a descriptor: those of a call as whole lines that say whose they are."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.held: dict[int, bytearray] = {}  # the unfinished line of every call under way
        # A thread of a call may write too; a signal handler may interrupt a write.
        self.lock = threading.RLock()

    def fileno(self) -> int:
        return self.descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        call = CALL.get()
        with self.lock:
            held = self.held.get(call)
            if held is None:  # of no call, or of one that was answered
                write_all(self.descriptor, raw)
                return len(raw)
            held += raw
            cut = held.rfind(b"\n") + 1
            if cut:
                lines = bytes(held[:cut])
                del held[:cut]
                write_all(self.descriptor, with_tags(call, lines))
            elif len(held) > HELD_BYTES_MAX:
                self.write_held(call, held)
        return len(raw)

    def begin(self, call: int) -> None:
        """Lines of this call are its own from here on."""
        self.held[call] = bytearray()

    def finish(self, call: int) -> None:
        """The call is about to be answered: write what it left unfinished."""
        with self.lock:
            held = self.held.pop(call)
            if held:
                self.write_held(call, held)

    def write_held(self, call: int, held: bytearray) -> None:
        line = bytes(held) + b"\n"
        held.clear()
        write_all(self.descriptor, with_tags(call, line))


class Tags:
    """Both streams of a sandbox that takes several calls at once."""

    def __init__(self) -> None:
        self.streams = (Tagged(1), Tagged(2))
        sys.stdout = sys.__stdout__ = as_text(self.streams[0])  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = as_text(self.streams[1])  # type: ignore[misc]

    def begin(self, call: int) -> None:
        """A call begins."""
        for stream in self.streams:
            stream.begin(call)

    def finish(self, call: int) -> None:
        """A call ends, whatever the function did to the descriptors."""
        for stream in self.streams:
            try:
                stream.finish(call)
            except BaseException:
                pass


def as_text(stream: Any) -> io.TextIOWrapper:
    """A text stream that passes everything on at once, while it is known whose it is."""
    return io.TextIOWrapper(
        stream, encoding="utf-8", errors="backslashreplace", newline="", write_through=True
    )


def with_tags(call: int, lines: bytes) -> bytes:
    """Whole lines, each with its call in front."""
    tag = b"\x1e%d\x1f" % call
    return tag + lines[:-1].replace(b"\n", b"\n" + tag) + b"\n"


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, also where somebody made the pipe non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[write_bytes(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
