"""A fuzzer for the wire: the decoder and a sandbox against any bytes, steered by coverage.

    .venv/bin/pip install atheris
    .venv/bin/python -m tests.properties.fuzz_wire -max_total_time=300 [corpus directory]

No part of `make test`; tests/properties/test_hostile_shim_properties.py asserts the same.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["executor"]):
    from tests.fixtures.hostile_shim import play


def main() -> None:
    """Runs until it finds something or is told to stop."""
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
