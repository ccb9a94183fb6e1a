"""The table of docs/runtimes.md says what the tests of this folder show, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.registry import RUNTIMES as KNOWN
from tests.conformance import table

PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"


def test_the_page_shows_the_table() -> None:
    assert table.as_markdown() in PAGE.read_text()


def test_every_runtime_is_in_the_table() -> None:
    # Dart's programs are custom ones: the same image, and the same bridge.
    assert {*table.RUNTIMES, "dart3"} == KNOWN.keys()


def test_each_case_has_a_test_on_each_runtime_that_passes_it(
    request: pytest.FixtureRequest,
) -> None:
    shown = shown_by(request.session.items)
    folder = Path(__file__).parent
    whole = {path.name for path in folder.glob("test_*.py")}
    collected = {item.path.name for item in request.session.items if item.path.parent == folder}
    if not whole <= collected or request.config.option.keyword:
        pytest.skip("only a run of the whole folder tells")
    promised = {
        (name, runtime)
        for name, exceptions in table.CASES.items()
        for runtime in table.RUNTIMES
        if runtime not in exceptions
    }
    assert promised - shown == set()


def shown_by(items: list[pytest.Item]) -> set[tuple[str, str]]:
    """The cases and runtimes that these tests are marked with."""
    shown: set[tuple[str, str]] = set()
    for item in items:
        callspec = getattr(item, "callspec", None)
        of = callspec.params.get("runtime") if callspec is not None else None
        marked = item.get_closest_marker("runtime")
        name = of.name if of is not None else marked.args[0] if marked is not None else ""
        shown |= {(mark.args[0], name) for mark in item.iter_markers("case")}
    return shown
