"""The table of docs/runtimes.md says what the tests of this folder show, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.registry import RUNTIMES as KNOWN
from tests.conformance import not_for, table
from tests.conformance.table import WASM

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "runtimes.md"


def test_the_page_shows_the_table() -> None:
    assert table.as_markdown() in PAGE.read_text()


def test_every_runtime_is_in_the_table() -> None:
    assert {*table.RUNTIMES, *table.AS_ANOTHER} == KNOWN.keys()


def test_each_case_is_shown_on_each_runtime(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if item.path.is_relative_to(HERE)]
    is_part = request.config.option.keyword or request.config.option.markexpr
    if is_part or {item.path for item in items} != set(HERE.rglob("test_*.py")):
        pytest.skip("only a run of the whole folder tells")
    shown = {shows(item) for item in items}
    promised = {
        (test, runtime)
        for case in table.CASES.values()
        for runtime in table.RUNTIMES
        if (test := case.wasm if runtime == WASM else case.shims)
    }
    missing = sorted(promised - shown)
    assert missing == []


def shows(item: pytest.Item) -> tuple[str, str]:
    """A test's name, and the runtime that it runs on; "" when it is not asked there."""
    name = getattr(item, "originalname", item.name)
    if item.path.parent.name == WASM:
        return name, WASM
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    asked = parameters.get("runtime") or parameters.get("subject")
    runtime = asked if isinstance(asked, str) else getattr(asked, "name", "")
    return name, "" if not_for.reason(runtime, item.name) else runtime
