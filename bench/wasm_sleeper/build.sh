#!/bin/sh
# Makes main.wasm, which lies ready, of main.c; needs `pip install ziglang`.
set -eu
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m ziglang cc -target wasm32-wasi -Os -s -Wl,-z,stack-size=65536 \
    -o main.wasm main.c
