"""From rows to nouns and back, and what makes any text safe to store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import Connection, Row, Select, Table, select, update

from catalog.tables import functions, state, versions
from core.errors import FunctionNotFound
from core.limits import VERSION_NUMBER_MAX
from core.model import (
    Alias,
    Build,
    BuildStatus,
    Function,
    FunctionConfig,
    Key,
    Role,
    Version,
    VersionStatus,
)

if TYPE_CHECKING:
    AnyRow = Row[*tuple[Any, ...]]


def new_id(prefix: str) -> str:
    """A random id that says what it names: `fn_…`, `v_…`, `key_…`."""
    return f"{prefix}_{uuid4().hex}"


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def clean(text: str) -> str:
    """`text` as every database takes it: NUL (which PostgreSQL refuses) and half surrogates
    (which have no UTF-8) become U+FFFD. Such a text names nothing, so a look-up finds nothing."""
    text = text.replace("\0", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_number(number: int) -> bool:
    """Whether a version may have this number; a greater one would overflow its column."""
    return 1 <= number <= VERSION_NUMBER_MAX


def dump(value: Any) -> str:
    """Compact JSON, equal text for equal values; ASCII escapes what a column may refuse."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def bump(tx: Connection) -> None:
    """A new generation. Call it last in a write: its row lock orders the commits."""
    tx.execute(update(state).values(generation=state.c.generation + 1))


def insert_if_absent(tx: Connection, table: Table, **values: Any) -> bool:
    """Whether the row was new; else nothing happened. INSERT … ON CONFLICT DO NOTHING comes from
    whichever dialect is in use and so loaded already. Asks for the id back, since the row count
    of an INSERT is not known on every driver."""
    make: Any
    if tx.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as make
    else:
        from sqlalchemy.dialects.postgresql import insert as make
    query = make(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return tx.execute(query).one_or_none() is not None


def lock_function(tx: Connection, function_id: str) -> None:
    """Hold the function until the transaction ends, so that writes to its versions and aliases
    happen one after another. SQLite's writers already do. FunctionNotFound when it is gone."""
    held = select(functions.c.id).where(functions.c.id == clean(function_id)).with_for_update()
    if tx.scalar(held) is None:
        raise FunctionNotFound("the function does not exist")


FUNCTION_COLUMNS = (functions.c.id, functions.c.namespace, functions.c.name, functions.c.created_at)


def to_function(row: AnyRow) -> Function:
    """From a row of FUNCTION_COLUMNS."""
    return Function(*row)


def select_versions() -> Select[*tuple[Any, ...]]:
    """Versions with the names of their functions, as `to_version` takes them."""
    v = versions.c
    return select(
        v.id,
        v.function_id,
        functions.c.namespace,
        functions.c.name,
        v.number,
        v.config,
        v.archive_digest,
        v.archive_bytes,
        v.layers,
        v.status,
        v.error,
        v.created_at,
    ).join(functions, functions.c.id == v.function_id)


def to_version(row: AnyRow, known: dict[str, FunctionConfig] | None = None) -> Version:
    """From a row of `select_versions`. Equal configurations become one object through `known`."""
    id_, function_id, namespace, name, number, config, digest, size, layers, *rest = row
    status, error, created_at = rest
    known = {} if known is None else known
    if config not in known:
        known[config] = FunctionConfig.from_json(json.loads(config))
    return Version(
        id=id_,
        function_id=function_id,
        namespace=namespace,
        name=name,
        number=number,
        config=known[config],
        archive_digest=digest,
        archive_bytes=size,
        layers=tuple(json.loads(layers)),
        status=VersionStatus(status),
        error=error,
        created_at=created_at,
    )


def dump_weights(weights: Mapping[int, float]) -> str:
    """The share of each version, as JSON with text keys."""
    return dump({str(version): float(share) for version, share in weights.items()})


def load_weights(text: str) -> dict[int, float]:
    """The reverse of `dump_weights`."""
    return {} if text == "{}" else {int(k): float(v) for k, v in json.loads(text).items()}


def to_alias(name: str, version: int, weights: str) -> Alias:
    """From the columns of the same names."""
    return Alias(name, version, load_weights(weights))


def to_key(row: AnyRow) -> Key:
    """From a whole row of keys."""
    return Key(
        id=row.id,
        name=row.name,
        digest=row.digest,
        role=Role(row.role),
        namespace=row.namespace,
        functions=tuple(json.loads(row.functions)),
        expires_at=row.expires_at,
        created_at=row.created_at,
    )


def to_build(row: AnyRow) -> Build:
    """From a whole row of builds."""
    return Build(
        version_id=row.version_id,
        status=BuildStatus(row.status),
        attempts=row.attempts,
        builder=row.builder,
        heartbeat_at=row.heartbeat_at,
        log=row.log,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
