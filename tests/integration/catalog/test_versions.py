"""Versions: numbered once, active or failed once, never renumbered; `latest` moves forward."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from core.errors import (
    AliasNotFound,
    Conflict,
    FunctionNotFound,
    VersionInUse,
    VersionNotActive,
    VersionNotFound,
)
from core.limits import VERSION_ERROR_LENGTH_MAX
from core.model import Alias, BuildStatus, Function, RetryPolicy, VersionStatus
from tests.integration.catalog.make import DIGEST, active, building, config, failed


def test_a_new_version_is_building_and_its_build_is_queued(
    catalog: Catalog, hello: Function
) -> None:
    full = config(
        env={"A": "b"},
        labels={"team": "x"},
        cpus=0.5,
        enabled=False,
        retry=RetryPolicy(attempts=7, backoff_s=0.25),
    )
    version = catalog.add_version(
        hello.id, full, archive_digest=DIGEST, archive_bytes=2**40, layers=("l1", "l2")
    )
    assert version.label == "default.hello:1"
    assert version.status is VersionStatus.BUILDING and version.error is None
    assert (version.config, version.layers, version.archive_bytes) == (full, ("l1", "l2"), 2**40)
    assert catalog.version(hello.id, 1) == version == catalog.version_by_id(version.id)
    build = catalog.build(version.id)
    assert (build.status, build.attempts, build.builder) == (BuildStatus.QUEUED, 0, None)


def test_a_version_of_a_function_that_is_gone_is_refused(catalog: Catalog) -> None:
    with pytest.raises(FunctionNotFound):
        building(catalog, "fn_none")


def test_numbers_count_up_per_function(catalog: Catalog, hello: Function) -> None:
    other = catalog.ensure_function("default", "other", must_be_new=True)
    assert [building(catalog, hello).number for _ in range(3)] == [1, 2, 3]
    assert building(catalog, other).number == 1
    assert catalog.latest_version_number(hello.id) == 3
    assert catalog.latest_version_number("fn_none") is None


def test_a_number_is_never_given_twice(catalog: Catalog, hello: Function) -> None:
    building(catalog, hello)
    catalog.delete_version(hello.id, building(catalog, hello).number)
    assert catalog.latest_version_number(hello.id) == 1
    assert building(catalog, hello).number == 3


def test_versions_come_newest_first_in_pages(catalog: Catalog, hello: Function) -> None:
    for _ in range(5):
        building(catalog, hello)
    assert [v.number for v in catalog.versions(hello.id, limit=2)] == [5, 4]
    assert [v.number for v in catalog.versions(hello.id, before=4, limit=9)] == [3, 2, 1]
    assert catalog.versions(hello.id, before=1, limit=9) == []


def test_activation_sets_layers_and_latest(catalog: Catalog, hello: Function) -> None:
    version = building(catalog, hello)
    with pytest.raises(AliasNotFound):
        catalog.alias(hello.id, "latest")
    done = catalog.activate(version.id, (DIGEST, "deps"))
    assert (done.status, done.layers) == (VersionStatus.ACTIVE, (DIGEST, "deps"))
    assert catalog.version_by_id(version.id) == done
    assert catalog.alias(hello.id, "latest") == Alias("latest", 1)


def test_activating_again_changes_nothing(catalog: Catalog, hello: Function) -> None:
    version = active(catalog, hello)
    before = catalog.generation()
    assert catalog.activate(version.id, ("other",)) == version
    assert catalog.generation() == before


def test_an_older_build_that_finishes_later_leaves_latest(
    catalog: Catalog, hello: Function
) -> None:
    first, second = building(catalog, hello), building(catalog, hello)
    catalog.activate(second.id, ())
    catalog.activate(first.id, ())
    assert catalog.alias(hello.id, "latest").version == 2


def test_an_older_build_that_finishes_after_a_rollback_leaves_latest(
    catalog: Catalog, hello: Function
) -> None:
    active(catalog, hello)
    late = building(catalog, hello)
    active(catalog, hello)
    assert catalog.rollback(hello.id).version == 1
    catalog.activate(late.id, ())
    assert catalog.alias(hello.id, "latest").version == 1
    assert active(catalog, hello).number == catalog.alias(hello.id, "latest").version == 4


def test_a_failed_version_moves_nothing_and_says_why(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello)
    generation = catalog.generation()
    version = failed(catalog, hello)
    assert (version.status, version.error) == (VersionStatus.FAILED, "no such handler")
    assert catalog.alias(hello.id, "latest").version == 1
    assert catalog.generation() == generation


def test_the_reason_is_one_bounded_line(catalog: Catalog, hello: Function) -> None:
    version = catalog.fail(building(catalog, hello).id, "a\n b\0" + "x" * 5000)
    assert version.error is not None and version.error.startswith("a b\ufffdxxx")
    assert len(version.error) == VERSION_ERROR_LENGTH_MAX


def test_a_status_once_left_is_never_changed(catalog: Catalog, hello: Function) -> None:
    good, bad = active(catalog, hello), failed(catalog, hello)
    with pytest.raises(Conflict):
        catalog.fail(good.id, "late")
    with pytest.raises(VersionNotActive):
        catalog.activate(bad.id, ())
    assert catalog.fail(bad.id, "again") == bad
    assert catalog.version_by_id(good.id) == good


def test_unknown_versions_are_not_found(catalog: Catalog, hello: Function) -> None:
    for call in (
        lambda: catalog.version(hello.id, 1),
        lambda: catalog.version_by_id("v_none"),
        lambda: catalog.activate("v_none", ()),
        lambda: catalog.fail("v_none", "x"),
        lambda: catalog.delete_version(hello.id, 1),
        lambda: catalog.build("v_none"),
    ):
        with pytest.raises(VersionNotFound):
            call()


def test_a_version_in_use_is_not_deleted(catalog: Catalog, hello: Function) -> None:
    for _ in range(4):
        active(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 2, {3: 0.1}))
    for number, alias in ((2, "prod"), (3, "prod"), (4, "latest")):
        with pytest.raises(VersionInUse, match=alias):
            catalog.delete_version(hello.id, number)
    assert catalog.delete_version(hello.id, 1).number == 1
    catalog.delete_alias(hello.id, "prod")
    assert catalog.delete_version(hello.id, 2).number == 2


def test_digests_in_use_are_those_of_every_version(catalog: Catalog, hello: Function) -> None:
    version = building(catalog, hello)
    catalog.activate(version.id, (DIGEST, "deps"))
    other = catalog.ensure_function("other", "hello", must_be_new=True)
    failed(catalog, other)
    assert catalog.digests_in_use() == {
        (hello.id, DIGEST),
        (hello.id, "deps"),
        (other.id, DIGEST),
    }
