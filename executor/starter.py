"""Makes a sandbox that can be lent: code, stem, bind, INIT. All or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from core.errors import HearthError, SandboxBroken
from core.limits import FETCHES_AT_ONCE_MAX
from core.model import Version
from executor.call import CodeProvider, LogSink
from executor.hosting import Hosting
from executor.sandbox import Sandbox
from executor.stems import CalledOff, Stems
from runtimes import registry

log = logging.getLogger("hearth.executor")


class Starter:
    """The one way from a version to a sandbox, and from a sandbox to its end."""

    def __init__(
        self,
        *,
        driver: Hosting,
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
        self._fetching = 0

    def room(self) -> int:
        """How many starts there may be at once so that none only waits."""
        return self._stems.room + min(self._fetching, FETCHES_AT_ONCE_MAX)

    def when_room(self, then: Callable[[], None]) -> None:
        """Call `then` each time there is room for one more."""
        self._stems.on_room = then

    async def start(self, version: Version) -> Sandbox:
        """A usable sandbox of the version; when it raises, nothing is left. Raises HearthError,
        CalledOff and CancelledError alone: FunctionInitFailed, FunctionOutOfMemory, …"""
        try:
            return await self._start(version)
        except (HearthError, CalledOff):
            raise
        except Exception as error:  # whoever waits must be told, whatever went wrong
            log.exception("a sandbox of %s could not be made", version.label)
            text = f"a sandbox could not be made: {type(error).__name__}: {error}"
            raise SandboxBroken(text) from error

    def call_off(self, version: Version) -> None:
        """One start of the version less is needed: give up one that has cost nothing yet."""
        if not registry.find(version.config.runtime).is_hosted:
            self._stems.call_off(version)

    async def _start(self, version: Version) -> Sandbox:
        started = time.perf_counter()
        is_hosted = registry.find(version.config.runtime).is_hosted
        self._fetching += 1
        try:
            code = await self._code.tree(version)
        finally:
            self._fetching -= 1
        try:
            if is_hosted:
                stem = await self._driver.seat(version, self._stems)
            else:
                stem = await self._stems.take(version)
        except BaseException:
            self._code.release(code)
            raise
        bound = False
        try:
            await self._driver.bind(stem, version, code)
            bound = True
            stem.timing.boot_ms = (time.perf_counter() - started) * 1000
            await stem.init(version, self._logs, self._payload_bytes_max)
            if not stem.is_usable:  # it ended in the tick in which it was ready
                raise stem.epitaph()
        except BaseException:
            self._driver.close(stem)
            if not bound:  # else closing it releases the code
                self._code.release(code)
            raise
        finally:
            if not is_hosted:
                self._stems.settled(version)
        stem.interrupt = partial(self._driver.interrupt, stem)
        return stem

    def freeze(self, sandbox: Sandbox) -> bool:
        """See Driver."""
        return self._driver.freeze(sandbox)

    def thaw(self, sandbox: Sandbox) -> None:
        """See Driver."""
        self._driver.thaw(sandbox)

    def retire(self, sandbox: Sandbox, grace_s: float) -> None:
        """See Driver."""
        self._driver.retire(sandbox, grace_s)

    def close(self, sandbox: Sandbox) -> None:
        """End a sandbox that `start` gave out."""
        self._driver.close(sandbox)
