"""The engine: how modules are compiled, and what they may use of WebAssembly."""

from __future__ import annotations

from importlib.metadata import version

import wasmtime

from .naming import engine_name

STACK_BYTES = 512 * 1024  # of a module; threads have more, so that it traps and nothing else ends
NAME = engine_name(version("wasmtime"))


def make_engine() -> wasmtime.Engine:
    """The engine that compiles and the one that runs must be made alike."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.max_wasm_stack = STACK_BYTES
    # Threads of a module would outlive its call; they need shared memories.
    config.wasm_threads = False
    config.shared_memory = False
    config.wasm_memory64 = False
    config.wasm_stack_switching = False
    config.cranelift_opt_level = "speed"
    return wasmtime.Engine(config)
