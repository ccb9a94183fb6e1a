"""A driver without isolation: shims as plain child processes. For unit tests of pool and gateway.

It is never chosen by a setting. The wire, the logs and the shims are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import SandboxBroken
from core.model import Version
from executor import handshake
from executor.patience import to_the_end
from executor.sandbox import Sandbox
from runtimes.registry import HERE, Runtime


class ProcessDriver:
    """See `executor.driver.Driver`. `booted` counts boots."""

    def __init__(self, payload_bytes_max: int, release_code: Callable[[str], None]) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._release_code = release_code
        self._folder = Path()
        self._sandboxes: dict[str, Sandbox] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._codes: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.booted = 0

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="hearth-process-"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await to_the_end(asyncio.ensure_future(self._close_all()))

    async def _close_all(self) -> None:
        for sandbox in list(self._sandboxes.values()):
            self.close(sandbox)
        await asyncio.gather(*self._closing)
        shutil.rmtree(self._folder)

    async def boot(self, runtime: Runtime, network: str) -> Sandbox:
        """A stem. See the interface."""
        self.booted += 1
        sandbox_id = secrets.token_hex(6)
        folder = self._folder / sandbox_id
        folder.mkdir()
        sandbox = Sandbox(
            id=sandbox_id,
            runtime=runtime,
            network=network,
            folder=folder,
            body_bytes_max=self._payload_bytes_max,
        )
        self._sandboxes[sandbox_id] = sandbox
        listener = handshake.listen(folder)
        try:
            self._processes[sandbox_id] = _started(runtime, folder)
            await handshake.introduce(sandbox, listener, folder, lambda pid: None)
        except BaseException:
            listener.close()
            self.close(sandbox)
            raise
        return sandbox

    async def bind(self, sandbox: Sandbox, version: Version, code: str) -> None:
        """The code appears by a symbolic link; limits are not set."""
        if sandbox.id not in self._sandboxes:
            raise SandboxBroken("a sandbox ended before it was bound")
        (sandbox.folder / "task").symlink_to(code)
        self._codes[sandbox.id] = code

    def close(self, sandbox: Sandbox) -> None:
        """Kill it. See the interface."""
        sandbox.hang_up()
        if self._sandboxes.pop(sandbox.id, None) is not None:
            task = asyncio.ensure_future(self._close(sandbox))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def ping(self) -> None:
        """Always well."""

    async def _close(self, sandbox: Sandbox) -> None:
        process = self._processes.pop(sandbox.id, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        if code := self._codes.pop(sandbox.id, ""):
            self._release_code(code)
        shutil.rmtree(sandbox.folder, ignore_errors=True)


def _started(runtime: Runtime, folder: Path) -> subprocess.Popen[bytes]:
    # Not asyncio's: a start of that, cancelled in its middle, ends after the loop does.
    return subprocess.Popen(
        _command(runtime),
        env={
            "PATH": os.environ["PATH"],
            "HEARTH_SOCKET": str(folder / handshake.SOCKET_NAME),
            "HEARTH_TASK": str(folder / "task"),
        },
        start_new_session=True,  # what it starts is killed with it
    )


def _command(runtime: Runtime) -> list[str]:
    """The runtime's command with this host's interpreters and the shims where they stand here."""
    places = {
        "python3": sys.executable,
        "/opt/hearth/shim.py": str(HERE / "python" / "shim.py"),
        "/opt/hearth/launcher.py": str(HERE / "launcher.py"),
        "/opt/hearth/shim.mjs": str(HERE / "node" / "shim.mjs"),
    }
    return [places.get(word, word) for word in runtime.command]
