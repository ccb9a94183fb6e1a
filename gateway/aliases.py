"""Aliases over HTTP: list, one, move, delete, and a function's way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.responses import Response

from core.model import Alias, Function, check_name
from gateway.answers import AliasOut, Page, answer
from gateway.ask import Ask
from gateway.models import AliasChange, RollbackRequest

Result = TypeVar("Result")


async def list_aliases(ask: Ask) -> Response:
    """All of them, by name: a function has few."""
    found = await _of(ask, lambda f: ask.parts.catalog.aliases(f.id))
    return answer(Page[AliasOut](items=[AliasOut.of(alias) for alias in found], next=None))


async def get_alias(ask: Ask) -> Response:
    """One alias."""
    name = ask.request.path_params["alias"]
    alias = await _of(ask, lambda f: ask.parts.catalog.alias(f.id, name))
    return answer(AliasOut.of(alias))


async def put_alias(ask: Ask) -> Response:
    """Make or move an alias; it may only point at active versions."""
    name = check_name(ask.request.path_params["alias"], what="alias")
    change = await ask.json(AliasChange)
    weights = {int(number): share for number, share in change.weights.items()}
    alias = Alias(name, change.version, weights)
    stored = await _of(ask, lambda f: ask.parts.catalog.put_alias(f.id, alias))
    await ask.parts.changes.made()
    return answer(AliasOut.of(stored))


async def delete_alias(ask: Ask) -> Response:
    """Any alias but `latest`."""
    name = ask.request.path_params["alias"]
    await _of(ask, lambda f: ask.parts.catalog.delete_alias(f.id, name))
    await ask.parts.changes.made()
    return Response(status_code=204)


async def rollback(ask: Ask) -> Response:
    """The alias goes back to the version it had before: one write, nothing is built."""
    request = await ask.json(RollbackRequest)
    alias = await _of(ask, lambda f: ask.parts.catalog.rollback(f.id, request.alias))
    await ask.parts.changes.made()
    return answer(AliasOut.of(alias))


async def _of(ask: Ask, act: Callable[[Function], Result]) -> Result:
    """Act on the function of the path, in one thread."""
    catalog = ask.parts.catalog
    return await asyncio.to_thread(lambda: act(catalog.function(ask.namespace, ask.name)))
