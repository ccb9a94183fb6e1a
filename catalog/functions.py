"""Functions in the database: found, listed, made, deleted."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, tuple_

from catalog.rows import (
    FUNCTION_COLUMNS,
    bump,
    clean,
    insert_if_absent,
    new_id,
    now,
    to_function,
)
from catalog.tables import functions
from core.errors import FunctionExists, FunctionNotFound
from core.model import Function, check_name


def get(tx: Connection, namespace: str, name: str) -> Function:
    """The function of that name. FunctionNotFound."""
    found = _find(tx, namespace, name)
    if found is None:
        raise FunctionNotFound(f"no function {clean(name)!r} in namespace {clean(namespace)!r}")
    return found


def page(tx: Connection, namespace: str | None, *, after: str | None, limit: int) -> list[Function]:
    """By name, or by `namespace.name` over all namespaces, from behind `after` on."""
    f = functions.c
    query = select(*FUNCTION_COLUMNS).limit(limit)
    if namespace is not None:
        query = query.where(f.namespace == clean(namespace)).order_by(f.name)
        if after is not None:
            query = query.where(f.name > clean(after))
    else:
        query = query.order_by(f.namespace, f.name)
        if after is not None:
            space, _, name = clean(after).partition(".")
            query = query.where(tuple_(f.namespace, f.name) > tuple_(space, name))
    return [to_function(row) for row in tx.execute(query)]


def ensure(tx: Connection, namespace: str, name: str, *, must_be_new: bool) -> Function:
    """The function of that name, made if need be. FunctionExists when it had to be new."""
    check_name(namespace, what="namespace")
    check_name(name, what="function")
    new = Function(new_id("fn"), namespace, name, now())
    if insert_if_absent(
        tx,
        functions,
        id=new.id,
        namespace=namespace,
        name=name,
        last_number=0,
        created_at=new.created_at,
    ):
        bump(tx)
        return new
    if must_be_new:
        raise FunctionExists(f"function {name!r} exists already")
    return get(tx, namespace, name)


def remove(tx: Connection, namespace: str, name: str) -> Function:
    """Delete it with all that hangs on it. FunctionNotFound."""
    query = delete(functions).returning(*FUNCTION_COLUMNS)
    query = query.where(functions.c.namespace == clean(namespace), functions.c.name == clean(name))
    row = tx.execute(query).one_or_none()
    if row is None:
        raise FunctionNotFound(f"no function {clean(name)!r} in namespace {clean(namespace)!r}")
    bump(tx)
    return to_function(row)


def remove_unused(tx: Connection, function_id: str) -> bool:
    """Delete it if no version was ever added: the clean-up of a first deploy that failed."""
    query = delete(functions).where(functions.c.id == clean(function_id))
    if tx.execute(query.where(functions.c.last_number == 0)).rowcount == 0:
        return False
    bump(tx)
    return True


def _find(tx: Connection, namespace: str, name: str) -> Function | None:
    query = select(*FUNCTION_COLUMNS).where(
        functions.c.namespace == clean(namespace), functions.c.name == clean(name)
    )
    row = tx.execute(query).one_or_none()
    return None if row is None else to_function(row)
