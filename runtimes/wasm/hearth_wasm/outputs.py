"""Where a module's lines go: the seat's pipe, which its reader may slow, and the last of them."""

from __future__ import annotations

import os
import select

TAIL_BYTES_MAX = 8 * 1024
TAIL_LINES_MAX = 20


class Pipe:
    """The writing end of a seat's pipe. Who floods it waits for its reader, in a thread of its own
    by then; a call that must end waits no longer."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._given_up = 0  # the last call that must not wait any more

    def write(self, call: int, data: bytes) -> None:
        """Write all of it, or what can be written until the call must end or the reader is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:
                if self._given_up >= call:
                    return
                self._wait()
            except OSError:  # nobody reads
                return

    def give_up(self, call: int) -> None:
        """From any thread: this call, and any before it, waits for the reader no more."""
        self._given_up = max(self._given_up, call)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        poll.poll(50)  # a call that must end is noticed within this time

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


class Tail:
    """The last lines of what a call wrote."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def add(self, data: bytes) -> None:
        """More of it."""
        held = self._held + data[-TAIL_BYTES_MAX:]
        self._held = held if len(held) <= TAIL_BYTES_MAX else held[-TAIL_BYTES_MAX:]

    def lines(self) -> list[str]:
        """As text, the last one last."""
        return self._held.decode("utf-8", "replace").splitlines()[-TAIL_LINES_MAX:]
