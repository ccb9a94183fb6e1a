"""The builder's RQ worker: nothing that stands in Redis can make it run what its table lacks."""

from __future__ import annotations

import json
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer, PickleSerializer

from events.connection import connect
from events.jobs import BUILDS, JobQueue
from tests.integration.builds.conftest import eventually
from worker.jobs import Table, TableWorker


@contextmanager
def working(url: str, table: Table, *, slots: int = 2) -> Iterator[TableWorker]:
    """A worker in a thread, stopped at the end."""
    worker = TableWorker(
        connect(url), table, name=uuid.uuid4().hex, slots=slots, is_worn=lambda: False
    )
    ended = threading.Event()

    def work() -> None:
        worker.work(logging_level="CRITICAL")
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    yield worker
    # A thread cannot be interrupted by a signal: stop it by its next job.
    worker._stop_requested = True
    JobQueue(url).enqueue("nothing")
    assert ended.wait(60)
    worker.close()


def status_of(redis: Redis, job_id: str) -> str:
    status = redis.hget(f"rq:job:{job_id}", "status")
    return status.decode() if isinstance(status, bytes) else "gone"


def put_raw(redis: Redis, job_id: str, data: bytes, **more: str) -> None:
    """A job as somebody with write access to Redis would make it."""
    fields: dict[Any, Any] = {"origin": BUILDS, "status": "queued", "data": data, **more}
    redis.hset(f"rq:job:{job_id}", mapping=fields)
    redis.sadd("rq:queues", f"rq:queue:{BUILDS}")
    redis.rpush(f"rq:queue:{BUILDS}", job_id)


def ends(redis: Redis, job_id: str) -> str:
    done = {"failed", "finished", "gone"}
    eventually(lambda: status_of(redis, job_id) in done, f"an end of job {job_id}")
    return status_of(redis, job_id)


def test_a_job_of_the_table_runs_with_its_arguments(redis_url: str) -> None:
    ran: list[dict[str, Any]] = []
    with working(redis_url, {"build": lambda **kwargs: ran.append(kwargs)}):
        JobQueue(redis_url).enqueue("build", version_id="v_1")
        eventually(lambda: ran, "the job ran")
    assert ran == [{"version_id": "v_1"}]


def test_a_job_that_names_os_system_is_refused_and_does_not_run(
    redis_url: str, tmp_path: Path
) -> None:
    ran: list[str] = []
    redis = connect(redis_url)
    queue = Queue(BUILDS, connection=redis, serializer=JSONSerializer)
    with working(redis_url, {"build": lambda version_id: ran.append(version_id)}):
        command = {"command": f"touch {tmp_path}/ran"}
        job = queue.enqueue_call("os.system", kwargs=command)
        assert ends(redis, job.id) == "failed"
        JobQueue(redis_url).enqueue("build", version_id="next")
        eventually(lambda: ran, "the worker goes on")
    assert not (tmp_path / "ran").exists()
    result = Job.fetch(job.id, connection=redis, serializer=JSONSerializer).latest_result()
    assert result is not None
    assert "'os.system' is no job of this builder" in str(result.exc_string)


def test_a_module_named_by_a_job_is_not_even_imported(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "hearth_trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nf = print")
    sys.path.insert(0, str(tmp_path))
    redis = connect(redis_url)
    try:
        with working(redis_url, {}):
            put_raw(redis, "trap", json.dumps(["hearth_trap.f", None, [], {}]).encode())
            assert ends(redis, "trap") == "failed"
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_callbacks_named_by_a_job_are_not_called(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "hearth_trap2.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nf = print")
    sys.path.insert(0, str(tmp_path))
    redis = connect(redis_url)

    def fail() -> None:
        raise ValueError

    more = {f"{when}_callback_name": "hearth_trap2.f" for when in ("success", "failure", "stopped")}
    try:
        with working(redis_url, {"good": lambda: None, "bad": fail}):
            for name in ("good", "bad"):
                put_raw(redis, name, json.dumps([name, None, [], {}]).encode(), **more)
                ends(redis, name)
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_is_never_opened(redis_url: str, tmp_path: Path) -> None:
    redis = connect(redis_url)
    bomb = pickle.dumps(("build", Bomb(tmp_path / "ran"), (), {}))
    with working(redis_url, {"build": lambda: None}):
        put_raw(redis, "bomb", bomb, meta=pickle.dumps(Bomb(tmp_path / "ran")).decode("latin-1"))
        assert ends(redis, "bomb") == "failed"
        Queue(BUILDS, connection=redis, serializer=PickleSerializer)
    assert not (tmp_path / "ran").exists()


def test_a_job_with_an_object_to_call_a_method_of_is_refused(redis_url: str) -> None:
    redis = connect(redis_url)
    ran: list[int] = []
    with working(redis_url, {"build": lambda: ran.append(1)}):
        put_raw(redis, "method", json.dumps(["build", {"a": 1}, [], {}]).encode())
        assert ends(redis, "method") == "failed"
    assert not ran


def test_whatever_a_job_raises_the_next_one_runs(redis_url: str) -> None:
    raised: list[type[BaseException]] = [ValueError, SystemExit, KeyboardInterrupt, MemoryError]
    ran: list[int] = []

    def burst(which: int) -> None:
        raise raised[which]

    with working(redis_url, {"burst": burst, "build": lambda: ran.append(1)}):
        jobs = JobQueue(redis_url)
        for which in range(len(raised)):
            jobs.enqueue("burst", which=which)
        jobs.enqueue("build")
        eventually(lambda: ran, "the job after them ran")


def test_slots_bound_how_many_run_at_once_and_all_of_them_are_used(redis_url: str) -> None:
    lock = threading.Lock()
    running = 0
    most = 0
    ended = 0
    two = threading.Barrier(2, timeout=60)

    def job(number: int) -> None:
        nonlocal running, most, ended
        with lock:
            running += 1
            most = max(most, running)
        two.wait()  # passes only if two run at once
        with lock:
            running -= 1
            ended += 1

    with working(redis_url, {"job": job}, slots=2):
        for number in range(6):
            JobQueue(redis_url).enqueue("job", number=number)
        eventually(lambda: ended == 6, "all ran")
    assert most == 2


def test_what_dead_workers_left_in_redis_is_forgotten(redis_url: str) -> None:
    redis = connect(redis_url)
    redis.hset("rq:job:old", mapping={"data": b"x", "status": "no such status"})
    redis.zadd(f"rq:wip:{BUILDS}", {"old:1": 1.0})
    redis.rpush(f"rq:queue:{BUILDS}:intermediate", "old")
    with working(redis_url, {}):
        eventually(lambda: not redis.exists("rq:job:old"), "the job's record is removed")
    assert not redis.exists(f"rq:wip:{BUILDS}", f"rq:queue:{BUILDS}:intermediate")
