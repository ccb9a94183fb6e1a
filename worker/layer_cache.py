"""Which layer an installation left, for the next one that would be the same.

A record is a small file on this node that names an object in the store; the layer itself is kept
once. Records of one namespace lie in one folder, and its name is part of the key besides: nothing
is ever shared between namespaces.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.limits import LAYER_RECORDS_KEPT_S, UNPINNED_CACHE_S
from core.model import check_name
from worker.installed import Installed


@dataclass(frozen=True, slots=True)
class Record:
    """A layer, and the function under which the store has it. Digest None: nothing to install."""

    function_id: str
    digest: str | None
    pinned: bool
    at: float  # when it was installed, Unix time
    installed: Installed

    def is_good(self, now: float) -> bool:
        """An exact list means the same for ever; any other for a day at most."""
        return self.pinned or 0 <= now - self.at < UNPINNED_CACHE_S


class LayerCache:
    """Records below one directory. Several threads and processes may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, namespace: str, key: str) -> Record | None:
        """A record that may still be used."""
        path = self._path(namespace, key)
        try:
            record = _record(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not there, or of another release
        if not record.is_good(time.time()):
            return None
        with suppress(OSError):
            os.utime(path)  # used: the sweep keeps it
        return record

    def keep(self, namespace: str, key: str, record: Record) -> None:
        """Remember; an older record of that key is replaced."""
        path = self._path(namespace, key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}")
        fresh.write_text(json.dumps(asdict(record)))
        fresh.rename(path)

    def forget(self, namespace: str, key: str) -> None:
        """The layer is gone from the store."""
        self._path(namespace, key).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what has not been used for long, and what a crash left half-written."""
        now = time.time()
        for path in self._folder.glob("*/*"):
            with suppress(OSError):
                age = now - path.stat().st_mtime
                if age > (LAYER_RECORDS_KEPT_S if path.suffix == ".json" else 3600):
                    path.unlink()

    def _path(self, namespace: str, key: str) -> Path:
        return self._folder / check_name(namespace, what="namespace") / f"{key}.json"


def _record(raw: dict[str, Any]) -> Record:
    left = raw["installed"]
    largest = tuple((str(label), int(size)) for label, size in left["largest"])
    whole = Installed(int(left["bytes"]), int(left["count"]), largest)
    return Record(**{**raw, "installed": whole})
