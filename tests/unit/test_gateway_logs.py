"""Logs of functions: nothing is lost unsaid, nothing grows without bound, reading is exact."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestInvalid
from core.limits import LOG_FILE_BYTES_MAX, LOG_LINE_BYTES_MAX
from executor.call import LogLine
from gateway import logs
from gateway.functions import read_since
from gateway.logs import CURRENT, PREVIOUS, LogFiles, stamp


def line(text: str, at: float = 1_900_000_000.0, name: str = "hello") -> LogLine:
    """One line."""
    return LogLine(at, "default", name, 3, "id-1", "stdout", text)


async def texts(sink: LogFiles, lines: int = 10_000, since: str = "") -> list[str]:
    """What the log of `hello` says."""
    found = await sink.tail("default", "hello", lines=lines, since=since)
    return [json.loads(text)["text"] for text in found.splitlines()]


async def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    words = ["one", "", "zwei ü € 😀", "\ud800 half", 'quo"te\\', "a\tb\x00c", "new\u2028line"]
    sink.write([line(word) for word in words])
    assert await texts(sink) == words
    (first, *_) = (await sink.tail("default", "hello", lines=1)).splitlines()
    assert json.loads(first) == {
        "at": "2030-03-17T17:46:40.000000Z",
        "stream": "stdout",
        "version": 3,
        "invocation_id": "id-1",
        "text": words[-1],
    }
    assert await texts(LogFiles(tmp_path)) == words  # after a restart too


async def test_the_tail_is_exact_over_blocks_and_segments(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    numbers = [f"{number} " + "x" * (number % 300) for number in range(2000)]
    folder = tmp_path / "default" / "hello"
    sink.write([line(number) for number in numbers[:900]])
    await sink.flush()
    (folder / CURRENT).rename(folder / PREVIOUS)
    sink.write([line(number) for number in numbers[900:]])
    for count in (1, 2, 899, 1099, 1100, 1101, 1999, 2000, 5000):
        assert await texts(sink, count) == numbers[-count:], count
    assert await texts(sink, 5) == numbers[-5:]


async def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    sink.write([line(str(second), 1_900_000_000.0 + second) for second in range(10)])
    assert await texts(sink, since=stamp(1_900_000_007.0)) == ["7", "8", "9"]
    assert await texts(sink, 2, since=stamp(1_900_000_001.0)) == ["8", "9"]
    assert await texts(sink, since=stamp(1_900_000_009.000001)) == []


async def test_two_segments_are_kept_and_no_more(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    text = "x" * 60_000
    for number in range(LOG_FILE_BYTES_MAX // 60_000 * 3):
        sink.write([line(f"{number} {text}")])
        await sink.flush()
    files = {path.name: path.stat().st_size for path in (tmp_path / "default/hello").iterdir()}
    assert set(files) == {CURRENT, PREVIOUS}
    assert all(size <= LOG_FILE_BYTES_MAX for size in files.values())
    numbers = [int(text.split()[0]) for text in await texts(sink)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


async def test_a_flood_is_dropped_and_said_and_spares_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LogFiles(tmp_path)
    sink.write([line("y" * 1000) for _ in range(3000)])
    sink.write([line("quiet", name="other")])
    found = await texts(sink)
    assert len(found) < 1100
    dropped = 3000 - (len(found) - 1)
    assert found[-1].startswith(f"{dropped} lines were dropped")
    other = await sink.tail("default", "other", lines=10)
    assert json.loads(other)["text"] == "quiet"
    monkeypatch.setattr(logs, "LOG_BUFFERS_BYTES_MAX", 10_000)
    for number in range(100):
        sink.write([line("z" * 500, name=f"f{number}")])
    assert sink._bytes <= 10_000


async def test_a_line_over_its_limit_is_cut(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    sink.write([line("x" * (LOG_LINE_BYTES_MAX + 5))])
    assert await texts(sink) == ["x" * LOG_LINE_BYTES_MAX + "…"]


async def test_lines_reach_the_disk_by_themselves_and_nothing_runs_while_idle(
    tmp_path: Path,
) -> None:
    sink = LogFiles(tmp_path)
    task = asyncio.create_task(sink.run())
    file = tmp_path / "default" / "hello" / CURRENT
    for word in ("one", "two"):
        sink.write([line(word)])
        while not file.exists() or word.encode() not in file.read_bytes():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    assert not sink._something.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_full_disk_costs_lines_and_leaves_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LogFiles(tmp_path)
    sink.write([line("before")])
    await sink.flush()
    real, written = logs.os.write, 0  # type: ignore[attr-defined]

    def full(fd: int, data: Any) -> int:
        nonlocal written
        written += 1
        if written % 2 == 0:
            raise OSError(28, "No space left on device")
        return int(real(fd, data[:5]))

    monkeypatch.setattr(logs.os, "write", full)  # type: ignore[attr-defined]
    sink.write([line("lost")])
    await sink.flush()
    monkeypatch.setattr(logs.os, "write", real)  # type: ignore[attr-defined]
    sink.write([line("after")])
    assert await texts(sink) == ["before", "after"]


async def test_a_deleted_functions_log_is_gone(tmp_path: Path) -> None:
    sink = LogFiles(tmp_path)
    sink.write([line("old")])
    await sink.flush()
    sink.write([line("buffered")])
    await sink.forget("default", "hello")
    assert await texts(sink) == []
    await sink.forget("default", "hello")


def test_since_is_a_moment_or_an_age() -> None:
    now = 1_900_000_000.0
    assert read_since("90s", now) == stamp(now - 90)
    assert read_since("2h", now) == stamp(now - 7200)
    assert read_since("2030-03-17T17:46:40Z", now) == "2030-03-17T17:46:40.000000Z"
    assert read_since("2030-03-17T18:46:40+01:00", now) == "2030-03-17T17:46:40.000000Z"
    assert read_since(stamp(now), now) == stamp(now)
    for odd in ("", "x", "1", "10 m", "-5m", "2030-03-17T17:46:40", "2030-13-01T00:00:00Z"):
        with pytest.raises(RequestInvalid):
            read_since(odd, now)
    assert len(stamp(time.time())) == len(stamp(0.0))
