"""The snapshot: everything a gateway needs, from one moment, in a handful of queries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from sqlalchemy import event

from catalog.catalog import Catalog
from core.errors import HearthError
from core.model import Alias, BuildStatus, Function, Role
from tests.integration.catalog.make import ALWAYS, NEVER, active, building, config, failed


def test_a_snapshot_holds_what_can_be_invoked_and_who_may(
    catalog: Catalog, hello: Function
) -> None:
    first, second = active(catalog, hello, memory_mb=64), active(catalog, hello)
    building(catalog, hello), failed(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 1, {2: 0.5}))
    bare = catalog.ensure_function("other", "bare", must_be_new=True)
    key, _ = catalog.add_key(name="k", role=Role.ADMIN, namespace="*")
    taken = catalog.snapshot()
    assert set(taken.functions) == {hello, bare}
    assert sorted(taken.versions, key=lambda version: version.number) == [first, second]
    assert set(taken.aliases) == {hello.id}
    assert sorted(taken.aliases[hello.id], key=lambda alias: alias.name) == [
        Alias("latest", 2),
        Alias("prod", 1, {2: 0.5}),
    ]
    assert taken.keys == (key,)
    assert taken.generation == catalog.generation()


def test_an_empty_catalog_has_a_snapshot(catalog: Catalog) -> None:
    taken = catalog.snapshot()
    assert (taken.functions, taken.versions, taken.aliases, taken.keys) == ((), (), {}, ())
    assert taken.generation == catalog.generation() == 0


def test_equal_configurations_are_one_object(catalog: Catalog, hello: Function) -> None:
    active(catalog, hello), active(catalog, hello), active(catalog, hello, memory_mb=64)
    by_number = {version.number: version.config for version in catalog.snapshot().versions}
    assert by_number[1] is by_number[2]
    assert by_number[3] == config(memory_mb=64)


def test_a_snapshot_takes_as_many_queries_for_fifty_functions_as_for_one(
    catalog: Catalog,
) -> None:
    counts: list[int] = []
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    for name in ["first", *(f"f{i}" for i in range(49))]:
        function = catalog.ensure_function("default", name, must_be_new=True)
        active(catalog, function)
        if name in ("first", "f48"):
            event.listen(catalog.database.engine, "before_cursor_execute", note)
            for _ in range(2):
                statements.clear()
                catalog.snapshot()
                counts.append(sum(s.startswith("SELECT") for s in statements))
            event.remove(catalog.database.engine, "before_cursor_execute", note)
    assert counts == [6, 5, 6, 5]
    # In an order of its own: PostgreSQL's changes with each update of a row.
    ids = [function.id for function in catalog.snapshot().functions]
    assert ids == sorted(ids)


def test_a_later_snapshot_shares_what_cannot_have_changed(
    url: str, catalog: Catalog, hello: Function
) -> None:
    for _ in range(3):
        active(catalog, hello)
    before = {version.number: version for version in catalog.snapshot().versions}
    catalog.delete_version(hello.id, 1)
    active(catalog, hello, memory_mb=64)
    taken = catalog.snapshot()
    after = {version.number: version for version in taken.versions}
    assert set(after) == {2, 3, 4}
    assert after[2] is before[2] and after[3] is before[3]
    with closing(Catalog(url)) as other:
        assert other.snapshot() == taken


def test_a_snapshot_of_more_new_versions_than_are_named_one_by_one(
    catalog: Catalog, hello: Function
) -> None:
    active(catalog, hello)
    catalog.snapshot()
    for _ in range(130):
        active(catalog, hello)
    assert sorted(v.number for v in catalog.snapshot().versions) == list(range(1, 132))


Change = Callable[[Catalog, Function], object]

CHANGES: dict[str, Change] = {
    "a function made": lambda c, f: c.ensure_function("default", "new", must_be_new=True),
    "a function deleted": lambda c, f: c.delete_function("default", "hello"),
    "an unused function deleted": lambda c, f: c.delete_unused_function(
        c.function("default", "unused").id
    ),
    "a version activated": lambda c, f: c.activate(c.version(f.id, 3).id, ()),
    "an active version deleted": lambda c, f: c.delete_version(f.id, 1),
    "an alias made": lambda c, f: c.put_alias(f.id, Alias("canary", 2)),
    "an alias moved": lambda c, f: c.put_alias(f.id, Alias("prod", 2, {1: 0.5})),
    "an alias deleted": lambda c, f: c.delete_alias(f.id, "prod"),
    "a rollback": lambda c, f: c.rollback(f.id),
    "a key added": lambda c, f: c.add_key(name="k", role=Role.VIEWER, namespace="default"),
    "a key deleted": lambda c, f: c.delete_key(c.keys(None)[0].id),
}
NO_CHANGES: dict[str, Change] = {
    "a function found": lambda c, f: c.ensure_function("default", "hello", must_be_new=False),
    "a function not new": lambda c, f: c.ensure_function("default", "hello", must_be_new=True),
    "a version added": building,
    "a version failed": lambda c, f: c.fail(c.version(f.id, 3).id, "x"),
    "an active version activated": lambda c, f: c.activate(c.version(f.id, 1).id, ()),
    "a building version deleted": lambda c, f: c.delete_version(f.id, 3),
    "the same alias put": lambda c, f: c.put_alias(f.id, Alias("prod", 2)),
    "an alias put wrong": lambda c, f: c.put_alias(f.id, Alias("prod", 3)),
    "a used version deleted": lambda c, f: c.delete_version(f.id, 2),
    "latest deleted": lambda c, f: c.delete_alias(f.id, "latest"),
    "an unknown key deleted": lambda c, f: c.delete_key("key_none"),
    "a build claimed": lambda c, f: c.claim_build(c.version(f.id, 3).id, "b", stale_before=NEVER),
    "a build worked on": lambda c, f: _work(c, c.version(f.id, 3).id),
    "reading": lambda c, f: (c.functions(None, limit=9), c.versions(f.id, limit=9)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_served_is_a_new_generation(
    catalog: Catalog, hello: Function, change: str
) -> None:
    _fill(catalog, hello)
    before = catalog.snapshot()
    CHANGES[change](catalog, hello)
    after = catalog.snapshot()
    assert after.generation == before.generation + 1
    assert _served(after) != _served(before)


@pytest.mark.parametrize("change", NO_CHANGES)
def test_anything_else_keeps_the_generation(
    url: str, catalog: Catalog, hello: Function, change: str
) -> None:
    _fill(catalog, hello)
    before = catalog.snapshot()
    with suppress(HearthError):  # a refusal changes nothing either
        NO_CHANGES[change](catalog, hello)
    assert catalog.snapshot() == before
    with closing(Catalog(url)) as other:
        assert other.snapshot() == before


def _fill(catalog: Catalog, hello: Function) -> None:
    catalog.ensure_function("default", "unused", must_be_new=True)
    active(catalog, hello), active(catalog, hello), building(catalog, hello)
    catalog.put_alias(hello.id, Alias("prod", 2))
    catalog.add_key(name="k", role=Role.ADMIN, namespace="*")


def _served(snapshot: Any) -> Any:
    return (snapshot.functions, snapshot.versions, snapshot.aliases, snapshot.keys)


def _work(catalog: Catalog, version_id: str) -> None:
    catalog.claim_build(version_id, "a", stale_before=NEVER)
    catalog.heartbeat(version_id, "a", "log")
    catalog.release_build(version_id, "a")
    catalog.claim_build(version_id, "b", stale_before=ALWAYS)
    catalog.finish_build(version_id, "b", BuildStatus.FAILED, "log")
