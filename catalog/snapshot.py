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
from catalog.tables import aliases, keys, state, versions
from core.model import Alias, Function, FunctionConfig, Key, Version, VersionStatus


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


def take(tx: Connection) -> Snapshot:
    """Five queries, however many functions there are."""
    known: dict[str, FunctionConfig] = {}
    active = select_versions().where(versions.c.status == VersionStatus.ACTIVE.value)
    return Snapshot(
        generation=generation(tx),
        functions=tuple(to_function(row) for row in tx.execute(select(*FUNCTION_COLUMNS))),
        versions=tuple(to_version(row, known) for row in tx.execute(active)),
        aliases=_aliases(tx),
        keys=tuple(to_key(row) for row in tx.execute(select(keys))),
    )


def _aliases(tx: Connection) -> dict[str, tuple[Alias, ...]]:
    a = aliases.c
    found: dict[str, list[Alias]] = {}
    for function_id, *columns in tx.execute(select(a.function_id, a.name, a.version, a.weights)):
        found.setdefault(function_id, []).append(to_alias(*columns))
    return {function_id: tuple(theirs) for function_id, theirs in found.items()}
