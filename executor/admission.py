"""Who may come in at all: a function's own concurrency, and the node's cap.

Whoever finds no place waits a moment for somebody to leave, in the order of coming, and is refused
after PLACE_WAIT_S. So a burst that is over in a moment costs no error, and clients who try again at
once when they are refused do not take the time that others' calls need.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

from core.errors import ConcurrencyReached, HearthError, NodeDraining, NodeFull
from core.limits import PLACE_WAIT_S, PLACE_WAITERS_MAX
from core.model import Version


class Waiter:
    """One invocation that waits for a place. `told` hears None when it has one, else why not."""

    __slots__ = ("expires", "told", "version")

    def __init__(self, version: Version, told: Callable[[HearthError | None], None]) -> None:
        self.version = version
        self.told: Callable[[HearthError | None], None] | None = told
        self.expires = time.monotonic() + PLACE_WAIT_S

    def tell(self, error: HearthError | None) -> None:
        """Once."""
        assert self.told is not None
        told, self.told = self.told, None
        told(error)


class Admission:
    """Counts invocations that run or wait for a seat. All state changes between two awaits."""

    def __init__(self, invocations_max: int) -> None:
        self._invocations_max = invocations_max
        self._running: dict[str, int] = {}  # by function id, over all its versions
        self._total = 0
        self._waiting: dict[str, deque[Waiter]] = {}  # by function id, whose turn it is first
        self._waiting_total = 0
        self._expiring: deque[Waiter] = deque()  # all of them as they came, those served too
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Event | None = None  # once closed: set when the last one left

    @property
    def is_alone(self) -> bool:
        """Whether one invocation is all there is on this node."""
        return self._total == 1

    def enter(self, version: Version) -> bool:
        """Take a place now; False when there is none. Whoever took one leaves it."""
        function_id = version.function_id
        running = self._running.get(function_id, 0)
        if (
            running >= version.config.concurrency
            or self._total >= self._invocations_max
            or self._closed is not None
            or function_id in self._waiting
        ):
            return False
        self._running[function_id] = running + 1
        self._total += 1
        return True

    def leave(self, function_id: str) -> None:
        """One invocation less: its place is the next one's."""
        self._total -= 1
        left = self._running[function_id] - 1
        if left:
            self._running[function_id] = left
        else:
            del self._running[function_id]
        if self._waiting:
            self._admit_next(function_id)
        if self._closed is not None and not self._total:
            self._closed.set()

    def wait(self, version: Version, told: Callable[[HearthError | None], None]) -> Waiter:
        """Stand in line. ConcurrencyReached (429), NodeFull, NodeDraining (503) at once when even
        that is not possible; else `told` hears within PLACE_WAIT_S."""
        if self._closed is not None:
            raise NodeDraining("this node is shutting down", retry_after_s=1)
        if self._waiting_total >= PLACE_WAITERS_MAX:
            raise self._refusal(version)
        waiter = Waiter(version, told)
        self._waiting.setdefault(version.function_id, deque()).append(waiter)
        self._waiting_total += 1
        self._expiring.append(waiter)
        self._set_timer(PLACE_WAIT_S)
        return waiter

    def give_up(self, waiter: Waiter) -> bool:
        """Wait no more; False when the waiter has been told already."""
        if waiter.told is None:
            return False
        waiter.told = None
        self._forget(waiter)
        return True

    async def admit(self, version: Version) -> None:
        """Take a place, waiting for it if need be. Errors as `wait`."""
        if self.enter(version):
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: HearthError | None) -> None:
            if not place.done():
                _settle(place, error)
            elif error is None:  # cancelled, and admitted in the same tick
                self.leave(version.function_id)

        waiter = self.wait(version, told)
        try:
            await place
        except asyncio.CancelledError:
            if not self.give_up(waiter) and not place.cancelled() and not place.exception():
                self.leave(version.function_id)  # admitted, and cancelled in the same tick
            raise

    async def close(self, wait_s: float) -> None:
        """Admit nothing more and wait, at most so long, until the last one has left."""
        self._closed = self._closed or asyncio.Event()
        for waiter in [w for line in self._waiting.values() for w in line]:
            self._forget(waiter)
            waiter.tell(NodeDraining("this node is shutting down", retry_after_s=1))
        if not self._total:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._closed.wait()

    # --- parts -----------------------------------------------------------------------------------

    def _admit_next(self, function_id: str) -> None:
        """The place that was left goes to the same function's next, else to whoever waits for the
        node alone, functions in turn."""
        for candidate in (function_id, *self._waiting):
            line = self._waiting.get(candidate)
            if line is None or self._total >= self._invocations_max:
                continue
            waiter = line[0]
            running = self._running.get(candidate, 0)
            if running >= waiter.version.config.concurrency:
                continue
            self._forget(waiter)
            if candidate in self._waiting:  # the others of the function come after other functions
                self._waiting[candidate] = self._waiting.pop(candidate)
            self._running[candidate] = running + 1
            self._total += 1
            waiter.tell(None)
            return

    def _forget(self, waiter: Waiter) -> None:
        line = self._waiting[waiter.version.function_id]
        line.remove(waiter)
        self._waiting_total -= 1
        if not line:
            del self._waiting[waiter.version.function_id]

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._expiring:
            waiter = self._expiring[0]
            if waiter.told is not None and waiter.expires > now:
                self._set_timer(waiter.expires - now)
                return
            self._expiring.popleft()
            if waiter.told is not None:
                self._forget(waiter)
                waiter.tell(self._refusal(waiter.version))

    def _refusal(self, version: Version) -> HearthError:
        running = self._running.get(version.function_id, 0)
        if self._total >= self._invocations_max and running < version.config.concurrency:
            text = f"this node already runs {self._total} invocations, as many as it may"
            return NodeFull(text, retry_after_s=1)
        return ConcurrencyReached(
            f"{version.namespace}.{version.name} already runs {running} invocations, "
            "as many as its concurrency allows",
            concurrency=version.config.concurrency,
            retry_after_s=1,
        )


def _settle(place: asyncio.Future[None], error: HearthError | None) -> None:
    if error is None:
        place.set_result(None)
    else:
        place.set_exception(error)
