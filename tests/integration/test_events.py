"""Jobs, notices and the durability check against a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import stat
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from redis import Redis

from core.errors import PartAway, RedisNotDurable
from events.jobs import JobQueue
from events.notices import CHANNEL, Notice, Notices
from events.redis_server import check_durability
from tests.fixtures.redis_server import RedisServer

WAIT_S = 60.0


def test_a_job_travels_as_json_and_never_as_a_pickle(redis_url: str) -> None:
    jobs = JobQueue(redis_url)
    jobs.enqueue("build", version_id="v_1")
    with Redis.from_url(redis_url) as redis:
        (job_id,) = redis.lrange("rq:queue:hearth:builds", 0, -1)
        stored = redis.hget(b"rq:job:" + job_id, "data")
    jobs.close()
    assert stored is not None
    assert zlib.decompress(stored) == b'["build", null, [], {"version_id": "v_1"}]'


def test_a_waiting_job_is_known_by_its_name_and_arguments(redis_url: str) -> None:
    jobs = JobQueue(redis_url)
    jobs.enqueue("build", version_id="v_1")
    asked = [{"version_id": "v_1"}, {"version_id": "v_2"}]
    assert jobs.waiting("build", asked) == [True, False]
    assert jobs.waiting("sweep", asked) == [False, False]
    jobs.close()


def test_a_redis_that_is_away_is_named_and_its_return_is_noticed(
    redis_server: RedisServer,
) -> None:
    jobs = JobQueue(redis_server.url)
    jobs.enqueue("build", version_id="v_1")
    redis_server.kill()
    with pytest.raises(PartAway) as away:
        jobs.ping()
    with pytest.raises(PartAway):
        jobs.enqueue("build", version_id="v_2")
    assert away.value.details["part"] == "redis"
    redis_server.start()
    jobs.ping()
    kept = jobs.waiting("build", [{"version_id": "v_1"}])
    assert kept == [True], "an answered enqueue survives kill -9"
    jobs.close()


def test_a_restart_between_two_calls_costs_the_caller_no_error(redis_server: RedisServer) -> None:
    jobs = JobQueue(redis_server.url)
    jobs.ping()
    redis_server.restart()
    jobs.enqueue("build", version_id="v_1")
    jobs.close()


def test_a_redis_that_refuses_a_write_is_a_part_that_is_away(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as redis:
        redis.config_set("maxmemory", "1")
    jobs = JobQueue(redis_server.url)
    with pytest.raises(PartAway, match="maxmemory"):
        jobs.enqueue("build", version_id="v_1")
    jobs.close()


def test_only_the_owner_may_use_the_embedded_socket(redis_server: RedisServer) -> None:
    mode = Path(redis_server.url.removeprefix("unix://")).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


async def _next(stream: AsyncIterator[Notice]) -> Notice:
    return await asyncio.wait_for(anext(stream), WAIT_S)


async def test_a_listener_hears_what_is_published_after_it_was_told_to_resync(
    redis_url: str,
) -> None:
    notices = Notices(redis_url)
    async with aclosing(notices.listen()) as heard:
        assert await _next(heard) == Notice("reconnected", {})
        await asyncio.to_thread(notices.publish, "version", version_id="v_1", status="active")
        assert await _next(heard) == Notice("version", {"version_id": "v_1", "status": "active"})
    await notices.aclose()


async def test_a_listener_survives_its_redis_and_resyncs(redis_server: RedisServer) -> None:
    notices = Notices(redis_server.url)
    async with aclosing(notices.listen()) as heard:
        assert (await _next(heard)).kind == "reconnected"
        redis_server.kill()
        notices.publish("catalog")  # best effort: no error, nobody hears it
        redis_server.start()
        assert (await _next(heard)).kind == "reconnected"
        notices.publish("catalog", generation=7)
        assert await _next(heard) == Notice("catalog", {"generation": 7})
    await notices.aclose()


async def test_what_no_hearth_process_would_send_is_passed_over(redis_url: str) -> None:
    notices = Notices(redis_url)
    async with aclosing(notices.listen()) as heard:
        assert (await _next(heard)).kind == "reconnected"
        with Redis.from_url(redis_url) as redis:
            for strange in (b"\xff\xfe", b"{}", b"[]", b'{"kind": 1, "payload": {}}', b"null"):
                redis.publish(CHANNEL, strange)
            redis.publish(CHANNEL, b'{"kind": "reconnected", "payload": {}}')
        notices.publish("catalog")
        assert await _next(heard) == Notice("catalog", {})
    await notices.aclose()


async def test_a_redis_that_falls_silent_is_left_and_found_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("events.notices.NOTICE_SILENCE_S", 0.2)
    notices = Notices(redis_server.url)
    async with aclosing(notices.listen()) as heard:
        assert (await _next(heard)).kind == "reconnected"
        redis_server.pause()
        waiting = asyncio.create_task(_next(heard))
        while "fell silent" not in caplog.text:
            await asyncio.sleep(0.02)
        redis_server.resume()
        assert (await waiting).kind == "reconnected"
    await notices.aclose()


def test_the_embedded_redis_passes_the_durability_check(redis_url: str) -> None:
    assert check_durability(redis_url, "strict") == []


def test_a_weaker_redis_is_refused_unless_that_was_accepted(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as redis:
        redis.config_set("appendfsync", "everysec")
        redis.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(RedisNotDurable, match="appendfsync is everysec, not always"):
        check_durability(redis_server.url, "strict")
    weak = check_durability(redis_server.url, "relaxed")
    assert weak == [
        "appendfsync is everysec, not always",
        "maxmemory-policy is allkeys-lru, not noeviction",
    ]


def test_a_redis_that_hides_its_configuration_is_not_called_durable(
    redis_server: RedisServer,
) -> None:
    with Redis.from_url(redis_server.url) as redis:
        redis.execute_command("ACL", "SETUSER", "shy", "on", "nopass", "~*", "+@all", "-config")
    url = redis_server.url.replace("unix://", "unix://shy:x@")
    with pytest.raises(RedisNotDurable, match="cannot be seen"):
        check_durability(url, "strict")
