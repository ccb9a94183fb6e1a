"""What an invocation's answer says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from executor.call import Timing, Usage
from gateway.head import Head, Wish
from gateway.headers import new_ids
from gateway.invoke import parse_ref
from gateway.reply import Reply
from gateway.response import Framing
from gateway.view import Target
from tests.fixtures.hot_path import Tap, outcome, version


def reply(kind: Any = "event", method: str = "POST", http: str = "1.1", *sent: Any) -> Reply:
    """To a request for `hello`."""
    head = Head(method, b"", b"", http, sent, None, "http", dict(sent))
    head.wish = Wish(kind, parse_ref(b"hello"), "/")
    made = Reply(head, "id-of-the-call")
    made.target = Target.of(version(7))
    return made


def headers(lines: str) -> dict[str, str]:
    """As a mapping; each name stands there once."""
    pairs = [line.split(": ", 1) for line in lines.split("\r\n")[:-1]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_a_warm_answer_says_what_ran_and_where_the_time_went() -> None:
    timing = Timing(queue_ms=0.126, handler_ms=2.5)
    answer = reply().answer(outcome(b"[1]", timing=timing))
    assert (answer.status, answer.body, answer.closes) == (200, b"[1]", False)
    assert headers(answer.lines) == {
        "content-type": "application/json",
        "content-length": "3",
        "x-request-id": "id-of-the-call",
        "x-hearth-invocation-id": "id-of-the-call",
        "x-hearth-version": "7",
        "x-hearth-runtime": "python3.13",
        "x-cold-start": "false",
        "server-timing": "queue;dur=0.13, boot;dur=0.00, init;dur=0.00, handler;dur=2.50",
    }


def test_a_cold_answer_says_why() -> None:
    told = headers(reply().answer(outcome(cold=True, why_cold="new_version")).lines)
    assert (told["x-cold-start"], told["x-cold-start-reason"]) == ("true", "new_version")
    unknown = headers(reply().answer(outcome(cold=True)).lines)
    assert "x-cold-start-reason" not in unknown
    warm = headers(reply().answer(outcome(why_cold="burst")).lines)
    assert "x-cold-start-reason" not in warm


@pytest.mark.parametrize(
    ("usage", "timing", "peak"),
    [
        (None, ", handler;dur=2.50", None),
        (Usage(1.2345, 7_000_000), ", handler;dur=2.50, cpu;dur=1.23", "7000000"),
        (Usage(1.0, 7_000_000, is_peak_own=False), ", cpu;dur=1.00", None),
        (Usage(None, 7_000_000), ", handler;dur=2.50", "7000000"),
        (Usage(None, None), ", handler;dur=2.50", None),
        (Usage(0.0, 0), ", cpu;dur=0.00", "0"),
    ],
)
def test_what_was_used_is_told_if_it_is_known_and_its_own(
    usage: Usage | None, timing: str, peak: str | None
) -> None:
    for kind in ("event", "http"):
        told = headers(reply(kind).answer(outcome(usage=usage)).lines)
        assert told["server-timing"].endswith(timing)
        assert told.get("x-hearth-memory-peak") == peak


def test_a_functions_headers_stand_before_ours_as_they_are() -> None:
    said = [("content-type", "text/\xe9"), ("x-a", "b: c")]
    answer = reply("http").answer(outcome(b"text", status=418, headers=said))
    told = headers(answer.lines)
    assert list(told)[:3] == ["content-type", "x-a", "content-length"]
    assert (told["content-type"], told["x-a"]) == ("text/\xe9", "b: c")
    with pytest.raises(AssertionError):
        reply("http").answer(outcome(headers=[("x-a", "b\nc")]))


def test_an_opening_knows_how_its_body_ends() -> None:
    stream = outcome(b"", stream=Tap(), headers=[("content-type", "text/event-stream")])
    for made, framing in (
        (reply("http").opening(stream), Framing.CHUNKED),
        (reply("event").opening(stream), Framing.CHUNKED),
        (reply("http", "HEAD").opening(stream), Framing.NONE),
        (reply("http", "GET", "1.0").opening(stream), Framing.RAW),
        (reply("http").opening(outcome(b"", stream=Tap(), status=304)), Framing.NONE),
    ):
        told = headers(made.answer.lines)
        assert made.framing is framing
        assert ("transfer-encoding" in told) is (framing is Framing.CHUNKED)
        assert "content-length" not in told
        assert "x-hearth-version" in told
    sent = (b"x-request-id", b"theirs")
    assert reply("http", "GET", "1.1", sent).opening(stream).request_id == "theirs"


def test_ids_made_in_batches_are_all_different() -> None:
    ids = new_ids()
    assert len({next(ids) for _ in range(2000)}) == 2000
