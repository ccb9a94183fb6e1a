"""/healthz says that the process lives, /readyz asks every part that the platform needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from core.errors import HearthError, NodeDraining, PartAway

PING_S = 3.0
KEPT_S = 1.0  # anybody may ask; the parts are asked at most once in this time

Ping = Callable[[], Awaitable[None]]


class Health:
    """Asks the parts, all at once, and remembers the answer for a moment."""

    def __init__(self, parts: Mapping[str, Ping]) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self._kept: dict[str, str] = {}
        self._kept_at = float("-inf")
        self.draining = False

    async def check(self) -> dict[str, str]:
        """Each part with "ok". NodeDraining; PartAway naming the first that is not, with what
        each one says under `parts`."""
        if self.draining:
            raise NodeDraining("the node is shutting down")
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._kept_at > KEPT_S:
                said = await asyncio.gather(*(self._ask(part) for part in self._parts))
                self._kept = dict(zip(self._parts, said, strict=True))
                self._kept_at = loop.time()
            kept = self._kept
        for part, says in kept.items():
            if says != "ok":
                error = PartAway(part, says)
                error.details["parts"] = kept
                raise error
        return kept

    async def _ask(self, part: str) -> str:
        try:
            async with asyncio.timeout(PING_S):
                await self._parts[part]()
        except HearthError as error:
            return error.message.removeprefix(f"{part}: ")
        except TimeoutError:
            return f"no answer within {PING_S:g} seconds"
        return "ok"


def in_thread(ping: Callable[[], None]) -> Ping:
    """A blocking ping as one that can be awaited."""
    return lambda: asyncio.to_thread(ping)
