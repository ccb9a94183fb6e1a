"""What a sandbox uses, read from its control group through descriptors that stay open."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """One sandbox's. Reading is a system call on an open descriptor, and never raises."""

    can_reset: bool  # whether `reset_peak` does anything on this kernel

    def cpu_ns(self) -> int:
        """CPU time of all its processes since it was made, in nanoseconds; 0 when it is gone."""
        ...

    def peak_bytes(self) -> int:
        """The most memory it held since its start or the last `reset_peak`; 0 when it is gone."""
        ...

    def reset_peak(self) -> None:
        """Begin a new peak, where the kernel can: cgroup v1, and v2 since Linux 6.12."""
        ...

    def close(self) -> None:
        """Give the descriptors back. Any number of times."""
        ...
