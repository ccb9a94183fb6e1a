"""Aliases: they point at active versions only and remember where they pointed before."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from core.errors import (
    AliasNotFound,
    Conflict,
    FunctionNotFound,
    NameInvalid,
    Unprocessable,
    VersionNotActive,
    VersionNotFound,
)
from core.limits import ALIAS_BEFORE_MAX, ALIAS_WEIGHTS_MAX
from core.model import Alias, Function
from tests.integration.catalog.make import active, building, failed


def test_an_alias_is_made_moved_and_deleted(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 1))
    assert catalog.alias(hello.id, "prod") == Alias("prod", 1)
    catalog.put_alias(hello.id, Alias("prod", 2, {1: 0.25}))
    assert catalog.aliases(hello.id) == [Alias("latest", 2), Alias("prod", 2, {1: 0.25})]
    assert catalog.delete_alias(hello.id, "prod") == Alias("prod", 2, {1: 0.25})
    with pytest.raises(AliasNotFound):
        catalog.alias(hello.id, "prod")
    with pytest.raises(AliasNotFound):
        catalog.delete_alias(hello.id, "prod")


def test_an_alias_points_at_active_versions_only(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), building(catalog, hello), failed(catalog, hello)
    for wrong in (Alias("p", 2), Alias("p", 3), Alias("p", 1, {2: 0.5}), Alias("p", 1, {3: 0.5})):
        with pytest.raises(VersionNotActive):
            catalog.put_alias(hello.id, wrong)
    for wrong in (Alias("p", 4), Alias("p", 0), Alias("p", 10**30), Alias("p", 1, {-1: 0.5})):
        with pytest.raises(VersionNotFound):
            catalog.put_alias(hello.id, wrong)
    with pytest.raises(FunctionNotFound):
        catalog.put_alias("fn_none", Alias("p", 1))
    assert catalog.aliases(hello.id) == [Alias("latest", 1)]


def test_another_functions_versions_are_out_of_reach(catalog: Catalog, hello: Function) -> None:
    active(catalog, catalog.ensure_function("default", "other", must_be_new=True))
    with pytest.raises(VersionNotFound):
        catalog.put_alias(hello.id, Alias("prod", 1))


@pytest.mark.parametrize("name", ["", "3", "007", "A", "a/b", "a" * 64])
def test_illegal_names_are_refused(catalog: Catalog, hello: Function, name: str) -> None:
    active(catalog, hello)
    with pytest.raises(NameInvalid):
        catalog.put_alias(hello.id, Alias(name, 1))


@pytest.mark.parametrize(
    "weights",
    [
        {2: 0.0},
        {2: -0.1},
        {2: 1.1},
        {2: float("nan")},
        {2: float("inf")},
        {2: 0.6, 3: 0.6},
        {1: 0.5},
        dict.fromkeys(range(2, 3 + ALIAS_WEIGHTS_MAX), 0.01),
    ],
)
def test_weights_that_cannot_be_are_refused(
    catalog: Catalog, hello: Function, weights: dict[int, float]
) -> None:
    for _ in range(3):
        active(catalog, hello)
    with pytest.raises(Unprocessable):
        catalog.put_alias(hello.id, Alias("prod", 1, weights))


def test_latest_always_exists(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello)
    with pytest.raises(Conflict):
        catalog.delete_alias(hello.id, "latest")


def test_rollback_goes_back_step_by_step(catalog: Catalog, hello: Function) -> None:
    for _ in range(3):
        active(catalog, hello)
    assert catalog.rollback(hello.id) == Alias("latest", 2)
    assert catalog.rollback(hello.id) == Alias("latest", 1)
    with pytest.raises(Conflict):
        catalog.rollback(hello.id)
    assert catalog.alias(hello.id, "latest") == Alias("latest", 1)


def test_rollback_ends_a_split(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 1))
    catalog.put_alias(hello.id, Alias("prod", 1, {2: 0.1}))
    assert catalog.rollback(hello.id, "prod") == Alias("prod", 1)


def test_a_deploy_after_a_rollback_can_be_rolled_back_to_it(
    catalog: Catalog, hello: Function
) -> None:
    active(catalog, hello), active(catalog, hello)
    catalog.rollback(hello.id)
    active(catalog, hello)
    assert catalog.alias(hello.id, "latest").version == 3
    assert catalog.rollback(hello.id).version == 1


def test_rollback_skips_deleted_versions(catalog: Catalog, hello: Function) -> None:
    for _ in range(3):
        active(catalog, hello)
    catalog.delete_version(hello.id, 2)
    assert catalog.rollback(hello.id).version == 1


def test_rollback_leaves_out_deleted_shares(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 1, {2: 0.5}))
    active(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 3))
    catalog.delete_version(hello.id, 2)
    assert catalog.rollback(hello.id, "prod") == Alias("prod", 1)


def test_rollback_of_an_unknown_alias_is_not_found(catalog: Catalog, hello: Function) -> None:
    with pytest.raises(AliasNotFound):
        catalog.rollback(hello.id)
    with pytest.raises(FunctionNotFound):
        catalog.rollback("fn_none")


def test_putting_the_same_again_is_no_move(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello)
    for version in (1, 2, 2):
        catalog.put_alias(hello.id, Alias("prod", version))
    assert catalog.rollback(hello.id, "prod").version == 1


def test_what_an_alias_remembers_is_bounded(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello)
    for i in range(ALIAS_BEFORE_MAX + 10):
        catalog.put_alias(hello.id, Alias("prod", 1 + i % 2))
    for _ in range(ALIAS_BEFORE_MAX):
        catalog.rollback(hello.id, "prod")
    with pytest.raises(Conflict):
        catalog.rollback(hello.id, "prod")
