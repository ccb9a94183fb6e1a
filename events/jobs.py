"""Background jobs that take seconds: who asks for one puts its name and arguments on an RQ queue.

A job is only a doorbell: what there is to do stands in the catalog, so a job that is lost or
delivered twice changes nothing. Payloads are JSON; nothing here can unpickle.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from events.connection import answering, connect

if TYPE_CHECKING:
    from rq import Queue

BUILDS = "hearth:builds"
_TIMEOUT_S = 3 * 3600  # RQ's own bookkeeping only: a build bounds itself, far below
_FAILED_KEPT_S = 24 * 3600


class JobQueue:
    """The asking side. Thread-safe; every method raises PartAway when Redis does not answer."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._queue: Queue | None = None

    def enqueue(self, name: str, **kwargs: Any) -> None:
        """Ask for the job `name` of the builder's table; `kwargs` must be plain JSON values."""
        with answering():
            self._rq().enqueue_call(
                func=name,
                kwargs=kwargs,
                job_id=f"{_prefix(name, kwargs)}{uuid.uuid4().hex[:8]}",
                timeout=_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=_FAILED_KEPT_S,
            )

    def waiting(self, name: str, wanted: Sequence[Mapping[str, Any]]) -> list[bool]:
        """For each set of arguments: whether such a job is in the queue, taken by nobody yet."""
        with answering():
            there = {job_id.rpartition("-")[0] for job_id in self._rq().get_job_ids()}
        return [_prefix(name, kwargs).rstrip("-") in there for kwargs in wanted]

    def ping(self) -> None:
        """Returns when Redis answers."""
        with answering():
            self._redis.ping()

    def close(self) -> None:
        """Close every connection; a later use opens new ones."""
        self._redis.close()

    def _rq(self) -> Queue:
        if self._queue is None:
            # Late: rq costs 30 ms and 3 MB, and who only pings does not need it.
            from rq import Queue
            from rq.serializers import JSONSerializer

            self._queue = Queue(BUILDS, connection=self._redis, serializer=JSONSerializer)
        return self._queue


def _prefix(name: str, kwargs: Mapping[str, Any]) -> str:
    """What the ids of equal jobs begin with."""
    text = json.dumps([name, dict(kwargs)], sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}-"
