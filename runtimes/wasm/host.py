"""Starts the wasm host: `python3 -I -B host.py`. The package beside this file is the host."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    from hearth_wasm.host import main  # type: ignore[import-not-found]

    main()
