"""A function is deployed again and again while sixteen clients call it: nobody may notice.

HEARTH_TEST_DEPLOYS=200 runs the long form of it.
"""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest

from tests.fixtures.api import deploy
from tests.fixtures.platform import Platform
from tests.soak.clients import Client, Scene
from tests.soak.functions import ASYNC, NODE, NODE24, PYTHON, Kind
from tests.soak.sight import stats

DEPLOYS = int(os.environ.get("HEARTH_TEST_DEPLOYS", "12"))
CLIENTS = 16

pytestmark = [
    *(pytest.mark.platform, pytest.mark.podman, pytest.mark.timeout(400 + 20 * DEPLOYS)),
]
ROOM = {"concurrency": 4 * CLIENTS, "memory_mb": 64}
KINDS = (
    Kind("again", PYTHON, ROOM),
    Kind("again-several", ASYNC, {"per_sandbox": 8, **ROOM}),
    Kind("again-node", NODE, {**ROOM, **NODE24, "min_warm": 1}),
)


async def call_meanwhile(platform: Platform, scene: Scene) -> None:
    """Clients that never leave call until all deploys are done."""
    clients = [Client(scene, f"again-{n}", KINDS, leaves_of_100=0) for n in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        group.create_task(asyncio.to_thread(deploy_again, platform, scene))


def deploy_again(platform: Platform, scene: Scene) -> None:
    try:
        with platform.client() as client:
            for turn in range(DEPLOYS):
                kind = KINDS[turn % len(KINDS)]
                number = scene.active[kind.name] + 1
                try:
                    made = deploy(client, kind.name, kind.code_of(number), **kind.config)
                except httpx.TransportError as problem:
                    log = client.get(f"/v1/functions/{kind.name}/versions/{number}/build-log").text
                    facts = f"{stats(platform.settings)}, build log: {log}"
                    scene.books.wrong.append(f"{kind.name} {number}: {problem!r}, {facts}")
                    return
                scene.active[kind.name] = made["version"]
    finally:
        scene.is_loud = False


def test_no_call_fails_and_none_goes_back_while_its_function_is_deployed_again(
    platform: Platform, client: httpx.Client
) -> None:
    settings = platform.settings
    scene = Scene(settings.host, settings.port, platform.key)
    for kind in KINDS:
        made = deploy(client, kind.name, kind.code_of(1), **kind.config)
        scene.active[kind.name] = made["version"]
    asyncio.run(call_meanwhile(platform, scene))
    print(scene.books.table())
    assert scene.books.check() == []
    assert set(scene.books.kinds()) == {"200"}
    for kind in KINDS:
        assert client.get(f"/v1/functions/{kind.name}").json()["version"] == scene.active[kind.name]
