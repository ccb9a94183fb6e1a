"""The engine: how modules are compiled, and what they may use of WebAssembly."""

from __future__ import annotations

from importlib.metadata import version

import wasmtime
from wasmtime import _bindings as c

from .naming import engine_name

STACK_BYTES = 512 * 1024  # of a module; threads have more, so that it traps and nothing else ends
INSTANCES_MAX = 256  # at once; more than there are threads
KEPT_BYTES = 128 * 1024
TABLES_MAX = 2  # of a module
TABLE_ELEMENTS_MAX = 100_000
POOL = {
    "total_core_instances": INSTANCES_MAX,
    "total_memories": INSTANCES_MAX,
    "total_tables": TABLES_MAX * INSTANCES_MAX,
    "max_memories_per_module": 1,
    "max_tables_per_module": TABLES_MAX,
    "max_core_instance_size": 4 * 1024 * 1024,
    "max_memory_size": 1 << 32,
    "table_elements": TABLE_ELEMENTS_MAX,
    "linear_memory_keep_resident": KEPT_BYTES,
    "table_keep_resident": 16 * 1024,
}
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
    # A memory keeps its place as it grows: streams.py holds on to it during a call.
    config.memory_may_move = False
    config.cranelift_opt_level = "speed"
    _reuse_memories(config)
    return wasmtime.Engine(config)


def _reuse_memories(config: wasmtime.Config) -> None:
    """Memories and instances come from a pool. What a call has touched of the first KEPT_BYTES is
    overwritten as it ends instead of given back to the system, which saves 18 µs of page faults."""
    pool = c.wasmtime_pooling_allocation_config_new()
    for name, value in POOL.items():
        getattr(c, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
    c.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    c.wasmtime_pooling_allocation_config_delete(pool)
