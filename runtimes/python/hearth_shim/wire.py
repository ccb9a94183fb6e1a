"""Frames on one Unix stream socket, read into one buffer that grows for a large frame only.

Names of the system are bound here at once: what a function makes of `os` is its own affair.
"""

from __future__ import annotations

import _socket
import select
import struct
from os import _exit as exit_now
from os import write as write_bytes
from typing import Any, NoReturn

from .values import dumps, loads

PROTOCOL = 2
INIT, CALL, CANCEL, CREDIT = 1, 2, 3, 4
HELLO, READY, INIT_ERROR, RESULT, ERROR, CHUNK, END = 16, 17, 18, 19, 20, 21, 22
HEADER = struct.Struct(">IBII")  # length, type, call, head_length
LENGTH_BYTES = 4  # of the length itself, which it does not count
OVERHEAD_BYTES = 9  # of the rest of the header, which it does
HEAD_BYTES_MAX = 128 * 1024
CHUNK_BYTES_MAX = 64 * 1024
CREDIT_BYTES = 256 * 1024  # of CHUNK bodies, with which a call begins
BUFFER_BYTES = 64 * 1024

Measure = tuple[int, int, int, int]  # type, call, bytes of the head, bytes of the whole frame
Frame = tuple[int, int, dict[str, Any], memoryview]  # type, call, head, body


class Wire:
    """One end of a connection."""

    def __init__(self, sock: _socket.socket) -> None:
        self.go_on_with(sock)
        self.body_bytes_max = 0  # until INIT says how large bodies may be
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.start = self.end = 0  # of what was received and not yet taken
        self.received = 0  # bytes that `read` found

    def go_on_with(self, sock: _socket.socket) -> None:
        """Speak on this one from now on."""
        self.sock = sock
        # Asleep in recv one is woken, in vain, each time the other end reads what it was sent;
        # asleep in poll only by what can be read.
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        self.wait = poll.poll

    def receive(self) -> Frame:
        """The next frame. Its body is valid until more is read."""
        self.fill(HEADER.size)
        measure = self.measure()
        self.fill(measure[3])
        return self.take(measure)

    def peek(self) -> Measure | None:
        """The measure of the next frame, when all of it is there."""
        held = self.end - self.start
        if held < HEADER.size:
            return None
        measure = self.measure()
        return measure if held >= measure[3] else None

    def measure(self) -> Measure:
        """What the next header says; ends the process when that breaks a limit."""
        length, kind, call, head_bytes = HEADER.unpack_from(self.buffer, self.start)
        body_bytes = length - OVERHEAD_BYTES - head_bytes
        if head_bytes > HEAD_BYTES_MAX or not 0 <= body_bytes <= self.body_bytes_max:
            broken(f"a frame of type {kind} with {head_bytes} + {body_bytes} bytes")
        return kind, call, head_bytes, LENGTH_BYTES + length

    def take(self, measure: Measure) -> Frame:
        """The frame of this measure, all of which is there."""
        kind, call, head_bytes, whole = measure
        begin = self.start + HEADER.size
        middle = begin + head_bytes
        head = loads(str(self.view[begin:middle], "utf-8")) if head_bytes else {}
        self.start += whole
        return kind, call, head, self.view[middle : self.start]

    def take_raw(self, measure: Measure) -> memoryview:
        """The frame of this measure as it came; valid until more is read."""
        self.start += measure[3]
        return self.view[self.start - measure[3] : self.start]

    def fill(self, wanted: int) -> None:
        """Have `wanted` bytes in the buffer."""
        if self.end - self.start >= wanted:
            return
        self.make_room(wanted)
        while self.end - self.start < wanted:
            self.wait()
            try:
                count = self.sock.recv_into(self.view[self.end :])
            except OSError:
                count = 0
            if not count:
                self.hung_up()
            self.end += count

    def read(self) -> None:
        """Have what has arrived in the buffer, without waiting."""
        self.make_room(HEADER.size)
        if self.end - self.start >= HEADER.size:
            self.make_room(self.measure()[3])
        if self.end == len(self.buffer):
            return  # what is there must be taken first
        try:
            count = self.sock.recv_into(self.view[self.end :], 0, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.hung_up()
        self.end += count
        self.received += count

    def make_room(self, wanted: int) -> None:
        """Let the buffer have room for `wanted` bytes from the first that is not yet taken."""
        held = self.end - self.start
        if held == 0:
            self.start = self.end = 0
        if self.start + wanted > len(self.buffer):
            bigger = bytearray(max(wanted, BUFFER_BYTES))
            bigger[:held] = self.view[self.start : self.end]
            self.start = self.end
            self.forget()
            self.use(bigger, held)

    def use(self, buffer: bytearray, held: int) -> None:
        """Go on with another buffer whose first `held` bytes are received ones."""
        self.buffer, self.view = buffer, memoryview(buffer)
        self.start, self.end = 0, held

    def shrink(self) -> None:
        """Let go of a large frame's memory before the handler needs it."""
        if len(self.buffer) > BUFFER_BYTES and self.start == self.end:
            self.use(bytearray(BUFFER_BYTES), 0)

    def forget(self) -> None:
        """Overwrite what was received and taken: INIT and events bring secrets."""
        self.view[: self.start] = bytes(self.start)

    def send(
        self, kind: int, call: int, head: dict[str, Any], body: bytes | memoryview = b""
    ) -> None:
        """Send one frame, whole."""
        text = dumps(head).encode("utf-8", "replace") if head else b""
        if len(text) > HEAD_BYTES_MAX:
            text = smaller(head)
        header = HEADER.pack(OVERHEAD_BYTES + len(text) + len(body), kind, call, len(text))
        try:
            if len(body) < BUFFER_BYTES:
                self.sock.sendall(header + text + body)
            else:  # without a copy of the body
                self.sock.sendall(header + text)
                self.sock.sendall(body)
        except OSError:  # the other side is gone, or this is a forked child that came back here
            exit_now(0)
        except BaseException as error:  # a signal handler of the function raised
            broken(f"a frame was cut short by {type(error).__name__}")

    def hung_up(self) -> None:
        """The connection ended: so does the process, also in the middle of a call."""
        exit_now(0)

    def close(self) -> None:
        """Close this process's copy of the connection."""
        self.sock.close()


def credit_of(body: memoryview) -> int:
    """The bytes that a CREDIT adds."""
    if len(body) != LENGTH_BYTES:
        broken(f"a CREDIT of {len(body)} bytes")
    return int.from_bytes(body, "big")


def smaller(head: dict[str, Any]) -> bytes:
    """The head of an ERROR cut down until it fits."""
    trace = [*head["trace"][:20], "…", *head["trace"][-20:]]
    head |= {"message": head["message"][:2048] + "…", "trace": [line[:200] for line in trace]}
    if "found" in head:
        head["found"] = [name[:100] for name in head["found"]]
    return dumps(head).encode("utf-8", "replace")


def broken(what: str) -> NoReturn:
    """The executor broke the protocol, or this shim did: end, saying why."""
    try:
        write_bytes(2, f"hearth: the wire broke: {what}\n".encode())
    finally:
        exit_now(70)
