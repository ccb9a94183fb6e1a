"""The executor's CodeProvider: the node's cache of unpacked code, reached without blocking."""

from __future__ import annotations

import asyncio
from pathlib import Path

from core.model import Version
from gateway.artifacts import Artifacts
from runtimes.registry import find
from storage.code_cache import CodeCache


class Code:
    """Trees stay pinned as long as a sandbox uses them."""

    def __init__(self, cache: CodeCache, artifacts: Artifacts) -> None:
        self._cache = cache
        self._artifacts = artifacts
        self._releasing: set[asyncio.Future[None]] = set()

    async def tree(self, version: Version) -> str:
        """The version's directory; for a hosted runtime, its artifact's. See the interface."""
        if find(version.config.runtime).is_hosted:
            return str(await asyncio.to_thread(self._artifacts.pinned_tree, version))
        make = self._cache.pinned_tree
        whose = (version.function_id, version.layers, version.namespace)
        return str(await asyncio.to_thread(make, *whose))

    def release(self, path: str) -> None:
        """One user less; what is no longer needed may be evicted, in a thread."""
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(None, self._cache.unpin, Path(path))
        self._releasing.add(done)
        done.add_done_callback(self._releasing.discard)

    async def aclose(self) -> None:
        """Wait for what is being released."""
        await asyncio.gather(*self._releasing)
        self._cache.close()
