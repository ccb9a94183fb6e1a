#!/usr/bin/env python3
"""Writes docs/settings.md from core/settings.py: `.venv/bin/python infra/settings_page.py`.

A test compares the page with what this makes, so that it can neither miss a setting nor keep one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from core.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """\
# Settings

Hearth reads its settings from the environment, once, as a process starts. Every one has a default;
an empty variable counts as unset. A value that cannot be used stops the start with a sentence that
names the variable. `hearth doctor` checks the machine under the settings in force.

This page is made by `infra/settings_page.py` from `core/settings.py`; change it there.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, rows in _sections():
        parts.append(f"\n## {title}\n\n| variable | default | takes | what it is |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts.extend(_row(spec) for spec in rows)
    return "".join(parts)


def _sections() -> Iterator[tuple[str, list[Field[Any]]]]:
    """The fields under the comments that head them in the source."""
    by_name = {spec.name: spec for spec in fields(Settings)}
    title, rows = "", list[Field[Any]]()
    for line in inspect.getsource(Settings).splitlines():
        heading = re.match(r"    # (.+)", line)
        field = re.match(r"    (\w+): .*= _\w+\(", line)
        if heading and not rows:
            title = heading[1]
        elif heading:
            yield title, rows
            title, rows = heading[1], []
        elif field:
            rows.append(by_name[field[1]])
    yield title, rows


def _row(spec: Field[Any]) -> str:
    says = str(spec.metadata["says"]).replace("|", "\\|").replace("<", "&lt;")
    return f"| `HEARTH_{spec.name.upper()}` | {_default(spec)} | {_takes(spec)} | {says} |\n"


def _default(spec: Field[Any]) -> str:
    value = spec.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ("", ()) or value == Path():
        return "–"
    return f"`{value}`"


def _takes(spec: Field[Any]) -> str:
    value, low, high = spec.default, spec.metadata["low"], spec.metadata["high"]
    if isinstance(value, bool):
        return "`true` or `false`"
    if isinstance(value, int | float):
        kind = "a whole number" if isinstance(value, int) else "a number"
        if high is None:
            return kind if low is None else f"{kind} from {low}"
        return f"{kind}, {low} to {high}"
    if isinstance(value, tuple):
        return "a list"
    return "a path" if isinstance(value, Path) else "text"


if __name__ == "__main__":
    PAGE.write_text(page())
