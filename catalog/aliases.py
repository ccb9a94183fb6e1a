"""Aliases in the database. Every change goes through `_move`, which remembers what was before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select, update

from catalog.rows import bump, clean, dump, dump_weights, is_number, lock_function, to_alias
from catalog.tables import aliases, versions
from core.errors import (
    AliasNotFound,
    Conflict,
    NameInvalid,
    Unprocessable,
    VersionNotActive,
    VersionNotFound,
)
from core.limits import ALIAS_BEFORE_MAX, ALIAS_WEIGHTS_MAX
from core.model import LATEST, Alias, Version, VersionStatus, check_name

if TYPE_CHECKING:
    from catalog.rows import AnyRow


def all_of(tx: Connection, function_id: str) -> list[Alias]:
    """The function's aliases by name."""
    a = aliases.c
    query = select(a.name, a.version, a.weights).where(a.function_id == clean(function_id))
    return [to_alias(*row) for row in tx.execute(query.order_by(a.name))]


def get(tx: Connection, function_id: str, name: str) -> Alias:
    """The function's alias of that name. AliasNotFound."""
    row = _row(tx, function_id, name)
    return to_alias(row.name, row.version, row.weights)


def put(tx: Connection, function_id: str, alias: Alias) -> Alias:
    """Point the alias, made if need be, at active versions. VersionNotFound, VersionNotActive,
    and Unprocessable or NameInvalid for weights and names that cannot be."""
    _check(alias)
    lock_function(tx, function_id)
    _check_active(tx, function_id, {alias.version, *alias.weights})
    row = _find(tx, function_id, alias.name)
    if row is None:
        _insert(tx, function_id, alias)
    elif (row.version, row.weights) == (alias.version, dump_weights(alias.weights)):
        return alias
    else:
        _move(tx, row, alias)
    bump(tx)
    return alias


def remove(tx: Connection, function_id: str, name: str) -> Alias:
    """Delete it. AliasNotFound; Conflict for `latest`, which always exists."""
    lock_function(tx, function_id)
    alias = get(tx, function_id, name)
    if name == LATEST:
        raise Conflict(f"{LATEST!r} always exists; delete the function instead")
    tx.execute(delete(aliases).where(_is(function_id, name)))
    bump(tx)
    return alias


def rollback(tx: Connection, function_id: str, name: str) -> Alias:
    """Back to where the alias pointed before, then before that, … Versions deleted since are
    skipped. AliasNotFound; Conflict when there is nothing before."""
    lock_function(tx, function_id)
    row = _row(tx, function_id, name)
    before: list[tuple[int, dict[str, float]]] = json.loads(row.before)
    query = select(versions.c.number).where(versions.c.function_id == row.function_id)
    there = set(tx.scalars(query))
    while before:
        number, weights = before.pop()
        if number not in there:
            continue
        kept = {int(v): share for v, share in weights.items() if int(v) in there}
        alias = Alias(row.name, number, kept)
        _update(tx, row, alias, before)
        bump(tx)
        return alias
    raise Conflict(f"alias {row.name!r} has pointed nowhere else before")


def advance_latest(tx: Connection, version: Version) -> None:
    """Move `latest` to a version just made active, unless it has been there or further already:
    an older build that finishes later, also after a rollback, leaves it."""
    alias = Alias(LATEST, version.number)
    row = _find(tx, version.function_id, LATEST)
    if row is None:
        _insert(tx, version.function_id, alias)
    elif row.newest < version.number:
        _move(tx, row, alias)


def pointing_at(tx: Connection, function_id: str, number: int) -> list[str]:
    """Names of the aliases that send calls to the version."""
    return [
        alias.name
        for alias in all_of(tx, function_id)
        if number == alias.version or number in alias.weights
    ]


def _move(tx: Connection, row: AnyRow, alias: Alias) -> None:
    before = [*json.loads(row.before), [row.version, json.loads(row.weights)]]
    _update(tx, row, alias, before[-ALIAS_BEFORE_MAX:])


def _update(tx: Connection, row: AnyRow, alias: Alias, before: list[Any]) -> None:
    tx.execute(
        update(aliases)
        .where(_is(row.function_id, row.name))
        .values(
            version=alias.version,
            weights=dump_weights(alias.weights),
            newest=max(row.newest, alias.version),
            before=dump(before),
        )
    )


def _insert(tx: Connection, function_id: str, alias: Alias) -> None:
    tx.execute(
        insert(aliases).values(
            function_id=function_id,
            name=alias.name,
            version=alias.version,
            weights=dump_weights(alias.weights),
            newest=alias.version,
            before="[]",
        )
    )


def _is(function_id: str, name: str) -> Any:
    return (aliases.c.function_id == clean(function_id)) & (aliases.c.name == clean(name))


def _find(tx: Connection, function_id: str, name: str) -> AnyRow | None:
    return tx.execute(select(aliases).where(_is(function_id, name))).one_or_none()


def _row(tx: Connection, function_id: str, name: str) -> AnyRow:
    row = _find(tx, function_id, name)
    if row is None:
        raise AliasNotFound(f"the function has no alias {clean(name)!r}")
    return row


def _check(alias: Alias) -> None:
    check_name(alias.name, what="alias")
    if alias.name.isdigit():
        raise NameInvalid(f"{alias.name!r} cannot name an alias: it reads as a version number")
    shares = alias.weights.values()
    sane = all(0 < share <= 1 for share in shares) and sum(shares) <= 1  # NaN is not sane
    if not sane or len(alias.weights) > ALIAS_WEIGHTS_MAX or alias.version in alias.weights:
        raise Unprocessable(
            "weights are shares above 0 that add up to at most 1, "
            f"of at most {ALIAS_WEIGHTS_MAX} versions other than the alias's own"
        )


def _check_active(tx: Connection, function_id: str, numbers: set[int]) -> None:
    wanted = [number for number in numbers if is_number(number)]
    query = select(versions.c.number, versions.c.status).where(
        versions.c.function_id == clean(function_id), versions.c.number.in_(wanted)
    )
    status: dict[int, str] = {row.number: row.status for row in tx.execute(query)}
    for number in sorted(numbers):
        if number not in status:
            raise VersionNotFound(f"the function has no version {number}")
        if status[number] != VersionStatus.ACTIVE.value:
            raise VersionNotActive(f"version {number} is {status[number]}, not active")
