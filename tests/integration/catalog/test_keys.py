"""Keys: shown once, stored as a hash, gone when deleted."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from catalog.catalog import Catalog
from core.errors import Conflict, KeyNotFound, NameInvalid, Unprocessable
from core.limits import KEY_FUNCTIONS_MAX, KEY_NAME_LENGTH_MAX
from core.model import Key, Role


def add(catalog: Catalog, **changes: object) -> tuple[Key, str]:
    given = {"name": "ci", "role": Role.DEPLOYER, "namespace": "default", **changes}
    return catalog.add_key(**given)  # type: ignore[arg-type]


def test_only_the_hash_of_a_key_is_stored(catalog: Catalog) -> None:
    key, text = add(catalog, functions=("a", "b"))
    assert re.fullmatch(r"hk_[A-Za-z0-9_-]{43}", text)
    assert key.digest == hashlib.sha256(text.encode()).hexdigest()
    assert catalog.keys(None) == [key]
    assert (key.functions, key.role, key.namespace) == (("a", "b"), Role.DEPLOYER, "default")
    assert text not in repr(catalog.keys(None))


def test_keys_are_listed_by_namespace(catalog: Catalog) -> None:
    platform, _ = add(catalog, namespace="*", role=Role.ADMIN)
    own, _ = add(catalog)
    assert catalog.keys("default") == [own]
    assert catalog.keys("*") == [platform]
    assert catalog.keys(None) == [platform, own]
    assert catalog.keys("other") == []


def test_a_key_given_as_text_is_taken_once(catalog: Catalog) -> None:
    text = "hk_" + "x" * 43
    key, same = add(catalog, text=text)
    assert same == text
    generation = catalog.generation()
    with pytest.raises(Conflict):
        add(catalog, text=text)
    assert catalog.keys(None) == [key]
    assert catalog.generation() == generation


def test_a_key_expires(catalog: Catalog) -> None:
    now = datetime.now(UTC)
    past, _ = add(catalog, expires_at=now - timedelta(seconds=1))
    tashkent = timezone(timedelta(hours=5))
    hour = now.astimezone(tashkent) + timedelta(hours=1)
    future, _ = add(catalog, expires_at=hour)
    never, _ = add(catalog)
    assert set(catalog.snapshot().keys) == {past, future, never}
    assert [key.expired(now) for key in (past, future, never)] == [True, False, False]
    assert future.expired(hour)
    assert [key.expires_at for key in catalog.keys(None)] == [past.expires_at, hour, None]


def test_a_moment_without_a_time_zone_is_refused(catalog: Catalog) -> None:
    with pytest.raises(Unprocessable, match="time zone"):
        add(catalog, expires_at=datetime(2030, 1, 1))
    assert catalog.keys(None) == []


def test_a_deleted_key_is_gone(catalog: Catalog) -> None:
    key, _ = add(catalog)
    assert catalog.delete_key(key.id) == key
    assert catalog.keys(None) == []
    with pytest.raises(KeyNotFound):
        catalog.delete_key(key.id)


def test_what_a_key_cannot_be_is_refused(catalog: Catalog) -> None:
    with pytest.raises(NameInvalid):
        add(catalog, namespace="Not A Name")
    with pytest.raises(NameInvalid):
        add(catalog, functions=("ok", "*"))
    for wrong in (
        {"text": "short"},
        {"name": "n" * (KEY_NAME_LENGTH_MAX + 1)},
        {"functions": ("f",) * (KEY_FUNCTIONS_MAX + 1)},
    ):
        with pytest.raises(Unprocessable):
            add(catalog, **wrong)
    assert catalog.keys(None) == []
