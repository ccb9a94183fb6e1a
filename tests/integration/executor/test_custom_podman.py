"""Functions that bring their own program, through the whole executor and real containers."""

from __future__ import annotations

import json

import pytest

from core.errors import FunctionCrashed, FunctionInitFailed, FunctionOutOfMemory, FunctionTimeout
from core.model import Version
from executor import sandbox
from tests.conformance.puppet import PUPPET
from tests.fixtures.nodes import Bench
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes, Lines, event, request, version_of

pytestmark = pytest.mark.podman


@pytest.fixture
def bench(codes: Codes, lines: Lines, podman: PodmanService) -> Bench:
    """Containers only: a child process of this host shares its loopback."""
    return Bench(codes, lines, podman)


def custom(bench: Bench, source: str, **config: object) -> Version:
    """A version whose program this is."""
    folder = bench.codes.write(source, "bootstrap")
    (folder / "bootstrap").chmod(0o755)
    return version_of(folder, runtime="custom", **config)


def run(code: str) -> bytes:
    """The event that has the puppet execute it."""
    return json.dumps({"run": code}).encode()


async def test_calls_of_both_kinds_are_answered(bench: Bench) -> None:
    version = custom(bench, PUPPET)
    async with bench.node() as node:
        outcome = await node.invoke(version, event(run("print('said')\nresult = [1, 'é']")))
        assert (outcome.status, json.loads(outcome.body), outcome.cold) == (200, [1, "é"], True)
        again = await node.invoke(version, event(run("")))
        assert not again.cold
        assert "said" in [line.text for line in bench.lines.lines]
        http = await node.invoke(version, request("/a"))
        assert (http.status, json.loads(http.body)["rawPath"]) == (200, "/a")


async def test_a_program_that_dies_fails_one_call(bench: Bench) -> None:
    version = custom(bench, PUPPET)
    async with bench.node() as node:
        with pytest.raises(FunctionCrashed):
            await node.invoke(version, event(run("os._exit(3)")))
        assert "hearth: bootstrap exited with status 3" in [x.text for x in bench.lines.lines]
        assert (await node.invoke(version, event(run("")))).status == 200


async def test_a_call_that_is_never_answered_times_out(bench: Bench) -> None:
    version = custom(bench, PUPPET, timeout_s=1.0)
    async with bench.node() as node:
        await node.invoke(version, event(run("")))
        with pytest.raises(FunctionTimeout):
            await node.invoke(version, event(run("import time\ntime.sleep(600)")))


async def test_the_functions_memory_is_its_own(bench: Bench) -> None:
    version = custom(bench, PUPPET, memory_mb=64)
    async with bench.node() as node:
        with pytest.raises(FunctionOutOfMemory):
            await node.invoke(version, event(run("held = b'x' * (200 << 20)")))


async def test_who_never_asks_fails_to_load(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "INIT_TIMEOUT_S", 0.3)
    version = custom(bench, "#!/bin/sh\nexec sleep 600\n")
    async with bench.node() as node:
        with pytest.raises(FunctionInitFailed, match="to load"):
            await node.invoke(version, event())


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("no program", "Runtime.InvalidEntrypoint", "neither #! nor"),
        ("#!/bin/sh\nexit 4\n", "Runtime.ExitError", "status 4"),
    ],
)
async def test_what_does_not_start_is_told(bench: Bench, source: str, kind: str, says: str) -> None:
    version = custom(bench, source)
    async with bench.node() as node:
        with pytest.raises(FunctionInitFailed, match=says) as failed:
            await node.invoke(version, event())
        assert failed.value.details["type"] == kind
