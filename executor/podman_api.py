"""Podman's service, spoken to through podman-py in a few threads. Foreign errors end here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from podman import PodmanClient
from podman.api import uds
from podman.errors import PodmanError

from core.errors import HearthError, PartAway, SandboxBroken
from core.limits import BOOTS_AT_ONCE_MAX
from executor.egress import Egress
from executor.patience import to_the_end

_ANSWER_S = 60.0
_ASIDE_THREADS = 2  # removals and pings do not queue behind boots


class _Socket(uds.UDSSocket):
    """podman-py forgets to close a socket that it could not connect."""

    def connect(self, **options: Any) -> None:  # type: ignore[override]
        """As podman-py's."""
        try:
            super().connect(**options)  # type: ignore[no-untyped-call]
        except BaseException:
            self.close()
            raise


setattr(uds, "UDSSocket", _Socket)  # noqa: B010 - there is no other way in


class PodmanApi:
    """What a driver asks of Podman. Made in any thread, used from one event loop, closed once."""

    def __init__(self, service: Path) -> None:
        self._service = service
        self._boots = ThreadPoolExecutor(BOOTS_AT_ONCE_MAX, thread_name_prefix="podman-boot")
        self._asides = ThreadPoolExecutor(_ASIDE_THREADS, thread_name_prefix="podman")
        self._local = threading.local()
        self._clients: set[PodmanClient] = set()

    async def run(self, spec: dict[str, Any], egress: Egress | None = None) -> None:
        """Create and start a container, behind walls when it has a network. SandboxBroken,
        PartAway. When cancelled it first waits for what cannot be stopped: what is made must be
        there before it is removed."""
        if egress is None:
            await self._in_thread(self._boots, self._run, spec)
        else:
            await self._in_thread(self._boots, self._run_walled, spec, egress)

    async def remove(self, name: str) -> None:
        """Kill and remove a container, if there is one. SandboxBroken, PartAway."""
        path = f"/containers/{name}?force=true&timeout=0&ignore=true"
        await self._in_thread(self._asides, self._ask, "delete", path)

    async def ping(self) -> None:
        """PartAway when the service does not answer."""
        await self._in_thread(self._asides, self._ask, "get", "/_ping")

    def close(self) -> None:
        """Give threads and connections back. Blocks until the threads have ended."""
        for pool in (self._boots, self._asides):
            pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()  # type: ignore[no-untyped-call]
        self._clients.clear()

    def _run(self, spec: dict[str, Any]) -> None:
        # In one go: when many boot at once, the first is ready before the last is created.
        made = self._ask("post", "/containers/create", spec)
        self._ask("post", f"/containers/{made['Id']}/start")

    def _run_walled(self, spec: dict[str, Any], egress: Egress) -> None:
        egress.prepare(self._ask)
        made = self._ask("post", "/containers/create", spec)
        container = f"/containers/{made['Id']}"
        self._ask("post", f"{container}/init")  # namespaces, and a process that waits
        egress.wall(self._ask("get", f"{container}/json")["State"]["Pid"])
        self._ask("post", f"{container}/start")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        client = self._client()
        try:
            response = getattr(client.api, method)(
                path,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            missing = response.status_code == 404
            if response.status_code < 400 or (missing and method == "delete"):
                kind = response.headers.get("Content-Type", "")
                is_json = kind.startswith("application/json") and response.content
                return response.json() if is_json else None
        except (requests.RequestException, PodmanError, OSError, ValueError) as error:
            self._forget(client)
            raise PartAway("podman", f"its service does not answer ({error})") from error
        cause = _cause(response)
        hint = "; `hearth images build` makes it" if "image" in cause else ""
        raise SandboxBroken(f"Podman refused: {cause}{hint}")

    def _client(self) -> PodmanClient:
        client: PodmanClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = PodmanClient(
                base_url=f"unix://{self._service}", timeout=_ANSWER_S
            )
            self._clients.add(client)
        return client

    def _forget(self, client: PodmanClient) -> None:
        self._local.client = None
        self._clients.discard(client)
        client.close()  # type: ignore[no-untyped-call]

    async def _in_thread(
        self, pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any
    ) -> None:
        begun = pool.submit(work, *arguments)
        done = asyncio.wrap_future(begun)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            if not begun.cancel():
                with contextlib.suppress(HearthError, asyncio.CancelledError):
                    await to_the_end(done)
            raise


def _cause(response: requests.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        return response.text[:500]
    if not isinstance(said, dict):
        return str(said)[:500]
    return str(said.get("message") or said.get("cause") or said)[:500]
