"""From a module as it was uploaded to compiled code, or to one line that says why not.

The input is hostile and so is what compiles it, once it has read that: this runs in a container
without a network, and what it leaves is believed only as far as the platform can check it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import wasmtime

from .engine import NAME, make_engine
from .naming import COMMAND, FACTS, MODULE
from .signatures import HANDLER_TYPES, missing_parts, signature

WASI = "wasi_snapshot_preview1"
REFUSED = 3  # the exit status that says: the module is at fault, and the last line why
MAGIC, CORE_VERSION = b"\0asm", b"\x01\0\0\0"
COMPONENT_LAYER = b"\x01\0"  # the second half of a component's version
NAMES_SHOWN_MAX = 8
REASON_LENGTH_MAX = 400


class Refused(Exception):
    """The module cannot be a function; the message says why, in one line."""


def main(arguments: Sequence[str]) -> int:
    """FROM is the module, TO the directory that gets the artifact, HANDLER what is to be called."""
    source, to, handler = Path(arguments[0]), Path(arguments[1]), arguments[2]
    try:
        compiled = compile_module(source.read_bytes(), handler)
    except Refused as why:
        sys.stdout.write(" ".join(str(why).split())[:REASON_LENGTH_MAX] + "\n")
        return REFUSED
    to.mkdir(exist_ok=True)
    (to / MODULE).write_bytes(compiled)
    (to / FACTS).write_text(json.dumps({"engine": NAME}))
    return os.EX_OK


def compile_module(wasm: bytes, handler: str) -> bytes:
    """Code for this machine. Refused."""
    check_kind(wasm)
    engine = make_engine()
    try:
        module = wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError as error:
        raise Refused(f"not a valid WebAssembly module: {reason_of(str(error))}") from None
    check_imports(module, engine)
    check_handler(module, handler)
    return bytes(module.serialize())


def check_kind(wasm: bytes) -> None:
    """Refused unless the first bytes are a module's."""
    if not wasm:
        raise Refused("the file is empty")
    if wasm[:4] != MAGIC:
        raise Refused("not WebAssembly: it does not begin with the bytes \\0asm")
    if wasm[6:8] == COMPONENT_LAYER:
        raise Refused(
            "it is a component; a function is a core module: a WASI preview 1 command "
            "(target wasm32-wasip1)"
        )
    if len(wasm) < 8 or wasm[4:8] != CORE_VERSION:
        raise Refused(f"a module of version {wasm[4:8].hex()}, not 01000000")


def check_imports(module: wasmtime.Module, engine: wasmtime.Engine) -> None:
    """Refused when it needs what is not there, or uses what is there in another way."""
    foreign = [
        f"{one.module}.{one.name}"
        for one in module.imports
        if one.module != WASI or not isinstance(one.type, wasmtime.FuncType)
    ]
    if foreign:
        raise Refused(f"it imports what is not of WASI preview 1 ({WASI}): {shown(foreign)}")
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    try:
        linker.instantiate_pre(module)
    except wasmtime.WasmtimeError as error:
        raise Refused(f"its imports do not fit: {reason_of(str(error))}") from None


def check_handler(module: wasmtime.Module, handler: str) -> None:
    """Refused unless the handler is an exported function that can be one."""
    exports = {one.name: one.type for one in module.exports}
    functions = [name for name, kind in exports.items() if isinstance(kind, wasmtime.FuncType)]
    kind = exports.get(handler)
    if not isinstance(kind, wasmtime.FuncType):
        what = "is no WASI command" if handler == COMMAND else f"has no handler {handler!r}"
        found = shown(functions) if functions else "none"
        raise Refused(f"it {what}: it exports no function {handler}; found: {found}")
    wanted = HANDLER_TYPES[handler == COMMAND]
    if signature(kind) != wanted:
        raise Refused(f"{handler} is {signature(kind)}; a handler is {wanted}")
    if handler != COMMAND and (gone := missing_parts(exports)):
        raise Refused(f"a handler needs the module to export {gone}")


def shown(names: Sequence[str]) -> str:
    """Some of them, and how many more."""
    more = len(names) - NAMES_SHOWN_MAX
    text = ", ".join(names[:NAMES_SHOWN_MAX])
    return f"{text} and {more} more" if more > 0 else text


def reason_of(text: str) -> str:
    """wasmtime's chain of causes in one line, the innermost last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if line != "Caused by:"]
    return ": ".join(cause.partition(": ")[2] if cause[:1].isdigit() else cause for cause in causes)
