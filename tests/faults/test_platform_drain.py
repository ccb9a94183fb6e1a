"""A node that is told to stop, by `hearth down` or by a signal of its own: it admits nothing more,
lets what runs finish in its time, lets functions say goodbye, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.fixtures.api import PATIENCE_S, deploy, invoke, logged, ready, refused, until, wake
from tests.fixtures.platform import HEARTH, Platform, make_platform, start, stop

pytestmark = [pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400)]

DRAIN_S = 20
# Both stay in their call until they are woken; both have something to say at their end.
BYE = """
import atexit, signal
atexit.register(lambda: print("bye", flush=True))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

def stay():
    print("held", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""
CALLED = f"{BYE}\ndef handler(event, context):\n    stay()\n    return 'let go'\n"
STREAMED = (
    f"{BYE}\ndef handler(event, context):\n    yield 'first,'\n    stay()\n    yield 'last'\n"
)
IDLE = f"{BYE}\ndef handler(event, context):\n    return 'idle'\n"


@pytest.fixture(scope="module")
def drained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform that is told to stop."""
    made = make_platform(tmp_path_factory.mktemp("drained") / "data", HEARTH_DRAIN_S=str(DRAIN_S))
    start(made)
    with made.client() as client:
        for name, code in (("called", CALLED), ("streamed", STREAMED), ("idle", IDLE)):
            deploy(client, name, code)
    yield made
    stop(made)  # whatever runs of it by now


def texts(platform: Platform, name: str) -> list[str]:
    """What a function has written, also when no gateway is there to ask."""
    file = platform.settings.data_dir / "logs" / "default" / name / "current.jsonl"
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


@contextmanager
def under_way(platform: Platform) -> Iterator[tuple[Future[httpx.Response], Future[str]]]:
    """A call and a stream that have begun, and an idle seat."""

    def read() -> str:
        with platform.client() as own, own.stream("GET", "/function/streamed") as answer:
            return "".join(answer.iter_text())

    def call() -> httpx.Response:
        with platform.client() as own:
            return invoke(own, "called")

    with ThreadPoolExecutor(2) as threads, platform.client() as client:
        assert invoke(client, "idle").json() == "idle"
        before = {name: _held(client, name) for name in ("called", "streamed")}
        running = threads.submit(call), threads.submit(read)
        for name, count in before.items():
            until(lambda: _held(client, name) > count, f"{name} never began")  # noqa: B023
        yield running


def _held(client: httpx.Client, name: str) -> int:
    return sum(line["text"] == "held" for line in logged(client, name))


def refuses(platform: Platform) -> bool:
    """Whether new calls are refused, and so is the node as a whole."""
    try:
        with platform.client() as client:
            answer = invoke(client, "idle")
            if answer.status_code == 200:
                return False
            refused(answer, 503, "node_draining")
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get("/readyz").status_code == 503
    except httpx.TransportError:
        return True
    return True


def let_go(platform: Platform, *running: Future[httpx.Response] | Future[str]) -> None:
    """Wake them until they have ended."""

    def have_ended() -> bool:
        wake(platform.settings)
        return all(one.done() for one in running)

    until(have_ended, "held calls do not end")


def test_sigterm_to_the_gateway_drains_it_and_the_next_one_goes_on(drained: Platform) -> None:
    gateway = drained.running.children["gateway"]
    with under_way(drained) as (call, stream):
        os.kill(gateway, signal.SIGTERM)
        until(lambda: refuses(drained), "it goes on admitting")
        assert not call.done()
        assert not stream.done()
        let_go(drained, call, stream)
        assert call.result().json() == "let go"
        assert stream.result() == "first,last"
    until(lambda: not Path(f"/proc/{gateway}").exists(), "it never ends")
    for name in ("called", "streamed", "idle"):
        assert texts(drained, name)[-1] == "bye"
    until(lambda: ready(drained), "no new gateway")
    with drained.client() as client:
        assert invoke(client, "idle").json() == "idle"


def test_down_drains_lets_functions_say_goodbye_and_leaves_nothing(drained: Platform) -> None:
    until(lambda: ready(drained), "it is not up")
    byes = {name: texts(drained, name).count("bye") for name in ("called", "streamed", "idle")}
    with under_way(drained) as (call, stream):
        down = subprocess.Popen([str(HEARTH), "down"], env=dict(drained.env))
        until(lambda: refuses(drained), "it goes on admitting")
        assert not call.done()
        assert not stream.done()
        let_go(drained, call, stream)
        assert call.result().json() == "let go"
        assert stream.result() == "first,last"
    assert down.wait(PATIENCE_S) == 0
    assert drained.leftovers() == []
    for name, count in byes.items():
        assert texts(drained, name).count("bye") == count + 1


def test_what_outlasts_the_drain_is_cut_and_nothing_is_left(tmp_path: Path) -> None:
    made = make_platform(tmp_path / "data", HEARTH_DRAIN_S="1")
    start(made)
    with made.client() as client:
        for name, code in (("called", CALLED), ("streamed", STREAMED), ("idle", IDLE)):
            deploy(client, name, code)
    with under_way(made) as (call, stream):
        stop(made)
        with pytest.raises(httpx.RemoteProtocolError):  # "first," and no end
            stream.result(PATIENCE_S)
        with suppress(httpx.TransportError):  # its connection may end before it can be told
            refused(call.result(PATIENCE_S), 503, "node_draining")
    assert texts(made, "idle")[-1] == "bye"
