"""Waiting inside a module. WASI's poll_oneoff as wasmtime has it blocks until its time is over,
whatever becomes of the call; this one wakes when the call must end.
"""

from __future__ import annotations

import struct
import threading
import time
from ctypes import string_at
from typing import Any

from .streams import ARGUMENTS, BAD_DESCRIPTOR, INVALID, SUCCESS, U32

SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")  # userdata, kind, clock, timeout, precision, flags
EVENT = struct.Struct("<QHB5xQH6x")  # userdata, errno, kind, bytes, flags
CLOCK = 0
REALTIME, MONOTONIC = 0, 1
IS_ABSOLUTE = 1
SUBSCRIPTIONS_MAX = 1024
INTERRUPTED = 27


class Alarm:
    """Wakes one sleeper."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """From any thread."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Whether it rang in time."""
        return self._event.wait(min(seconds, threading.TIMEOUT_MAX))


def poll_oneoff(call: Any, memory: memoryview, values: int) -> int:
    """(subscriptions, events, how many, where to say how many)."""
    told, events, count, at = ARGUMENTS.unpack(string_at(values, ARGUMENTS.size))
    if not 0 < count <= SUBSCRIPTIONS_MAX:
        return INVALID
    raw = bytes(memory[told : told + count * SUBSCRIPTION.size])
    U32.pack_into(memory, at, 0)
    if max(told + count * SUBSCRIPTION.size, events + count * EVENT.size) > len(memory):
        raise IndexError
    answers = _answers(call, list(SUBSCRIPTION.iter_unpack(raw)))
    written = b"".join(EVENT.pack(*answer) for answer in answers)
    memory[events : events + len(written)] = written
    U32.pack_into(memory, at, len(answers))
    return INTERRUPTED if call.over else SUCCESS


def _answers(call: Any, subscriptions: list[tuple[Any, ...]]) -> list[tuple[int, ...]]:
    """The events that are there, after waiting for the first of them."""
    ready: list[tuple[int, ...]] = [
        (userdata, SUCCESS if descriptor <= 2 else BAD_DESCRIPTOR, kind, 0, 0)
        for userdata, kind, descriptor, *_ in subscriptions
        if kind != CLOCK
    ]
    if ready:
        return ready
    waits = [
        (_seconds(call, clock, timeout, flags), userdata)
        for userdata, _, clock, timeout, _, flags in subscriptions
    ]
    shortest = min(seconds for seconds, _ in waits)
    alarm = call.alarm = Alarm()
    try:
        if not call.over and shortest > 0:
            left = call.deadline - time.time()
            if not alarm.wait(min(shortest, max(0.0, left))) and left < shortest:
                call.over = call.over or "deadline"
    finally:
        call.alarm = None
    return [(userdata, SUCCESS, CLOCK, 0, 0) for seconds, userdata in waits if seconds <= shortest]


def _seconds(call: Any, clock: int, timeout: int, flags: int) -> float:
    """How long from now. A module's monotonic clock begins with its call."""
    if not flags & IS_ABSOLUTE:
        return timeout / 1e9
    now = time.time_ns() if clock == REALTIME else time.monotonic_ns() - call.began
    return max(0, timeout - now) / 1e9
