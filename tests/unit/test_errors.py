"""The tree of errors: each says when, each code is one word for one fact."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from core import errors
from core.errors import CallerError, FunctionFault, HearthError, PartAway, PlatformFault

CLASSES = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, HearthError)
]


def ancestors(thing: type[HearthError]) -> Iterator[type[HearthError]]:
    """What a class may inherit its code from."""
    return (base for base in thing.__mro__[1:] if issubclass(base, HearthError))


@pytest.mark.parametrize("thing", CLASSES)
def test_every_error_says_when_and_has_a_code(thing: type[HearthError]) -> None:
    assert thing.__doc__ and thing.__doc__.rstrip().endswith(".")
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", thing.code)


@pytest.mark.parametrize("thing", [t for t in CLASSES if t is not HearthError])
def test_every_error_says_who_must_act(thing: type[HearthError]) -> None:
    groups = [g for g in (CallerError, FunctionFault, PlatformFault) if issubclass(thing, g)]
    assert len(groups) == 1


def test_a_code_means_one_error_or_the_group_it_belongs_to() -> None:
    owners: dict[str, type[HearthError]] = {}
    for thing in sorted(CLASSES, key=lambda t: len(t.__mro__)):
        if "code" not in vars(thing) or any(base.code == thing.code for base in ancestors(thing)):
            continue
        assert thing.code not in owners, f"{thing} and {owners[thing.code]} share a code"
        owners[thing.code] = thing


def test_details_join_the_message() -> None:
    error = errors.ConfigInvalid("two fields are wrong", fields=["a", "b"])
    assert str(error) == error.message == "two fields are wrong"
    assert error.details == {"fields": ["a", "b"]}


def test_a_part_that_is_away_is_named_and_worth_another_try() -> None:
    error = PartAway("database", "connection refused")
    assert str(error) == "database: connection refused"
    assert error.details == {"part": "database", "retry_after_s": 1}
