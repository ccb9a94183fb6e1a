"""One call in a fresh instance: a store, WASI with the event on its standard input, the module's
function, and what came of it. Nothing of an instance is left when its call is over.

What wasmtime calls back runs in the middle of its own code, so nothing here may raise into it.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from ctypes import byref, c_uint64, c_void_p
from typing import Any

from . import native
from .abi import exchange
from .engine import TABLE_ELEMENTS_MAX, TABLES_MAX
from .module import Program
from .outputs import Pipe, Tail
from .sleeping import Alarm
from .streams import CALLS, STDERR

OVER = native.error_new  # a new error each time: wasmtime takes it away

NUMBERS = itertools.count(1)


class Call:
    """What one call needs, and what came of it."""

    __slots__ = (
        *("alarm", "argv", "began", "context", "deadline", "environment", "event", "failure"),
        *("memory", "memory_bytes", "memory_used", "number", "out", "out_bytes", "out_bytes_max"),
        *("over", "program", "read", "status", "stderr", "stdout", "tail", "view"),
    )

    def __init__(self, program: Program, event: bytes, deadline: float) -> None:
        self.program = program
        self.event = event
        self.deadline = deadline  # Unix time, seconds
        self.argv: list[bytes] = []
        self.environment: list[bytes] = []  # NAME=value
        self.memory_bytes = self.memory_used = self.out_bytes_max = 0
        self.stdout: Pipe | None = None  # of a handler's own; a command's output is its answer
        self.stderr: Pipe | None = None
        self.out: list[bytes] = []
        self.out_bytes = 0
        self.read = 0  # of the event
        self.context = 0  # wasmtime's address of its store
        self.memory: Any = None  # wasmtime's handle of it, once there is an instance
        self.view: memoryview | None = None  # of all of it, when somebody looked
        self.tail = Tail()
        self.over = ""  # why it must end: deadline, hung up, too large
        self.status: int | None = None  # of an exit
        self.failure: tuple[str, str, list[str]] | None = None  # type, message, trace
        self.alarm: Alarm | None = None  # while it sleeps
        self.began = time.monotonic_ns()
        self.number = next(NUMBERS)

    def end(self, why: str) -> None:
        """From any thread: it ends where wasm next looks. Who calls this turns the epoch."""
        self.over = self.over or why
        if (alarm := self.alarm) is not None:
            alarm.ring()
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.give_up(self.number)

    def may_write(self, descriptor: int, size: int) -> bool:
        """Whether so much more is within the bound of an answer; if not, the call is over."""
        if descriptor == STDERR or not self.program.is_command:
            return True
        self.out_bytes += size
        if self.out_bytes <= self.out_bytes_max:
            return True
        self.out.clear()
        self.end("too large")
        native.increment_epoch(self.program.engine)
        return False

    def write(self, descriptor: int, data: bytes) -> None:
        """What a command writes to its standard output is its answer; all else is log."""
        if descriptor == STDERR:
            self.tail.add(data)
            if self.stderr is not None:
                self.stderr.write(self.number, data)
        elif self.program.is_command:
            self.out.append(data)
        elif self.stdout is not None:
            self.stdout.write(self.number, data)

    def run(self) -> None:
        """Do it, to whatever end. Never raises."""
        engine = self.program.engine
        store = native.store_new(engine, None, None)
        key = threading.get_ident()
        CALLS[key] = self
        try:
            context = self.context = native.store_context(store)
            native.store_limiter(store, self.memory_bytes, TABLE_ELEMENTS_MAX, 1, TABLES_MAX, 1)
            native.on_epoch(store, on_epoch, key, None)
            native.set_epoch_deadline(context, 1)
            if self.program.needs_wasi and (error := native.set_wasi(context, native.wasi_new())):
                raise RuntimeError(take_error(error))
            self._run_in(context)
        finally:
            self.view = self.memory = None
            del CALLS[key]
            native.store_delete(store)

    def _run_in(self, context: int) -> None:
        instance, trap = native.Instance(), c_void_p()
        program = self.program
        error = native.instantiate(program.pre, context, byref(instance), byref(trap))
        if not error and not trap:
            memory = native.Extern()
            has_one = native.export_get(context, byref(instance), b"memory", 6, byref(memory))
            if has_one and memory.kind == native.IS_MEMORY:
                self.memory = byref(memory.of.memory)
            if program.is_command:
                error = call(context, export(context, instance, program.handler), None, 0, trap)
            else:
                error = exchange(self, context, instance, trap)
        if error or trap:
            self._failed(error, trap)
        if (self.status or self.failure) and self.memory is not None:
            self.memory_used = native.memory_size(context, self.memory)

    def _failed(self, error: int | None, trap: c_void_p) -> None:
        if self.status is not None:  # an exit leaves the module in this way
            if error:
                native.error_delete(error)
            else:
                native.trap_delete(trap)
        elif error:
            self.failure = ("Trap", take_error(error), [])
        else:
            self.failure = ("Trap", *take_trap(trap))


def export(context: int, instance: Any, name: bytes) -> Any:
    """A function of an instance, which has it: loading looked."""
    found = native.Extern()
    if not native.export_get(context, byref(instance), name, len(name), byref(found)):
        raise LookupError(name)
    return found


def call(context: int, function: Any, values: Any, size: int, trap: c_void_p) -> int | None:
    """Call it; the error, if it is one. A trap is in `trap`."""
    error: int | None = native.call_function(
        context, byref(function.of.func), values, size, byref(trap)
    )
    return error


def take_error(error: int) -> str:
    """What it says."""
    message = native.text_of(native.error_message, error)
    native.error_delete(error)
    return message


def take_trap(trap: c_void_p) -> tuple[str, list[str]]:
    """What it says, and where in the module it happened."""
    import wasmtime
    from wasmtime import _ffi

    pointer = ctypes.cast(trap, ctypes.POINTER(_ffi.wasm_trap_t))
    found = wasmtime.Trap._from_ptr(pointer)
    trace = [
        f"  at {frame.func_name or f'function {frame.func_index}'} (+0x{frame.module_offset:x})"
        for frame in found.frames
    ]
    return found.message, trace


@native.epoch_callback
def on_epoch(context: int, key: int, delta: Any, kind: Any) -> int:
    """The epoch was turned for somebody: if it was for this one, end it; else on to the next."""
    try:
        call = CALLS[key]
        if call.over or time.time() > call.deadline:
            call.over = call.over or "deadline"
            return int(OVER(b"interrupted"))
        delta[0] = c_uint64(1)
    except BaseException:
        return int(OVER(b"interrupted"))
    return 0
