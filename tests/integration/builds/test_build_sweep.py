"""What crashes leave is found again, and what is in use is left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from core.errors import PartAway
from core.limits import OBJECT_GRACE_S
from core.model import Version
from executor.build_sandbox import BuildSandbox
from storage.store import object_key
from tests.integration.builds.conftest import Workshop
from worker.identity import builder_name
from worker.sweep import Sweep

HELLO: dict[str, str | bytes] = {"main.py": "x"}


class Clock:
    """The time, as the sweep of objects sees it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("worker.sweep.time", made)
    return made


@pytest.fixture
def sweep(workshop: Workshop) -> Sweep:
    name = builder_name(workshop.settings.node)
    settings = workshop.settings
    return Sweep(
        name=name,
        catalog=workshop.catalog,
        jobs=workshop.jobs,
        store=workshop.store,
        sandbox=BuildSandbox(settings.podman_socket, node=settings.node, builder=name),
        folder=settings.data_dir / "builds",
        record=settings.data_dir / "build-cache" / "unreferenced.json",
        forget_layers=lambda: None,
        stopping=workshop.stopping,
    )


def waiting(workshop: Workshop, *versions: Version) -> list[bool]:
    return workshop.jobs.waiting("build", [{"version_id": version.id} for version in versions])


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just added counts as added long ago."""
    monkeypatch.setattr("worker.sweep._YOUNG_S", -1.0)


def test_a_queued_build_without_a_job_gets_one_and_only_one(
    workshop: Workshop, sweep: Sweep, old: None
) -> None:
    lost, kept = workshop.deploy(HELLO), workshop.deploy(HELLO)
    workshop.jobs.enqueue("build", version_id=kept.id)
    for _ in range(3):
        sweep.builds()
    assert waiting(workshop, lost, kept) == [True, True]

    with Redis.from_url(workshop.redis.url) as redis:
        assert redis.llen("rq:queue:hearth:builds") == 2


def test_a_build_just_added_is_left_to_who_adds_it(workshop: Workshop, sweep: Sweep) -> None:
    version = workshop.deploy(HELLO)
    sweep.builds()
    assert waiting(workshop, version) == [False]


def test_a_running_build_is_rung_for_only_when_its_builder_is_dead_or_silent(
    workshop: Workshop, sweep: Sweep, old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs, dead, silent = (workshop.deploy(HELLO) for _ in range(4))
    future = datetime.now(UTC) + timedelta(seconds=1)
    node = workshop.settings.node
    for version, builder in (
        (mine, sweep.name),
        (theirs, "elsewhere:1:1:a"),
        (dead, f"{node}:1:never:a"),
        (silent, "elsewhere:1:1:a"),
    ):
        assert workshop.catalog.claim_build(version.id, builder, stale_before=future)
    sweep.builds()
    assert waiting(workshop, mine, theirs, dead) == [False, False, True]
    monkeypatch.setattr("worker.sweep.BUILD_STALE_S", -1.0)
    sweep.builds()
    assert waiting(workshop, silent) == [True]


def test_a_part_that_is_away_is_complained_of_once_and_the_sweep_goes_on(
    workshop: Workshop, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise PartAway("database", "gone")

    def broken() -> None:
        raise RuntimeError("a bug")

    for _ in range(3):
        sweep._try("builds", away)
    assert caplog.text.count("cannot sweep builds") == 1
    sweep._try("builds", broken)
    sweep._try("builds", lambda: None)
    sweep._try("builds", away)
    assert caplog.text.count("cannot sweep builds") == 2


def objects(workshop: Workshop) -> set[str]:
    return set(workshop.store.keys("functions/"))


def test_objects_of_a_deleted_function_go_after_the_grace(
    workshop: Workshop, sweep: Sweep, clock: Clock
) -> None:
    kept = workshop.build(workshop.deploy(HELLO, name="kept"))
    gone = workshop.build(workshop.deploy(HELLO, name="gone"))
    workshop.catalog.delete_function("default", "gone")
    both = {object_key(v.function_id, v.archive_digest) for v in (kept, gone)}
    sweep.objects()
    clock.now += OBJECT_GRACE_S - 1
    sweep.objects()
    assert objects(workshop) == both
    clock.now += 2
    sweep.objects()
    assert objects(workshop) == {object_key(kept.function_id, kept.archive_digest)}


def test_the_grace_goes_on_when_a_builder_starts_anew_and_ends_with_a_reference(
    workshop: Workshop, sweep: Sweep, clock: Clock
) -> None:
    version = workshop.build(workshop.deploy(HELLO))
    archive = workshop.settings.data_dir / "again"
    workshop.store.fetch(object_key(version.function_id, version.archive_digest), archive)
    orphan = object_key("fn_orphan", version.archive_digest)
    workshop.store.put(orphan, archive)
    sweep.objects()
    function = workshop.catalog.ensure_function("default", "other", must_be_new=True)
    fresh = object_key(function.id, version.archive_digest)
    workshop.store.put(fresh, archive)
    clock.now += OBJECT_GRACE_S / 2
    sweep.objects()
    workshop.catalog.add_version(
        function.id, version.config, archive_digest=version.archive_digest, archive_bytes=1
    )
    clock.now += OBJECT_GRACE_S / 2 + 1
    sweep.objects()
    clock.now += OBJECT_GRACE_S
    sweep.objects()
    assert orphan not in objects(workshop)
    assert fresh in objects(workshop)


def test_a_function_with_an_unfinished_build_keeps_old_layers(
    workshop: Workshop, sweep: Sweep, clock: Clock
) -> None:
    first = workshop.build(workshop.deploy(HELLO))
    workshop.build(workshop.deploy({"main.py": "y"}))
    workshop.catalog.delete_version(first.function_id, first.number)
    key = object_key(first.function_id, first.archive_digest)
    sweep.objects()
    building = workshop.deploy({"main.py": "z"})
    clock.now += OBJECT_GRACE_S + 1
    sweep.objects()
    assert key in objects(workshop)
    workshop.build(building)
    sweep.objects()
    assert key not in objects(workshop)


def test_a_reference_made_while_the_sweep_looks_saves_the_object(
    workshop: Workshop, sweep: Sweep, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = workshop.build(workshop.deploy(HELLO))
    key = object_key(version.function_id, version.archive_digest)
    answers: list[frozenset[tuple[str, str]]] = []
    real = workshop.catalog.digests_in_use

    def first_nothing_then_all() -> frozenset[tuple[str, str]]:
        answers.append(frozenset() if len(answers) % 2 == 0 else real())
        return answers[-1]

    monkeypatch.setattr(workshop.catalog, "digests_in_use", first_nothing_then_all)
    sweep.objects()
    answers.clear()
    clock.now += OBJECT_GRACE_S + 1
    sweep.objects()
    assert key in objects(workshop)


def test_what_is_no_object_of_a_function_is_not_touched(
    workshop: Workshop, sweep: Sweep, clock: Clock
) -> None:
    version = workshop.build(workshop.deploy(HELLO))
    path = workshop.settings.data_dir / "raw"
    workshop.store.fetch(object_key(version.function_id, version.archive_digest), path)
    other = f"receipts/x/{version.archive_digest}"
    workshop.store.put(other, path)
    sweep.objects()
    clock.now += OBJECT_GRACE_S + 1
    sweep.objects()
    assert workshop.store.exists(other)


def test_a_record_that_cannot_be_read_only_begins_the_grace_anew(
    workshop: Workshop, sweep: Sweep, clock: Clock
) -> None:
    version = workshop.build(workshop.deploy(HELLO))
    workshop.catalog.delete_function("default", "hello")
    sweep.objects()
    sweep.record.write_text('["not", "that"]')
    clock.now += OBJECT_GRACE_S + 1
    sweep.objects()
    assert object_key(version.function_id, version.archive_digest) in objects(workshop)
