#!/bin/sh
# Locks the newest versions that satisfy pyproject.toml, with hashes and without addresses.
# The runtime's lock takes its versions from the development one, so the two never disagree.
set -eu
cd "$(dirname "$0")/.."

if command -v uv >/dev/null 2>&1; then
    uv=uv
else
    # A tool of its own, apart from what Hearth runs with.
    test -x .venv/lock/bin/uv || { python3 -m venv .venv/lock && .venv/lock/bin/pip install -q uv; }
    uv=.venv/lock/bin/uv
fi

lock() {
    to="$1"
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header --upgrade --output-file "$to" "$@"
    echo "$to: $(grep -c '==' "$to") packages"
}

lock infra/requirements-dev.lock --extra dev pyproject.toml infra/build-requirements.in
lock infra/requirements.lock --constraints infra/requirements-dev.lock \
    pyproject.toml infra/build-requirements.in
lock runtimes/python/pip.lock infra/pip.in
lock runtimes/node/node.lock infra/node.in
lock runtimes/wasm/wasmtime.lock infra/wasmtime.in
