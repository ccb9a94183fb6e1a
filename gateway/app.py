"""The gateway's parts, put together; and the one ASGI app in front of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from catalog.catalog import Catalog
from core.limits import MIB
from core.settings import Settings
from events.jobs import JobQueue
from events.notices import Notices
from executor.driver import Driver
from executor.executor import Executor
from gateway.artifacts import Artifacts
from gateway.ask import Parts
from gateway.changes import Changes
from gateway.code import Code
from gateway.health import Health, in_thread
from gateway.internal import Internal
from gateway.invoke import Invoke, is_invocation
from gateway.keys import ensure_admin_key
from gateway.lane import Lane
from gateway.logs import LogFiles
from gateway.manage import Manage
from gateway.peers import Peers
from gateway.upload import Uploads
from gateway.view import View
from storage.code_cache import CodeCache
from storage.scratch import sweep
from storage.store import open_store

RESTART_S = 1.0

log = logging.getLogger("hearth.gateway")
MakeDriver = Callable[[Settings, Callable[[str], None]], Driver]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A node, ready to serve."""

    edge: Edge
    internal: Internal
    executor: Executor
    parts: Parts


class Edge:
    """Every request from outside: the hot path at once, the rest by Starlette's routes."""

    def __init__(self, invoke: Invoke, manage: Manage) -> None:
        self.lane: Lane = invoke
        self._invoke = invoke
        self._manage = manage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_invocation(scope["method"], scope["raw_path"]):
            await self._invoke(scope, receive, send)
        else:
            await self._manage(scope, receive, send)


@asynccontextmanager
async def opened(settings: Settings, make_driver: MakeDriver) -> AsyncIterator[Gateway]:
    """Everything but the listening sockets, closed in reverse. PartAway, SettingsInvalid."""
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(prepare, settings)
        catalog = Catalog(settings.database)
        stack.callback(catalog.close)
        await asyncio.to_thread(catalog.migrate)
        await asyncio.to_thread(ensure_admin_key, catalog, settings)
        store = open_store(settings)
        stack.callback(store.close)
        jobs, notices = JobQueue(settings.redis), Notices(settings.redis)
        stack.callback(jobs.close)
        stack.push_async_callback(notices.aclose)
        logs = LogFiles(settings.data_dir / "logs")
        stack.push_async_callback(logs.flush)
        root, bytes_max = settings.data_dir / "code", settings.code_cache_mb * MIB
        cache = await asyncio.to_thread(CodeCache, root, store, bytes_max)
        code = Code(cache, Artifacts(settings, cache, store))
        stack.push_async_callback(code.aclose)
        driver = make_driver(settings, code.release)
        executor = await stack.enter_async_context(Executor(settings, driver, code, logs))
        view = View(catalog, executor.retire, executor.keep)
        await view.refresh()
        changes = Changes(catalog, view, notices)
        health = Health(
            {
                "database": in_thread(catalog.ping),
                "redis": in_thread(jobs.ping),
                "object store": in_thread(store.ping),
                "podman": executor.ping,
            }
        )
        uploads = Uploads(settings)
        parts = Parts(settings, catalog, store, jobs, view, changes, uploads, logs, health)
        loops = (view.poll, changes.listen, changes.tell, logs.run)
        await stack.enter_async_context(_running(*loops))
        peers = Peers(settings.trusted_proxies)
        invoke = Invoke(view, executor, catalog, peers, settings.payload_bytes_max)
        edge = Edge(invoke, Manage(parts))
        internal = Internal(catalog, executor, view, logs)
        yield Gateway(edge, internal, executor, parts)


def prepare(settings: Settings) -> None:
    """Directories, and what an earlier life left in the one for uploads. Blocks."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("tmp", "logs"):
        (settings.data_dir / name).mkdir(exist_ok=True, mode=0o700)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    swept = sweep(settings.data_dir / "tmp")
    if swept:
        log.info("removed %d unfinished uploads of an earlier life", swept)


@asynccontextmanager
async def _running(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run endless loops beside the block."""
    tasks = [asyncio.create_task(_for_ever(loop)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _for_ever(loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:  # a fault in one of these must not leave the node deaf for good
            log.exception("%s failed and starts again", loop)
        await asyncio.sleep(RESTART_S)
