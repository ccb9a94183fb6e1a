"""Calling an exported function instead of a command: the event into the module's memory, the
answer out of it. docs/wasm.md tells users the convention.

    memory                                  exported
    alloc(size: i32) -> i32                 room for the event
    <handler>(at: i32, size: i32) -> i64    the answer's place << 32 | its size
    _initialize()                           called first, when it is there
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any

from . import native

if TYPE_CHECKING:
    from .instance import Call

ALLOCATE, INITIALIZE = b"alloc", b"_initialize"


def exchange(one: Call, context: int, instance: Any, trap: c_void_p) -> int | None:
    """Hand over the event, call the handler, take its answer. The error of the call, if any."""
    from .instance import call, export

    if one.program.has_initialize:
        error = call(context, export(context, instance, INITIALIZE), None, 0, trap)
        if error or trap:
            return error
    values = (native.Value * 2)()
    values[0].i32 = len(one.event)
    error = call(context, export(context, instance, ALLOCATE), values, 1, trap)
    if error or trap:
        return error
    at = values[0].i32 & 0xFFFFFFFF
    memory = export(context, instance, b"memory").of.memory
    if not _write(one, context, memory, at):
        return None
    values[1].i32 = len(one.event)
    error = call(context, export(context, instance, one.program.handler), values, 2, trap)
    if not error and not trap:
        _read(one, context, memory, values[0].i64 & 0xFFFFFFFFFFFFFFFF)
    return error


def _write(one: Call, context: int, memory: Any, at: int) -> bool:
    size = native.memory_size(context, byref(memory))
    if at + len(one.event) > size or (not at and one.event):
        text = f"alloc({len(one.event)}) gave {at}, beyond the module's memory of {size} bytes"
        one.failure = ("Handler.BadPointer", text, [])
        return False
    ctypes.memmove(native.memory_data(context, byref(memory)) + at, one.event, len(one.event))
    return True


def _read(one: Call, context: int, memory: Any, packed: int) -> None:
    at, length = packed >> 32, packed & 0xFFFFFFFF
    size = native.memory_size(context, byref(memory))
    if length > one.out_bytes_max:
        one.over, one.out_bytes = "too large", length
    elif at + length > size:
        text = f"the handler answered with {length} bytes at {at}, beyond its memory of {size}"
        one.failure = ("Handler.BadPointer", text, [])
    else:
        data = native.memory_data(context, byref(memory))
        one.out.append(ctypes.string_at(data + at, length))
