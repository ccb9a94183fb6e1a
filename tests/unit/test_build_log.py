"""A build's log is bounded, readable, and without passwords."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.limits import BUILD_LOG_BYTES_MAX, BUILD_LOG_LINE_BYTES_MAX, BUILD_OUTPUT_BYTES_MAX
from worker.build_log import BuildLog


def test_lines_and_output_come_in_order() -> None:
    log = BuildLog()
    log.line("one")
    log.write(b"two\nthr")
    log.write(b"ee\nfour")
    log.end_output()
    log.line("five")
    assert log.text() == "one\ntwo\nthree\nfour\nfive\n"


def test_of_much_the_beginning_and_the_end_are_kept() -> None:
    log = BuildLog()
    for number in range(100_000):
        log.line(f"line {number}")
    lines = log.text().splitlines()
    assert lines[0] == "line 0"
    assert lines[-1] == "line 99999"
    assert any("lines left out" in line for line in lines)
    assert len(log.text().encode()) <= BUILD_LOG_BYTES_MAX


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=40_000), max_size=40))
def test_whatever_is_written_the_log_is_bounded_clean_text(chunks: list[bytes]) -> None:
    log = BuildLog()
    for chunk in chunks:
        log.write(chunk)
    log.end_output()
    text = log.text()
    assert len(text.encode()) <= BUILD_LOG_BYTES_MAX
    assert all(len(line.encode()) <= BUILD_LOG_LINE_BYTES_MAX for line in text.split("\n"))
    assert not any(ord(c) < 32 and c not in "\n\t" for c in text)


def test_a_flood_ends_at_its_bound_and_says_so() -> None:
    log = BuildLog()
    for _ in range(BUILD_OUTPUT_BYTES_MAX // (1 << 20) + 3):
        log.write(b"x" * ((1 << 20) - 1) + b"\n")
    log.line("after")
    lines = log.text().splitlines()
    assert sum("the rest is lost" in line for line in lines) == 1
    assert lines[-1] == "after"


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    log = BuildLog()
    for _ in range(100):
        log.write(b"x" * 1000)
    assert log.lines > 10


def test_colours_and_progress_bars_leave_their_last_state() -> None:
    log = BuildLog()
    log.write(b"\x1b[31mred\x1b[0m\n 10%\r 50%\r100%\r\n\x1b]0;title\x07plain\x00\n")
    assert log.text() == "red\n100%\nplain\n"


def test_passwords_of_urls_and_known_secrets_are_not_shown() -> None:
    log = BuildLog()
    log.hide(["s3cret"])
    log.line("Looking in https://user:pass@index.test/simple and s3cret")
    log.write(b"https://token@index.test\n")
    assert log.text() == (
        "Looking in https://***@index.test/simple and ***\nhttps://***@index.test\n"
    )
