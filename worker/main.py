"""The builder process: `python -m worker.main`. Wiring, signals, and surviving its surroundings."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from redis.exceptions import RedisError

from catalog.catalog import Catalog
from core.errors import PartAway
from core.limits import (
    BUILD_WAIT_S,
    BUILDER_FILES_MAX,
    BUILDER_RSS_BYTES_MAX,
    BUILDS_AT_ONCE_MAX,
    COMPLAINTS_S,
)
from core.settings import Settings, SettingsInvalid
from events.connection import connect, describe
from events.jobs import JobQueue
from events.notices import Notices
from executor.build_sandbox import BuildSandbox
from storage.store import open_store
from worker.build import Builder
from worker.identity import builder_name
from worker.installation import Installer
from worker.jobs import Table, TableWorker
from worker.sweep import Sweep

_FIRST_PAUSE_S = 0.2

log = logging.getLogger("hearth.builder")


class BuilderProcess:
    """Everything one builder process holds, and the loop around RQ's loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.is_worn = False
        self._worker: TableWorker | None = None

    def run(self) -> None:
        """Until a signal, or until worn."""
        with ExitStack() as closing:
            builder, sweep = self._wire(closing)
            self._reach(builder.catalog)
            sweep.start()
            table: Table = {"build": builder.build}
            pause_s = _FIRST_PAUSE_S
            while not self.stopping.is_set() and not self.is_worn:
                if self._work(table, builder.name):
                    pause_s = _FIRST_PAUSE_S
                self.stopping.wait(0 if self.is_worn else pause_s)
                pause_s = min(2 * pause_s, BUILD_WAIT_S)
            self.stopping.set()
            sweep.join()

    def stop(self, *_: object) -> None:
        """A signal handler: take nothing new, hand back what runs."""
        self.stopping.set()
        if self._worker is not None:
            self._worker.stop()

    def _wire(self, closing: ExitStack) -> tuple[Builder, Sweep]:
        settings, name = self.settings, builder_name(self.settings.node)
        catalog = Catalog(settings.database)
        store = open_store(settings)
        notices = Notices(settings.redis)
        jobs = JobQueue(settings.redis)
        for part in (catalog, store, notices, jobs):
            closing.callback(part.close)
        sandbox = BuildSandbox(settings.podman_socket, node=settings.node, builder=name)
        installer = Installer(settings, sandbox, store)
        builder = Builder(
            name=name,
            settings=settings,
            catalog=catalog,
            store=store,
            notices=notices,
            installer=installer,
            stopping=self.stopping,
        )
        sweep = Sweep(
            name=name,
            catalog=catalog,
            jobs=jobs,
            store=store,
            sandbox=sandbox,
            folder=builder.folder,
            record=settings.data_dir / "build-cache" / "unreferenced.json",
            forget_layers=installer.sweep,
            stopping=self.stopping,
        )
        return builder, sweep

    def _reach(self, catalog: Catalog) -> None:
        """Bring the database up to date; wait for it as long as it takes."""
        while not self.stopping.is_set():
            try:
                catalog.migrate()
            except PartAway as away:
                log.warning("waiting: %s", away.message)
                self.stopping.wait(BUILD_WAIT_S)
            else:
                return

    def _work(self, table: Table, name: str) -> bool:
        """RQ's loop, until it ends for any reason; whether it began."""
        redis = connect(self.settings.redis)
        worker = None
        try:
            worker = TableWorker(
                redis,
                table,
                name=f"{name}:{os.urandom(4).hex()}",
                slots=max(BUILDS_AT_ONCE_MAX, self.settings.builds_max),
                is_worn=self._look_at_wear,
            )
            self._worker = worker
            if self.stopping.is_set():
                return True
            worker.work(logging_level="WARNING")
            return True
        except RedisError as error:
            log.warning("redis is away: %s", describe(error))
            return False
        finally:
            self._worker = None
            if worker is not None:
                worker.close()
            redis.close()

    def _look_at_wear(self) -> bool:
        """Whatever jobs leaked, memory or files, a new start of this process gives back."""
        self.is_worn = self.is_worn or worn(
            _rss_bytes(), len(list(Path("/proc/self/fd").iterdir()))
        )
        return self.is_worn


class Rarely(logging.Filter):
    """The same complaint once a minute: a part may be away for hours, and is asked every 2 s."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to say it."""
        if record.levelno < logging.WARNING:
            return True
        last = self._said.get(record.msg, -COMPLAINTS_S)
        if record.created - last < COMPLAINTS_S:
            return False
        self._said = {record.msg: record.created}
        return True


def worn(rss_bytes: int, files: int) -> bool:
    """Whether a process that holds this much should start itself anew."""
    return rss_bytes > BUILDER_RSS_BYTES_MAX or files > BUILDER_FILES_MAX


def main() -> None:
    """Run until SIGTERM or SIGINT; exit status 0."""
    try:
        settings = Settings.from_env()
    except SettingsInvalid as wrong:
        sys.exit(f"error: {wrong}")
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for name in ("rq.worker", "hearth.builder"):
        logging.getLogger(name).addFilter(Rarely())
    os.umask(0o077)
    process = BuilderProcess(settings)
    signal.signal(signal.SIGTERM, process.stop)
    signal.signal(signal.SIGINT, process.stop)
    log.info("the builder of %s begins", settings.node)
    process.run()
    if process.is_worn:
        log.info("worn: starting anew")
        arguments = [sys.executable, "-P", "-m", "worker.main"]
        os.execv(sys.executable, arguments)  # noqa: S606 - the same program, the same process id
    log.info("the builder ends")


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
