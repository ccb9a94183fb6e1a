"""Who may come in at all: a function's own concurrency, and the node's cap. Refuses at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType

from core.errors import ConcurrencyReached, NodeDraining, NodeFull
from core.model import Version


class Place:
    """One admitted invocation: `with` gives it back, unless its call outlives whoever waited."""

    __slots__ = ("_admission", "_function_id", "_is_lent")

    def __init__(self, admission: Admission, function_id: str) -> None:
        self._admission = admission
        self._function_id = function_id
        self._is_lent = False

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_lent:
            self._admission.leave(self._function_id)

    def keep_until(self, told: Callable[[Callable[[], None]], None]) -> None:
        """Hold the place beyond the `with`, until the function given to `told` is called."""
        self._is_lent = True
        told(lambda: self._admission.leave(self._function_id))


class Admission:
    """Counts invocations that run or wait. All state changes between two awaits."""

    def __init__(self, invocations_max: int) -> None:
        self._invocations_max = invocations_max
        self._running: dict[str, int] = {}  # by function id, over all its versions
        self._total = 0
        self._closed: asyncio.Event | None = None  # once closed: set when the last one left

    def admit(self, version: Version) -> Place:
        """A place, to be used by `with`. ConcurrencyReached (429), NodeFull, NodeDraining (503)."""
        function_id = version.function_id
        running = self._running.get(function_id, 0)
        if self._closed is not None:
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        if running >= version.config.concurrency:
            raise ConcurrencyReached(
                f"{version.namespace}.{version.name} already runs {running} invocations, "
                "as many as its concurrency allows",
                concurrency=version.config.concurrency,
                retry_after_s=1,
            )
        if self._total >= self._invocations_max:
            text = f"this node already runs {self._total} invocations, as many as it may"
            raise NodeFull(text, retry_after_s=1)
        self._running[function_id] = running + 1
        self._total += 1
        return Place(self, function_id)

    def leave(self, function_id: str) -> None:
        """One invocation less. Called by its place, once."""
        self._total -= 1
        left = self._running[function_id] - 1
        if left:
            self._running[function_id] = left
        else:
            del self._running[function_id]
        if self._closed is not None and not self._total:
            self._closed.set()

    async def close(self, wait_s: float) -> None:
        """Admit nothing more and wait, at most so long, until the last one has left."""
        self._closed = self._closed or asyncio.Event()
        if not self._total:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._closed.wait()
