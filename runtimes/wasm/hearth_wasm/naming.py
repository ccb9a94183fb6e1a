"""Names that the host, the compiler and the platform must agree on. Standard library only."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

CONFIGURATION = 2  # of the engine (engine.py): raise it with whatever changes compiled code
MODULE, FACTS = "module.cwasm", "module.json"
SOURCE = "main.wasm"
COMMAND = "_start"  # what runs a WASI command
CPU_INFO = Path("/proc/cpuinfo")


def engine_name(version: str, cpu_info: Path = CPU_INFO) -> str:
    """Everything that decides whether compiled code fits: two equal names run the same code."""
    features = cpu_features(cpu_info.read_text())
    digest = hashlib.sha256(" ".join(features).encode()).hexdigest()[:16]
    machine = platform.machine()
    return f"wasmtime-{version} config-{CONFIGURATION} {machine} cpu-{digest}"


def cpu_features(text: str) -> list[str]:
    """What the first processor can do, as the kernel says it."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(value.split())
    return []
