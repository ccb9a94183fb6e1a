"""Functions: made once, listed in order, deleted with everything that hangs on them."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from core.errors import FunctionExists, FunctionNotFound, NameInvalid, VersionNotFound
from core.model import Alias, Function
from tests.integration.catalog.make import active, building


def test_a_function_is_found_by_namespace_and_name(catalog: Catalog, hello: Function) -> None:
    assert catalog.function("default", "hello") == hello
    assert hello.id.startswith("fn_") and len(hello.id) == 35
    assert hello.created_at.tzinfo is not None
    with pytest.raises(FunctionNotFound):
        catalog.function("other", "hello")


def test_ensuring_twice_gives_the_same_function(catalog: Catalog, hello: Function) -> None:
    assert catalog.ensure_function("default", "hello", must_be_new=False) == hello


def test_a_function_that_must_be_new_is_refused_when_it_exists(
    catalog: Catalog, hello: Function
) -> None:
    with pytest.raises(FunctionExists):
        catalog.ensure_function("default", "hello", must_be_new=True)


def test_one_name_may_stand_in_two_namespaces(catalog: Catalog, hello: Function) -> None:
    other = catalog.ensure_function("team-b", "hello", must_be_new=True)
    assert other.id != hello.id
    assert catalog.function("team-b", "hello") == other


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a.b", "ä", "a\n", "a\0"])
def test_illegal_names_are_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises(NameInvalid):
        catalog.ensure_function("default", name, must_be_new=False)
    with pytest.raises(NameInvalid):
        catalog.ensure_function(name, "hello", must_be_new=False)
    assert catalog.functions(None, limit=10) == []


def test_pages_follow_one_another_by_name(catalog: Catalog) -> None:
    names = ["b", "a", "a-b", "ab", "a0", "c"]
    for name in names:
        catalog.ensure_function("default", name, must_be_new=True)
    catalog.ensure_function("other", "zz", must_be_new=True)
    seen: list[str] = []
    while page := catalog.functions("default", after=seen[-1] if seen else None, limit=4):
        seen += [function.name for function in page]
    assert seen == sorted(names)  # by bytes, whatever the locale of the database


def test_pages_over_all_namespaces_follow_one_another(catalog: Catalog) -> None:
    made = [("a", "z"), ("a-b", "a"), ("b", "a"), ("b", "c"), ("ab", "b")]
    for namespace, name in made:
        catalog.ensure_function(namespace, name, must_be_new=True)
    seen: list[tuple[str, str]] = []
    after = None
    while page := catalog.functions(None, after=after, limit=2):
        seen += [(function.namespace, function.name) for function in page]
        after = f"{page[-1].namespace}.{page[-1].name}"
    assert seen == sorted(made)


def test_a_deleted_function_takes_everything_with_it(catalog: Catalog, hello: Function) -> None:
    version = active(catalog, hello)
    unbuilt = building(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", version.number))
    assert catalog.delete_function("default", "hello") == hello
    for gone in (version, unbuilt):
        with pytest.raises(VersionNotFound):
            catalog.version_by_id(gone.id)
        with pytest.raises(VersionNotFound):
            catalog.build(gone.id)
    assert catalog.aliases(hello.id) == []
    assert catalog.unfinished_builds() == []
    assert catalog.digests_in_use() == frozenset()
    with pytest.raises(FunctionNotFound):
        catalog.delete_function("default", "hello")


def test_a_name_made_anew_is_another_function(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello)
    catalog.delete_function("default", "hello")
    again = catalog.ensure_function("default", "hello", must_be_new=True)
    assert again.id != hello.id
    assert building(catalog, again).number == 1


def test_deleting_one_function_leaves_the_others(catalog: Catalog, hello: Function) -> None:
    other = catalog.ensure_function("default", "other", must_be_new=True)
    version = active(catalog, other)
    catalog.delete_function("default", "hello")
    assert catalog.version(other.id, 1) == version


def test_only_a_function_that_never_had_a_version_is_unused(
    catalog: Catalog, hello: Function
) -> None:
    used = catalog.ensure_function("default", "used", must_be_new=True)
    building(catalog, used)
    assert not catalog.delete_unused_function(used.id)
    assert catalog.delete_unused_function(hello.id)
    assert not catalog.delete_unused_function(hello.id)
    assert [function.name for function in catalog.functions(None, limit=9)] == ["used"]
