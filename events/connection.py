"""One way to connect to Redis, and what its errors mean to Hearth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.errors import PartAway
from core.limits import REDIS_ANSWER_S, REDIS_CONNECT_S

_MESSAGE_LENGTH_MAX = 200


def connect(url: str) -> Redis:
    """A thread-safe client. One retry, at once: it hides that an idle connection was closed by a
    restart; the library's own default would hold a caller for seconds before saying "away"."""
    client: Redis = Redis.from_url(url, **options(url))
    return client


def options(url: str) -> dict[str, Any]:
    """Bounds that every client shares: no command waits for ever."""
    keepalive = {} if url.startswith("unix") else {"socket_keepalive": True}
    return {
        **keepalive,
        "socket_connect_timeout": REDIS_CONNECT_S,
        "socket_timeout": REDIS_ANSWER_S,
        "retry": Retry(NoBackoff(), 1),
        "client_name": "hearth",
    }


@contextmanager
def answering() -> Iterator[None]:
    """Any way in which Redis does not do its work leaves here as PartAway("redis", …)."""
    try:
        yield
    except RedisError as error:
        raise PartAway("redis", describe(error)) from error


def describe(error: BaseException) -> str:
    """One bounded line. Redis's own errors (OOM, READONLY, NOAUTH …) say best what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_MESSAGE_LENGTH_MAX]
