"""Keys over HTTP, for administrators; and the first key, made as a gateway starts."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets

from starlette.responses import Response

from catalog.catalog import Catalog
from core.errors import Conflict, Forbidden, KeyNotFound
from core.limits import KEY_TEXT_LENGTH_MIN
from core.model import PLATFORM_NAMESPACE, Key, Role
from core.settings import Settings, SettingsInvalid
from gateway.answers import KeyMade, KeyOut, Page, answer
from gateway.ask import Ask, make_cursor
from gateway.auth import KEY_PREFIX
from gateway.models import KeyRequest
from storage.scratch import scratch_file

FIRST_KEY_NAME = "first admin"

log = logging.getLogger("hearth.keys")


async def create_key(ask: Ask) -> Response:
    """A new key, shown this once."""
    wanted = await ask.json(KeyRequest)
    namespace = wanted.namespace or ask.caller.home
    if not ask.caller.sees(namespace) and not ask.caller.is_platform:
        raise Forbidden("a key of another namespace, or of all, needs an admin key of all")

    def make() -> tuple[Key, str]:
        return ask.parts.catalog.add_key(
            name=wanted.name,
            role=wanted.role,
            namespace=namespace,
            functions=tuple(wanted.functions),
            expires_at=wanted.expires_at,
        )

    key, text = await asyncio.to_thread(make)
    await ask.parts.changes.made()
    return answer(KeyMade.made(key, text), 201, {"cache-control": "no-store"})


async def list_keys(ask: Ask) -> Response:
    """A page, oldest first: of the caller's namespace, or of all for an admin key of all."""
    after, limit = ask.page()
    found = await asyncio.to_thread(_visible, ask)
    behind = [key for key in found if after is None or _place(key) > after]
    page, more = behind[:limit], behind[limit:]
    next_ = make_cursor(_place(page[-1])) if more else None
    return answer(Page[KeyOut](items=[KeyOut.of(key) for key in page], next=next_))


async def delete_key(ask: Ask) -> Response:
    """It opens nothing any more, from this answer on here and within a second on other nodes."""
    key_id = ask.request.path_params["id"]

    def delete() -> None:
        visible = {key.id: key for key in _visible(ask)}
        if key_id not in visible:
            raise KeyNotFound(f"no key {key_id[:64]!r}")
        others = [key for key in visible.values() if key.id != key_id]
        if _administers(visible[key_id]) and not any(_administers(key) for key in others):
            raise Conflict("this is the last admin key of the platform: make another one first")
        ask.parts.catalog.delete_key(key_id)

    await asyncio.to_thread(delete)
    await ask.parts.changes.made()
    return Response(status_code=204)


def ensure_admin_key(catalog: Catalog, settings: Settings) -> None:
    """Where the catalog has no admin key of the platform, make one, kept in a file of mode 0600.
    A file from before (the database was made anew) is registered again, so that clients that
    know the key go on. Blocks. SettingsInvalid when the file holds something else."""
    if any(_administers(key) for key in catalog.keys(None)):
        return
    path = settings.admin_key_file
    if path.exists():
        text = path.read_text().strip()
        if not text.startswith(KEY_PREFIX.decode()) or len(text) < KEY_TEXT_LENGTH_MIN:
            raise SettingsInvalid(f"{path} does not hold a key: remove it, a new one is made")
    else:
        # The file first: a key that is registered and nowhere written down would be of no use.
        text = f"{KEY_PREFIX.decode()}{secrets.token_urlsafe(32)}"
        with scratch_file(path.parent) as (descriptor, written):
            os.write(descriptor, f"{text}\n".encode())
            os.fsync(descriptor)
            written.rename(path)
    catalog.add_key(name=FIRST_KEY_NAME, role=Role.ADMIN, namespace=PLATFORM_NAMESPACE, text=text)
    log.info("the admin key is in %s", path)


def _visible(ask: Ask) -> list[Key]:
    namespace = None if ask.caller.is_platform else ask.caller.key.namespace
    return ask.parts.catalog.keys(namespace)


def _place(key: Key) -> str:
    """Where it stands in the list, oldest first; sorts also when the key is gone."""
    return f"{key.created_at.isoformat(timespec='microseconds')} {key.id}"


def _administers(key: Key) -> bool:
    return (
        key.role is Role.ADMIN
        and key.namespace == PLATFORM_NAMESPACE
        and not key.functions
        and key.expires_at is None
    )
