"""Warm and cold over HTTP: why a start was cold, what a call used, what is kept warm, what ends."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.api import (
    HOLDS,
    deploy,
    held,
    invoke,
    logged,
    refused,
    release,
    until,
)
from tests.fixtures.platform import Platform, make_platform, start, stop
from tests.soak.sight import stats

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

WHO = "def handler(event, context):\n    return context.function_version\n"
MIB = 2**20


def why(answer: httpx.Response) -> str | None:
    """Why the call was cold, None if it was warm; both headers agree."""
    assert answer.status_code == 200, answer.text
    reason: str | None = answer.headers.get("x-cold-start-reason")
    assert answer.headers["x-cold-start"] == ("false" if reason is None else "true")
    return reason


def legs(answer: httpx.Response) -> dict[str, float]:
    """Server-Timing, milliseconds by leg."""
    found = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])
    return {name: float(ms) for name, ms in found}


def has_expired(client: httpx.Client, name: str) -> bool:
    """Whether its only seat has ended: its `atexit` has spoken."""
    return any(line["text"] == "bye" for line in logged(client, name))


BYE = "import atexit\natexit.register(lambda: print('bye', flush=True))\n"


def test_the_first_call_finds_the_seat_that_the_check_made(client: httpx.Client) -> None:
    deploy(client, "why", WHO)
    assert why(invoke(client, "why")) is None  # the build's check left it warm


def test_a_seat_that_expired_says_so(client: httpx.Client) -> None:
    deploy(client, "expires", BYE + WHO, keep_warm_s=0)
    until(lambda: has_expired(client, "expires"), "its seat never ends")
    answer = invoke(client, "expires")
    assert why(answer) == "expired"
    spent = legs(answer)
    assert spent["init"] > 0
    assert spent["boot"] > 0


def test_a_burst_beyond_what_is_warm_says_so(platform: Platform, client: httpx.Client) -> None:
    deploy(client, "bursts", HOLDS, concurrency=3)
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(invoke, client, "bursts", "hold") for _ in range(2)]
        until(lambda: held(client, "bursts") == 2, "the calls never began")
        assert why(invoke(client, "bursts")) == "burst"
        assert release(platform.settings, calls) == ["let go"] * 2
    reasons = {why(call.result()) for call in calls}
    assert reasons == {None, "burst"}


def test_a_version_whose_seats_were_let_go_for_the_next_says_so(client: httpx.Client) -> None:
    for _ in range(2):
        deploy(client, "older", BYE + WHO)  # the second moves latest: the first one's seats end
    until(lambda: has_expired(client, "older"), "the first version's seat stays")
    assert why(invoke(client, "older")) is None
    pinned = invoke(client, "older:1")
    assert (pinned.json(), why(pinned)) == ("1", "retired")
    assert why(invoke(client, "older:1")) is None


def test_a_call_tells_its_cpu_and_its_own_memory(client: httpx.Client) -> None:
    code = """
def handler(event, context):
    if event == "spin":
        return sum(n * n for n in range(3_000_000))
    return len(bytes(b"x") * (event * 2**20))
"""
    deploy(client, "uses", code)
    plain = invoke(client, "uses", 0)
    large = invoke(client, "uses", 40)
    after = invoke(client, "uses", 0)
    peaks = [int(a.headers.get("x-hearth-memory-peak", 0)) for a in (plain, large, after)]
    if any(peaks):  # the kernel can tell a call's own
        assert peaks[1] >= 40 * MIB
        assert peaks[1] - 30 * MIB > peaks[0]
        assert peaks[1] - 30 * MIB > peaks[2]
        assert min(peaks) > 4 * MIB
    assert {"queue", "boot", "init", "handler", "cpu"} == legs(plain).keys()
    busy, idle = legs(invoke(client, "uses", "spin")), legs(after)
    assert busy["cpu"] > 10 * idle["cpu"] > 0
    assert busy["cpu"] <= busy["handler"] * 2 + 10  # a core has so many, and no more


def test_the_idle_seats_of_a_replaced_version_say_their_last_word_and_end(
    platform: Platform, client: httpx.Client
) -> None:
    code = """
import signal, sys

def end(number, frame):
    print("ended by", signal.Signals(number).name, flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
def handler(event, context):
    return context.function_version
"""
    deploy(client, "replaced", code)
    assert why(invoke(client, "replaced")) is None
    before = stats(platform.settings)["idle"]
    deploy(client, "replaced", code)
    assert invoke(client, "replaced").json() == "2"

    def said() -> list[tuple[int, str]]:
        return [
            (x["version"], x["text"]) for x in logged(client, "replaced") if "ended" in x["text"]
        ]

    until(said, "the replaced version's seat stays")
    assert said() == [(1, "ended by SIGTERM")]
    until(lambda: stats(platform.settings)["idle"] == before, "it is still counted")


# --- a platform of its own: what is kept over a restart ---


@pytest.fixture
def again(tmp_path: Path) -> Any:
    """A platform that a test stops and starts."""
    made = make_platform(tmp_path / "data")
    start(made)
    yield made
    stop(made)


def test_min_warm_seats_are_there_after_the_deploy_and_after_a_restart(again: Platform) -> None:
    def idle() -> int:
        return int(stats(again.settings)["idle"])

    with again.client() as client:
        deploy(client, "kept", HOLDS, min_warm=2, keep_warm_s=0)
        for _ in range(2):
            deploy(client, "fleeting", WHO, keep_warm_s=0)
        weights = {"version": 1, "weights": {"2": 0.5}}
        assert client.put("/v1/functions/fleeting/aliases/split", json=weights).is_success
        until(lambda: idle() == 2, "two seats are kept, no more and no less")
        with ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(invoke, client, "kept", "hold") for _ in range(2)]
            until(lambda: held(client, "kept") == 2, "the calls never began")
            release(again.settings, calls)
        assert [why(call.result()) for call in calls] == [None, None]
    stop(again)
    start(again)
    until(lambda: idle() == 2, "two seats are kept over a restart")
    with again.client() as client:
        assert why(invoke(client, "kept")) is None
        assert why(invoke(client, "fleeting:1")) == "first_call"
        while (answer := invoke(client, "fleeting:split")).json() != "2":
            assert why(answer) in (None, "expired")
        assert why(answer) == "new_version"  # it never had a seat in this life of the node
        assert client.patch("/v1/functions/kept?wait=true", json={"enabled": False}).is_success
        until(lambda: idle() == 0, "a disabled function keeps its seats")
        assert refused(invoke(client, "kept"), 409, "function_disabled")
