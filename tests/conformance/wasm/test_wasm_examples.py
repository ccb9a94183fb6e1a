"""The examples as they lie ready, and as their sources build: the same answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import modules
from tests.conformance.hosted_client import Host

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
EVENTS: dict[str, list[object]] = {
    "wasm-c": [
        {"from": [48.8566, 2.3522], "to": [52.52, 13.405]},
        {"queryStringParameters": {"from": "0,0", "to": "0,180"}},
        {"from": [91, 0], "to": [0, 0]},
        {"from": "x" * 70_000},
        {},
    ],
    "wasm-wat": [{"a": ["ü", None]}, 1, "x" * 200_000],
}
ANSWERS: dict[str, list[object]] = {
    "wasm-c": [{"km": 877.5}, {"km": 20015.1}, 400, 413, 400],
    "wasm-wat": EVENTS["wasm-wat"],
}


def built(name: str, to: Path) -> bytes:
    """What the example's own script makes."""
    environ = {**os.environ, "PYTHON": sys.executable}
    command = ["sh", str(EXAMPLES / name / "build.sh"), str(to)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to.read_bytes()


@pytest.mark.parametrize("name", EVENTS)
def test_what_lies_ready_answers_as_what_the_source_builds(
    host: Host, name: str, tmp_path: Path
) -> None:
    answers = []
    for wasm in ((EXAMPLES / name / "main.wasm").read_bytes(), built(name, tmp_path / "w.wasm")):
        with host.open(modules.compiled(wasm)) as seat:
            seat.ready(memory_mb=16)
            results = [seat.call(event).result for event in EVENTS[name]]
        answers.append([short(result) for result in results])
    assert answers == [ANSWERS[name]] * 2


def short(result: object) -> object:
    """A response's status; any other result as it is."""
    if isinstance(result, dict) and "statusCode" in result:
        return result["statusCode"]
    return result
