"""A whole node in the test's own loop: real catalog, object store, Redis and sockets; sandboxes are
child processes, and the builder is a stand-in that only checks and activates."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from catalog.catalog import Catalog
from core.errors import HearthError
from core.model import BuildStatus
from core.settings import Settings
from events.notices import Notices
from executor.process_driver import ProcessDriver
from gateway.app import Gateway
from gateway.main import serving

BUILD_POLL_S = 0.02
ECHO = """
def handler(event, context):
    return event
"""


def make_process_driver(settings: Settings, release: Callable[[str], None]) -> ProcessDriver:
    """Sandboxes without isolation."""
    return ProcessDriver(settings.payload_bytes_max, release)


def packed(files: Mapping[str, str | bytes]) -> bytes:
    """A .tar.gz of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def form_of(
    files: Mapping[str, str | bytes] | bytes, config: str | None, filename: str = "code.tar.gz"
) -> dict[str, Any]:
    """A deploy's form, as httpx takes it."""
    archive = files if isinstance(files, bytes) else packed(files)
    form: dict[str, Any] = {"archive": (filename, archive, "application/octet-stream")}
    if config is not None:
        form["config"] = (None, config, "application/json")
    return form


@dataclass
class Builder:
    """Stands in for the builder process: checks through the internal socket, then activates."""

    catalog: Catalog
    notices: Notices
    socket: Path
    held: asyncio.Event = field(default_factory=asyncio.Event)  # clear: builds wait

    async def run(self) -> None:
        """Build whatever is queued, for ever."""
        while True:
            await self.held.wait()
            with contextlib.suppress(HearthError):  # the database may be away in a test
                for build in await asyncio.to_thread(self.catalog.unfinished_builds):
                    await self.build(build.version_id)
            await asyncio.sleep(BUILD_POLL_S)

    async def build(self, version_id: str) -> None:
        """One build."""
        stale = datetime.now(UTC) - timedelta(seconds=60)
        claimed = await asyncio.to_thread(
            lambda: self.catalog.claim_build(version_id, "test", stale_before=stale)
        )
        if claimed is None:
            return
        version = await asyncio.to_thread(self.catalog.version_by_id, version_id)
        layers = list(version.layers or (version.archive_digest,))
        error = await self.check(version_id, layers)
        if error is None:
            await asyncio.to_thread(self.catalog.activate, version_id, layers)
            status, log = BuildStatus.SUCCEEDED, "checked\n"
        else:
            await asyncio.to_thread(self.catalog.fail, version_id, error["message"])
            status, log = BuildStatus.FAILED, json.dumps(error)
        await asyncio.to_thread(self.catalog.finish_build, version_id, "test", status, log)
        await asyncio.to_thread(
            lambda: self.notices.publish("version", version_id=version_id, status=status.value)
        )

    async def check(self, version_id: str, layers: list[str]) -> dict[str, Any] | None:
        """What the node says about the version's code; None when it loads."""
        answer = await self.post({"version_id": version_id, "layers": layers})
        return None if answer.status_code == 200 else dict(answer.json()["error"])

    async def post(self, body: Any) -> httpx.Response:
        """POST /internal/check."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.post("/internal/check", json=body, timeout=60)


@dataclass
class Node:
    """A running node and its client, who is the admin unless told otherwise."""

    gateway: Gateway
    settings: Settings
    url: str
    admin_key: str
    client: httpx.AsyncClient
    builder: Builder
    server: uvicorn.Server

    @property
    def catalog(self) -> Catalog:
        return self.gateway.parts.catalog

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def put(
        self,
        name: str,
        files: Mapping[str, str | bytes] | bytes,
        config: Mapping[str, Any] | None = None,
        *,
        wait: bool = True,
        filename: str = "code.tar.gz",
        **options: Any,
    ) -> httpx.Response:
        """PUT /v1/functions/{name} as a form."""
        said = {"runtime": "python3.13", **(config or {})}
        form = form_of(files, json.dumps(said), filename)
        query = "?wait=true" if wait else ""
        return await self.client.put(f"/v1/functions/{name}{query}", files=form, **options)

    async def deploy(
        self, name: str, code: str = ECHO, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A version that is active when this returns."""
        answer = await self.put(name, {"main.py": code}, config)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    async def key(self, role: str, **facts: Any) -> dict[str, str]:
        """Headers with a new key."""
        answer = await self.client.post("/v1/keys", json={"name": role, "role": role, **facts})
        assert answer.status_code == 201, answer.text
        return {"authorization": f"Bearer {answer.json()['key']}"}

    async def invoke(self, name: str, event: Any = None, **options: Any) -> httpx.Response:
        """POST …/invocations."""
        return await self.client.post(f"/v1/functions/{name}/invocations", json=event, **options)

    def leftovers(self) -> list[str]:
        """What lies where uploads and downloads pass through."""
        return [path.name for path in (self.settings.data_dir / "tmp").iterdir()]


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Node]:
    """A node on these settings."""
    async with serving(settings, make_process_driver) as served:
        gateway = served.gateway
        key = settings.admin_key_file.read_text().strip()
        notices = Notices(settings.redis)
        builder = Builder(gateway.parts.catalog, notices, settings.internal_socket)
        builder.held.set()
        task = asyncio.create_task(builder.run())
        headers = {"authorization": f"Bearer {key}"}
        try:
            async with httpx.AsyncClient(
                base_url=served.url, headers=headers, timeout=60
            ) as client:
                yield Node(gateway, settings, served.url, key, client, builder, served.server)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await notices.aclose()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short path: sockets stand in it."""
    with tempfile.TemporaryDirectory(prefix="hearth-gw-") as name:
        yield Path(name)


@pytest.fixture
def settings(folder: Path, redis_url: str) -> Settings:
    """Of a node of the test's own; Redis is shared."""
    return Settings(
        data_dir=folder / "data",
        run_dir=folder / "run",
        address="127.0.0.1:0",
        redis_url=redis_url,
        stems=0,
        drain_s=5.0,
    )


@pytest.fixture
async def node(settings: Settings) -> AsyncIterator[Node]:
    """A running node."""
    async with running(settings) as node:
        yield node


@pytest.fixture
def with_settings(settings: Settings) -> Callable[..., Settings]:
    """The settings with some of them changed."""
    return lambda **changes: replace(settings, **changes)
