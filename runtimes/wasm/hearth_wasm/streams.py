"""The part of WASI that nearly every call uses, in Python: event, answer, log, arguments,
environment and exit. There is nothing else that a module could open.

wasmtime's own pass through an asynchronous runtime, at 6 µs a call and more for those that move
bytes; a module that needs only these is spared wasmtime's WASI altogether, which costs 6 µs to set
up. What a module writes is bounded as it writes it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from ctypes import byref, c_char, c_uint32, string_at
from typing import TYPE_CHECKING, Any

from . import native

if TYPE_CHECKING:
    from .instance import Call

SUCCESS, BAD_DESCRIPTOR, FAULT, INVALID, IO = 0, 8, 21, 28, 29
ARGUMENTS = struct.Struct("<I12xI12xI12xI12x")  # four i32, each in the room of the largest value
PAIR = struct.Struct("<I12xI12x")
VECTOR = struct.Struct("<II")  # place, size
U32 = struct.Struct("<I")
VECTORS_MAX = 1024
STDIN, STDOUT, STDERR = 0, 1, 2
EXIT = b"exit"

CALLS: dict[int, Call] = {}  # those that run, by their thread: what wasmtime hands back to us


class Refused(Exception):
    """The module asked for what is not there; `errno` says what."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


def memory_of(call: Call, caller: int) -> memoryview:
    """The module's memory as it is now. Its place never changes (engine.py), its size may, and a
    view that was taken before is then too short. Refused when it has none."""
    memory = call.memory
    if memory is None:
        found = native.Extern()
        if not native.caller_export(caller, b"memory", 6, byref(found)):
            raise Refused(FAULT)
        if found.kind != native.IS_MEMORY:
            raise Refused(FAULT)
        memory = byref(found.of.memory)
    base = native.memory_data(call.context, memory)
    size = native.memory_size(call.context, memory)
    view = call.view = memoryview((c_char * size).from_address(base or 0)).cast("B")
    return view


def fd_read(call: Call, memory: memoryview, values: int) -> int:
    """More of the event."""
    descriptor, at, count, told = ARGUMENTS.unpack(string_at(values, ARGUMENTS.size))
    if descriptor != STDIN:
        return BAD_DESCRIPTOR
    if count > VECTORS_MAX:
        return INVALID
    event, read = call.event, call.read
    for number in range(count):
        place, size = VECTOR.unpack_from(memory, at + VECTOR.size * number)
        piece = event[read : read + size]
        memory[place : place + len(piece)] = piece
        read += len(piece)
    U32.pack_into(memory, told, read - call.read)
    call.read = read
    return SUCCESS


def fd_write(call: Call, memory: memoryview, values: int) -> int:
    """A part of the answer, or of the log."""
    descriptor, at, count, told = ARGUMENTS.unpack(string_at(values, ARGUMENTS.size))
    if descriptor not in (STDOUT, STDERR):
        return BAD_DESCRIPTOR
    if count > VECTORS_MAX:
        return INVALID
    pieces = [VECTOR.unpack_from(memory, at + VECTOR.size * number) for number in range(count)]
    written = sum(size for _, size in pieces)
    if any(place + size > len(memory) for place, size in pieces):
        raise IndexError
    U32.pack_into(memory, told, written & 0xFFFFFFFF)
    # Asked before anything is copied: memory for what is refused is never taken.
    if not call.may_write(descriptor, written):
        return IO
    for place, size in pieces:
        call.write(descriptor, bytes(memory[place : place + size]))
    return SUCCESS


def args_sizes_get(call: Call, memory: memoryview, values: int) -> int:
    """How many arguments, and how many bytes they take."""
    return _sizes(call.argv, memory, values)


def args_get(call: Call, memory: memoryview, values: int) -> int:
    """Places of the arguments, and their bytes."""
    return _texts(call.argv, memory, values)


def environ_sizes_get(call: Call, memory: memoryview, values: int) -> int:
    """How many variables, and how many bytes they take."""
    return _sizes(call.environment, memory, values)


def environ_get(call: Call, memory: memoryview, values: int) -> int:
    """Places of the variables, and their bytes."""
    return _texts(call.environment, memory, values)


def _sizes(texts: list[bytes], memory: memoryview, values: int) -> int:
    count, size = PAIR.unpack(string_at(values, PAIR.size))
    U32.pack_into(memory, count, len(texts))
    U32.pack_into(memory, size, sum(map(len, texts)) + len(texts))
    return SUCCESS


def _texts(texts: list[bytes], memory: memoryview, values: int) -> int:
    at, place = PAIR.unpack(string_at(values, PAIR.size))
    for number, text in enumerate(texts):
        U32.pack_into(memory, at + 4 * number, place)
        end = place + len(text)
        memory[place : end + 1] = text + b"\0"
        place = end + 1
    return SUCCESS


Function = Callable[[Any, memoryview, int], int]


def host_function(function: Function) -> Any:
    """For a module to call. Never raises into it; and a view that is too short is taken anew once,
    for the memory may have grown since."""

    def answer(_: Any, caller: int, values: int, size: int) -> int:
        try:
            call = CALLS[threading.get_ident()]
            memory = call.view
            try:
                if memory is None:
                    memory = memory_of(call, caller)
                errno = function(call, memory, values)
            except (IndexError, ValueError, struct.error):
                before = len(memory) if memory is not None else 0
                memory = memory_of(call, caller)
                errno = FAULT if len(memory) == before else function(call, memory, values)
        except Refused as refused:
            errno = refused.errno
        except (IndexError, ValueError, struct.error):
            errno = FAULT
        except BaseException:
            errno = IO
        c_uint32.from_address(values).value = errno
        if errno and call.over:
            return int(native.trap_new(EXIT, len(EXIT)))
        return 0

    return native.HostFunction(answer)


def _exit(_: Any, caller: int, values: int, size: int) -> int:
    """The module ends with a status: the only way out of it from here is a trap."""
    call = CALLS[threading.get_ident()]
    call.status = c_uint32.from_address(values).value
    return int(native.trap_new(EXIT, len(EXIT)))


proc_exit = native.host_function(_exit)
