"""An upload arrives: a form or inline code becomes an archive in a directory of its own, which is
gone afterwards whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from starlette.types import Receive, Scope

from core.errors import (
    ArchiveInvalid,
    ConfigInvalid,
    MediaTypeUnsupported,
    NodeFull,
    RequestInvalid,
)
from core.limits import JSON_BODY_BYTES_MAX, MIB, UPLOADS_MAX
from core.settings import Settings
from gateway.body import read_body, stream_body
from gateway.form import OVERHEAD_BYTES_MAX, DeployForm, archive_too_large
from gateway.models import DeployConfig, InlineDeploy, read_json
from runtimes.registry import RUNTIMES, find
from storage.archive import wrap_single
from storage.scratch import room, scratch_dir

WRITE_BYTES = 1 * MIB  # gathered before a thread writes and hashes them
SINGLE_FILE_BYTES_MAX = 16 * MIB
UPLOAD_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Upload:
    """What was sent, on disk."""

    config: DeployConfig
    path: Path
    digest: str  # sha256 hex of the file at `path`
    size: int


class Uploads:
    """Receives uploads, at most UPLOADS_MAX at once, below `<data_dir>/tmp`."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir / "tmp"
        self._archive_bytes_max = settings.archive_bytes_max
        self._free = asyncio.Semaphore(UPLOADS_MAX)

    @asynccontextmanager
    async def receive(self, scope: Scope, receive: Receive) -> AsyncIterator[Upload]:
        """The request's upload; its file lives inside the block. NodeFull, RequestInvalid,
        MediaTypeUnsupported, PayloadTooLarge, ArchiveTooLarge, ConfigInvalid, DiskFull."""
        head = dict(scope["headers"])
        content_type = head.get(b"content-type", b"").decode("latin-1")
        kind = content_type.partition(";")[0].strip().lower()
        if kind not in ("multipart/form-data", "application/json"):
            raise MediaTypeUnsupported("send a multipart form, or JSON with inline code")
        async with self._slot():
            with room("the data directory"), scratch_dir(self._folder) as folder:
                if kind == "application/json":
                    yield await _inline(receive, head, folder)
                else:
                    yield await self._form(receive, head, content_type, folder)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(UPLOAD_WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            message = f"{UPLOADS_MAX} uploads are under way already"
            raise NodeFull(message, retry_after_s=UPLOAD_WAIT_S) from None
        try:
            yield
        finally:
            self._free.release()

    async def _form(
        self, receive: Receive, head: dict[bytes, bytes], content_type: str, folder: Path
    ) -> Upload:
        if int(head.get(b"content-length", 0)) > self._archive_bytes_max + OVERHEAD_BYTES_MAX:
            raise archive_too_large(self._archive_bytes_max)
        form = DeployForm(content_type, self._archive_bytes_max)
        path = folder / "archive"
        digest, size = await _write(receive, form, path)
        if form.filename is None:
            raise RequestInvalid("the form has no part 'archive'")
        config = read_json(DeployConfig, bytes(form.config) or b"{}")
        single = _single_file(form.filename, config)
        if single is None:
            return Upload(config, path, digest, size)
        if size > SINGLE_FILE_BYTES_MAX:
            raise archive_too_large(SINGLE_FILE_BYTES_MAX)
        code = await asyncio.to_thread(path.read_bytes)
        return await asyncio.to_thread(_wrapped, config, single, code, folder)


async def _inline(receive: Receive, head: dict[bytes, bytes], folder: Path) -> Upload:
    body = await read_body(receive, head, JSON_BODY_BYTES_MAX)
    sent = read_json(InlineDeploy, body)
    if not sent.config.runtime:
        fields = [{"field": "config.runtime", "message": "required"}]
        raise ConfigInvalid("config.runtime: required", fields=fields)
    runtime = find(sent.config.runtime)
    if not runtime.suffixes:
        raise ArchiveInvalid(f"{runtime.name} needs an archive: it runs no single file of text")
    name = "main" + runtime.suffixes[0]
    try:
        code = sent.code.encode()
    except UnicodeEncodeError:
        raise RequestInvalid("code holds half a surrogate pair: it is not text") from None
    return await asyncio.to_thread(_wrapped, sent.config, name, code, folder)


async def _write(receive: Receive, form: DeployForm, path: Path) -> tuple[str, int]:
    """Feed the form, write its archive; the digest and the size of that."""
    digest = hashlib.sha256()
    size = 0

    with path.open("wb", buffering=0) as file:

        def write(chunks: list[bytes]) -> None:
            for chunk in chunks:
                digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]

        waiting: list[bytes] = []
        waiting_bytes = 0
        async for data in stream_body(receive):
            form.feed(data)
            for chunk in form.take():
                waiting.append(chunk)
                waiting_bytes += len(chunk)
            if waiting_bytes >= WRITE_BYTES:
                await asyncio.to_thread(write, waiting)
                size += waiting_bytes
                waiting, waiting_bytes = [], 0
        form.finish()
        await asyncio.to_thread(write, waiting)
        return digest.hexdigest(), size + waiting_bytes


def _single_file(filename: str, config: DeployConfig) -> str | None:
    """What a single uploaded file is called inside its archive; None for an archive."""
    suffix = PurePosixPath(filename.replace("\\", "/")).suffix.lower()
    known = {suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes}
    if suffix not in known:
        return None
    if not config.runtime:
        fields = [{"field": "runtime", "message": "required"}]
        raise ConfigInvalid("runtime: required with a single file", fields=fields)
    runtime = find(config.runtime)
    if suffix not in runtime.suffixes:
        raise ArchiveInvalid(f"{runtime.name} does not run a {suffix} file")
    return f"main{suffix}"


def _wrapped(config: DeployConfig, name: str, code: bytes, folder: Path) -> Upload:
    path = folder / "wrapped"
    wrap_single(name, code, path)
    packed = path.read_bytes()
    return Upload(config, path, hashlib.sha256(packed).hexdigest(), len(packed))
