"""News of the catalog: this node's own changes told to the others, theirs taken in here."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from catalog.catalog import Catalog
from core.errors import HearthError
from core.model import Version, VersionStatus
from events.notices import Notices
from gateway.view import View

BUILD_POLL_S = 1.0  # the net under lost notices

log = logging.getLogger("hearth.changes")


class Changes:
    """Keeps the view fresh and wakes who waits for a build. `run` it as a task."""

    def __init__(self, catalog: Catalog, view: View, notices: Notices) -> None:
        self._catalog = catalog
        self._view = view
        self._notices = notices
        self._untold = asyncio.Event()
        self._builds: dict[str, set[asyncio.Event]] = {}

    async def made(self) -> None:
        """This node has changed the catalog: returns when its own calls see that. Others are told
        behind the caller's back, since Redis may be slow to say that it is away."""
        self._untold.set()
        try:
            await self._view.refresh()
        except HearthError as error:  # the change stands; the poll will show it
            log.warning("the view could not be refreshed: %s", error.message)

    async def build_end(self, version: Version, timeout_s: float) -> Version:
        """The version when its build has ended, or as it is after `timeout_s`. VersionNotFound
        when somebody deletes it meanwhile."""
        ended = asyncio.Event()
        waiters = self._builds.setdefault(version.id, set())
        waiters.add(ended)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            while True:
                version = await asyncio.to_thread(self._catalog.version_by_id, version.id)
                left = deadline - asyncio.get_running_loop().time()
                if version.status is not VersionStatus.BUILDING or left <= 0:
                    return version
                await _wait(ended, min(left, BUILD_POLL_S))
                ended.clear()
        finally:
            waiters.discard(ended)
            if not waiters:
                self._builds.pop(version.id, None)

    async def listen(self) -> None:
        """Take in what other processes tell, for ever."""
        async for notice in self._notices.listen():
            self._view.wake()
            if notice.kind == "version":
                for ended in self._builds.get(str(notice.payload.get("version_id")), ()):
                    ended.set()

    async def tell(self) -> None:
        """Tell other processes of this one's changes, for ever."""
        while True:
            await self._untold.wait()
            self._untold.clear()
            await asyncio.to_thread(self._notices.publish, "catalog")


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
