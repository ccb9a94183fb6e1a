"""A part is away: a 503 names it, running functions do not notice, and it heals by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from core.errors import PartAway
from core.settings import Settings
from gateway import health
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis_server import RedisServer
from tests.fixtures.s3 import S3Server
from tests.integration.gateway.conftest import ECHO, Node, running

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _ask_the_parts_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEPT_S", 0.0)


def names(answer: httpx.Response, part: str) -> None:
    """The answer is a 503 that names the part and says when to come back."""
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["part"]) == ("part_away", part)
    assert int(answer.headers["retry-after"]) >= 1


async def functions(node: Node) -> list[str]:
    """Names of all functions."""
    listed = (await node.client.get("/v1/functions")).json()["items"]
    return [function["name"] for function in listed]


async def test_redis_away_refuses_deploys_and_nothing_else(
    redis_server: RedisServer, settings: Settings
) -> None:
    async with running(replace(settings, redis_url=redis_server.url)) as node:
        await node.deploy("hello")
        redis_server.kill()
        names(await node.client.get("/readyz"), "redis")
        names(await node.put("new", {"main.py": ECHO}, wait=False), "redis")
        names(await node.client.patch("/v1/functions/hello", json={}), "redis")
        assert (await node.invoke("hello", 1)).json() == 1
        alias = await node.client.put("/v1/functions/hello/aliases/prod", json={"version": 1})
        assert alias.status_code == 200
        assert (await node.invoke("hello:prod", 2)).json() == 2
        assert await functions(node) == ["hello"]
        assert node.leftovers() == []
        redis_server.start()
        assert (await node.client.get("/readyz")).status_code == 200
        assert (await node.put("new", {"main.py": ECHO})).status_code == 201


async def test_a_redis_that_dies_before_the_build_is_asked_for_costs_only_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(name: str, **kwargs: object) -> None:
        raise PartAway("redis", "gone in that very moment")

    monkeypatch.setattr(node.gateway.parts.jobs, "enqueue", dies)
    node.builder.held.clear()
    answer = await node.put("hello", {"main.py": ECHO}, wait=False)
    assert answer.status_code == 202
    (build,) = node.catalog.unfinished_builds()  # the builder's sweep finds it there
    assert build.version_id == answer.json()["id"]


async def test_the_object_store_away_refuses_deploys_and_leaves_no_function(
    node: Node,
) -> None:
    await node.deploy("hello")
    objects, elsewhere = node.settings.data_dir / "objects", node.settings.data_dir / "moved"
    objects.rename(elsewhere)
    names(await node.client.get("/readyz"), "object store")
    names(await node.put("new", {"main.py": ECHO}, wait=False), "object store")
    names(await node.client.get("/v1/functions/hello/versions/1/archive"), "object store")
    assert (await node.invoke("hello", 1)).json() == 1
    assert await functions(node) == ["hello"]
    assert node.leftovers() == []
    elsewhere.rename(objects)
    assert (await node.put("new", {"main.py": ECHO})).status_code == 201


async def test_an_s3_server_away_is_named_and_comes_back(
    s3_server: S3Server, settings: Settings
) -> None:
    theirs = s3_server.settings(settings.data_dir)
    s3 = {name: getattr(theirs, name) for name in S3_SETTINGS}
    async with running(replace(settings, **s3)) as node:
        await node.deploy("hello")
        s3_server.stop()
        names(await node.put("new", {"main.py": ECHO}, wait=False), "object store")
        assert (await node.invoke("hello", 1)).json() == 1
        assert await functions(node) == ["hello"]
        s3_server.start()
        assert (await node.put("new", {"main.py": ECHO})).status_code == 201


S3_SETTINGS = (
    "s3_endpoint",
    "s3_bucket",
    "s3_key_id",
    "s3_secret",
    "s3_path_style",
)


async def test_the_database_away_stops_changes_and_no_invocation(
    own_postgres_server: PostgresServer, settings: Settings
) -> None:
    url = own_postgres_server.url("postgres")
    async with running(replace(settings, database_url=url)) as node:
        await node.deploy("hello")
        own_postgres_server.crash()
        names(await node.client.get("/readyz"), "database")
        names(await node.client.get("/v1/functions"), "database")
        names(await node.put("new", {"main.py": ECHO}, wait=False), "database")
        names(await node.client.post("/v1/keys", json={"name": "x", "role": "viewer"}), "database")
        assert (await node.invoke("hello", 1)).json() == 1
        assert node.leftovers() == []
        own_postgres_server.start()
        assert (await node.put("new", {"main.py": ECHO})).status_code == 201
        assert await functions(node) == ["hello", "new"]


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own with no more room than that."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a tmpfs here (needs root with CAP_SYS_ADMIN)")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_said_and_nothing_stays(settings: Settings) -> None:
    with small_disk(settings.data_dir.parent / "disk", 12 * MIB):
        disk = settings.data_dir.parent / "disk"
        async with running(replace(settings, data_dir=disk / "data")) as node:
            await node.deploy("hello")
            for size in (20 * MIB, 7 * MIB):  # no room to receive it; no room to store it too
                files: dict[str, str | bytes] = {"main.py": ECHO, "noise.bin": os.urandom(size)}
                answer = await node.put("new", files, wait=False)
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] == "disk_full"
                assert await functions(node) == ["hello"]
                assert node.leftovers() == []
            assert (await node.invoke("hello", 1)).json() == 1
            assert (await node.put("new", {"main.py": ECHO})).status_code == 201


async def test_readiness_asks_the_parts_once_for_many(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEPT_S", 60.0)
    asked = 0

    def ping() -> None:
        nonlocal asked
        asked += 1

    monkeypatch.setattr(node.gateway.parts.catalog, "ping", ping)
    node.gateway.parts.health._parts = {"database": health.in_thread(ping)}
    answers = await asyncio.gather(*(node.client.get("/readyz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert asked == 1


async def test_the_check_of_a_build_tells_the_codes_fault_from_ours(node: Node) -> None:
    node.builder.held.clear()
    code = "print('about to fail')\nimport nothing_of_that_name"
    made = (await node.put("bad", {"main.py": code}, wait=False)).json()
    layers = [made["archive"]["sha256"]]
    answer = await node.builder.post({"version_id": made["id"], "layers": layers})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("function_init_failed", "ModuleNotFoundError")
    assert any("main.py" in line for line in error["trace"])
    assert error["log"] == "about to fail"
    (node.settings.data_dir / "objects").rename(node.settings.data_dir / "moved")
    elsewhere = {"version_id": made["id"], "layers": ["0" * 64]}
    names(await node.builder.post(elsewhere), "object store")
    for body, status in (({"version_id": "v_none", "layers": []}, 404), ({"x": 1}, 422)):
        assert (await node.builder.post(body)).status_code == status
    mode = node.settings.internal_socket.stat().st_mode & 0o777
    assert mode == 0o600
