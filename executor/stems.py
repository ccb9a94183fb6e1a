"""A small stock of booted sandboxes without code, so that a cold start is a bind and not a boot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from core.errors import HearthError
from executor.driver import Driver
from executor.sandbox import Sandbox, State
from runtimes.registry import Runtime

_log = logging.getLogger("hearth.executor")

_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


class Stems:
    """The stock. `take` empties it, a background task fills it up to `level` for each runtime."""

    def __init__(self, driver: Driver, level: int) -> None:
        self._driver = driver
        self._level = level
        self._stock: dict[str, list[Sandbox]] = {}
        self._runtimes: dict[str, Runtime] = {}
        self._wanted = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None

    def start(self, runtimes: Iterable[Runtime]) -> None:
        """Begin to fill. Needs a running loop."""
        self._runtimes = {runtime.name: runtime for runtime in runtimes}
        if self._level > 0:
            self._wanted.set()
            self._filler = asyncio.create_task(self._fill())

    async def stop(self) -> None:
        """Stop filling. The driver closes what is in stock."""
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.gather(self._filler, return_exceptions=True)

    def count(self) -> dict[str, int]:
        """Stems in stock by runtime."""
        return {name: len(stock) for name, stock in self._stock.items() if stock}

    async def take(self, runtime: Runtime, network: str) -> Sandbox:
        """A stem from stock if there is one, else one booted now. As Driver.boot."""
        stock = self._stock.get(runtime.name, [])
        while stock and network == "none":
            stem = stock.pop()
            self._wanted.set()
            if stem.state is State.STEM:
                return stem
            self._driver.close(stem)
        return await self._driver.boot(runtime, network)

    async def _fill(self) -> None:
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                for runtime in self._runtimes.values():
                    await self._fill_one(runtime)
                failures = 0
            except HearthError as error:
                # A missing image or a Podman that is away must not stop the filling for good.
                delay_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                failures += 1
                _log.warning("no stem could be booted, again in %g s: %s", delay_s, error)
                await asyncio.sleep(delay_s)
                self._wanted.set()

    async def _fill_one(self, runtime: Runtime) -> None:
        stock = self._stock.setdefault(runtime.name, [])
        while len(stock) < self._level:
            stem = await self._driver.boot(runtime, "none")
            stem.on_died = self._on_died
            stock.append(stem)

    def _on_died(self, stem: Sandbox) -> None:
        stock = self._stock.get(stem.runtime.name, [])
        if stem in stock:
            stock.remove(stem)
            self._wanted.set()
            self._driver.close(stem)
