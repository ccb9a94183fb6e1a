"""Text from outside: it names nothing, breaks nothing, and comes back as it can be stored."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from core.errors import HearthError, KeyNotFound, NotFound
from core.model import Function, Role
from tests.integration.catalog.make import ALWAYS, NEVER, active, building, config

HOSTILE = [
    "",
    "\0",
    "hello\0",
    "\ud800",
    "hel\udfffo",
    "'; DROP TABLE functions; --",
    '" OR ""="',
    "%",
    "_____",
    "../../etc/passwd",
    "HELLO",
    "hello ",
    "х" * 100,
    "\N{FIRE}",
    "x" * 1_000_000,
    "\r\n\x1b[31m",
]
NUMBERS = [0, -1, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**40]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_finds_nothing(catalog: Catalog, hello: Function, text: str) -> None:
    version = active(catalog, hello)
    for call in (
        lambda: catalog.function("default", text),
        lambda: catalog.function(text, "hello"),
        lambda: catalog.delete_function("default", text),
        lambda: catalog.version(text, 1),
        lambda: catalog.version_by_id(text),
        lambda: catalog.activate(text, ()),
        lambda: catalog.fail(text, text),
        lambda: catalog.delete_version(text, 1),
        lambda: catalog.alias(hello.id, text),
        lambda: catalog.delete_alias(hello.id, text),
        lambda: catalog.rollback(hello.id, text),
        lambda: catalog.build(text),
        lambda: building(catalog, text),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(KeyNotFound):
        catalog.delete_key(text)
    assert not catalog.versions(text, limit=9) and not catalog.aliases(text)
    assert not catalog.keys(text) and not catalog.functions(text, limit=9)
    assert catalog.latest_version_number(text) is None
    assert catalog.claim_build(text, text, stale_before=ALWAYS) is None
    assert catalog.version(hello.id, 1) == version


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_cursor_is_a_place_in_the_order(catalog: Catalog, hello: Function, text: str) -> None:
    for namespace in (None, "default"):
        assert catalog.functions(namespace, after=text, limit=9) in ([], [hello])


@pytest.mark.parametrize("number", NUMBERS)
def test_impossible_numbers_find_nothing(catalog: Catalog, hello: Function, number: int) -> None:
    version = active(catalog, hello)
    for call in (catalog.version, catalog.delete_version):
        with pytest.raises(NotFound):
            call(hello.id, number)
    assert catalog.versions(hello.id, before=number, limit=9) == ([version] if number > 1 else [])


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_configuration_comes_back_exactly(catalog: Catalog, hello: Function, text: str) -> None:
    full = config(env={"VALUE": text, text: "x"}, labels={"l": text}, description=text)
    version = catalog.add_version(hello.id, full, archive_digest="d", archive_bytes=1)
    assert catalog.version(hello.id, 1).config == version.config == full


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_function_prints_is_stored_as_text(
    catalog: Catalog, hello: Function, text: str
) -> None:
    version = building(catalog, hello)
    assert catalog.claim_build(version.id, text, stale_before=NEVER)
    assert catalog.heartbeat(version.id, text, text)
    log = catalog.build(version.id).log
    assert "\0" not in log
    assert log.encode().decode() == log
    assert catalog.fail(version.id, text).error is not None
    if text.isprintable() and len(text) < 1000:
        assert log == text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_name_of_a_key_may_be_anything_bounded(catalog: Catalog, text: str) -> None:
    try:
        key, _ = catalog.add_key(name=text, role=Role.VIEWER, namespace="default")
    except HearthError:
        assert len(text) > 200
    else:
        assert catalog.keys(None) == [key]
