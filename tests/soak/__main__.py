"""`make soak`: a platform of its own, everything at once for --seconds, and a verdict."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fixtures.platform import make_platform, start, stop
from tests.soak.soak import SETTINGS, say, soak


def main() -> int:
    """0 when all is well."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load")
    parser.add_argument("--memory-mb", type=int, help="for all sandboxes; by default enough")
    asked = parser.parse_args()
    settings = dict(SETTINGS)
    if asked.memory_mb:
        settings["HEARTH_MEMORY_BUDGET_MB"] = str(asked.memory_mb)
    with tempfile.TemporaryDirectory(prefix="hearth-soak-") as folder:
        platform = make_platform(Path(folder) / "data", **settings)
        say("starting a platform, deploying the functions")
        start(platform)
        try:
            report = asyncio.run(soak(platform, asked.seconds, say))
        finally:
            stop(platform)
    print(report.text())
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
