"""A driver without isolation: shims as plain child processes. For unit tests of pool and gateway.

It is never chosen by a setting. The wire, the logs and the shims are the real ones.
"""

from __future__ import annotations

import asyncio
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
from executor.first_process import FirstProcess, tell_gone
from executor.host import Host
from executor.patience import to_the_end
from executor.sandbox import Sandbox
from runtimes.registry import HERE, Runtime

_END_S = 10.0


class ProcessDriver:
    """See `executor.driver.Driver`. `booted` counts boots."""

    def __init__(self, payload_bytes_max: int, release_code: Callable[[str], None]) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._release_code = release_code
        self._folder = Path()
        self._sandboxes: dict[str, Sandbox] = {}
        self._processes: dict[str, _Process] = {}
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
        kind = Host if runtime.is_hosted else Sandbox
        sandbox = kind(
            id=sandbox_id,
            runtime=runtime,
            network=network,
            folder=folder,
            body_bytes_max=self._payload_bytes_max,
        )
        self._sandboxes[sandbox_id] = sandbox
        listener = handshake.listen(folder)
        try:
            self._processes[sandbox_id] = _Process(_started(runtime, folder))
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

    def limit(self, sandbox: Sandbox, memory_mb: int) -> None:
        """Nothing is limited."""

    def show(self, host: Sandbox, code: str, name: str) -> None:
        """A symbolic link takes the directory's place."""
        place = host.folder / "task" / name
        place.rmdir()
        place.symlink_to(code)

    def hide(self, host: Sandbox, code: str, name: str) -> None:
        """See the interface."""
        (host.folder / "task" / name).unlink(missing_ok=True)

    def freeze(self, sandbox: Sandbox) -> bool:
        """SIGSTOP to its process group."""
        return self._signal_group(sandbox, signal.SIGSTOP)

    def thaw(self, sandbox: Sandbox) -> None:
        """SIGCONT to its process group."""
        self._signal_group(sandbox, signal.SIGCONT)

    def _signal_group(self, sandbox: Sandbox, number: signal.Signals) -> bool:
        process = self._processes.get(sandbox.id)
        return process is not None and process.signal_group(number)

    def interrupt(self, sandbox: Sandbox) -> None:
        """See the interface."""
        if process := self._processes.get(sandbox.id):
            process.first.interrupt()

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        """See the interface."""
        process = self._processes.get(sandbox.id)
        if process is None or sandbox.id not in self._sandboxes:
            self.close(sandbox)
            return
        process.first.retire(sandbox, grace_s, self.close)
        self.thaw(sandbox)

    def close(self, sandbox: Sandbox) -> None:
        """Kill it. See the interface."""
        sandbox.hang_up()
        if self._sandboxes.pop(sandbox.id, None) is not None:
            process = self._processes.pop(sandbox.id, None)
            if process is not None:
                process.first.kill()
                process.signal_group(signal.SIGKILL)
            task = asyncio.ensure_future(self._close(sandbox, process))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def ping(self) -> None:
        """Always well."""

    async def _close(self, sandbox: Sandbox, process: _Process | None) -> None:
        if process is not None:
            await process.gone()
        if code := self._codes.pop(sandbox.id, ""):
            self._release_code(code)
        shutil.rmtree(sandbox.folder, ignore_errors=True)
        tell_gone(sandbox)


class _Process:
    """A shim and whatever shares its process group."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.first = FirstProcess(os.pidfd_open(child.pid))

    def signal_group(self, number: signal.Signals) -> bool:
        """Whether there is anybody to hear it."""
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return False
        return True

    async def gone(self) -> None:
        """Until it has ended; it was killed."""
        while not await self.first.ended(_END_S):
            self.signal_group(signal.SIGKILL)
        self._child.wait()
        self.first.close()


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
