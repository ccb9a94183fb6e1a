"""API keys in the database. The text of a key is returned once and never stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, select

from catalog.rows import bump, clean, dump, insert_if_absent, new_id, now, to_key
from catalog.tables import keys
from core.errors import Conflict, KeyNotFound, Unprocessable
from core.limits import KEY_FUNCTIONS_MAX, KEY_NAME_LENGTH_MAX, KEY_TEXT_LENGTH_MIN
from core.model import PLATFORM_NAMESPACE, Key, Role, check_name


def digest_of(text: str) -> str:
    """What is stored of a key, and looked up when one is shown: its SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def add(
    tx: Connection,
    *,
    name: str,
    role: Role,
    namespace: str,
    functions: Sequence[str],
    expires_at: datetime | None,
    text: str | None,
) -> tuple[Key, str]:
    """A new key and its text, made here unless given. Conflict when that text is a key already."""
    _check(name, namespace, functions, expires_at)
    if text is None:
        text = "hk_" + secrets.token_urlsafe(32)
    if len(text) < KEY_TEXT_LENGTH_MIN:
        raise Unprocessable(f"a key has at least {KEY_TEXT_LENGTH_MIN} characters")
    key = Key(
        id=new_id("key"),
        name=clean(name),
        digest=digest_of(text),
        role=Role(role),
        namespace=namespace,
        functions=tuple(functions),
        expires_at=expires_at,
        created_at=now(),
    )
    _insert(tx, key)
    bump(tx)
    return key, text


def _check(
    name: str, namespace: str, functions: Sequence[str], expires_at: datetime | None
) -> None:
    if namespace != PLATFORM_NAMESPACE:
        check_name(namespace, what="namespace")
    for function in functions:
        check_name(function, what="function")
    if len(functions) > KEY_FUNCTIONS_MAX or len(name) > KEY_NAME_LENGTH_MAX:
        raise Unprocessable(
            f"a key has a name of at most {KEY_NAME_LENGTH_MAX} characters "
            f"and names at most {KEY_FUNCTIONS_MAX} functions"
        )
    if expires_at is not None and expires_at.tzinfo is None:
        raise Unprocessable("expires_at needs a time zone")


def _insert(tx: Connection, key: Key) -> None:
    if not insert_if_absent(
        tx,
        keys,
        id=key.id,
        name=key.name,
        digest=key.digest,
        role=key.role.value,
        namespace=key.namespace,
        functions=dump(key.functions),
        expires_at=key.expires_at,
        created_at=key.created_at,
    ):
        raise Conflict("this key exists already")


def all_of(tx: Connection, namespace: str | None) -> list[Key]:
    """The namespace's keys, or everyone's, oldest first, expired ones included."""
    query = select(keys).order_by(keys.c.created_at, keys.c.id)
    if namespace is not None:
        query = query.where(keys.c.namespace == clean(namespace))
    return [to_key(row) for row in tx.execute(query)]


def remove(tx: Connection, key_id: str) -> Key:
    """Delete it: it opens nothing from now on. KeyNotFound."""
    query = delete(keys).where(keys.c.id == clean(key_id)).returning(*keys.c)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise KeyNotFound("no such key")
    bump(tx)
    return to_key(row)
