"""The builder as a process: it is killed, asked to stop, and loses the parts it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from core.limits import BUILDS_AT_ONCE_MAX
from core.model import BuildStatus, VersionStatus
from tests.integration.builds.conftest import Workshop, eventually

HELLO: dict[str, str | bytes] = {"main.py": "def handler(event, context):\n    return event\n"}


class Gate:
    """Holds the handler check open until told."""

    def __init__(self, workshop: Workshop) -> None:
        self._open = threading.Event()
        self.entered = threading.Event()
        workshop.gateway.answer = self._answer

    def _answer(self, _: Any) -> tuple[int, Any]:
        self.entered.set()
        self._open.wait(100)
        return 200, {}

    def open(self) -> None:
        self._open.set()


@contextmanager
def held(workshop: Workshop) -> Iterator[Gate]:
    gate = Gate(workshop)
    yield gate
    gate.open()


def test_a_queued_build_is_done_by_the_process(workshop: Workshop) -> None:
    workshop.start_builder()
    version = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=version.id)
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED


def test_a_build_whose_job_redis_lost_is_found_in_the_catalog(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=version.id)
    workshop.redis.flush()
    workshop.start_builder()
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED


def test_a_builder_killed_in_the_middle_is_replaced_by_the_next(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    with held(workshop) as gate:
        first = workshop.start_builder()
        workshop.jobs.enqueue("build", version_id=version.id)
        assert gate.entered.wait(100)
        first.kill()
        first.wait()
    assert workshop.catalog.version_by_id(version.id).status is VersionStatus.BUILDING
    workshop.start_builder()
    build = workshop.ended(version)
    assert (build.status, build.attempts) == (BuildStatus.SUCCEEDED, 2)


def test_a_builder_asked_to_stop_hands_its_build_back_and_ends_well(workshop: Workshop) -> None:
    version = workshop.deploy(HELLO)
    with held(workshop) as gate:
        first = workshop.start_builder()
        workshop.jobs.enqueue("build", version_id=version.id)
        assert gate.entered.wait(100)
        first.send_signal(signal.SIGTERM)
        assert first.wait(100) == 0
        build = workshop.catalog.build(version.id)
        assert (build.status, build.attempts) == (BuildStatus.QUEUED, 0)
        assert build.log.endswith("to be tried again: this builder is shutting down\n")
    workshop.start_builder()
    build = workshop.ended(version)
    assert (build.status, build.attempts) == (BuildStatus.SUCCEEDED, 1)


def test_a_builder_at_its_bound_can_still_be_stopped(workshop: Workshop) -> None:
    versions = [workshop.deploy({"main.py": str(n)}) for n in range(BUILDS_AT_ONCE_MAX + 2)]
    with held(workshop):
        builder = workshop.start_builder()
        for version in versions:
            workshop.jobs.enqueue("build", version_id=version.id)
        eventually(lambda: len(workshop.gateway.asked) == BUILDS_AT_ONCE_MAX, "all slots run")
        builder.send_signal(signal.SIGTERM)
        assert builder.wait(100) == 0
    builds = [workshop.catalog.build(version.id) for version in versions]
    assert {(build.status, build.attempts) for build in builds} == {(BuildStatus.QUEUED, 0)}


def test_an_idle_builder_ends_at_once_when_asked(workshop: Workshop) -> None:
    first = workshop.start_builder()
    version = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=version.id)
    workshop.ended(version)
    for how in (signal.SIGINT, signal.SIGTERM):
        first.send_signal(how)
        assert first.wait(100) == 0
        first = workshop.start_builder()
        eventually(lambda: workshop.said().count("begins") > 1, "it starts")
    assert "Traceback" not in workshop.said()


def test_the_same_process_goes_on_when_redis_comes_back(workshop: Workshop) -> None:
    process = workshop.start_builder()
    first = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=first.id)
    workshop.ended(first)
    workshop.redis.kill()
    eventually(lambda: "is away" in workshop.said() or "Redis" in workshop.said(), "it says so")
    second = workshop.deploy({"main.py": "2"})
    workshop.redis.start()
    assert workshop.ended(second).status is BuildStatus.SUCCEEDED
    third = workshop.deploy({"main.py": "3"})
    workshop.jobs.enqueue("build", version_id=third.id)
    assert workshop.ended(third).status is BuildStatus.SUCCEEDED
    assert process.poll() is None
    assert "Traceback" not in workshop.said()


def test_redis_may_die_in_the_middle_of_a_build(workshop: Workshop) -> None:
    process = workshop.start_builder()
    version = workshop.deploy(HELLO)
    with held(workshop) as gate:
        workshop.jobs.enqueue("build", version_id=version.id)
        assert gate.entered.wait(100)
        workshop.redis.kill()
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED
    workshop.redis.start()
    second = workshop.deploy({"main.py": "2"})
    assert workshop.ended(second).status is BuildStatus.SUCCEEDED
    assert process.poll() is None


def test_a_builder_may_start_before_redis(workshop: Workshop) -> None:
    workshop.redis.kill()
    process = workshop.start_builder()
    eventually(lambda: "redis is away" in workshop.said(), "it waits")
    workshop.redis.start()
    version = workshop.deploy(HELLO)
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED
    assert process.poll() is None


def test_a_job_that_cannot_even_be_read_stops_nobody(workshop: Workshop) -> None:
    process = workshop.start_builder()
    with Redis.from_url(workshop.redis.url) as redis:
        redis.hset("rq:job:bad", mapping={"data": b"x", "status": "no such status"})
        redis.rpush("rq:queue:hearth:builds", "bad")
    version = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=version.id)
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED
    assert process.poll() is None


def test_a_worn_builder_starts_itself_anew_as_the_same_process(workshop: Workshop) -> None:
    code = (
        "import worker.main as m, sys; m.BUILDER_RSS_BYTES_MAX = 1; "
        "sys.argv[:] = ['worker.main']; m.main()"
    )
    environ = {**os.environ, "HEARTH_REDIS_URL": workshop.redis.url}
    environ |= {
        "HEARTH_DATA_DIR": str(workshop.settings.data_dir),
        "HEARTH_RUN_DIR": str(workshop.settings.run_dir),
        "HEARTH_NODE": workshop.settings.node,
    }
    with (workshop.settings.data_dir / "builder.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=log)
    workshop.processes.append(process)
    eventually(lambda: workshop.said().count("begins") == 2, "it starts anew")
    assert workshop.said().count("worn: starting anew") == 1
    version = workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=version.id)
    assert workshop.ended(version).status is BuildStatus.SUCCEEDED
    assert process.poll() is None
