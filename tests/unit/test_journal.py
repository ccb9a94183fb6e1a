"""Whose lines are whose, and how much of each is kept."""

from __future__ import annotations

import pytest

from core.limits import LOG_INVOCATION_BYTES_MAX, LOG_LINE_BYTES_MAX
from executor.journal import Journal

Said = list[tuple[str | None, str, list[str]]]
LINE = b"x" * (LOG_LINE_BYTES_MAX - 32)  # with its cost, a fourth of what is kept


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def journal(said: Said) -> Journal:
    return Journal(lambda invocation, stream, lines: said.append((invocation, stream, lines)))


@pytest.fixture
def tagged(journal: Journal) -> Journal:
    journal.is_tagged = True
    return journal


def kept(said: Said, invocation: str | None) -> int:
    return sum(
        len(x) for who, kind, xs in said if (who, kind) == (invocation, "stdout") for x in xs
    )


def notes(said: Said) -> list[tuple[str | None, str]]:
    return [(who, lines[0]) for who, kind, lines in said if kind == "platform"]


def test_untagged_lines_belong_to_the_one_call(journal: Journal, said: Said) -> None:
    journal.keep("stdout", [b"before"])
    journal.open(1, "a")
    assert journal.invocation_id == "a"
    journal.keep("stdout", [b"in", b"it"])
    journal.keep("stderr", [b"\x1e1\x1flooks like a tag"])
    journal.shut(1)
    assert journal.invocation_id is None
    journal.keep("stdout", [b"after"])
    assert said == [
        (None, "stdout", ["before"]),
        ("a", "stdout", ["in", "it"]),
        ("a", "stderr", ["\x1e1\x1flooks like a tag"]),
        (None, "stdout", ["after"]),
    ]


def test_what_was_dropped_is_told_once_with_its_size(journal: Journal, said: Said) -> None:
    journal.open(1, "a")
    for _ in range(6):
        journal.keep("stdout", [LINE])
    assert journal.is_full
    journal.drop(10)
    journal.shut(1)
    assert kept(said, "a") == 4 * len(LINE)
    text = f"{2 * len(LINE) + 10} bytes of log dropped: more than {LOG_INVOCATION_BYTES_MAX}"
    assert notes(said) == [("a", text)]
    assert not journal.is_full
    journal.shut(1)
    assert len(notes(said)) == 1


@pytest.mark.parametrize(
    ("raw", "whose", "text"),
    [
        (b"\x1e1\x1fone", "a", "one"),
        (b"\x1e2\x1f", "b", ""),
        (b"\x1e1\x1f\x1e2\x1fnested", "a", "\x1e2\x1fnested"),
        (b"\x1e3\x1fof a call that is not", None, "of a call that is not"),
        (b"\x1e\x1fno number", None, "\x1e\x1fno number"),
        (b"\x1e12345678901\x1ftoo long", None, "\x1e12345678901\x1ftoo long"),
        (b"\x1e-1\x1fno", None, "\x1e-1\x1fno"),
        (b"\x1e\xd9\xa1\x1fan Arabic one", None, "\x1e١\x1fan Arabic one"),
        (b" \x1e1\x1fnot in front", None, " \x1e1\x1fnot in front"),
        (b"\x1e1", None, "\x1e1"),
        (b"", None, ""),
    ],
)
def test_tagged_lines_belong_to_the_call_they_name(
    raw: bytes, whose: str | None, text: str, tagged: Journal, said: Said
) -> None:
    tagged.open(1, "a")
    tagged.open(2, "b")
    tagged.keep("stdout", [raw])
    assert said == [(whose, "stdout", [text])]


def test_calls_side_by_side_have_an_allowance_each(tagged: Journal, said: Said) -> None:
    tagged.open(1, "a")
    tagged.open(2, "b")
    for _ in range(6):
        tagged.keep("stdout", [b"\x1e1\x1f" + LINE])
    assert not tagged.is_full  # the pipe is read on: others write to it too
    tagged.keep("stdout", [b"\x1e2\x1fheard"])
    tagged.shut(2)
    tagged.shut(1)
    assert kept(said, "a") == 4 * len(LINE)
    assert kept(said, "b") == 5
    text = f"{2 * len(LINE)} bytes of log dropped: more than {LOG_INVOCATION_BYTES_MAX}"
    assert notes(said) == [("a", text)]


def test_lines_of_none_have_a_new_allowance_with_each_call(tagged: Journal, said: Said) -> None:
    for number in (1, 2):
        tagged.open(number, "a")
        for _ in range(6):
            tagged.keep("stdout", [LINE])
        tagged.shut(number)
    assert kept(said, None) == 2 * 4 * len(LINE)
    assert [who for who, _ in notes(said)] == [None, None]


def test_lines_of_a_call_that_is_over_belong_to_none(tagged: Journal, said: Said) -> None:
    tagged.open(1, "a")
    tagged.shut(1)
    tagged.shut(1)
    tagged.keep("stderr", [b"\x1e1\x1flate"])
    assert said == [(None, "stderr", ["late"])]
    assert tagged.invocation_id is None


def test_bytes_are_counted_by_the_window(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.journal.LOG_SEAT_BYTES_PER_S", 1000)
    times = iter([100.0, 100.05, 100.1, 100.2])
    monkeypatch.setattr("executor.journal.time.monotonic", lambda: next(times))
    assert not journal.is_flooded(60)
    assert not journal.is_flooded(40)
    assert journal.is_flooded(1)
    assert not journal.is_flooded(100)
