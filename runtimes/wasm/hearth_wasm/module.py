"""Compiled modules, mapped once however many seats run them, and what their handlers are."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wasmtime

from . import native
from .engine import NAME, make_engine
from .naming import COMMAND, FACTS, MODULE
from .signatures import HANDLER_TYPES, missing_parts, signature
from .sleeping import poll_oneoff
from .streams import (
    Function,
    args_get,
    args_sizes_get,
    environ_get,
    environ_sizes_get,
    fd_read,
    fd_write,
    host_function,
    proc_exit,
)

WASI = b"wasi_snapshot_preview1"
FOUR: dict[str, Function] = {"fd_read": fd_read, "fd_write": fd_write, "poll_oneoff": poll_oneoff}
TWO: dict[str, Function] = {
    "args_sizes_get": args_sizes_get,
    "args_get": args_get,
    "environ_sizes_get": environ_sizes_get,
    "environ_get": environ_get,
}
PAGE_BYTES = 65_536
FOUND_MAX = 50
FACTS_BYTES_MAX = 1024 * 1024

Key = tuple[int, int, int, int]


class Unloadable(Exception):
    """INIT is answered with this: its type, and the names that are there instead."""

    def __init__(self, kind: str, message: str, found: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.found = found


@dataclass(eq=False, slots=True)
class Loaded:
    """A module in memory."""

    key: Key
    module: wasmtime.Module
    pre: Any
    exports: dict[str, Any]  # name -> type
    needs_wasi: bool  # for something that is not ours
    users: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """What a seat's calls run. The numbers are addresses of wasmtime's own things."""

    loaded: Loaded
    engine: int
    pre: int
    handler: bytes
    is_command: bool
    has_initialize: bool
    needs_wasi: bool


class Modules:
    """All that are in memory. Thread-safe."""

    def __init__(self) -> None:
        self.engine = make_engine()
        self.engine_address = _address(self.engine)
        self._linker = wasmtime.Linker(self.engine)
        self._linker.allow_shadowing = True
        self._linker.define_wasi()
        self._functions = define_ours(self._linker)
        self._held: dict[Key, Loaded] = {}
        self._guard = threading.Lock()

    def program(self, folder: Path, handler: str, memory_mb: int) -> Program:
        """What the artifact in a folder runs; `forget` it once. Unloadable."""
        loaded = self._load(folder)
        try:
            check_memory(loaded, memory_mb)
            check_handler(loaded, handler)
        except BaseException:
            self.forget(loaded)
            raise
        return Program(
            loaded,
            self.engine_address,
            _address(loaded.pre),
            handler.encode(),
            is_command=handler == COMMAND,
            has_initialize=handler != COMMAND and "_initialize" in loaded.exports,
            needs_wasi=loaded.needs_wasi,
        )

    def forget(self, loaded: Loaded) -> None:
        """One user less; the last one's leaving unmaps it."""
        with self._guard:
            loaded.users -= 1
            if loaded.users:
                return
            del self._held[loaded.key]
        loaded.pre.close()
        loaded.module.close()

    def _load(self, folder: Path) -> Loaded:
        path = folder / MODULE
        try:
            check_facts((folder / FACTS).open("rb").read(FACTS_BYTES_MAX))
            facts = path.stat()
        except OSError as error:
            raise Unloadable("ArtifactMissing", f"there is no compiled module: {error}") from None
        key = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)
        with self._guard:
            loaded = self._held.get(key)
            if loaded is None:
                loaded = self._held[key] = self._map(key, path)
            loaded.users += 1
        return loaded

    def _map(self, key: Key, path: Path) -> Loaded:
        try:
            module = wasmtime.Module.deserialize_file(self.engine, os.fspath(path))
            pre = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise Unloadable("ArtifactInvalid", f"the compiled module: {error}") from None
        exports = {one.name: one.type for one in module.exports}
        needs_wasi = any(one.name not in self._functions for one in module.imports)
        return Loaded(key, module, pre, exports, needs_wasi)


def define_ours(linker: wasmtime.Linker) -> dict[str, Any]:
    """Put functions of ours in the place of wasmtime's. What is returned must be kept: the linker
    holds nothing but their addresses."""
    i32 = wasmtime.ValType.i32
    ours = {name: (host_function(one), 4, 1) for name, one in FOUR.items()}
    ours |= {name: (host_function(one), 2, 1) for name, one in TWO.items()}
    ours["proc_exit"] = (proc_exit, 1, 0)
    for name, (function, takes, gives) in ours.items():
        kind = wasmtime.FuncType([i32() for _ in range(takes)], [i32() for _ in range(gives)])
        text = name.encode()
        error = native.define_function(
            *(_address(linker), WASI, len(WASI), text, len(text)),
            *(_address(kind), function, None, None),
        )
        if error:
            raise RuntimeError(native.text_of(native.error_message, error))
    return {name: function for name, (function, _, _) in ours.items()}


def check_facts(text: bytes) -> None:
    """Unloadable when this is another engine's."""
    try:
        name = json.loads(text)["engine"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unloadable("ArtifactInvalid", f"{FACTS} cannot be read") from None
    if name != NAME:
        raise Unloadable("ArtifactInvalid", f"compiled for {name!r}, this host is {NAME!r}")


def check_memory(loaded: Loaded, memory_mb: int) -> None:
    """Unloadable when the module begins with more memory than it may have."""
    for kind in loaded.exports.values():
        if isinstance(kind, wasmtime.MemoryType):
            least = kind.limits.min * PAGE_BYTES
            if least > memory_mb << 20:
                message = f"the module begins with {least >> 20} MB of memory, over {memory_mb} MB"
                raise Unloadable("OutOfMemory", message)


def check_handler(loaded: Loaded, handler: str) -> None:
    """Unloadable unless it is an exported function that can be one."""
    kind = loaded.exports.get(handler)
    found = [n for n, t in loaded.exports.items() if isinstance(t, wasmtime.FuncType)][:FOUND_MAX]
    if not isinstance(kind, wasmtime.FuncType):
        raise Unloadable("HandlerNotFound", f"the module exports no function {handler!r}", found)
    wanted = HANDLER_TYPES[handler == COMMAND]
    if signature(kind) != wanted:
        message = f"{handler} is {signature(kind)}; a handler is {wanted}"
        raise Unloadable("HandlerInvalid", message)
    if handler != COMMAND and (gone := missing_parts(loaded.exports)):
        raise Unloadable("HandlerInvalid", f"a handler needs the module to export {gone}")


def _address(thing: Any) -> int:
    return ctypes.cast(thing.ptr(), ctypes.c_void_p).value or 0
