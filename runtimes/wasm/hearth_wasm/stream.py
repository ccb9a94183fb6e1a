"""Frames on a seat's socket: read as they come, without waiting; written whole."""

from __future__ import annotations

import socket
from typing import Any

from .shared import HEAD_BYTES_MAX, HEADER, LENGTH_BYTES, OVERHEAD_BYTES, dumps, loads, smaller

READ_BYTES = 64 * 1024
COPY_BYTES_MAX = 64 * 1024  # a body up to this size is sent in one piece with its head

Frame = tuple[int, int, dict[str, Any], bytes]  # type, call, head, body


class Broken(Exception):
    """The other side broke the protocol, or is gone."""


class Stream:
    """One end of a seat's connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.body_bytes_max = 0  # until INIT says how large bodies may be
        self._held = bytearray()

    @property
    def holds_more(self) -> bool:
        """Whether a part of another frame has been read already."""
        return bool(self._held)

    def read(self) -> Frame | None:
        """What has arrived: a frame, or None while it is not whole. Broken."""
        if (frame := self._take()) is not None:
            return frame
        try:
            data = self.sock.recv(self._wanted(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Broken(str(error)) from None
        if not data:
            raise Broken("the executor hung up")
        self._held += data
        return self._take()

    def _wanted(self) -> int:
        if len(self._held) < HEADER.size:
            return READ_BYTES
        length = int.from_bytes(self._held[:LENGTH_BYTES], "big")
        missing: int = length + LENGTH_BYTES - len(self._held)
        return max(READ_BYTES, missing)

    def _take(self) -> Frame | None:
        held = self._held
        if len(held) < HEADER.size:
            return None
        length, kind, call, head_bytes = HEADER.unpack_from(held)
        body_bytes = length - OVERHEAD_BYTES - head_bytes
        if head_bytes > HEAD_BYTES_MAX or not 0 <= body_bytes <= self.body_bytes_max:
            raise Broken(f"a frame of type {kind} with {head_bytes} + {body_bytes} bytes")
        whole = LENGTH_BYTES + length
        if len(held) < whole:
            return None
        middle = HEADER.size + head_bytes
        head = loads(held[HEADER.size : middle].decode()) if head_bytes else {}
        body = bytes(memoryview(held)[middle:whole])
        if len(held) == whole:
            self._held = bytearray()  # events may hold secrets, and large ones memory
        else:
            del held[:whole]
        return kind, call, head, body

    def send(self, kind: int, call: int, head: dict[str, Any], body: bytes = b"") -> None:
        """One frame. Whoever is gone meanwhile will be noticed as it hangs up."""
        text = dumps(head).encode("utf-8", "replace") if head else b""
        if len(text) > HEAD_BYTES_MAX:
            text = smaller(head)
        front = HEADER.pack(OVERHEAD_BYTES + len(text) + len(body), kind, call, len(text)) + text
        try:
            if len(body) <= COPY_BYTES_MAX:
                self.sock.sendall(front + body)
            else:
                self.sock.sendall(front)
                self.sock.sendall(body)
        except OSError:
            return
