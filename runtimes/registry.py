"""The runtimes this release knows, by their canonical names, and the short names people may say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigInvalid

HERE = Path(__file__).resolve().parent
BRIDGE_IMAGE = "localhost/hearth-custom:latest"
BRIDGE_COMMAND = ("python3", "-I", "-B", "/opt/hearth/bridge.py")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One language at one version."""

    name: str  # canonical, as stored: python3.13
    short: str  # what `python` in a config means is the newest runtime of this short name
    image: str  # the sandbox's image, in the local image store
    builder_image: str  # where code is built; "" when nothing ever is
    command: Sequence[str]  # the container's command: starts the shim
    handler_default: str
    suffixes: Sequence[str]  # of single-file uploads; the file becomes main<suffix>
    folder: Path  # shim and Containerfile
    shares: Sequence[Path] = ()  # folders of code that the image holds besides
    is_hosted: bool = False  # functions of one namespace share a sandbox: it runs instances
    is_stocked: bool = True  # stems are kept before there is any function of it
    per_sandbox_max: int = 1  # calls at once in one sandbox
    memory_mb_min: int = 64
    networks: Sequence[str] = ("none", "egress")


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            name="python3.13",
            short="python",
            image="localhost/hearth-python3.13:latest",
            builder_image="localhost/hearth-python3.13-builder:latest",
            command=("python3", "-I", "-B", "/opt/hearth/shim.py"),
            handler_default="main.handler",
            suffixes=(".py",),
            folder=HERE / "python",
            per_sandbox_max=1000,
        ),
        Runtime(
            name="node24",
            short="node",
            image="localhost/hearth-node24:latest",
            builder_image="localhost/hearth-node24-builder:latest",
            command=(
                "python3",
                "-I",
                "-B",
                "/opt/hearth/launcher.py",
                "node",
                "/opt/hearth/shim.mjs",
            ),
            handler_default="main.handler",
            suffixes=(".mjs", ".js"),
            folder=HERE / "node",
            per_sandbox_max=1000,
        ),
        Runtime(
            name="custom",
            short="custom",
            image=BRIDGE_IMAGE,
            builder_image="",
            command=BRIDGE_COMMAND,
            handler_default="main.handler",
            suffixes=(),
            folder=HERE / "custom",
            shares=(HERE / "python" / "hearth_shim",),
            is_stocked=False,
        ),
        Runtime(
            name="dart3",
            short="dart",
            image=BRIDGE_IMAGE,  # what is compiled speaks the Runtime API, as any `bootstrap`
            builder_image="localhost/hearth-dart3-builder:latest",
            command=BRIDGE_COMMAND,
            handler_default="main.handler",
            suffixes=(".dart",),
            folder=HERE / "dart",
            is_stocked=False,
        ),
        Runtime(
            name="wasm",
            short="wasm",
            image="localhost/hearth-wasm:latest",
            builder_image="",
            command=("python3", "-I", "-B", "/opt/hearth/host.py"),
            handler_default="_start",
            suffixes=(".wasm",),
            folder=HERE / "wasm",
            shares=(HERE / "python" / "hearth_shim",),
            is_hosted=True,
            is_stocked=False,
            memory_mb_min=16,
            networks=("none",),
        ),
    )
}


def find(name: str) -> Runtime:
    """The runtime of a canonical or short name; ConfigInvalid naming what exists otherwise."""
    if name in RUNTIMES:
        return RUNTIMES[name]
    newest = [runtime for runtime in RUNTIMES.values() if runtime.short == name]
    if newest:
        return newest[-1]
    known = ", ".join(RUNTIMES)
    message = f"unknown runtime {name!r}; this node has: {known}"
    raise ConfigInvalid(message, fields=[{"field": "runtime", "message": message}])
