"""A process that deploys: `python -m tests.integration.catalog.deployer URL FUNCTION COUNT`.

Says `ready`, waits for a line, then migrates, adds and activates. Prints each number it was given.
"""

from __future__ import annotations

import sys
from contextlib import closing

from catalog.catalog import Catalog
from tests.integration.catalog.make import active


def main() -> None:
    url, function_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with closing(Catalog(url)) as catalog:
        print("ready", flush=True)
        sys.stdin.readline()
        catalog.migrate()
        for _ in range(count):
            print(active(catalog, function_id).number, flush=True)


if __name__ == "__main__":
    main()
