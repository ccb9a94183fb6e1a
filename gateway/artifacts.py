"""Compiled modules for this node's hosts: what the deploy made, if it fits this node, else what the
node made or now makes for itself (another processor, another engine, a signature not ours).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from core.errors import (
    ArchiveInvalid,
    BuildFailed,
    DigestMismatch,
    FunctionInitFailed,
    ObjectMissing,
)
from core.limits import WASM_COMPILE_S, WASM_RECORDS_MAX
from core.model import Version
from core.settings import Settings
from executor.build_sandbox import BuildSandbox
from executor.wasm_artifacts import Compilation, Signer, compile_module, engine_here, find_module
from storage.archive import pack_tree, unpack
from storage.code_cache import CodeCache
from storage.scratch import scratch_dir
from storage.store import ObjectStore, object_key

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

log = logging.getLogger("hearth.gateway")


class Artifacts:
    """Trees that hold a compiled module each, from the code cache. Thread-safe; calls block."""

    def __init__(self, settings: Settings, cache: CodeCache, store: ObjectStore) -> None:
        self._settings = settings
        self._cache = cache
        self._store = store
        self._signer = Signer(settings.data_dir)
        self._records = settings.data_dir / "wasm"
        self._sandbox = BuildSandbox(
            settings.podman_socket, node=settings.node, builder=_process_name(settings.node)
        )
        # Above the builders' own: one module at a time is compiled here.
        self._uid = settings.uid_base + settings.uid_count + settings.builds_max
        self._turn = threading.Lock()

    def pinned_tree(self, version: Version) -> Path:
        """The directory of the version's artifact, pinned in the cache.

        FunctionInitFailed when the module cannot be compiled here; PartAway, DiskFull, …"""
        if (path := self._known(version)) is not None:
            return path
        with self._turn:
            if (path := self._known(version)) is not None:  # somebody else was quicker
                return path
            log.info("compiling %s for this node", version.label)
            try:
                digest = self._compile(version)
            except BuildFailed as error:
                message = f"the module cannot be compiled on this node: {error.message}"
                raise FunctionInitFailed(message) from error
            self._remember(version, digest)
            if (path := self._fitting(version, digest)) is None:
                raise FunctionInitFailed("what was compiled for this node does not fit it")
            return path

    def _known(self, version: Version) -> Path | None:
        for digest in self._candidates(version):
            if (path := self._fitting(version, digest)) is not None:
                return path
        return None

    def _candidates(self, version: Version) -> Iterator[str]:
        """Of the deploy, then of this node. Never the archive itself: that is the user's."""
        yield from version.layers[1:]
        try:
            digest = self._record(version).read_text()
        except OSError:
            return
        if _DIGEST.fullmatch(digest):
            yield digest

    def _fitting(self, version: Version, digest: str) -> Path | None:
        try:
            path = self._cache.pinned_tree(version.function_id, (digest,))
        except (ObjectMissing, DigestMismatch, ArchiveInvalid):
            return None
        if self._signer.fits(path, version.layers[0]):
            return path
        self._cache.unpin(path)
        return None

    def _compile(self, version: Version) -> str:
        """The digest of a new artifact, in the store under the version's function."""
        archive = version.layers[0]
        with scratch_dir(self._settings.data_dir / "tmp") as work:
            self._store.fetch(object_key(version.function_id, archive), work / "code")
            unpack(work / "code", work / "tree")
            wanted = Compilation(
                source=find_module(work / "tree"),
                archive=archive,
                handler=version.config.handler,
                work=work,
                uid=self._uid,
                memory_mb=self._settings.build_memory_mb,
                timeout_s=min(WASM_COMPILE_S, self._settings.build_timeout_s),
            )
            artifact = compile_module(
                self._sandbox, self._signer, wanted, write=lambda _: None, tick=lambda: None
            )
            digest = pack_tree(artifact, work / "layer.tar")
            self._store.put(object_key(version.function_id, digest), work / "layer.tar")
        return digest

    def _record(self, version: Version) -> Path:
        engine = hashlib.sha256(engine_here().encode()).hexdigest()[:16]
        return self._records / f"{version.function_id}.{version.layers[0]}.{engine}"

    def _remember(self, version: Version, digest: str) -> None:
        self._records.mkdir(mode=0o700, exist_ok=True)
        path = self._record(version)
        fresh = path.with_name(f".{secrets.token_hex(8)}")
        fresh.write_text(digest)
        fresh.rename(path)
        kept = sorted(self._records.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in kept[:-WASM_RECORDS_MAX]:
            old.unlink(missing_ok=True)


def _process_name(node: str) -> str:
    """As builders call themselves, so that their sweep can tell when this process is gone."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{node}:{os.getpid()}:{started}:{secrets.token_hex(3)}"
