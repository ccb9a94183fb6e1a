"""Starts the shim: `python3 -I -B shim.py`. The package beside this file is the shim itself.

The search path knows of it only while it is imported: nothing of ours is in the function's way.
"""

import sys

if __name__ == "__main__":  # multiprocessing imports this file again, under another name
    sys.path.insert(0, __file__.rpartition("/")[0])
    from hearth_shim.boot import main  # type: ignore[import-not-found]

    del sys.path[0]
    main()
