"""Notices between Hearth's processes: something changed, look again.

Best effort over Redis pub/sub. Who listens must not depend on every notice arriving: after each
(re)connection a "reconnected" notice says to read everything anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from core.limits import NOTICE_BYTES_MAX, NOTICE_SILENCE_S, REDIS_RETRY_S
from events.connection import connect, describe, options

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio.client import PubSub

CHANNEL = "hearth:notices"
RECONNECTED = "reconnected"
_FIRST_PAUSE_S = 0.05

log = logging.getLogger("hearth.notices")


@dataclass(frozen=True, slots=True)
class Notice:
    """`kind` is "catalog", "version", "build_progress" or "reconnected"."""

    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)


class Notices:
    """Publish from any thread, listen on an event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._redis = connect(url)
        self._listeners: set[AsyncRedis] = set()

    def publish(self, kind: str, **payload: Any) -> None:
        """Tell every listener. Never raises for Redis being away: a notice only saves time.

        Blocks for one round trip: on an event loop use asyncio.to_thread."""
        text = json.dumps({"kind": kind, "payload": payload})
        if len(text) > NOTICE_BYTES_MAX:
            raise ValueError(f"a notice of {len(text)} bytes; at most {NOTICE_BYTES_MAX}")
        try:
            self._redis.publish(CHANNEL, text)
        except RedisError as error:
            log.debug("notice %s not published: %s", kind, describe(error))

    async def listen(self) -> AsyncGenerator[Notice, None]:
        """Notices as they come, for ever. Reconnects by itself, at most every REDIS_RETRY_S."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with aclosing(self._one_connection()) as connection:
                    async for notice in connection:
                        pause_s = _FIRST_PAUSE_S
                        yield notice
                log.warning("redis fell silent, listening again soon")
            except (RedisError, OSError) as error:
                log.warning("redis went away, listening again soon: %s", describe(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, REDIS_RETRY_S)

    async def aclose(self) -> None:
        """Close every connection. Ends what `listen` waits for, so cancel its task first."""
        self.close()
        for client in tuple(self._listeners):
            await client.aclose()

    def close(self) -> None:
        """Close the publishing side: enough for a process that never listened."""
        self._redis.close()

    async def _one_connection(self) -> AsyncGenerator[Notice, None]:
        from redis.asyncio import Redis as AsyncRedis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # No retry inside the library: a connection made anew must be seen here.
        bounds = {**options(self._url), "retry": Retry(NoBackoff(), 0)}
        client: AsyncRedis = AsyncRedis.from_url(self._url, **bounds)
        self._listeners.add(client)
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(CHANNEL)
            async with aclosing(_notices(pubsub)) as notices:
                async for notice in notices:
                    yield notice
        finally:
            self._listeners.discard(client)
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            await client.aclose()


async def _notices(pubsub: PubSub) -> AsyncGenerator[Notice, None]:
    """Until the connection breaks, or the server answers no ping for two silences in a row."""
    silences = 0
    while silences < 2:
        message = await pubsub.get_message(timeout=NOTICE_SILENCE_S)
        if message is None:
            silences += 1
            await pubsub.ping()
            continue
        silences = 0
        if message["type"] == "subscribe":  # only now does nothing published get lost
            yield Notice(RECONNECTED)
        elif message["type"] == "message" and (notice := _parse(message["data"])):
            yield notice


def _parse(data: Any) -> Notice | None:
    """None for what no Hearth process would have sent: Redis may be shared."""
    try:
        raw = json.loads(data)
        kind, payload = raw["kind"], raw["payload"]
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(kind, str) or not isinstance(payload, dict) or kind == RECONNECTED:
        return None
    return Notice(kind, payload)
