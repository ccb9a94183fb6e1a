"""Makes a sandbox that can be lent: code, stem, bind, INIT. All or nothing."""

from __future__ import annotations

import logging
import time

from core.errors import HearthError, SandboxBroken
from core.model import Version
from executor.call import CodeProvider, LogSink
from executor.driver import Driver
from executor.sandbox import Sandbox
from executor.stems import Stems
from runtimes import registry

log = logging.getLogger("hearth.executor")


class Starter:
    """The one way from a version to a sandbox."""

    def __init__(
        self,
        *,
        driver: Driver,
        stems: Stems,
        code: CodeProvider,
        logs: LogSink,
        payload_bytes_max: int,
    ) -> None:
        self._driver = driver
        self._stems = stems
        self._code = code
        self._logs = logs
        self._payload_bytes_max = payload_bytes_max

    async def start(self, version: Version) -> Sandbox:
        """A usable sandbox of the version; when it raises, nothing is left. Raises HearthError
        and CancelledError alone: FunctionInitFailed, FunctionOutOfMemory, SandboxBroken, …"""
        try:
            return await self._start(version)
        except HearthError:
            raise
        except Exception as error:  # whoever waits must be told, whatever went wrong
            log.exception("a sandbox of %s could not be made", version.label)
            text = f"a sandbox could not be made: {type(error).__name__}: {error}"
            raise SandboxBroken(text) from error

    async def _start(self, version: Version) -> Sandbox:
        started = time.perf_counter()
        runtime = registry.find(version.config.runtime)
        code = await self._code.tree(version)
        bound = False
        sandbox: Sandbox | None = None
        try:
            sandbox = await self._stems.take(runtime, version.config.network)
            await self._driver.bind(sandbox, version, code)
            bound = True
            sandbox.timing.boot_ms = (time.perf_counter() - started) * 1000
            await sandbox.init(version, self._logs, self._payload_bytes_max)
            if not sandbox.is_usable:  # it ended in the tick in which it was ready
                raise sandbox.epitaph()
        except BaseException:
            if sandbox is not None:
                self._driver.close(sandbox)
            if not bound:  # else closing it releases the code
                self._code.release(code)
            raise
        return sandbox

    def close(self, sandbox: Sandbox) -> None:
        """End a sandbox that `start` gave out."""
        self._driver.close(sandbox)
