"""Whose lines these are, and how many bytes of them are kept: the books of a sandbox's output."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Literal

from core.limits import LOG_INVOCATION_BYTES_MAX, LOG_LINE_BYTES_MAX, LOG_SEAT_BYTES_PER_S

Stream = Literal["stdout", "stderr", "platform"]
Emit = Callable[[str | None, Stream, list[str]], None]

WINDOW_S = 0.1
_LINE_COST_BYTES = 32  # a line costs more to keep than its bytes: a flood of empty ones is a flood
_TAG = re.compile(rb"\x1e([0-9]{1,10})\x1f")


class _Account:
    """One invocation's lines, or those of none."""

    __slots__ = ("dropped", "invocation_id", "kept")

    def __init__(self, invocation_id: str | None) -> None:
        self.invocation_id = invocation_id
        self.kept = 0
        self.dropped = 0


class Journal:
    """Shared by both pipes of a sandbox. Where several calls run at once each line carries the
    number of its call (`tagged`); where one does, whatever comes is its."""

    __slots__ = ("_account", "_calls", "_emit", "_read", "_since", "is_tagged")

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._account = _Account(None)
        self._calls: dict[int, _Account] = {}
        self.is_tagged = False
        self._since = 0.0  # the window in which `_read` bytes were read
        self._read = 0

    @property
    def invocation_id(self) -> str | None:
        """Whose untagged lines are."""
        return self._account.invocation_id

    def open(self, number: int, invocation_id: str) -> None:
        """A call begins."""
        if self.is_tagged:
            self._calls[number] = _Account(invocation_id)
        else:
            self._turn_to(invocation_id)

    def shut(self, number: int) -> None:
        """The call is over; says what of its lines is lost."""
        if not self.is_tagged:
            self._turn_to(None)
        elif (account := self._calls.pop(number, None)) is not None:
            self._settle(account)
            self._turn_to(None)  # lines of none get a new allowance with each call

    def _turn_to(self, invocation_id: str | None) -> None:
        account = self._account
        if account.dropped:
            self._settle(account)
        account.invocation_id = invocation_id
        account.kept = 0

    def _settle(self, account: _Account) -> None:
        if account.dropped:
            note = f"{account.dropped} bytes of log dropped: more than {LOG_INVOCATION_BYTES_MAX}"
            self._emit(account.invocation_id, "platform", [note])
            account.dropped = 0

    @property
    def is_full(self) -> bool:
        """Whether further bytes are only counted."""
        return not self.is_tagged and self._account.kept >= LOG_INVOCATION_BYTES_MAX

    def drop(self, size: int) -> None:
        """Count bytes that nobody will see."""
        self._account.dropped += size

    def keep(self, stream: Stream, raw_lines: list[bytes]) -> None:
        """Pass lines on while there is room for them."""
        if not self.is_tagged:
            self._keep(self._account, stream, raw_lines)
            return
        for raw in raw_lines:
            tag = _TAG.match(raw)
            account = self._calls.get(int(tag[1])) if tag else None
            text = raw[tag.end() :] if tag else raw
            self._keep(account or self._account, stream, [text])

    def _keep(self, account: _Account, stream: Stream, raw_lines: list[bytes]) -> None:
        lines: list[str] = []
        for at, raw in enumerate(raw_lines):
            if account.kept >= LOG_INVOCATION_BYTES_MAX:
                account.dropped += sum(map(len, raw_lines[at:]))
                break
            shown = raw[:LOG_LINE_BYTES_MAX]
            account.dropped += len(raw) - len(shown)
            account.kept += len(shown) + _LINE_COST_BYTES
            lines.append(shown.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"))
        if lines:
            self._emit(account.invocation_id, stream, lines)

    def tag_of(self, line: bytes) -> bytes:
        """The tag in front of a line, if lines carry one."""
        tag = _TAG.match(line) if self.is_tagged else None
        return tag[0] if tag else b""

    def is_flooded(self, size: int) -> bool:
        """Count bytes just read; whether that was more than a sandbox may write in a window."""
        now = time.monotonic()
        if now - self._since > WINDOW_S:
            self._since, self._read = now, 0
        self._read += size
        return self._read > LOG_SEAT_BYTES_PER_S * WINDOW_S
