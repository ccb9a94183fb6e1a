"""What a sandbox uses, read from its control group through descriptors that stay open."""

from __future__ import annotations

import math
import os
import time
from typing import Protocol

from executor.cgroup import SandboxCgroup

_GRAIN_BYTES = 256 * 1024  # the kernel counts so much at once for each processor (v1: 64 pages)


class Meter(Protocol):
    """One sandbox's. Reading is a system call on an open descriptor, and never raises."""

    can_reset: bool  # whether `reset_peak` does anything on this kernel

    def cpu_ns(self, age_max_s: float = 0.0) -> int:
        """CPU time of all its processes since it was made, in nanoseconds; 0 when it is gone. What
        was read not longer than `age_max_s` ago will do."""
        ...

    def peak_bytes(self) -> int:
        """The most memory it held since its start or the last `reset_peak`; 0 when it is gone."""
        ...

    def reset_peak(self, age_max_s: float = 0.0) -> None:
        """A call begins: begin a new peak, where the kernel can (cgroup v1, and v2 since Linux
        6.12), and let an earlier want of memory be over. One that was begun not longer than
        `age_max_s` ago, and was read since and had not grown, will do."""
        ...

    def close(self) -> None:
        """Give the descriptors back. Any number of times."""
        ...


class GroupMeter:
    """The meter of a control group. Close it, or its descriptors are a leak.

    Measured on v1: CPU 0.8 µs, peak 0.8 µs, reset with what belongs to it 3.2 µs."""

    __slots__ = (
        *("_cpu", "_floor", "_group", "_last_at", "_last_ns", "_peak", "_reset_at", "_seen"),
        "can_reset",
    )

    def __init__(self, group: SandboxCgroup) -> None:
        self._group = group
        self._last_ns, self._last_at = 0, -math.inf
        self._floor, self._reset_at = 0, -math.inf  # the peak as it began
        self._seen = math.inf  # the peak when it was read for the last call
        cpu = ("", "cpu.stat") if group.is_v2 else ("cpuacct", "cpuacct.usage")
        peak = ("", "memory.peak") if group.is_v2 else ("memory", "memory.max_usage_in_bytes")
        self._cpu = _opened(group, *cpu, os.O_RDONLY)
        self._peak = _opened(group, *peak, os.O_RDWR)
        self.can_reset = self._peak >= 0 and _wrote(self._peak)
        if self._peak < 0:  # an older v2, where nobody may write to it
            self._peak = _opened(group, *peak, os.O_RDONLY)

    def cpu_ns(self, age_max_s: float = 0.0) -> int:
        """See Meter."""
        now = time.monotonic()
        if now - self._last_at < age_max_s:
            return self._last_ns
        try:
            text = os.pread(self._cpu, 64, 0)
        except OSError:
            return 0
        self._last_at = now
        self._last_ns = int(text.split(None, 2)[1]) * 1000 if self._group.is_v2 else int(text)
        return self._last_ns

    def peak_bytes(self) -> int:
        """See Meter."""
        try:
            self._seen = peak = int(os.pread(self._peak, 64, 0))
        except OSError:
            return 0
        return peak

    def reset_peak(self, age_max_s: float = 0.0) -> None:
        """See Meter."""
        now = time.monotonic()
        if now - self._reset_at >= age_max_s or self._seen > self._floor + _GRAIN_BYTES:
            self._reset_at = now
            if self.can_reset:
                _wrote(self._peak)
            self._group.forget_out_of_memory()
            self._floor = self.peak_bytes()
        self._seen = math.inf

    def close(self) -> None:
        """See Meter."""
        for fd in (self._cpu, self._peak):
            if fd >= 0:
                os.close(fd)
        self._cpu = self._peak = -1


def _opened(group: SandboxCgroup, part: str, name: str, mode: int) -> int:
    try:
        return os.open(group.file(part, name), mode | os.O_CLOEXEC)
    except OSError:
        return -1  # a kernel that does not keep this account


def _wrote(fd: int) -> bool:
    """On v2 a reset is this descriptor's own; before 6.12 the kernel refuses it."""
    try:
        return os.pwrite(fd, b"0", 0) > 0
    except OSError:
        return False
