"""Everything a gateway needs to invoke and to authenticate, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from catalog.rows import (
    FUNCTION_COLUMNS,
    select_versions,
    to_alias,
    to_function,
    to_key,
    to_version,
)
from catalog.tables import aliases, functions, keys, state, versions
from core.model import Alias, Function, FunctionConfig, Key, Version, VersionStatus

_FEW = 100  # versions that are cheaper to name than to read all


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the catalog. Two of the same generation are equal."""

    generation: int
    functions: tuple[Function, ...]
    versions: tuple[Version, ...]  # the active ones
    aliases: Mapping[str, tuple[Alias, ...]]  # by function id; absent = none
    keys: tuple[Key, ...]  # expired ones too: whoever lets one in compares with the clock


def generation(tx: Connection) -> int:
    """The number of the catalog's last change. Compare with `!=`: a restored backup counts back."""
    return int(tx.scalars(select(state.c.generation)).one())


def take(tx: Connection, seen: Mapping[str, Version]) -> Snapshot:
    """Six queries, however many functions there are. `seen` holds active versions of an earlier
    snapshot by id: they cannot have changed, so only the others are read in full."""
    made = select(*FUNCTION_COLUMNS).order_by(functions.c.id)
    return Snapshot(
        generation=generation(tx),
        functions=tuple(to_function(row) for row in tx.execute(made)),
        versions=_versions(tx, seen),
        aliases=_aliases(tx),
        keys=tuple(to_key(row) for row in tx.execute(select(keys).order_by(keys.c.id))),
    )


def _versions(tx: Connection, seen: Mapping[str, Version]) -> tuple[Version, ...]:
    v = versions.c
    active = v.status == VersionStatus.ACTIVE.value
    ids = tx.scalars(select(v.id).where(active).order_by(v.id)).all()
    missing = [version_id for version_id in ids if version_id not in seen]
    query = select_versions().where(active)
    if len(missing) <= _FEW:
        query = query.where(v.id.in_(missing))
    known: dict[str, FunctionConfig] = {}
    read = {row.id: to_version(row, known) for row in tx.execute(query)} if missing else {}
    return tuple(read[id_] if id_ in read else seen[id_] for id_ in ids)


def _aliases(tx: Connection) -> dict[str, tuple[Alias, ...]]:
    a = aliases.c
    found: dict[str, list[Alias]] = {}
    query = select(a.function_id, a.name, a.version, a.weights).order_by(a.function_id, a.name)
    for function_id, *columns in tx.execute(query):
        found.setdefault(function_id, []).append(to_alias(*columns))
    return {function_id: tuple(theirs) for function_id, theirs in found.items()}
