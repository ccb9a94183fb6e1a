"""Versions that never load: after some failures in a row they are not tried on every call. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import FunctionInitFailed, FunctionUnloadable
from core.limits import INIT_FAILING_MAX, INIT_FAILURES_MAX, INIT_PAUSE_MAX_S, INIT_PAUSE_S


@dataclass(eq=False, slots=True)
class _Record:
    failures: int = 0
    pause_s: float = 0.0
    until: float = 0.0
    is_probed: bool = False  # one try is under way
    last: FunctionInitFailed | None = None


class Breaker:
    """Counts failed loads by version. Times in seconds, from any clock that never goes back."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def check(self, version_id: str, now: float) -> None:
        """Before a start. FunctionUnloadable while the version pauses, or is being tried."""
        record = self._records.get(version_id)
        if record is None or record.failures < INIT_FAILURES_MAX:
            return
        if now < record.until or record.is_probed:
            raise self.error(version_id, now)
        record.is_probed = True

    def is_open(self, version_id: str) -> bool:
        """Whether further tries have to wait."""
        record = self._records.get(version_id)
        return record is not None and record.failures >= INIT_FAILURES_MAX

    def error(self, version_id: str, now: float) -> FunctionUnloadable:
        """What callers of an open version are told."""
        record = self._records[version_id]
        last = record.last
        assert last is not None
        wait_s = max(record.until - now, INIT_PAUSE_S)
        return FunctionUnloadable(
            f"the code failed to load {record.failures} times in a row; "
            f"the next try is in {wait_s:.0f} s. The last failure: {last.message}",
            last={"type": last.details.get("type"), "message": last.message},
            retry_after_s=wait_s,
        )

    def failed(self, version_id: str, error: FunctionInitFailed, now: float) -> None:
        """A start ended because the code did not load."""
        record = self._records.setdefault(version_id, _Record())
        record.failures += 1
        record.last = error
        record.is_probed = False
        if record.failures >= INIT_FAILURES_MAX and now >= record.until:
            # One that fails in a pause was begun before it, beside others: no new reason to wait.
            record.pause_s = min(max(INIT_PAUSE_S, 2 * record.pause_s), INIT_PAUSE_MAX_S)
            record.until = now + record.pause_s
        while len(self._records) > INIT_FAILING_MAX:
            del self._records[next(iter(self._records))]

    def unknown(self, version_id: str) -> None:
        """A start ended without telling anything about the code: the next call may try."""
        record = self._records.get(version_id)
        if record is not None:
            record.is_probed = False

    def loaded(self, version_id: str) -> None:
        """The code loads: all is forgotten."""
        self._records.pop(version_id, None)
