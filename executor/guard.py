"""A small process that outlives the gateway by a moment: when the pipe on its standard input ends,
the gateway is gone, and it thaws, kills and unmounts what the gateway's sandboxes left.

`python -m executor.guard`, started by `hearth up`; the gateway holds the pipe's other end.
"""

from __future__ import annotations

import os
import signal
import sys

from core.settings import Settings
from executor.cleanup import clear


def main() -> None:
    """Wait for the end of standard input, then clear."""
    # Ctrl-C reaches the whole foreground group; our moment comes only after the gateway's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_dir = Settings.from_env().run_dir
    while os.read(0, 4096):
        pass
    for line in clear(run_dir):
        sys.stderr.write(f"guard: {line}\n")


if __name__ == "__main__":
    main()
