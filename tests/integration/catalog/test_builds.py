"""Builds: one builder at a time, taken over when it falls silent, never changed by the former."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from catalog.catalog import Catalog
from core.errors import VersionNotFound
from core.limits import BUILD_LOG_BYTES_MAX
from core.model import BuildStatus, Function
from tests.integration.catalog.make import ALWAYS, NEVER, building


def test_a_queued_build_is_claimed_once(catalog: Catalog, hello: Function) -> None:
    version = building(catalog, hello)
    build = catalog.claim_build(version.id, "a", stale_before=NEVER)
    assert build is not None
    assert (build.status, build.builder, build.attempts) == (BuildStatus.RUNNING, "a", 1)
    assert build.heartbeat_at is not None
    assert datetime.now(UTC) - build.heartbeat_at < timedelta(minutes=10)
    assert catalog.build(version.id) == build
    for builder in ("a", "b"):
        assert catalog.claim_build(version.id, builder, stale_before=NEVER) is None
    assert catalog.claim_build("v_none", "a", stale_before=ALWAYS) is None


def test_a_heartbeat_keeps_the_build_and_its_log(catalog: Catalog, hello: Function) -> None:
    version = building(catalog, hello)
    claimed = catalog.claim_build(version.id, "a", stale_before=NEVER)
    assert claimed is not None and claimed.heartbeat_at is not None
    assert catalog.heartbeat(version.id, "a", "line 1\n")
    assert catalog.heartbeat(version.id, "a", "line 1\nline 2\n")
    build = catalog.build(version.id)
    assert build.log == "line 1\nline 2\n"
    assert build.heartbeat_at is not None and build.heartbeat_at > claimed.heartbeat_at
    # A moment between claim and heartbeat: by it the claim is stale and the heartbeat is not.
    assert catalog.claim_build(version.id, "b", stale_before=build.heartbeat_at) is None


def test_a_silent_builder_is_taken_over_and_changes_nothing_more(
    catalog: Catalog, hello: Function
) -> None:
    version = building(catalog, hello)
    catalog.claim_build(version.id, "a", stale_before=NEVER)
    taken = catalog.claim_build(version.id, "b", stale_before=ALWAYS)
    assert taken is not None and (taken.builder, taken.attempts) == ("b", 2)
    assert not catalog.heartbeat(version.id, "a", "from the dead")
    assert not catalog.release_build(version.id, "a")
    assert not catalog.finish_build(version.id, "a", BuildStatus.FAILED, "from the dead")
    assert catalog.build(version.id) == taken


def test_a_released_build_is_free_and_no_attempt_is_counted(
    catalog: Catalog, hello: Function
) -> None:
    version = building(catalog, hello)
    catalog.claim_build(version.id, "a", stale_before=NEVER)
    assert catalog.release_build(version.id, "a")
    build = catalog.build(version.id)
    assert (build.status, build.builder, build.attempts) == (BuildStatus.QUEUED, None, 0)
    assert not catalog.heartbeat(version.id, "a", "")
    again = catalog.claim_build(version.id, "b", stale_before=NEVER)
    assert again is not None and again.attempts == 1


@pytest.mark.parametrize("status", [BuildStatus.SUCCEEDED, BuildStatus.FAILED])
def test_a_finished_build_stays_so(catalog: Catalog, hello: Function, status: BuildStatus) -> None:
    version = building(catalog, hello)
    assert not catalog.finish_build(version.id, "a", status, "nobody claimed it")
    catalog.claim_build(version.id, "a", stale_before=NEVER)
    assert catalog.finish_build(version.id, "a", status, "the end")
    build = catalog.build(version.id)
    assert (build.status, build.builder, build.log) == (status, None, "the end")
    assert build.finished_at is not None
    assert catalog.claim_build(version.id, "b", stale_before=ALWAYS) is None
    assert not catalog.heartbeat(version.id, "a", "")
    assert not catalog.release_build(version.id, "a")
    assert not catalog.finish_build(version.id, "a", status, "again")
    assert catalog.build(version.id) == build


def test_unfinished_builds_are_queued_and_running_ones_oldest_first(
    catalog: Catalog, hello: Function
) -> None:
    done, running, queued = (building(catalog, hello) for _ in range(3))
    for version in (done, running):
        catalog.claim_build(version.id, "a", stale_before=NEVER)
    catalog.finish_build(done.id, "a", BuildStatus.SUCCEEDED, "")
    assert [build.version_id for build in catalog.unfinished_builds()] == [running.id, queued.id]


def test_the_build_of_a_deleted_version_is_no_longer_anyones(
    catalog: Catalog, hello: Function
) -> None:
    version = building(catalog, hello)
    catalog.claim_build(version.id, "a", stale_before=NEVER)
    catalog.delete_version(hello.id, version.number)
    assert not catalog.heartbeat(version.id, "a", "")
    assert not catalog.finish_build(version.id, "a", BuildStatus.SUCCEEDED, "")
    with pytest.raises(VersionNotFound):
        catalog.activate(version.id, ())


def test_a_long_log_keeps_its_end(catalog: Catalog, hello: Function) -> None:
    version = building(catalog, hello)
    catalog.claim_build(version.id, "a", stale_before=NEVER)
    assert catalog.heartbeat(version.id, "a", "é" * BUILD_LOG_BYTES_MAX + "\nthe end")
    log = catalog.build(version.id).log
    assert log.startswith("[the beginning") and log.endswith("é\nthe end")
    assert BUILD_LOG_BYTES_MAX - 2 <= len(log.encode()) <= BUILD_LOG_BYTES_MAX
