"""A small stock of booted sandboxes without code, so that a cold start is a bind and not a boot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from core.errors import HearthError, SandboxBroken
from executor.driver import Driver
from executor.sandbox import Sandbox, State
from runtimes.registry import Runtime

log = logging.getLogger("hearth.executor")

_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


class _Shelf:
    """The stock of one runtime."""

    __slots__ = ("runtime", "stems", "wanted")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stems: list[Sandbox] = []
        self.wanted = asyncio.Event()
        self.wanted.set()


class Stems:
    """The stock. `take` empties it, a task for each runtime fills it up to `level`: one that
    cannot be booted does not keep the others from being."""

    def __init__(self, driver: Driver, level: int) -> None:
        self._driver = driver
        self._level = level
        self._shelves: dict[str, _Shelf] = {}
        self._fillers: list[asyncio.Task[None]] = []

    def start(self, runtimes: Iterable[Runtime]) -> None:
        """Begin to fill. Needs a running loop."""
        if self._level > 0:
            self._shelves = {runtime.name: _Shelf(runtime) for runtime in runtimes}
            self._fillers = [asyncio.create_task(self._fill(s)) for s in self._shelves.values()]

    async def stop(self) -> None:
        """Stop filling. The driver closes what is in stock."""
        for filler in self._fillers:
            filler.cancel()
        await asyncio.gather(*self._fillers, return_exceptions=True)

    def count(self) -> dict[str, int]:
        """Stems in stock by runtime."""
        return {name: len(shelf.stems) for name, shelf in self._shelves.items() if shelf.stems}

    async def take(self, runtime: Runtime, network: str) -> Sandbox:
        """A stem from stock if there is one, else one booted now. As Driver.boot."""
        shelf = self._shelves.get(runtime.name)
        if shelf is not None and shelf.stems and network == "none":
            shelf.wanted.set()
            stem = shelf.stems.pop()
            stem.on_died = lambda sandbox: None
            return stem
        return await self._driver.boot(runtime, network)

    async def _fill(self, shelf: _Shelf) -> None:
        failures = 0
        while True:
            await shelf.wanted.wait()
            shelf.wanted.clear()
            try:
                while len(shelf.stems) < self._level:
                    await self._add(shelf)
                    failures = 0
            except Exception as error:
                delay_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                failures += 1
                text = "no %s stem could be booted, again in %g s: %s"
                unforeseen = not isinstance(error, HearthError)
                log.warning(text, shelf.runtime.name, delay_s, error, exc_info=unforeseen)
                await asyncio.sleep(delay_s)
                shelf.wanted.set()

    async def _add(self, shelf: _Shelf) -> None:
        stem = await self._driver.boot(shelf.runtime, "none")
        if stem.state is not State.STEM:
            self._driver.close(stem)
            raise SandboxBroken("it ended as soon as it had booted")
        stem.on_died = lambda stem: self._on_died(shelf, stem)
        shelf.stems.append(stem)

    def _on_died(self, shelf: _Shelf, stem: Sandbox) -> None:
        shelf.stems.remove(stem)
        shelf.wanted.set()
        self._driver.close(stem)
