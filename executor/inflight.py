"""A call in flight: who hears of its outcome, who has its place back, its clocks and its meter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from core.errors import HearthError
from core.limits import METER_FRESH_S, PEAK_FRESH_S
from core.model import FunctionConfig
from executor.call import Call, Outcome, Timing, Usage
from executor.meter import Meter
from executor.stream import BodyStream

# Hears, once, how a call ended, or that its response begins. Never raises.
Told = Callable[[Outcome | HearthError], None]
# Hears, once, that the call's place in the sandbox is free again: its last frame has come.
Over = Callable[[], None]


class InFlight:
    """One call inside one sandbox."""

    __slots__ = (
        *("call", "config", "deadline", "due", "number", "over", "started", "stream"),
        *("is_alone", "is_warned", "_told", "_cpu_ns", "_meter"),
    )

    def __init__(
        self, call: Call, number: int, told: Told, over: Over, config: FunctionConfig
    ) -> None:
        self.call = call
        self.config = config
        self.number = number
        self.over = over
        self.stream: BodyStream | None = None  # once its response has begun as one
        self.is_alone = True  # no other call was in the sandbox meanwhile
        self.is_warned = False  # its time is nearly over, and the function was told so
        self._told: Told | None = told
        self._meter: Meter | None = None
        self._cpu_ns = 0
        self.started = time.perf_counter()
        self.deadline = self.due = self.started + config.timeout_s
        if config.timeout_mode == "graceful":  # it is told so before
            self.due = max(self.started, self.deadline - config.grace_s)

    def watch(self, meter: Meter | None) -> None:
        """Begin to count what it uses."""
        self._meter = meter
        if meter is not None:
            # Nothing to speak of is used between two calls that follow at once.
            self._cpu_ns = meter.cpu_ns(METER_FRESH_S)
            meter.reset_peak(PEAK_FRESH_S)

    def tell(self, said: Outcome | HearthError) -> None:
        """Whoever waits, once; after that a stream's reader hears of an error."""
        if self._told is not None:
            told, self._told = self._told, None
            told(said)
        elif self.stream is not None and isinstance(said, HearthError):
            self.stream.finish(said)

    @property
    def is_told(self) -> bool:
        """Whether whoever waits has heard."""
        return self._told is None

    def timing(self) -> Timing:
        """Of the handler, until now."""
        return Timing(handler_ms=(time.perf_counter() - self.started) * 1000)

    def usage(self) -> Usage | None:
        """What it has used until now."""
        meter = self._meter
        if meter is None:
            return None
        if not self.is_alone:
            return Usage(None, None)
        cpu_ms = (meter.cpu_ns() - self._cpu_ns) / 1e6
        return Usage(cpu_ms, meter.peak_bytes(), meter.can_reset)


def settle(future: asyncio.Future[Outcome], said: Outcome | HearthError) -> None:
    """Put what was said into a future. Whoever left has no use for a stream."""
    if future.done():
        if isinstance(said, Outcome) and said.stream is not None:
            said.stream.close()
    elif isinstance(said, HearthError):
        future.set_exception(said)
        future.exception()  # and nobody need look at it
    else:
        future.set_result(said)
