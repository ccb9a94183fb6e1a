"""The builder's RQ worker: it runs the jobs of a table, in threads, and nothing else.

RQ would import any dotted name that it finds in Redis: as a job's function, as a callback, as the
type of a pickled object. Here none of these is ever imported, so write access to Redis is not the
right to run code. A job is a doorbell (events/jobs.py): losing one costs time, never a build.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.utils import current_timestamp, now
from rq.worker_registration import clean_worker_registry

from core.limits import REDIS_RETRY_S
from events.jobs import BUILDS

Table = Mapping[str, Callable[..., None]]

_IDLE_S = 60  # RQ pops for 15 s less than this at a time, then says that it lives

log = logging.getLogger("hearth.builder")


class JobRefused(Exception):
    """A job that the table does not know. It is recorded as failed, and has not run."""


class TableJob(Job):
    """A job as read from Redis, of which only its name and plain arguments are believed."""

    table: ClassVar[Table] = {}

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection, JSONSerializer)  # whatever RQ would have chosen

    @property
    def func(self) -> Callable[..., None]:
        """The table's function of that name, called with keyword arguments only."""
        found = self.table.get(self.func_name or "")
        if found is None or self.instance is not None or self.args:
            raise JobRefused(f"{self.func_name!r} is no job of this builder")
        return found

    @property
    def success_callback(self) -> None:
        """Callbacks are names of functions to import: there are none."""

    @property
    def failure_callback(self) -> None:
        """See success_callback."""

    @property
    def stopped_callback(self) -> None:
        """See success_callback."""

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """None: their addresses would come from Redis."""


class NoDeathPenalty(BaseDeathPenalty):
    """RQ's job timeout is an alarm on the main thread. Our jobs run in threads and bound
    themselves: every wait in worker/ and executor/ has its own limit."""

    def setup_death_penalty(self) -> None: ...
    def cancel_death_penalty(self) -> None: ...


class TableWorker(SimpleWorker):
    """Pops jobs on the main thread and runs up to `slots` of them at once.

    `stop` may be called from a signal handler of the main thread. `is_worn` is asked when nothing
    runs: true ends `work`, for the process to start itself anew."""

    death_penalty_class = NoDeathPenalty
    max_connection_wait_time = REDIS_RETRY_S
    log_result_lifespan = False

    def __init__(
        self, redis: Redis, table: Table, *, name: str, slots: int, is_worn: Callable[[], bool]
    ) -> None:
        known = type("KnownJob", (TableJob,), {"table": table})
        queue = Queue(BUILDS, connection=redis, serializer=JSONSerializer, job_class=known)
        super().__init__(
            [queue],
            name=name,
            connection=redis,
            job_class=known,
            serializer=JSONSerializer,
            worker_ttl=_IDLE_S,
            log_job_description=False,
        )
        self._free = threading.Semaphore(slots)
        self._running: set[str] = set()  # ids of jobs; changed only by whole operations
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="build")
        self._is_worn = is_worn
        self._is_listening = False

    def stop(self) -> None:
        """Take no further job. Those that run must be told by other means."""
        self._stop_requested = True
        if self._is_listening:
            raise StopRequested

    def close(self) -> None:
        """Wait for the jobs that run."""
        self._threads.shutdown(wait=True)

    # --- what RQ calls

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start it, and come back as soon as another one could be started."""
        self._free.acquire()
        self._running.add(job.id)
        self._threads.submit(self._run, job, queue)
        while not self._free.acquire(timeout=_IDLE_S / 2):
            self.heartbeat()
        self._free.release()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job; `stop` interrupts only this."""
        self._is_listening = True
        try:
            if self._stop_requested:
                raise StopRequested
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._is_listening = False

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """RQ asks this before each wait; a good moment to end when worn."""
        if not self._running and self._is_worn():
            raise StopRequested
        return bool(super().should_run_maintenance_tasks)

    def run_maintenance_tasks(self) -> None:
        """Forget what dead builders left, by key alone. RQ's own would load the jobs first: one
        that cannot be read would then stop every builder there is."""
        queue = self.queues[0]
        started, failed = queue.started_job_registry, queue.failed_job_registry
        with self.connection.pipeline() as pipeline:
            for job_id in started.get_expired_job_ids():
                pipeline.delete(self.job_class.key_for(job_id), f"rq:executions:{job_id}")
            for registry in (started, failed):
                pipeline.zremrangebyscore(registry.key, 0, current_timestamp())
            pipeline.delete(queue.intermediate_queue_key)
            pipeline.execute()
        clean_worker_registry(queue)
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def subscribe(self) -> None:
        """RQ's remote control (stop a job, shut down) is not offered over Redis."""

    def unsubscribe(self) -> None:
        """See subscribe."""

    def _install_signal_handlers(self) -> None:
        """worker/main.py has them."""

    def teardown(self) -> None:
        """Say goodbye, if Redis hears it."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError:
            log.debug("left without saying goodbye: redis is away")

    # --- a job's thread

    def _run(self, job: Job, queue: Queue) -> None:
        try:
            execution = self.prepare_execution(job)
            try:
                self.perform_job(job, queue, execution)
            finally:
                self.executions.pop(execution.id, None)
        except BaseException as error:  # noqa: BLE001 - the thread's end; the job's own was caught
            log.warning("job %s: its bookkeeping failed: %r", job.id, error)
        finally:
            self._running.discard(job.id)
            self._free.release()
