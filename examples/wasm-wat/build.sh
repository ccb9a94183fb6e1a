#!/bin/sh
# Makes main.wasm of main.wat with the Python package `wasmtime`.
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -c '
import pathlib, sys, wasmtime
pathlib.Path(sys.argv[1]).write_bytes(wasmtime.wat2wasm(pathlib.Path("main.wat").read_text()))
' "${1:-main.wasm}"
