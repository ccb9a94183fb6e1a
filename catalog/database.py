"""The engine: how the catalog connects, when it locks, and what it says when the database fails.

Readers get one consistent view; writers wait for one another instead of failing. Nothing waits
without a bound, and every foreign error leaves here as one of core/errors.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from catalog.failures import translate
from core.errors import PartAway
from core.limits import (
    CATALOG_CONNECT_S,
    CATALOG_CONNECTIONS_MAX,
    CATALOG_LOCK_WAIT_S,
    CATALOG_MIGRATION_WAIT_S,
    CATALOG_STATEMENT_S,
)
from core.settings import SettingsInvalid

# The execution option that says how a transaction begins on SQLite.
_BEGIN = "hearth_begin"

# FULL: a commit is on the disk before the caller is answered; NORMAL could lose the last ones with
# the power. docs/why.md has what it costs. The cache bound keeps idle connections small.
_SQLITE_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {int(CATALOG_LOCK_WAIT_S * 1000)}",
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -1024",
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA trusted_schema = OFF",
)


class Database:
    """One database and the connections to it. Thread-safe, and safe to inherit through a fork."""

    def __init__(self, url: str) -> None:
        self.url = parse(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(self.url) if self.is_sqlite else _postgres_engine(self.url)
        self._writer = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        self._reader = self.engine if self.is_sqlite else _consistent_reader(self.engine)
        self._process = os.getpid()
        self._inherited: list[Any] = []
        # SQLite admits one writer. Threads queue here, where waking is prompt; only processes
        # meet in SQLite's own busy handler, which sleeps between its tries.
        self._turn = threading.Lock()

    @property
    def path(self) -> Path:
        """The file of an SQLite database."""
        assert self.is_sqlite and self.url.database
        return Path(os.path.abspath(self.url.database))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction that sees one moment of the database."""
        self._leave_parent()
        with _translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds SQLite's write lock from its first statement on, so that it
        never has to upgrade a read lock. Commits when the body ends, rolls back when it raises."""
        self._leave_parent()
        with self._my_turn(), _translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A write transaction for changes to the tables themselves: foreign keys do not act on
        SQLite (rebuilding a table drops the old one, which would cascade), and PostgreSQL does
        not bound the time a statement takes."""
        self._leave_parent()
        with self._my_turn(), _translated(), self._writer.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            if self.is_sqlite:
                raw.execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if not self.is_sqlite:
                        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                        wait_ms = int(CATALOG_MIGRATION_WAIT_S * 1000)
                        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
                    yield connection
            finally:
                if self.is_sqlite:
                    raw.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def bare(self) -> Iterator[Connection]:
        """An SQLite connection without a transaction, for what may not happen inside one."""
        self._leave_parent()
        with _translated(), self.engine.connect() as connection:
            yield connection.execution_options(**{_BEGIN: ""})

    def close(self) -> None:
        """Close every connection; a later use opens new ones."""
        self.engine.dispose()

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=CATALOG_LOCK_WAIT_S):
            raise PartAway("database", f"busy for more than {CATALOG_LOCK_WAIT_S:g} s")
        try:
            yield
        finally:
            self._turn.release()

    def _leave_parent(self) -> None:
        """After a fork: let the parent's connections be. They are kept referenced, because even
        closing them here would reach into the parent's session or its WAL."""
        if self._process != os.getpid():
            self._inherited.append(self.engine.pool)
            self.engine.dispose(close=False)
            self._turn = threading.Lock()
            self._process = os.getpid()


def parse(url: str) -> URL:
    """The URL with its driver filled in. SettingsInvalid when it is none that we support."""
    takes = "HEARTH_DATABASE_URL takes sqlite:////absolute/path or postgresql://user@host/name"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as wrong:
        raise SettingsInvalid(takes) from wrong
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        parsed = parsed.set(drivername="sqlite+pysqlite")
        if parsed.query or not parsed.database or parsed.database.startswith(":"):
            raise SettingsInvalid(f"{takes}; SQLite needs a file and takes no options")
    if parsed.drivername not in ("sqlite+pysqlite", "postgresql+psycopg"):
        raise SettingsInvalid(f"{takes}, not {parsed.drivername}")
    return parsed


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,  # environments and key digests stay out of messages
        pool_size=CATALOG_CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=CATALOG_LOCK_WAIT_S,
        connect_args={"check_same_thread": False, "timeout": CATALOG_LOCK_WAIT_S},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # the driver's own idea of when to BEGIN would be too late
    for pragma in _SQLITE_PRAGMAS:
        raw.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get(_BEGIN, "BEGIN")
    if begin:
        connection.exec_driver_sql(begin)


def _postgres_engine(url: URL) -> Engine:
    sessions = (
        "-c timezone=UTC -c client_encoding=UTF8"
        f" -c statement_timeout={int(CATALOG_STATEMENT_S * 1000)}"
        f" -c lock_timeout={int(CATALOG_LOCK_WAIT_S * 1000)}"
        f" -c idle_in_transaction_session_timeout={int(CATALOG_STATEMENT_S * 1000)}"
    )
    bounds: dict[str, Any] = {
        "connect_timeout": int(CATALOG_CONNECT_S),
        "tcp_user_timeout": int(CATALOG_STATEMENT_S * 1000),
        "keepalives_idle": int(CATALOG_STATEMENT_S),
        "application_name": "hearth",
    }
    bounds = {name: value for name, value in bounds.items() if name not in url.query}
    theirs = url.query.get("options", "")
    theirs = theirs if isinstance(theirs, str) else " ".join(theirs)
    return create_engine(
        url.difference_update_query(["options"]),
        hide_parameters=True,
        pool_size=CATALOG_CONNECTIONS_MAX,
        max_overflow=0,
        pool_timeout=CATALOG_LOCK_WAIT_S,
        pool_pre_ping=True,  # a restarted server costs no caller an error
        connect_args={**bounds, "options": f"{sessions} {theirs}".strip()},
    )


def _consistent_reader(engine: Engine) -> Engine:
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise translate(error) from error
    except PoolTimeout as error:
        raise PartAway("database", "every connection is in use") from error
