"""What a driver's error means to Hearth, read from its code and never from its words."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from core.errors import DiskFull, HearthError, PartAway, PlatformFault

_MESSAGE_LENGTH_MAX = 200

# What lies under SQLite's primary codes that a caller should be told apart.
_SQLITE_REFUSED = {sqlite3.SQLITE_ERROR}  # a statement it cannot run: no such table
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SQLITE_NO_ROOM = {sqlite3.SQLITE_FULL}
# A full disk also shows while SQLite grows its shared-memory or WAL file.
_SQLITE_NO_ROOM_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE}

_POSTGRES_NO_ROOM = {"53100"}
_POSTGRES_DAMAGED = {"XX001", "XX002"}
# Worth another try although the connection stands: serialisation, deadlock, a lock not granted,
# a statement over its time, read-only after a failover.
_POSTGRES_AGAIN = {"40001", "40P01", "55P03", "57014", "25006"}


def translate(error: DBAPIError) -> HearthError:
    """The error of core/errors.py that states the same fact."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause)
    return _postgres(error, cause)


def _sqlite(cause: sqlite3.Error) -> HearthError:
    code = getattr(cause, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _SQLITE_NO_ROOM or code in _SQLITE_NO_ROOM_EXTENDED:
        return DiskFull("no room left for the catalog's database")
    if primary in _SQLITE_DAMAGED:
        return PlatformFault(f"the catalog's database is damaged: {_first_line(cause)}")
    if isinstance(cause, sqlite3.OperationalError) and primary not in _SQLITE_REFUSED:
        return PartAway("database", _first_line(cause))
    return _unforeseen(cause)


def _postgres(error: DBAPIError, cause: Any) -> HearthError:
    state = getattr(cause, "sqlstate", None) or ""
    if state in _POSTGRES_NO_ROOM:
        return DiskFull("no room left for the catalog's database")
    if state in _POSTGRES_DAMAGED:
        return PlatformFault(f"the catalog's database is damaged: {_first_line(cause)}")
    lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    if lost or state in _POSTGRES_AGAIN:
        return PartAway("database", _first_line(cause))
    return _unforeseen(cause)


def _unforeseen(cause: object) -> HearthError:
    """A fault in the catalog itself: a statement that the database refuses."""
    return PlatformFault(f"the catalog's database refused a statement: {_first_line(cause)}")


def _first_line(cause: object) -> str:
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0][:_MESSAGE_LENGTH_MAX]
