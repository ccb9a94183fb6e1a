"""`hearth invoke` against a scripted gateway: what is sent, shown and saved, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.scripted_gateway import (
    Answer,
    Hearth,
    ScriptedGateway,
    error,
    hearth,
    scripted_gateway,
)

__all__ = ["hearth", "scripted_gateway"]  # pytest finds fixtures by their names here

RAN = {"X-Hearth-Invocation-Id": "i1", "X-Hearth-Version": "3", "X-Cold-Start": "false"}
TIMED = {"Server-Timing": "queue;dur=0.10, boot;dur=0.00, init;dur=0.00, handler;dur=1.50"}


def invocable(gateway: ScriptedGateway, answer: Answer, path: str) -> None:
    """A function that answers so."""
    gateway.on("POST", path, answer)
    gateway.on("GET", path, answer)


EVENT_PATH, HTTP_PATH = "/v1/functions/hello/invocations", "/function/hello/"


def test_json_is_the_event_and_stdout_is_the_answer_alone(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    answer = Answer(200, b'{"a":1}', {**RAN, **TIMED})
    invocable(scripted_gateway, answer, EVENT_PATH)
    result = hearth("invoke", "hello", "--data", '{"x": 1}')
    assert result.exit_code == 0
    assert result.stdout == '{"a":1}'
    assert "200" in result.stderr
    assert "handler 1.5" in result.stderr
    assert scripted_gateway.asked[0].body == b'{"x": 1}'


def test_a_binary_answer_is_passed_on_byte_for_byte(
    hearth: Hearth, scripted_gateway: ScriptedGateway, tmp_path: Path
) -> None:
    data = bytes(range(256))
    headers = {**RAN, "Content-Type": "image/jpeg"}
    invocable(scripted_gateway, Answer(200, data, headers), HTTP_PATH)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8photo")
    result = hearth("invoke", "hello", "--file", "photo.jpg")
    assert result.stdout_bytes == data
    asked = scripted_gateway.asked[0]
    assert (asked.headers["content-type"], asked.body) == ("image/jpeg", b"\xff\xd8photo")
    hearth("invoke", "hello", "--file", "photo.jpg", "--output", "small.jpg")
    assert (tmp_path / "small.jpg").read_bytes() == data


def test_the_functions_error_shows_type_and_trace_and_ends_with_one(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    fault = error(
        502, "function_error", "no gold", type="ValueError", trace=["Traceback …", "  line 3"]
    )
    fault.headers = RAN
    invocable(scripted_gateway, fault, EVENT_PATH)
    result = hearth("invoke", "hello", "--data", "{}")
    assert result.exit_code == 1
    assert "ValueError: no gold" in result.stderr
    assert "line 3" in result.stderr
    assert not result.stdout


def test_a_functions_own_error_status_is_shown_and_ends_with_one(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    invocable(scripted_gateway, Answer(404, {"error": "no order"}, RAN), HTTP_PATH)
    result = hearth("invoke", "hello", "--path", "/")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "no order"}


def test_the_platforms_refusal_of_an_invocation_is_not_taken_for_an_answer(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    refused = error(429, "concurrency_reached", "10 run already")
    refused.headers = {"X-Hearth-Invocation-Id": "i1", "X-Hearth-Version": "3"}
    invocable(scripted_gateway, refused, HTTP_PATH)
    result = hearth("invoke", "hello", "--path", "/")
    assert result.exit_code == 4
    assert "10 run already" in result.stderr
    assert not result.stdout


def test_invoke_with_json_tells_everything(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    invocable(scripted_gateway, Answer(200, {"a": 1}, {**RAN, **TIMED}), EVENT_PATH)
    said = json.loads(hearth("invoke", "hello", "--data", "{}", "--json").stdout)
    assert (said["status"], said["result"], said["version"]) == (200, {"a": 1}, "3")
    assert said["timing_ms"]["handler"] == 1.5
    assert said["cold_start"] is False


def test_the_summary_says_why_a_start_was_cold_and_what_a_warm_call_used(
    hearth: Hearth, scripted_gateway: ScriptedGateway
) -> None:
    legs = "queue;dur=0.10, boot;dur=0.00, init;dur=12.00, handler;dur=2.50"
    cold = {"X-Cold-Start": "true", "X-Cold-Start-Reason": "new_version", "Server-Timing": legs}
    invocable(scripted_gateway, Answer(200, 1, {**RAN, **cold}), EVENT_PATH)
    assert "cold start (new version, init 12)" in hearth("invoke", "hello", "--data", "{}").stderr
    used = {"Server-Timing": f"{legs}, cpu;dur=1.75", "X-Hearth-Memory-Peak": f"{9 * 2**20}"}
    invocable(scripted_gateway, Answer(200, 1, {**RAN, **used}), EVENT_PATH)
    said = hearth("invoke", "hello", "--data", "{}").stderr
    assert "(handler 2.5, cpu 1.8)" in said
    assert "9 MB" in said
