"""Versions over HTTP: list, one, delete, its archive and its build log."""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import RequestInvalid, VersionNotFound
from core.model import Version
from gateway.answers import Page, VersionOut, answer
from gateway.ask import Ask, make_cursor
from gateway.response import WAITING
from storage.scratch import scratch_dir
from storage.store import object_key

CHUNK_BYTES = 256 * 1024
_KINDS = {
    b"\x1f\x8b": ("tar.gz", "application/gzip"),
    b"PK": ("zip", "application/zip"),
}


async def list_versions(ask: Ask) -> Response:
    """A page, newest first."""
    after, limit = ask.page()
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 11):
        raise RequestInvalid("the cursor is not one of ours")
    before = None if after is None else int(after)

    def read() -> Page[VersionOut]:
        function = ask.parts.catalog.function(ask.namespace, ask.name)
        found = ask.parts.catalog.versions(function.id, before=before, limit=limit + 1)
        page, more = found[:limit], found[limit:]
        next_ = make_cursor(str(page[-1].number)) if more else None
        return Page(items=[VersionOut.of(version) for version in page], next=next_)

    page = await asyncio.to_thread(read)
    await ask.parts.view.look()  # who is told that a version is active may call it here at once
    return answer(page)


async def get_version(ask: Ask) -> Response:
    """One version."""
    version = await asyncio.to_thread(_find, ask)
    await ask.parts.view.look()
    return answer(VersionOut.of(version))


async def delete_version(ask: Ask) -> Response:
    """A version that no alias points at. Its running invocations finish."""
    catalog, number = ask.parts.catalog, ask.number("number")

    def delete() -> None:
        function = catalog.function(ask.namespace, ask.name)
        catalog.delete_version(function.id, number)

    await asyncio.to_thread(delete)
    await ask.parts.changes.made()
    return Response(status_code=204)


async def get_build_log(ask: Ask) -> Response:
    """What the build has written so far, as text."""

    def read() -> str:
        return ask.parts.catalog.build(_find(ask).id).log

    return Response(await asyncio.to_thread(read), media_type="text/plain")


async def get_archive(ask: Ask) -> Response:
    """The archive, byte for byte as it was deployed."""
    version = await asyncio.to_thread(_find, ask)
    return await asyncio.to_thread(_Archive, ask, version)


def _find(ask: Ask) -> Version:
    number = ask.number("number")
    function = ask.parts.catalog.function(ask.namespace, ask.name)
    if number < 1:
        raise VersionNotFound(f"function {ask.name!r} has no version {number}")
    return ask.parts.catalog.version(function.id, number)


class _Archive(Response):
    """Sends a file that no longer has a name, so that nothing is left however sending ends."""

    def __init__(self, ask: Ask, version: Version) -> None:
        """Fetches the archive, verified. Blocks. PartAway, DigestMismatch, DiskFull."""
        with scratch_dir(ask.parts.settings.data_dir / "tmp") as folder:
            path = folder / "archive"
            ask.parts.store.fetch(object_key(version.function_id, version.archive_digest), path)
            self._file: BinaryIO = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        suffix, media_type = _KINDS.get(self._head(2), ("tar", "application/x-tar"))
        name = f"{version.name}-{version.number}.{suffix}"
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "content-length": str(self._size),
            "etag": f'"{version.archive_digest}"',
        }
        super().__init__(None, 200, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            left = 0 if scope["method"] == "HEAD" else self._size
            scope[WAITING] = True
            while left > 0:
                chunk = await asyncio.to_thread(self._file.read, min(CHUNK_BYTES, left))
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
            if scope["method"] == "HEAD" or not self._size:
                await send({"type": "http.response.body", "body": b""})

    def _head(self, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, 0)
