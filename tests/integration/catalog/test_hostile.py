"""Text from outside: it names nothing, breaks nothing, and comes back as it can be stored."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from core.errors import NotFound, Unprocessable
from core.limits import KEY_NAME_LENGTH_MAX
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


def test_hostile_text_finds_nothing(catalog: Catalog, hello: Function) -> None:
    version = active(catalog, hello)
    for text in HOSTILE:
        for call in (
            lambda text: catalog.function("default", text),
            lambda text: catalog.function(text, "hello"),
            lambda text: catalog.delete_function("default", text),
            lambda text: catalog.version(text, 1),
            lambda text: catalog.version_by_id(text),
            lambda text: catalog.activate(text, ()),
            lambda text: catalog.fail(text, text),
            lambda text: catalog.delete_version(text, 1),
            lambda text: catalog.alias(hello.id, text),
            lambda text: catalog.delete_alias(hello.id, text),
            lambda text: catalog.rollback(hello.id, text),
            lambda text: catalog.build(text),
            lambda text: building(catalog, text),
            lambda text: catalog.delete_key(text),
        ):
            with pytest.raises(NotFound):
                call(text)
        assert not catalog.versions(text, limit=9) and not catalog.aliases(text)
        assert not catalog.keys(text) and not catalog.functions(text, limit=9)
        assert catalog.latest_version_number(text) is None
        assert catalog.claim_build(text, text, stale_before=ALWAYS) is None
    assert catalog.version(hello.id, 1) == version


def test_any_cursor_is_a_place_in_the_order(catalog: Catalog, hello: Function) -> None:
    for text in HOSTILE:
        for namespace in (None, "default"):
            assert catalog.functions(namespace, after=text, limit=9) in ([], [hello])


def test_impossible_numbers_find_nothing(catalog: Catalog, hello: Function) -> None:
    version = active(catalog, hello)
    for number in NUMBERS:
        for call in (catalog.version, catalog.delete_version):
            with pytest.raises(NotFound):
                call(hello.id, number)
        page = catalog.versions(hello.id, before=number, limit=9)
        assert page == ([version] if number > 1 else [])


def test_a_configuration_comes_back_exactly(catalog: Catalog, hello: Function) -> None:
    for text in HOSTILE:
        full = config(env={"VALUE": text, text: "x"}, labels={"l": text}, description=text)
        version = catalog.add_version(hello.id, full, archive_digest="d", archive_bytes=1)
        assert catalog.version(hello.id, version.number).config == version.config == full


def test_what_a_function_prints_is_stored_as_text(catalog: Catalog, hello: Function) -> None:
    for text in HOSTILE:
        version = building(catalog, hello)
        assert catalog.claim_build(version.id, text, stale_before=NEVER)
        assert catalog.heartbeat(version.id, text, text)
        log = catalog.build(version.id).log
        assert "\0" not in log
        assert log.encode().decode() == log
        assert catalog.fail(version.id, text).error is not None
        if text.isprintable() and len(text) < 1000:
            assert log == text


def test_the_name_of_a_key_may_be_anything_bounded(catalog: Catalog) -> None:
    for text in HOSTILE:
        if len(text) > KEY_NAME_LENGTH_MAX:
            with pytest.raises(Unprocessable):
                catalog.add_key(name=text, role=Role.VIEWER, namespace="default")
        else:
            key, _ = catalog.add_key(name=text, role=Role.VIEWER, namespace="default")
            assert key in catalog.keys(None)
