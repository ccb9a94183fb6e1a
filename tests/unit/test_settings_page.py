"""docs/settings.md says what core/settings.py takes, no more and no less."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

from core.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "settings.md"
MAKER = ROOT / "infra" / "settings_page.py"


def test_the_page_is_what_the_settings_say() -> None:
    made = runpy.run_path(str(MAKER))["page"]()
    assert PAGE.read_text() == made, "run .venv/bin/python infra/settings_page.py"


def test_every_setting_has_one_row_and_no_other_has_any() -> None:
    rows = re.findall(r"^\| `(HEARTH_\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(f"HEARTH_{spec.name.upper()}" for spec in fields(Settings))


def test_every_setting_says_what_it_is_for() -> None:
    assert [spec.name for spec in fields(Settings) if len(spec.metadata["says"]) < 10] == []
