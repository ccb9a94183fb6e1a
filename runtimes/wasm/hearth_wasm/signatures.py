"""What a handler looks like from outside, for the host and for the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import wasmtime

COMMAND_TYPE = "() -> ()"
EXPORT_TYPE = "(i32, i32) -> (i64)"
HANDLER_TYPES = {True: COMMAND_TYPE, False: EXPORT_TYPE}  # by whether it is a command


def signature(kind: wasmtime.FuncType) -> str:
    """`(i32, i32) -> (i64)`."""
    takes, gives = (", ".join(map(str, part)) for part in (kind.params, kind.results))
    return f"({takes}) -> ({gives})"


def missing_parts(exports: Mapping[str, Any]) -> str:
    """What an exported handler needs beside itself and the module has not; "" when it has all."""
    wanted = []
    if not isinstance(exports.get("memory"), wasmtime.MemoryType):
        wanted.append("its memory as 'memory'")
    allocate = exports.get("alloc")
    if not isinstance(allocate, wasmtime.FuncType) or signature(allocate) != "(i32) -> (i32)":
        wanted.append("a function 'alloc' (i32) -> (i32)")
    initialize = exports.get("_initialize")
    if isinstance(initialize, wasmtime.FuncType) and signature(initialize) != COMMAND_TYPE:
        wanted.append(f"its '_initialize' as {COMMAND_TYPE}")
    return " and ".join(wanted)
