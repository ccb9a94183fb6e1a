"""Keeps a process's memory and descriptors from other processes of the same user."""

from __future__ import annotations

from typing import Any

PR_SET_DUMPABLE = 4


class Secrecy:
    """A switch of this process. Uses the C module below ctypes: 0.4 ms to load, not 6."""

    def __init__(self) -> None:
        import _ctypes  # only functions that isolate requests pay for it

        native: Any = _ctypes
        self.call = native.call_function
        self.prctl = native.dlsym(native.dlopen(None, 0), "prctl")

    def begin(self) -> None:
        """Nobody but root may trace this process from here on, nor open its files in /proc."""
        if self.call(self.prctl, (PR_SET_DUMPABLE, 0)) != 0:
            raise OSError("this process cannot be kept from others")

    def end(self) -> None:
        """Whoever has the same user may, as is usual."""
        self.call(self.prctl, (PR_SET_DUMPABLE, 1))
