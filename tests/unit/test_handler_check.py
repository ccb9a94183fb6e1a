"""What a refusal of the handler check is turned into, for people."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.handler_check import Refusal, refusal


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ({"message": "no", "type": "ImportError"}, "ImportError: no"),
        ({"message": "ImportError: no", "type": "ImportError"}, "ImportError: no"),
        ({"message": "two\nlines"}, "two lines"),
        ({}, "the function could not be loaded"),
        ({"message": "gone", "found": ["a", "b"]}, "gone (found: a, b)"),
        (
            {"message": "gone", "found": [f"f{n}" for n in range(12)]},
            "gone (found: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 and 2 more)",
        ),
    ],
)
def test_the_line(error: dict[str, Any], line: str) -> None:
    assert refusal(error).line == line


def test_what_it_printed_and_where_it_failed_go_to_the_log() -> None:
    said = refusal({"message": "no", "log": "a\nb\n", "trace": ["x\n", "y\nz\n"]})
    assert said == Refusal("no", ("the function printed:", "  a", "  b", "x", "y", "z"))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("message", "type", "found", "log", "trace"), JSON)
    )
)
def test_no_answer_is_too_strange_to_be_shown(error: dict[str, Any]) -> None:
    said = refusal(error)
    assert 0 < len(said.line) <= 500
    assert "\n" not in said.line
