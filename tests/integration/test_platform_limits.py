"""What a version may not: load no more, need more memory than it has. Told over HTTP by name."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.fixtures.api import connected, deploy, head, invoke, logged, read_all, refused, until
from tests.fixtures.platform import Platform
from tests.soak.sight import stats

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

# Loads in the check of its build; from a moment on it loads no more, as code does whose licence or
# certificate has run out.
LICENSED = """
import atexit, os, time
if time.time() > float(os.environ["UNTIL"]):
    raise RuntimeError("the licence has run out")
atexit.register(lambda: print("bye", flush=True))
def handler(event, context):
    return "licensed"
"""
EATS = """
def handler(event, context):
    if event == "fine":
        return "fine"
    return [bytearray(b"x") * 2**20 for _ in range(10**5)]
"""


def deploy_licensed(client: httpx.Client, name: str) -> float:
    """Until when it loads. That comes after the check and before it is waited for."""
    left_s = 1.0
    while True:
        until_at = time.time() + left_s
        config = {"keep_warm_s": 0, "auth": "none", "env": {"UNTIL": str(until_at)}}
        body = {"config": {"runtime": "python", **config}, "code": LICENSED}
        answer = client.put(f"/v1/functions/{name}?wait=true", json=body)
        if answer.status_code in (200, 201):
            return until_at
        assert "the licence has run out" in refused(answer, 422, "build_failed")["log"]
        left_s *= 2  # a busy machine


def test_a_version_that_loads_no_more_is_refused_by_name_and_not_tried_on_every_call(
    platform: Platform, client: httpx.Client
) -> None:
    name = "licensed"
    until_at = deploy_licensed(client, name)
    until(lambda: any(x["text"] == "bye" for x in logged(client, name)), "its seat stays")
    until(lambda: time.time() > until_at, "time stands still")
    failed = 0
    while (answer := invoke(client, name)).status_code == 502:
        assert "has run out" in refused(answer, 502, "function_init_failed")["message"]
        failed += 1
    error = refused(answer, 503, "function_unloadable")
    assert failed >= 3
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert error["last"]["type"] == "RuntimeError"
    assert "has run out" in error["last"]["message"]
    with httpx.Client(base_url=platform.url, timeout=60) as stranger:
        told = stranger.get(f"/function/{name}")  # or the one try that is due by now
        assert told.status_code in (502, 503)
        assert "run out" not in told.text
    mended = deploy(client, name, "def handler(event, context):\n    return 'mended'\n")
    assert invoke(client, name).json() == "mended"  # at once: another version
    assert mended["version"] > 1
    assert stats(platform.settings)["busy"] == 0


def test_who_runs_out_of_memory_is_told_the_limit_wherever_it_happens(
    platform: Platform, client: httpx.Client
) -> None:
    deploy(client, "eats", EATS, memory_mb=80)
    said = refused(invoke(client, "eats"), 502, "function_out_of_memory")
    assert (said["memory_mb"], "80 MB" in said["message"]) == (80, True)
    after = invoke(client, "eats", "fine")
    assert after.json() == "fine"
    assert after.headers["x-cold-start-reason"] == "out_of_memory"
    greedy = f"kept = [bytearray(b'x') * 2**20 for _ in range(10**5)]\n{EATS}"
    body = {"config": {"runtime": "python", "memory_mb": 64}, "code": greedy}
    answer = client.put("/v1/functions/greedy?wait=true", json=body)
    assert "64 MB" in refused(answer, 422, "build_failed")["message"] + answer.text
    code = "def handler(event, context):\n    yield 'begun'\n    bytearray(b'x') * 2**30\n"
    deploy(client, "bursts-open", code, memory_mb=64)
    with connected(platform) as sock:
        sock.sendall(head(platform, "GET", "/function/bursts-open"))
        status, _, raw = read_all(sock)
    assert (status, raw) == (200, b"5\r\nbegun\r\n")
    told = "the function needed more than its 64 MB of memory"
    until(lambda: told in [x["text"] for x in logged(client, "bursts-open")], "nobody says why")
