"""Starts the compiler: `python3 -I -B compile.py FROM TO HANDLER`, in a container of its own."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    from hearth_wasm.compiling import main  # type: ignore[import-not-found]

    sys.exit(main(sys.argv[1:]))
