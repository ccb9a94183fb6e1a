"""One row for each number: the value, its floor from the same run, their ratio, the spread."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

LATEST = Path(__file__).parent / "latest.json"


@dataclass(frozen=True, slots=True)
class Row:
    """`ratio` is value / floor. `bound` says what is asked of the ratio or the value."""

    name: str
    value: float
    unit: str
    floor: float | None
    spread: str
    bound: str
    is_met: bool

    @property
    def ratio(self) -> float | None:
        """value / floor, None without a floor."""
        return self.value / self.floor if self.floor else None


def median_of(samples: Sequence[float]) -> tuple[float, str]:
    """The median and the spread, lowest to highest, as text."""
    middle = statistics.median(samples)
    return middle, f"{min(samples):.4g}–{max(samples):.4g}"


def show(rows: Sequence[Row], ceiling: str) -> None:
    """Print the table and write bench/latest.json."""
    table = Table(title="Hearth, measured", caption=ceiling)
    for column in ("name", "value", "unit", "floor", "ratio", "spread", "asked", ""):
        table.add_column(column, justify="right" if column in ("value", "floor") else "left")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:,.4g}" if row.value < 1000 else f"{row.value:,.0f}",
            row.unit,
            "" if row.floor is None else f"{row.floor:,.4g}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
            row.spread,
            row.bound,
            "✓" if row.is_met else "✗",
        )
    Console(width=120).print(table)
    commit = _commit()
    entries = [
        {
            **{k: v for k, v in asdict(row).items() if k in ("name", "value", "unit", "floor")},
            "ratio": row.ratio,
            "commit": commit,
        }
        for row in rows
    ]
    LATEST.write_text(json.dumps(entries, indent=1) + "\n")


def _commit() -> str:
    ended = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return ended.stdout.strip()
