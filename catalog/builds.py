"""Builds in the database: who works on one, whether they still live, and how it ended.

Every change names the builder it belongs to, so a builder that was taken over changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from catalog.rows import clean, now, to_build
from catalog.tables import builds
from core.errors import VersionNotFound
from core.limits import BUILD_LOG_BYTES_MAX
from core.model import Build, BuildStatus

_CUT = "[the beginning of this log was cut]\n"


def get(tx: Connection, version_id: str) -> Build:
    """The version's build. VersionNotFound."""
    row = tx.execute(select(builds).where(builds.c.version_id == clean(version_id))).one_or_none()
    if row is None:
        raise VersionNotFound("the version does not exist")
    return to_build(row)


def unfinished(tx: Connection) -> list[Build]:
    """Queued and running builds, oldest first."""
    b = builds.c
    open_ = b.status.in_([BuildStatus.QUEUED.value, BuildStatus.RUNNING.value])
    query = select(builds).where(open_).order_by(b.created_at, b.version_id)
    return [to_build(row) for row in tx.execute(query)]


def claim(tx: Connection, version_id: str, builder: str, *, stale_before: datetime) -> Build | None:
    """Make it the builder's if it is queued, or its last builder was not heard of since
    `stale_before`. None when it is someone else's, finished or gone."""
    b = builds.c
    free = or_(
        b.status == BuildStatus.QUEUED.value,
        and_(b.status == BuildStatus.RUNNING.value, b.heartbeat_at < stale_before),
    )
    query = (
        update(builds)
        .where(b.version_id == clean(version_id), free)
        .values(
            status=BuildStatus.RUNNING.value,
            builder=clean(builder),
            heartbeat_at=now(),
            attempts=b.attempts + 1,
        )
        .returning(*b)
    )
    row = tx.execute(query).one_or_none()
    return None if row is None else to_build(row)


def heartbeat(tx: Connection, version_id: str, builder: str, log: str) -> bool:
    """Still at it, and this is the whole log so far. False: no longer the builder's, stop."""
    return _change(tx, version_id, builder, heartbeat_at=now(), log=clip(log))


def finish(tx: Connection, version_id: str, builder: str, status: BuildStatus, log: str) -> bool:
    """It ended, and this is its log. False: it was no longer the builder's, and nothing changed."""
    assert status in (BuildStatus.SUCCEEDED, BuildStatus.FAILED), status
    return _change(
        tx,
        version_id,
        builder,
        status=status.value,
        builder=None,
        log=clip(log),
        finished_at=now(),
    )


def release(tx: Connection, version_id: str, builder: str) -> bool:
    """Hand it back unfinished, to be claimed again. That was no failed attempt, so it counts as
    none. False: it was no longer the builder's."""
    return _change(
        tx,
        version_id,
        builder,
        status=BuildStatus.QUEUED.value,
        builder=None,
        heartbeat_at=None,
        attempts=builds.c.attempts - 1,
    )


def clip(log: str) -> str:
    """The end of a log, at most BUILD_LOG_BYTES_MAX bytes: the end is where it says why."""
    log = clean(log)
    raw = log.encode()
    if len(raw) <= BUILD_LOG_BYTES_MAX:
        return log
    return _CUT + raw[len(_CUT) - BUILD_LOG_BYTES_MAX :].decode(errors="ignore")


def _change(tx: Connection, version_id: str, by: str, **values: Any) -> bool:
    """Only a running build has a builder: finishing and releasing take it away."""
    theirs = and_(builds.c.version_id == clean(version_id), builds.c.builder == clean(by))
    return tx.execute(update(builds).where(theirs).values(**values)).rowcount == 1
