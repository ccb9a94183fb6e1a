"""The test's side of a hosted runtime: starts one host, opens seats in it, and drives each of them
as wire_client drives a sandbox.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtimes.registry import RUNTIMES, Runtime
from runtimes.wasm.hearth_wasm.naming import FACTS, MODULE
from tests.conformance import wire_client
from tests.conformance.wire_client import IMAGE_SHIMS, Frame, Sandbox, environ

WASM = RUNTIMES["wasm"]
PIDS_MAX = 256


@dataclass(eq=False, slots=True)
class Host(Sandbox):
    """A host; a context manager. Its wire is the control connection, its task holds a directory
    for each seat."""

    seats: int = 0

    def _in_image(self) -> list[str]:
        """The image's interpreter with the host as it stands in this tree."""
        shims = self.folder.parent / "shims"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(self.runtime.folder, shims, ignore=ignore)
        for shared in self.runtime.shares:
            shutil.copytree(shared, shims / shared.name, ignore=ignore)
        for path in [shims, self.task, *shims.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        options = {"name": self.name, "network": "none", "user": "200001:200001"}
        options |= {"cap-drop": "all", "security-opt": "no-new-privileges", "log-driver": "none"}
        options |= {"pids-limit": str(PIDS_MAX), "memory": "2g", "env": f"HOST={self.name}"}
        mounts = {self.folder: "/run/hearth", self.task: "/var/task", shims: IMAGE_SHIMS}
        return [
            *("podman", "run", "--rm", "--read-only", "--tmpfs", "/tmp:size=64m,mode=1777"),
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--volume={source}:{target}:ro" for source, target in mounts.items()),
            self.runtime.image,
            *self.runtime.command,
        ]

    def place(self, number: int, artifact: Mapping[str, bytes]) -> None:
        """What the executor makes visible before INIT."""
        folder = self.task / str(number)
        folder.mkdir()
        for name, data in artifact.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(0o644)
        folder.chmod(0o755)

    def open(self, artifact: Mapping[str, bytes] | Seat) -> Seat:
        """A seat that has said HELLO. Another seat's artifact is the same files."""
        self.seats += 1
        if isinstance(artifact, Seat):
            folder = self.task / str(self.seats)
            folder.mkdir()
            for path in artifact.task.iterdir():
                os.link(path, folder / path.name)
            folder.chmod(0o755)
        else:
            self.place(self.seats, artifact)
        seat = Seat(self.runtime, self.task / str(self.seats), self.folder)
        seat.connect(self, self.seats)
        return seat


@dataclass(eq=False, slots=True)
class Seat(Sandbox):
    """A seat in a host."""

    frames: list[Frame] = field(default_factory=list)

    def connect(self, host: Host, number: int) -> None:
        """Ask the host for it."""
        self.process = host.process
        self.wire, theirs = socket.socketpair()
        out, err = os.pipe(), os.pipe()
        message = b"O" + number.to_bytes(4, "big")
        socket.send_fds(host.wire, [message], [theirs.fileno(), out[1], err[1]])
        theirs.close()
        for pipe in (out, err):
            os.close(pipe[1])
            os.set_blocking(pipe[0], False)
        self.outputs = {1: out[0], 2: err[0]}
        self.written = {1: bytearray(), 2: bytearray()}
        self.hello = self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()
        for descriptor in self.outputs.values():
            os.close(descriptor)

    def ready(self, handler: str = "_start", **changes: Any) -> Self:
        """INIT, which must succeed."""
        answer = self.init(handler, **changes)
        assert answer.kind == wire_client.READY, answer
        return self


def make(root: Path, runtime: Runtime = WASM) -> Host:
    """A host, not yet entered."""
    home = Path(tempfile.mkdtemp(dir=root))
    for name in ("task", "socket"):
        (home / name).mkdir()
    return Host(runtime, home / "task", home / "socket")


def artifact(compiled: bytes, engine: str) -> dict[str, bytes]:
    """The files of a seat's directory."""
    return {MODULE: compiled, FACTS: json.dumps({"engine": engine}).encode()}


__all__ = ["WASM", "Host", "Seat", "artifact", "environ", "make"]
