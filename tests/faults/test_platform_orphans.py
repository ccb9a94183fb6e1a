"""A gateway dies at once, with sandboxes in every state of their life: all of them end, the node
comes back, and a later `hearth down` finds nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import (
    HOLDS,
    containers,
    deploy,
    held,
    invoke,
    kill,
    logged,
    nothing_restarted,
    ready,
    seats,
    until,
)
from tests.fixtures.platform import Platform, make_platform, start, stop
from tests.soak.sight import stats

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

# Told to end it stays for as long as it may.
STAYS = """
import signal, time

def stay(number, frame):
    print("stays", flush=True)
    time.sleep(600)

signal.signal(signal.SIGTERM, stay)
def handler(event, context):
    return context.function_version
"""
STREAMS = """
def handler(event, context):
    yield "begun"
    while True:
        yield "x" * 65536
"""
ECHO = "def handler(event, context):\n    return event\n"
NODE = "export const handler = async (event) => event;\n"


def in_every_state(platform: Platform, client: httpx.Client) -> bool:
    """Stems, busy, frozen and retiring sandboxes are all there."""
    now = stats(platform.settings)
    told = any(line["text"] == "stays" for line in logged(client, "stays"))
    return bool(now["stems"] and now["busy"] == 2 and now["frozen"] and now["leaving"] and told)


def test_a_gateway_that_dies_takes_sandboxes_in_every_state_with_it(tmp_path: Path) -> None:
    made = make_platform(tmp_path / "data")
    start(made)
    try:
        with made.client() as client:
            deploy(client, "holds", HOLDS)
            deploy(client, "streams", STREAMS)
            deploy(client, "frozen", ECHO)
            deploy(client, "frozen-node", NODE, runtime="node")
            for _ in range(2):
                deploy(client, "stays", STAYS, grace_s=60)
            _die_in_the_middle(made, client)
            until(lambda: ready(made), "no new gateway")
            assert seats(made.settings) == 0
            for name in ("holds", "frozen", "frozen-node"):
                answer = invoke(client, name, "fine")
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-cold-start-reason"] == "first_call"
            until(lambda: stats(made.settings)["stems"], "the stock is not filled again")
            assert stats(made.settings)["leaving"] == 0
    finally:
        stop(made)


def _die_in_the_middle(made: Platform, client: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as threads, made.client() as own, made.client() as reader:
        call = threads.submit(invoke, own, "holds", "hold")
        with reader.stream("GET", "/function/streams") as answer:
            pieces = answer.iter_raw(5)
            assert next(pieces) == b"begun"
            until(lambda: held(client, "holds") == 1, "the call never began")
            until(lambda: in_every_state(made, client), "not every state is there")
            old = containers(made.settings)
            with nothing_restarted(made):
                kill(made, "gateway")
                until(lambda: not containers(made.settings), "containers outlive their node")
                until(lambda: seats(made.settings) == 0, "mounts outlive their node")
                assert isinstance(call.exception(), httpx.TransportError)
                with pytest.raises(httpx.TransportError):
                    list(pieces)
    assert len(old) >= 6  # 2 busy, 2 frozen, 1 retiring, and a stem at least
