"""A build's log: bounded, readable as text, and without the passwords that index URLs carry."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable

from core.limits import (
    BUILD_LOG_BYTES_MAX,
    BUILD_LOG_LINE_BYTES_MAX,
    BUILD_LOG_TAIL_BYTES,
    BUILD_OUTPUT_BYTES_MAX,
)

_HEAD_BYTES = BUILD_LOG_BYTES_MAX // 4  # how it began is kept for ever; of the rest, the end
_TAIL_BYTES = BUILD_LOG_BYTES_MAX - _HEAD_BYTES - 256  # 256: room for the line about lost ones

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
_USERINFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")


class BuildLog:
    """Written by one build, read by its heartbeat at any time. Thread-safe."""

    def __init__(self, text: str = "") -> None:
        self._lock = threading.Lock()
        self._head: list[str] = []
        self._head_bytes = 0
        self._tail: deque[str] = deque()
        self._tail_bytes = 0
        self._lost = 0
        self._partial = b""
        self._output_bytes = 0
        self._is_over = False
        self._secrets: tuple[str, ...] = ()
        self.lines = 0  # ever written; changes when the text does
        for line in text.splitlines():
            self.line(line)

    def hide(self, secrets: Iterable[str]) -> None:
        """Show *** for these from now on."""
        self._secrets = (*self._secrets, *(secret for secret in secrets if len(secret) >= 4))

    def line(self, text: str) -> None:
        """Add a line."""
        shown = self._clean(text)
        size = len(shown.encode()) + 1
        with self._lock:
            self.lines += 1
            if not self._tail and self._head_bytes + size <= _HEAD_BYTES:
                self._head.append(shown)
                self._head_bytes += size
                return
            self._tail.append(shown)
            self._tail_bytes += size
            while self._tail_bytes > _TAIL_BYTES:
                self._tail_bytes -= len(self._tail.popleft().encode()) + 1
                self._lost += 1

    def write(self, output: bytes) -> None:
        """Add what a process wrote. Lines need not be whole; `end_output` adds the last."""
        if self._is_over:
            return
        self._output_bytes += len(output)
        if self._output_bytes > BUILD_OUTPUT_BYTES_MAX:
            self._is_over = True
            self.end_output()
            self.line(f"… over {BUILD_OUTPUT_BYTES_MAX >> 20} MiB of output: the rest is lost …")
            return
        *lines, self._partial = (self._partial + output).split(b"\n")
        for raw in lines:
            self.line(_text(raw))
        if len(self._partial) > BUILD_LOG_LINE_BYTES_MAX:
            self.end_output()

    def end_output(self) -> None:
        """Add the unfinished line, if there is one."""
        if self._partial:
            self.line(_text(self._partial))
            self._partial = b""

    def text(self) -> str:
        """All that is kept, at most BUILD_LOG_BYTES_MAX bytes."""
        with self._lock:
            lost = [f"… {self._lost} lines left out …"] if self._lost else []
            return "".join(f"{line}\n" for line in (*self._head, *lost, *self._tail))

    def end(self) -> str:
        """The last lines, at most BUILD_LOG_TAIL_BYTES bytes."""
        raw = self.text().encode()[-BUILD_LOG_TAIL_BYTES:]
        return raw.decode(errors="ignore")

    def _clean(self, text: str) -> str:
        text = _CONTROLS.sub("", _ESCAPES.sub("", text.rstrip()))
        text = _USERINFO.sub("***", text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        raw = text.encode(errors="replace")
        if len(raw) > BUILD_LOG_LINE_BYTES_MAX:
            text = raw[: BUILD_LOG_LINE_BYTES_MAX - 3].decode(errors="ignore") + "…"
        return text


def _text(raw: bytes) -> str:
    """A line as a terminal would leave it: of a progress bar that returns, the last state."""
    states = raw.rstrip(b"\r").split(b"\r")
    return states[-1].decode(errors="replace")
