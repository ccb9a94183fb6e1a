"""WASI's fd_read and fd_write: the event, the answer and the log are all that a module can open.

wasmtime's own pass through an asynchronous runtime, which takes 58 µs for an echo's three calls;
these take 12, and what a module writes is bounded as it writes it.
"""

from __future__ import annotations

import struct
import threading
from ctypes import byref, memmove, string_at
from typing import TYPE_CHECKING, Any

from . import native

if TYPE_CHECKING:
    from .instance import Call

SUCCESS, BAD_DESCRIPTOR, FAULT, INVALID, IO = 0, 8, 21, 28, 29
ARGUMENTS = struct.Struct("<I12xI12xI12xI12x")  # descriptor, vectors, how many, where to say it
VECTOR = struct.Struct("<II")  # place, size
U32 = struct.Struct("<I")
VECTORS_MAX = 1024
STDIN, STDOUT, STDERR = 0, 1, 2
ERRNO = [U32.pack(errno) for errno in range(77)]

CALLS: dict[int, Call] = {}  # those that run, by their thread: what wasmtime hands back to us


class Refused(Exception):
    """The module asked for what is not there; `errno` says what."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


def memory_of(call: Call, caller: int) -> tuple[int, int]:
    """Where the module's memory is, and its size. Refused when it has none."""
    memory = call.memory
    context = call.context
    if memory is None:  # in its start function
        found = native.Extern()
        if not native.caller_export(caller, b"memory", 6, byref(found)):
            raise Refused(FAULT)
        if found.kind != native.IS_MEMORY:
            raise Refused(FAULT)
        memory = byref(found.of.memory)
        return native.memory_data(context, memory) or 0, native.memory_size(context, memory)
    return native.memory_data(context, memory) or 0, native.memory_size(context, memory)


def vectors_of(base: int, bound: int, at: int, count: int) -> list[tuple[int, int]]:
    """Places and sizes, all of them inside the memory. Refused."""
    if count > VECTORS_MAX:
        raise Refused(INVALID)
    if at + VECTOR.size * count > bound:
        raise Refused(FAULT)
    found = list(VECTOR.iter_unpack(string_at(base + at, VECTOR.size * count)))
    for place, size in found:
        if place + size > bound:
            raise Refused(FAULT)
    return found


@native.host_function
def fd_read(_: Any, caller: int, values: int, size: int) -> int:
    """More of the event. Never raises."""
    try:
        memmove(values, ERRNO[_read(caller, values)], 4)
    except Refused as refused:
        memmove(values, ERRNO[refused.errno], 4)
    except BaseException:
        memmove(values, ERRNO[IO], 4)
    return 0


@native.host_function
def fd_write(_: Any, caller: int, values: int, size: int) -> int:
    """A part of the answer, or of the log. Never raises."""
    try:
        memmove(values, ERRNO[_write(caller, values)], 4)
    except Refused as refused:
        memmove(values, ERRNO[refused.errno], 4)
    except BaseException:
        memmove(values, ERRNO[IO], 4)
    return 0


def _read(caller: int, values: int) -> int:
    descriptor, at, count, told = ARGUMENTS.unpack(string_at(values, 64))
    if descriptor != STDIN:
        return BAD_DESCRIPTOR
    call = CALLS[threading.get_ident()]
    base, bound = memory_of(call, caller)
    if told + 4 > bound:
        return FAULT
    begin = call.read
    for place, size in vectors_of(base, bound, at, count):
        piece = call.event[call.read : call.read + size]
        memmove(base + place, piece, len(piece))
        call.read += len(piece)
        if len(piece) < size:
            break
    memmove(base + told, U32.pack(call.read - begin), 4)
    return SUCCESS


def _write(caller: int, values: int) -> int:
    descriptor, at, count, told = ARGUMENTS.unpack(string_at(values, 64))
    if descriptor not in (STDOUT, STDERR):
        return BAD_DESCRIPTOR
    call = CALLS[threading.get_ident()]
    base, bound = memory_of(call, caller)
    if told + 4 > bound:
        return FAULT
    written = 0
    for place, size in vectors_of(base, bound, at, count):
        # Checked before it is copied: memory for what is refused is never taken.
        if not call.may_write(descriptor, size):
            return IO
        call.write(descriptor, string_at(base + place, size))
        written += size
    memmove(base + told, U32.pack(written & 0xFFFFFFFF), 4)
    return SUCCESS
