"""Lines out of pipes: budgets, floods, odd bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from core.limits import LOG_INVOCATION_BYTES_MAX, LOG_LINE_BYTES_MAX
from executor import journal as books
from executor.journal import Journal
from executor.logpipe import LogPipe, Outputs

Said = list[tuple[str | None, str, list[str]]]


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def journal(said: Said) -> Journal:
    return Journal(lambda invocation, stream, lines: said.append((invocation, stream, lines)))


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The read end is its LogPipe's to close."""
    read, write = os.pipe()
    yield read, write
    os.close(write)


def all_lines(said: Said, stream: str = "stdout") -> list[str]:
    return [line for _, kind, lines in said if kind == stream for line in lines]


async def test_whole_lines_are_passed_on_and_the_rest_at_the_drain(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    os.write(ends[1], b"one\ntwo\nthr")
    while len(all_lines(said)) < 2:
        await asyncio.sleep(0)
    assert all_lines(said) == ["one", "two"]
    os.write(ends[1], b"ee")
    pipe.drain()
    assert all_lines(said) == ["one", "two", "three"]
    pipe.close()


async def test_lines_belong_to_whoever_the_journal_is_open_for(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    for number, invocation in enumerate(("a", None, "b")):
        if invocation:
            journal.open(number, invocation)
        os.write(ends[1], b"x\n")
        pipe.drain()
        journal.shut(number)
    assert [invocation for invocation, _, _ in said] == ["a", None, "b"]
    pipe.close()


async def test_bytes_that_are_no_text_are_shown_escaped(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    os.write(ends[1], b"\xff\x00\xc3\xa9\n")
    pipe.drain()
    assert all_lines(said) == ["\\xff\\x00é"]
    pipe.close()


async def test_a_line_over_its_limit_is_cut_and_what_is_lost_is_told(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    journal.open(1, "a")
    for _ in range(3):
        os.write(ends[1], b"x" * 30_000)
        pipe._on_readable()
    os.write(ends[1], b"\nnext\n")
    pipe.drain()
    journal.shut(1)
    shown = all_lines(said)
    assert [len(line) for line in shown] == [LOG_LINE_BYTES_MAX, 0, 4]
    assert all_lines(said, "platform") == [
        f"{90_000 - LOG_LINE_BYTES_MAX} bytes of log dropped: more than {LOG_INVOCATION_BYTES_MAX}"
    ]
    pipe.close()


async def test_of_one_invocation_only_so_much_is_kept_and_the_next_starts_anew(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    for number, invocation in enumerate(("a", "b")):
        journal.open(number, invocation)
        for _ in range(10):
            os.write(ends[1], (b"x" * 999 + b"\n") * 60)
            pipe.drain()
        kept = sum(
            len(x) for who, kind, ls in said if (who, kind) == (invocation, "stdout") for x in ls
        )
        assert LOG_INVOCATION_BYTES_MAX * 0.9 < kept <= LOG_INVOCATION_BYTES_MAX + 999
        journal.shut(number)
    assert len(all_lines(said, "platform")) == 2
    pipe.close()


async def test_empty_lines_are_a_flood_too(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    pipe = LogPipe(ends[0], "stdout", journal)
    for _ in range(20):
        os.write(ends[1], b"\n" * 60_000)
        pipe.drain()
    assert len(all_lines(said)) <= LOG_INVOCATION_BYTES_MAX // 32 + 1
    pipe.close()


async def test_a_sandbox_that_writes_too_fast_is_not_read_for_a_moment(
    ends: tuple[int, int], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "LOG_SEAT_BYTES_PER_S", 1000)
    os.set_blocking(ends[1], False)
    pipe = LogPipe(ends[0], "stdout", journal)
    os.write(ends[1], b"x" * 60_000)
    pipe._on_readable()
    assert pipe._resume is not None
    os.write(ends[1], b"x" * 60_000)
    await asyncio.sleep(0)  # nobody reads: the pipe is full
    with pytest.raises(BlockingIOError):
        for _ in range(10):
            os.write(ends[1], b"x" * 4096)
    while pipe._resume is not None:  # it goes on by itself
        await asyncio.sleep(0.01)
    pipe.close()


async def test_the_budget_is_the_sandboxs_and_not_each_pipes(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "LOG_SEAT_BYTES_PER_S", 1000)
    assert not journal.is_flooded(60)
    assert journal.is_flooded(60)


async def test_a_pipe_whose_writers_are_gone_closes_itself(journal: Journal, said: Said) -> None:
    read, write = os.pipe()
    pipe = LogPipe(read, "stderr", journal)
    os.write(write, b"last")
    os.close(write)
    while pipe._fd >= 0:
        await asyncio.sleep(0)
    assert all_lines(said, "stderr") == ["last"]
    pipe.close()  # any number of times
    with pytest.raises(OSError):
        os.fstat(read)


async def test_a_drain_takes_one_pipe_of_bytes_at_most(
    ends: tuple[int, int], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def endless(fd: int, size: int) -> bytes:
        reads.append(size)
        return b"x" * size

    pipe = LogPipe(ends[0], "stdout", journal)
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", endless)
        pipe.drain()
    assert len(reads) == 1
    pipe.close()


async def test_outputs_settle_both_pipes_and_close_once(journal: Journal, said: Said) -> None:
    (out_read, out), (err_read, err) = os.pipe(), os.pipe()
    outputs = Outputs(out_read, err_read, journal)
    os.write(err, b"warning")
    outputs.settle()
    os.write(out, b"one\nunfinished")
    while not all_lines(said):
        await asyncio.sleep(0)
    outputs.settle()  # nothing is in the pipes any more, but a line is not finished
    assert (all_lines(said), all_lines(said, "stderr")) == (["one", "unfinished"], ["warning"])
    os.close(out)
    while outputs._pipes[0]._fd >= 0:
        await asyncio.sleep(0)
    os.write(err, b"after the other was closed")
    outputs.settle()
    assert all_lines(said, "stderr")[-1] == "after the other was closed"
    for _ in range(2):
        outputs.close()
    os.close(err)


async def test_where_lines_are_tagged_half_a_line_is_nobodys_yet(
    ends: tuple[int, int], journal: Journal, said: Said
) -> None:
    journal.is_tagged = True
    pipe = LogPipe(ends[0], "stdout", journal)
    journal.open(1, "a")
    os.write(ends[1], b"\x1e1\x1fone\n\x1e1\x1fha")
    pipe.drain()
    assert said == [("a", "stdout", ["one"])]
    os.write(ends[1], b"lf\n\x1e1")
    pipe.drain()
    assert said[1:] == [("a", "stdout", ["half"])]
    os.write(ends[1], b"\x1flast words")
    pipe.close()
    assert said[2:] == [("a", "stdout", ["last words"])]


async def test_outputs_that_settle_keep_half_a_tagged_line(journal: Journal, said: Said) -> None:
    journal.is_tagged = True
    (out_read, out), (err_read, err) = os.pipe(), os.pipe()
    outputs = Outputs(out_read, err_read, journal)
    journal.open(1, "a")
    os.write(out, b"\x1e1\x1fha")
    outputs.settle()
    outputs.settle()  # nothing is in the pipes any more
    assert said == []
    os.write(out, b"lf\n")
    outputs.settle()
    assert said == [("a", "stdout", ["half"])]
    outputs.close()
    for fd in (out, err):
        os.close(fd)
