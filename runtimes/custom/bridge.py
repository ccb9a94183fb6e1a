"""Starts the bridge: `python3 -I -B bridge.py`. The packages beside this file do the work."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    from hearth_bridge.boot import main

    main()
