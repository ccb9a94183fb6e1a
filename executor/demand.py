"""How many stems to keep: as many as the largest burst of cold starts of late took. Pure."""

from __future__ import annotations

from collections import deque

from core.limits import STEM_BURST_S, STEM_MEMORY_S


class Demand:
    """The cold starts of one kind of stem. Times in seconds, never going back."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()  # of the last STEM_BURST_S
        self._bursts: deque[tuple[float, int]] = deque()  # falling sizes: the first is the largest

    def note(self, now: float) -> None:
        """One stem was asked for."""
        self._recent.append(now)
        while now - self._recent[0] > STEM_BURST_S:
            self._recent.popleft()
        size = len(self._recent)
        while self._bursts and self._bursts[-1][1] <= size:
            self._bursts.pop()
        self._bursts.append((now, size))

    def largest(self, now: float) -> int:
        """The most cold starts within STEM_BURST_S during the last STEM_MEMORY_S."""
        while self._bursts and now - self._bursts[0][0] > STEM_MEMORY_S:
            self._bursts.popleft()
        return self._bursts[0][1] if self._bursts else 0
