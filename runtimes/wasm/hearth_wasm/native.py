"""The C functions of wasmtime that a call needs, bound for speed.

The package's own binding converts every argument to a typed pointer and makes an object of every
result; a call here passes addresses. What returns at once keeps the interpreter's lock (`quick`):
giving it away and asking for it back costs more than such a function takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

from wasmtime import _ffi

Extern = _ffi.wasmtime_extern_t
Instance = _ffi.wasmtime_instance_t
Memory = _ffi.wasmtime_memory_t
Value = _ffi.wasmtime_val_raw
IS_FUNCTION, IS_MEMORY = 0, 3


class Bytes(ctypes.Structure):
    """wasm_byte_vec_t."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))


def quick(name: str, result: Any, *arguments: Any) -> Any:
    """A function that returns at once and calls nobody back."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, _ffi.dll))


def slow(name: str, result: Any, *arguments: Any) -> Any:
    """A function that may take long: other threads run meanwhile."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, _ffi.dll))


OnEpoch = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint64), c_void_p)
HostFunction = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_void_p, c_size_t)


def epoch_callback(function: Callable[[int, int, Any, int], int]) -> Any:
    """For wasmtime to call: (store, number of ours, ticks to go on for, kind) -> error or 0."""
    return OnEpoch(function)


def host_function(function: Callable[[Any, int, int, int], int]) -> Any:
    """For a module to call: (nothing, caller, arguments and results, how many) -> trap or 0."""
    return HostFunction(function)


store_new = quick("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = quick("wasmtime_store_context", c_void_p, c_void_p)
store_delete = slow("wasmtime_store_delete", None, c_void_p)
store_limiter = quick(
    "wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64
)
set_epoch_deadline = quick("wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
on_epoch = quick(
    "wasmtime_store_epoch_deadline_callback", None, c_void_p, OnEpoch, c_void_p, c_void_p
)
increment_epoch = quick("wasmtime_engine_increment_epoch", None, c_void_p)

wasi_new = quick("wasi_config_new", c_void_p)
set_wasi = quick("wasmtime_context_set_wasi", c_void_p, c_void_p, c_void_p)
bytes_delete = quick("wasm_byte_vec_delete", None, POINTER(Bytes))

instantiate = slow(
    "wasmtime_instance_pre_instantiate",
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(Instance),
    POINTER(c_void_p),
)
export_get = quick(
    "wasmtime_instance_export_get",
    c_bool,
    c_void_p,
    POINTER(Instance),
    c_char_p,
    c_size_t,
    POINTER(Extern),
)
call_function = slow(
    "wasmtime_func_call_unchecked",
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(Value),
    c_size_t,
    POINTER(c_void_p),
)
memory_data = quick("wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_size = quick("wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
caller_export = quick(
    "wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, POINTER(Extern)
)
define_function = quick(
    "wasmtime_linker_define_func_unchecked",
    c_void_p,
    *(c_void_p, c_char_p, c_size_t, c_char_p, c_size_t),
    *(c_void_p, HostFunction, c_void_p, c_void_p),
)
trap_new = quick("wasmtime_trap_new", c_size_t, c_char_p, c_size_t)
error_new = quick("wasmtime_error_new", c_size_t, c_char_p)
trap_delete = quick("wasm_trap_delete", None, c_void_p)
error_message = quick("wasmtime_error_message", None, c_void_p, POINTER(Bytes))
error_exit_status = quick("wasmtime_error_exit_status", c_bool, c_void_p, POINTER(c_int))
error_delete = quick("wasmtime_error_delete", None, c_void_p)
trap_message = quick("wasm_trap_message", None, c_void_p, POINTER(Bytes))


def text_of(ask: Any, pointer: int) -> str:
    """A message, as one of the functions that write one into a vector says it."""
    said = Bytes()
    ask(pointer, ctypes.byref(said))
    text = ctypes.string_at(said.data, said.size) if said.size else b""
    bytes_delete(ctypes.byref(said))
    return text.rstrip(b"\0").decode("utf-8", "replace")
