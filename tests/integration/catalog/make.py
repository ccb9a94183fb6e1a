"""Short ways to make what the tests need."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from catalog.catalog import Catalog
from core.model import Function, FunctionConfig, Version

DIGEST = hashlib.sha256(b"an archive").hexdigest()
NEVER = datetime(2000, 1, 1, tzinfo=UTC)  # no heartbeat is older
ALWAYS = datetime.now(UTC) + timedelta(days=365)  # every heartbeat is older


def config(**changes: Any) -> FunctionConfig:
    """A configuration."""
    return FunctionConfig(**{"runtime": "python3.13", **changes})


def building(catalog: Catalog, function: Function | str, **changes: Any) -> Version:
    """A new version."""
    function_id = function if isinstance(function, str) else function.id
    return catalog.add_version(
        function_id, config(**changes), archive_digest=DIGEST, archive_bytes=10
    )


def active(catalog: Catalog, function: Function | str, **changes: Any) -> Version:
    """A new version, active."""
    return catalog.activate(building(catalog, function, **changes).id, (DIGEST,))


def failed(catalog: Catalog, function: Function | str) -> Version:
    """A new version, failed."""
    return catalog.fail(building(catalog, function).id, "no such handler")
