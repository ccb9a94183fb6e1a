"""What a loop's transport does, sooner: uvloop's keeps what it is given to write until the end of
the loop's turn, when the reader could have been awake for a while, and sleeps before it looks on.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from typing import Self

from core.limits import ANSWER_SPIN_S

_READ_BYTES = 64 * 1024


class SwiftSocket:
    """The socket behind a transport, which stays its owner. For one that does not change the bytes
    on their way (TLS would)."""

    __slots__ = ("_fd", "_poll", "_transport")

    def __init__(self, transport: asyncio.WriteTransport, fd: int) -> None:
        self._transport = transport
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    @classmethod
    def of(cls, transport: asyncio.WriteTransport) -> Self | None:
        """None where what is written is not what the socket gets, or where there is no socket."""
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("sslcontext") is not None:
            return None
        return cls(transport, sock.fileno())

    def write(self, data: bytes) -> bool:
        """Write at once, what does not fit through the transport; False when nothing was written
        since the transport has something waiting, or the socket is broken."""
        transport = self._transport
        if transport.get_write_buffer_size() or transport.is_closing():
            return False
        try:
            sent = os.write(self._fd, data)
        except OSError:  # full, or broken: the transport finds out which
            return False
        if sent < len(data):
            transport.write(data[sent:])
        return True

    def look(self) -> bytes:
        """What the other end says, if that comes within ANSWER_SPIN_S; b"" if not. Awake all the
        time: to sleep and be woken takes longer than a short function does."""
        until = time.perf_counter() + ANSWER_SPIN_S
        while not self._poll.poll(0):
            if time.perf_counter() > until:
                return b""
        if self._transport.is_closing():
            return b""  # the number may be another socket's by now
        try:
            return os.read(self._fd, _READ_BYTES)  # its end is seen by the transport, too
        except OSError:
            return b""
