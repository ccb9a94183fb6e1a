"""Bringing a database's tables to the state this release expects.

The first process does the work, others wait for it: behind a file lock on SQLite (whose own write
lock would refuse them after some seconds), behind an advisory lock on PostgreSQL. Alembic is
loaded only when there is something to do: it would hold 11 MB in every process for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from catalog.database import Database
from core.errors import DiskFull, PartAway, PlatformFault
from core.limits import CATALOG_MIGRATION_WAIT_S
from core.settings import Settings

HEAD = "0001"  # the newest revision in catalog/migrations/versions
SCRIPTS = Path(__file__).parent / "migrations"

_POSTGRES_LOCK = 0x4845415254480001  # "HEARTH" and a 1; any number all releases agree on
_TRY_AGAIN_S = 0.05


def migrate(db: Database) -> None:
    """Upgrade to HEAD; nothing happens when the database is there already."""
    if db.is_sqlite:
        with _sqlite_alone(db.path):
            _make_private(db.path)
            _switch_to_wal(db)
            _upgrade(db)
    else:
        _upgrade(db)


def _upgrade(db: Database) -> None:
    with db.read() as tx:
        if revision(tx) == HEAD:
            return
    with db.migration() as tx:
        if not db.is_sqlite:
            _postgres_alone(tx)
        if revision(tx) != HEAD:
            run_scripts(tx, SCRIPTS)


def revision(tx: Connection) -> str | None:
    """Where the database stands; None when it is empty."""
    if not inspect(tx).has_table("alembic_version"):
        return None
    stands: str | None = tx.scalar(text("SELECT version_num FROM alembic_version"))
    return stands


def run_scripts(tx: Connection, scripts: Path) -> None:
    """All scripts that the database has not seen, in the one transaction of `tx`. PlatformFault
    when a newer release has been here."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": tx})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise PlatformFault(
            f"the catalog stands at revision {revision(tx)}, which this release does not know: "
            "it was made by a newer Hearth"
        ) from error


@contextmanager
def _sqlite_alone(path: Path) -> Iterator[None]:
    """Holds `<database>.lock`, which stays: deleting a lock file would let two in."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unreachable(error) from error
    try:
        _wait_for(lock)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int) -> None:
    deadline = time.monotonic() + CATALOG_MIGRATION_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PartAway("database", "another process is still migrating it") from None
            time.sleep(_TRY_AGAIN_S)
        else:
            return


def _make_private(path: Path) -> None:
    """The file holds environments and hashes of keys: it is born 0600, and WAL follows its mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unreachable(error) from error


def _unreachable(error: OSError) -> PartAway | DiskFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("no room left for the catalog's database")
    return PartAway("database", str(error))


def _switch_to_wal(db: Database) -> None:
    with db.bare() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
    if mode != "wal":
        raise PlatformFault(f"the catalog's file system refuses SQLite's WAL (mode {mode})")


def _postgres_alone(tx: Connection) -> None:
    """Until the end of the transaction."""
    tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _POSTGRES_LOCK})


def main() -> None:
    """`python -m catalog.migrate`: in a process of its own, so that Alembic's memory goes with it.
    The database is that of the settings."""
    db = Database(Settings.from_env().database)
    try:
        migrate(db)
    finally:
        db.close()


if __name__ == "__main__":
    main()
