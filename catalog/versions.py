"""Versions in the database: numbered, made active or failed once, deleted when nothing points."""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, func, insert, select, update

from catalog import aliases
from catalog.rows import (
    bump,
    clean,
    dump,
    is_number,
    lock_function,
    new_id,
    now,
    select_versions,
    to_version,
)
from catalog.tables import builds, functions, versions
from core.errors import (
    Conflict,
    FunctionNotFound,
    VersionInUse,
    VersionNotActive,
    VersionNotFound,
)
from core.limits import VERSION_ERROR_LENGTH_MAX
from core.model import BuildStatus, FunctionConfig, Version, VersionStatus


def add(
    tx: Connection,
    function_id: str,
    config: FunctionConfig,
    *,
    archive_digest: str,
    archive_bytes: int,
    layers: tuple[str, ...],
) -> Version:
    """The next version, building, and its build, queued. FunctionNotFound."""
    count = (
        update(functions)
        .where(functions.c.id == clean(function_id))
        .values(last_number=functions.c.last_number + 1)
        .returning(functions.c.last_number, functions.c.namespace, functions.c.name)
    )
    row = tx.execute(count).one_or_none()
    if row is None:
        raise FunctionNotFound("the function does not exist")
    version = Version(
        id=new_id("v"),
        function_id=function_id,
        namespace=row.namespace,
        name=row.name,
        number=row.last_number,
        config=config,
        archive_digest=archive_digest,
        archive_bytes=archive_bytes,
        layers=layers,
        status=VersionStatus.BUILDING,
        error=None,
        created_at=now(),
    )
    _insert(tx, version)
    return version


def _insert(tx: Connection, version: Version) -> None:
    tx.execute(
        insert(versions).values(
            id=version.id,
            function_id=version.function_id,
            number=version.number,
            config=dump(version.config.as_json()),
            archive_digest=version.archive_digest,
            archive_bytes=version.archive_bytes,
            layers=dump(version.layers),
            status=version.status.value,
            created_at=version.created_at,
        )
    )
    tx.execute(
        insert(builds).values(
            version_id=version.id,
            status=BuildStatus.QUEUED.value,
            attempts=0,
            log="",
            created_at=version.created_at,
        )
    )


def get(tx: Connection, function_id: str, number: int) -> Version:
    """The function's version of that number. VersionNotFound."""
    query = select_versions().where(
        versions.c.function_id == clean(function_id), versions.c.number == number
    )
    row = tx.execute(query).one_or_none() if is_number(number) else None
    if row is None:
        raise VersionNotFound(f"the function has no version {number}")
    return to_version(row)


def by_id(tx: Connection, version_id: str) -> Version:
    """The version of that id. VersionNotFound."""
    row = tx.execute(select_versions().where(versions.c.id == clean(version_id))).one_or_none()
    if row is None:
        raise VersionNotFound("the version does not exist")
    return to_version(row)


def page(tx: Connection, function_id: str, *, before: int | None, limit: int) -> list[Version]:
    """The function's versions, newest first, from below `before` on."""
    query = select_versions().where(versions.c.function_id == clean(function_id))
    if before is not None and is_number(before):
        query = query.where(versions.c.number < before)
    elif before is not None and before < 1:
        return []
    query = query.order_by(versions.c.number.desc()).limit(limit)
    return [to_version(row) for row in tx.execute(query)]


def latest_number(tx: Connection, function_id: str) -> int | None:
    """The highest number among the function's versions, whatever their status."""
    query = select(func.max(versions.c.number))
    highest: int | None = tx.scalar(query.where(versions.c.function_id == clean(function_id)))
    return highest


def activate(tx: Connection, version_id: str, layers: tuple[str, ...]) -> Version:
    """Building → active, and `latest` moves if that is forward. Again is no change.
    VersionNotFound; VersionNotActive when the version has failed."""
    lock_function(tx, by_id(tx, version_id).function_id)
    moved = _leave_building(tx, version_id, VersionStatus.ACTIVE, layers=dump(layers))
    version = by_id(tx, version_id)
    if moved:
        aliases.advance_latest(tx, version)
        bump(tx)
    elif version.status is not VersionStatus.ACTIVE:
        raise VersionNotActive(f"{version.label} has failed and stays so")
    return version


def fail(tx: Connection, version_id: str, error: str) -> Version:
    """Building → failed, for a reason of one line. Again is no change. VersionNotFound; Conflict
    when the version is active."""
    reason = " ".join(clean(error).split())[:VERSION_ERROR_LENGTH_MAX]
    _leave_building(tx, version_id, VersionStatus.FAILED, error=reason)
    version = by_id(tx, version_id)
    if version.status is not VersionStatus.FAILED:
        raise Conflict(f"{version.label} is active and stays so")
    return version


def _leave_building(tx: Connection, version_id: str, status: VersionStatus, **values: str) -> bool:
    """The one place where a status changes. False when the version was not building."""
    still = (versions.c.id == clean(version_id)) & (
        versions.c.status == VersionStatus.BUILDING.value
    )
    change = update(versions).where(still).values(status=status.value, **values)
    return tx.execute(change).rowcount == 1


def remove(tx: Connection, function_id: str, number: int) -> Version:
    """Delete it with its build. VersionNotFound; VersionInUse while an alias points at it."""
    lock_function(tx, function_id)
    version = get(tx, function_id, number)
    pointing = aliases.pointing_at(tx, function_id, number)
    if pointing:
        raise VersionInUse(f"{version.label} is in use by alias {pointing[0]!r}", aliases=pointing)
    tx.execute(delete(versions).where(versions.c.id == version.id))
    if version.status is VersionStatus.ACTIVE:
        bump(tx)
    return version


def digests_in_use(tx: Connection) -> frozenset[tuple[str, str]]:
    """(function id, digest) of every archive and layer that a version refers to."""
    used: set[tuple[str, str]] = set()
    v = versions.c
    for function_id, digest, layers in tx.execute(
        select(v.function_id, v.archive_digest, v.layers)
    ):
        used.add((function_id, digest))
        used.update((function_id, layer) for layer in json.loads(layers))
    return frozenset(used)
