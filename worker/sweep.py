"""What crashes leave: builds whose job was lost, work directories, containers, objects.

Everything here may run on several nodes at once and be interrupted anywhere.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from catalog.catalog import Catalog
from core.errors import HearthError, VersionNotFound
from core.limits import BUILD_STALE_S, OBJECT_GRACE_S, SWEEP_OBJECTS_S, SWEEP_S
from core.model import Build, BuildStatus
from events.jobs import JobQueue
from executor.build_sandbox import BuildSandbox
from storage import scratch
from storage.store import ObjectStore, object_key
from worker.identity import is_dead

_PREFIX = "functions/"
_YOUNG_S = 2.0  # who added the version may be about to ask for its build

log = logging.getLogger("hearth.sweep")


@dataclass(slots=True)
class Sweep:
    """Looks every few seconds, in a thread of its own. `start` once, `join` when stopping."""

    name: str  # of this builder
    catalog: Catalog
    jobs: JobQueue
    store: ObjectStore
    sandbox: BuildSandbox
    folder: Path  # where builds work
    record: Path  # where unreferenced objects are remembered
    forget_layers: Callable[[], None]
    stopping: threading.Event
    _thread: threading.Thread | None = None
    _complaints: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Begin, at once and then every SWEEP_S."""
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, after `stopping` was set; not for long, it holds nothing."""
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        self._try("leftovers", self.leftovers)
        objects_at = time.monotonic()
        while not self.stopping.is_set():
            self._try("builds", self.builds)
            if time.monotonic() >= objects_at:
                self._try("objects", self.objects)
                self._try("layers", self.forget_layers)
                objects_at = time.monotonic() + SWEEP_OBJECTS_S
            self.stopping.wait(SWEEP_S)

    def _try(self, what: str, sweep: Callable[[], None]) -> None:
        """One pass. A part that is away is named once, not every few seconds."""
        try:
            sweep()
            self._complaints.pop(what, None)
        except HearthError as error:
            if self._complaints.get(what) != error.message:
                log.warning("cannot sweep %s: %s", what, error.message)
            self._complaints[what] = error.message
        except Exception:  # the sweep outlives whatever it finds: without it, builds get stuck
            log.exception("sweeping %s", what)

    # --- the passes

    def builds(self) -> None:
        """Ring again for builds that wait unheard: a job was lost with Redis, or a builder died."""
        now = datetime.now(UTC)
        due = [build for build in self.catalog.unfinished_builds() if self._is_due(build, now)]
        if not due:
            return
        wanted = [{"version_id": build.version_id} for build in due]
        for kwargs, waits in zip(wanted, self.jobs.waiting("build", wanted), strict=True):
            if not waits:
                log.info("ringing again for %s", kwargs["version_id"])
                self.jobs.enqueue("build", **kwargs)

    def _is_due(self, build: Build, now: datetime) -> bool:
        if build.status is BuildStatus.QUEUED:
            return now - build.created_at > timedelta(seconds=_YOUNG_S)
        if build.builder and is_dead(build.builder, me=self.name):
            return True
        beat = build.heartbeat_at or build.created_at
        return now - beat > timedelta(seconds=BUILD_STALE_S)

    def leftovers(self) -> None:
        """Work directories and containers of this node's builders that are no more."""
        if self.folder.is_dir():
            scratch.sweep(self.folder)
            left = self.sandbox.remove_leftovers(lambda name: not is_dead(name, me=self.name))
            if left:
                log.info("removed %d containers of builders that died", left)

    def objects(self) -> None:
        """Delete objects that no version has referred to for OBJECT_GRACE_S.

        The grace covers an archive that is stored before its version is added. A function with an
        unfinished build keeps everything: the build may be about to refer to an old layer."""
        found = {key for key in self.store.keys(_PREFIX) if key.count("/") == 2}
        unreferenced = found - self._referenced()
        since = _read(self.record)
        now = time.time()
        since = {key: min(since.get(key, now), now) for key in unreferenced}
        due = [key for key in unreferenced if now - since[key] > OBJECT_GRACE_S]
        if due:
            spared = self._referenced()
            busy = self._busy_functions()
            for key in due:
                if key not in spared and key.split("/")[1] not in busy:
                    self.store.delete(key)
                    del since[key]
            log.info("deleted objects that nothing refers to: up to %d", len(due))
        _write(self.record, since)

    def _referenced(self) -> set[str]:
        return {object_key(function, digest) for function, digest in self.catalog.digests_in_use()}

    def _busy_functions(self) -> set[str]:
        busy = set()
        for build in self.catalog.unfinished_builds():
            with suppress(VersionNotFound):
                busy.add(self.catalog.version_by_id(build.version_id).function_id)
        return busy


def _read(path: Path) -> dict[str, float]:
    try:
        raw = json.loads(path.read_bytes())
        return {str(key): float(since) for key, since in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # the grace begins anew: nothing is deleted too early


def _write(path: Path, since: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(since))
    fresh.replace(path)
