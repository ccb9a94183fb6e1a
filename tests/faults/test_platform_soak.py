"""Half a minute of `make soak`: everything at once, each answer looked at, and nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fixtures.platform import make_platform, start, stop
from tests.soak.soak import SETTINGS, soak

pytestmark = [
    *(pytest.mark.platform, pytest.mark.podman, pytest.mark.slow, pytest.mark.timeout(600)),
]
SECONDS = 30.0


def test_under_everything_at_once_the_books_add_up_and_nothing_is_left(tmp_path: Path) -> None:
    made = make_platform(tmp_path / "data", **SETTINGS)
    start(made)
    try:
        report = asyncio.run(soak(made, SECONDS))
    finally:
        stop(made)
    print(report.text())
    assert report.wrong == [], report.text()
    kinds = report.books.kinds()
    wanted = {"200", "201 whole", "502 function_crashed", "502 function_error", "hung up"}
    assert wanted <= kinds.keys()
