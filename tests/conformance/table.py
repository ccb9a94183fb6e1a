"""What every runtime does, and what one does not, with the reason: docs/runtimes.md shows this
table, and test_table.py holds both to the tests that were collected.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

PYTHON, NODE, CUSTOM, WASM = RUNTIMES = ("python3.13", "node24", "custom", "wasm")

_FRESH = "each call is a fresh instance"
_NO_FILES = "a module sees no file at all"

# The case, and of those runtimes that do not pass it: why.
CASES: Mapping[str, Mapping[str, str]] = {
    "JSON of every kind": {},
    "Unicode": {},
    "numbers at the edges": {},
    "empty body": {},
    "null": {},
    "6 MB both ways": {},
    "binary body": {},
    "HTTP event": {},
    "HTTP response: status, headers, cookies, base64": {},
    "streamed response": {WASM: "its standard output is read to the end first"},
    "environment": {},
    "context and remaining time": {},
    "standard output and error as log": {WASM: "standard error alone: the output is the result"},
    "many lines, unfinished lines": {},
    "binary noise in the log": {},
    "a line of 1 MB": {},
    "an error with type, message and trace": {},
    "an error while the code is loaded": {},
    "a crash": {WASM: "a trap or an exit status is the call's own error; the host lives on"},
    "out of memory": {},
    "timeout": {},
    "calls at the same time": {},
    "state between warm calls": {WASM: _FRESH},
    "/tmp, writable and bounded": {WASM: _NO_FILES},
    "code that cannot be changed": {WASM: _NO_FILES},
    "no network": {},
}


def case(name: str) -> pytest.MarkDecorator:
    """Marks a test that shows a case of the table."""
    assert name in CASES, f"{name!r} is no case of the table"
    return pytest.mark.case(name)


def as_markdown() -> str:
    """The table and the reasons below it, as docs/runtimes.md shows them."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(f'`{name}`' for name in RUNTIMES)} |"]
    lines.append("| --- |" + " --- |" * len(RUNTIMES))
    for name, exceptions in CASES.items():
        cells = []
        for runtime in RUNTIMES:
            why = exceptions.get(runtime)
            if why is not None and why not in reasons:
                reasons.append(why)
            cells.append("✓" if why is None else f"no ({reasons.index(why) + 1})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = [f"{at}. {why}" for at, why in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes]) + "\n"
