#!/bin/sh
# Makes main.wasm with the compiler of the Python package `ziglang`, which brings WASI's C library.
# 64 KB of stack: the compiler's own choice of 16 MB would be all the memory that this function has.
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m ziglang cc -target wasm32-wasi -Os -s -Wl,-z,stack-size=65536 \
    -o "${1:-main.wasm}" main.c
