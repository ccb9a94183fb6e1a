"""What may break under a driver: its own process, Podman's service, images, any sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.podman import PodmanDriver
from tests.fixtures.life import Life, living
from tests.fixtures.nodes import PATIENCE_S
from tests.fixtures.podman_service import PodmanService
from tests.fixtures.sandboxes import Codes

pytestmark = pytest.mark.podman

# A node with a sandbox in every state that can be left behind.
NODE = """
import asyncio, sys, uvloop
from pathlib import Path
from core.settings import Settings
from executor.podman import PodmanDriver
from tests.fixtures.nodes import Bench, bound
from tests.fixtures.sandboxes import PYTHON, Codes, Lines, event

SOURCE = '''
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
def handler(e, c):
    while e: pass
'''

async def main():
    settings, codes = Settings.from_env(), Codes(Path(sys.argv[1]))
    bench = Bench(codes, Lines(), None)
    async with PodmanDriver(settings, codes.release) as driver:
        idle, busy, retiring, *frozen = [await bound(driver, bench, SOURCE) for _ in range(5)]
        stem, frozen_stem = [await driver.boot(PYTHON, "none") for _ in range(2)]
        for sandbox in (busy, frozen[0]):
            sandbox.call(event(b"1"))
        await asyncio.sleep(0.2)
        driver.retire(retiring, 3600)
        for sandbox in (*frozen, frozen_stem):
            assert driver.freeze(sandbox)
        booting = asyncio.create_task(driver.boot(PYTHON, "none"))
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.sleep(3600)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
SANDBOXES, FROZEN = 7, 3


@pytest.fixture
def life(podman: PodmanService, tmp_path: Path) -> Iterator[Life]:
    made = Life(podman, tmp_path / "node-code", NODE)
    yield made
    made.close()


def test_the_guard_clears_sandboxes_in_every_state(life: Life, podman: PodmanService) -> None:
    life.start()
    assert living(life.settings) >= SANDBOXES
    life.kill(life.node)
    assert life.guard is not None
    life.guard.wait(PATIENCE_S)
    podman.await_nothing_of(life.settings.run_dir)


async def test_the_next_start_clears_sandboxes_in_every_state(
    life: Life, podman: PodmanService, codes: Codes
) -> None:
    life.start()
    life.kill(life.guard)
    life.kill(life.node)
    assert living(life.settings) >= FROZEN, "frozen ones cannot end by themselves"
    async with PodmanDriver(life.settings, codes.release):
        assert living(life.settings) == 0
        assert podman.containers(life.settings.run_dir) == []
    podman.await_nothing_of(life.settings.run_dir)
