"""Logs of functions: buffered in memory, appended in batches to two segments of JSON lines each.

Writing never blocks and never fails: what does not fit is counted, and the log says so itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from core.limits import (
    LOG_BUFFER_BYTES_MAX,
    LOG_BUFFERS_BYTES_MAX,
    LOG_FILE_BYTES_MAX,
    LOG_FLUSH_S,
    LOG_LINE_BYTES_MAX,
)
from executor.call import LogLine

CURRENT, PREVIOUS = "current.jsonl", "previous.jsonl"
LINE_OVERHEAD_BYTES = 160  # of a line in memory, beside its text
_BLOCK_BYTES = 64 * 1024
_AT = slice(len('{"at": "'), len('{"at": "') + len("2026-01-01T00:00:00.000000Z"))

log = logging.getLogger("hearth.logs")
Of = tuple[str, str]  # namespace, function


@dataclass(eq=False, slots=True)
class _Buffer:
    lines: list[LogLine] = field(default_factory=list)
    bytes: int = 0
    dropped: int = 0


class LogFiles:
    """The executor's LogSink, and the reader of what it was given. Belongs to one event loop."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets a directory for each function; made when the first line comes."""
        self._folder = folder
        self._buffers: dict[Of, _Buffer] = {}
        self._bytes = 0
        self._something = asyncio.Event()
        self._lock = asyncio.Lock()  # one batch at a time touches the files
        self._is_failing = False

    def write(self, lines: Sequence[LogLine]) -> None:
        """Keep the lines, or count them when there is no room."""
        for line in lines:
            buffer = self._buffers.get((line.namespace, line.function))
            if buffer is None:
                buffer = self._buffers[line.namespace, line.function] = _Buffer()
            size = len(line.text) + LINE_OVERHEAD_BYTES
            full = buffer.bytes + size > LOG_BUFFER_BYTES_MAX
            if full or self._bytes + size > LOG_BUFFERS_BYTES_MAX:
                buffer.dropped += 1
                continue
            buffer.lines.append(line)
            buffer.bytes += size
            self._bytes += size
        self._something.set()

    async def run(self) -> None:
        """Write what has gathered every LOG_FLUSH_S, for ever; sleeps while there is nothing."""
        while True:
            await self._something.wait()
            await asyncio.sleep(LOG_FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Returns when every line given before is in its file, or counted as lost."""
        async with self._lock:
            self._something.clear()
            batch, self._buffers, self._bytes = self._buffers, {}, 0
            if batch:
                await asyncio.to_thread(self._append_all, batch)

    async def tail(self, namespace: str, function: str, *, lines: int, since: str = "") -> bytes:
        """The last `lines` lines, oldest first, not older than `since` (as `at` is written)."""
        await self.flush()
        folder = self._folder / namespace / function
        found = await asyncio.to_thread(_tail, folder, lines)
        return b"".join(line for line in found if line[_AT].decode() >= since)

    async def forget(self, namespace: str, function: str) -> None:
        """The function is deleted: its log goes with it."""
        await self.flush()
        async with self._lock:
            folder = self._folder / namespace / function
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _append_all(self, batch: dict[Of, _Buffer]) -> None:
        for (namespace, function), buffer in batch.items():
            try:
                _append(self._folder / namespace / function, buffer)
                self._is_failing = False
            except OSError as error:  # a full disk costs log lines, never an invocation
                if not self._is_failing:
                    log.warning("log lines of functions are lost: %s", error)
                self._is_failing = True


def stamp(at: float) -> str:
    """Unix time as it is written: RFC 3339, UTC, always the same length, so that it sorts."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _append(folder: Path, buffer: _Buffer) -> None:
    text = b"".join(_encode(line) for line in buffer.lines)
    if buffer.dropped:
        text += _dropped(buffer)
    try:
        file = (folder / CURRENT).open("ab", buffering=0)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / CURRENT).open("ab", buffering=0)
    with file:
        before = file.tell()
        if before and before + len(text) > LOG_FILE_BYTES_MAX:
            (folder / CURRENT).rename(folder / PREVIOUS)
            with (folder / CURRENT).open("ab", buffering=0) as fresh:
                _write_whole(fresh.fileno(), text, 0)
        else:
            _write_whole(file.fileno(), text, before)


def _write_whole(fd: int, text: bytes, before: int) -> None:
    """All or nothing, so that a full disk leaves no half line behind."""
    try:
        view = memoryview(text)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, before)
        raise


def _encode(line: LogLine) -> bytes:
    text = line.text
    if len(text) > LOG_LINE_BYTES_MAX:
        text = text[:LOG_LINE_BYTES_MAX] + "…"
    facts = {
        "at": stamp(line.at),
        "stream": line.stream,
        "version": line.version,
        "invocation_id": line.invocation_id,
        "text": text,
    }
    return json.dumps(facts).encode() + b"\n"


def _dropped(buffer: _Buffer) -> bytes:
    facts = {
        "at": stamp(time.time()),
        "stream": "platform",
        "version": buffer.lines[-1].version if buffer.lines else 0,
        "invocation_id": None,
        "text": f"{buffer.dropped} lines were dropped: they came faster than they could be kept",
    }
    return json.dumps(facts).encode() + b"\n"


def _tail(folder: Path, count: int) -> list[bytes]:
    found = _last_lines(folder / CURRENT, count)
    if len(found) < count:
        found = _last_lines(folder / PREVIOUS, count - len(found)) + found
    return found


def _last_lines(path: Path, count: int) -> list[bytes]:
    """The last whole lines of a file, read from its end; none if there is no file."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return []
    with file:
        position = file.seek(0, os.SEEK_END)
        blocks: list[bytes] = []
        newlines = 0
        while position and newlines <= count:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            blocks.insert(0, file.read(size))
            newlines += blocks[0].count(b"\n")
    lines = b"".join(blocks).splitlines(keepends=True)
    return [line for line in lines[-count:] if line.endswith(b"\n")]
