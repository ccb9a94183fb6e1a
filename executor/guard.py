"""A small process that outlives the gateway by a moment: when the pipe on its standard input ends,
the gateway is gone, and it thaws, kills and unmounts what the gateway's sandboxes left.

`python -m executor.guard`, started by `hearth up`; the gateway holds the pipe's other end.
"""

from __future__ import annotations

import os
import signal
import sys

from core.settings import Settings
from executor import cleanup

_DYING_S = 10.0  # how long a killed gateway may take to let go of its run directory


def main() -> None:
    """Wait for the end of standard input, then clear."""
    # What ends the whole foreground group must not end us: our moment comes after the gateway's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run_dir = Settings.from_env().run_dir
    while os.read(0, 4096):
        pass
    try:
        held = cleanup.hold(run_dir, _DYING_S)
    except cleanup.RunDirTaken:
        return  # the next gateway was quicker, and has cleared by itself
    for line in cleanup.clear(run_dir):
        sys.stderr.write(f"guard: {line}\n")
    cleanup.release(held)


if __name__ == "__main__":
    main()
