"""The gateway's own part of one warm invocation, in microseconds: `python -m bench.lane`.

Bytes are fed to a `Connection` whose transport and executor are stand-ins that answer in the next
turn of the loop: what is left is reading the request, deciding, and writing the response.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

from catalog.snapshot import Snapshot
from core.errors import HearthError
from core.model import Alias, Function, FunctionConfig, Key, Role, Version, VersionStatus
from executor.call import Call, Outcome, Timing
from gateway.app import Edge
from gateway.invoke import Invoke
from gateway.peers import Peers
from gateway.protocol import Connection
from gateway.view import View, index

REQUESTS = 20_000
ROUNDS = 7
KEY = "hk_bench"
BODY = b'{"name":"Ada","n":[1,2,3]}'
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Warm:
    """An executor that always has a seat and answers in the next turn of the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def begin(
        self, version: Version, call: Call, told: Callable[[Outcome | HearthError], None]
    ) -> bool:
        """Always."""
        self._loop.call_soon(told, self._outcome(call))
        return True

    async def invoke(self, version: Version, call: Call) -> Outcome:
        """The same for who waits."""
        return self._outcome(call)

    def _outcome(self, call: Call) -> Outcome:
        timing = Timing(queue_ms=0.01, handler_ms=0.2)
        headers = [("content-type", "application/json")] if call.kind == "http" else ()
        return Outcome(200, headers, call.body, cold=False, timing=timing)


class Wire:
    """A transport on which each response brings the next request, until there is none."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self.done = self._loop.create_future()
        self.read: Callable[[bytes], Any] = lambda data: None

    def write(self, data: bytes) -> None:
        """A whole response."""
        if not data.startswith(b"HTTP/1.1 200 OK"):
            self.done.set_exception(RuntimeError(data.decode("latin-1")))
            return
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
        else:
            self._loop.call_soon(self.read, request)

    def get_extra_info(self, name: str) -> Any:
        """Addresses."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def _nothing(self) -> None:
        pass

    close = abort = pause_reading = resume_reading = set_protocol = _nothing


def view_of_one() -> View:
    """A view of the catalog with one function and one key."""
    view = View(cast(Any, None), lambda version_id: None)
    config = FunctionConfig("python3.13")
    version = Version(
        "v_1", "fn_1", "default", "hello", 1, config, "0" * 64, 1, ("0" * 64,),
        VersionStatus.ACTIVE, None, NOW,
    )  # fmt: skip
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    key = Key("key_1", "bench", digest, Role.INVOKER, "default", (), None, NOW)
    functions = (Function("fn_1", "default", "hello", NOW),)
    aliases = {"fn_1": (Alias("latest", 1),)}
    view._replace(index(Snapshot(1, functions, (version,), aliases, (key,))))
    return view


def edge() -> Edge:
    """The one app."""
    invoke = Invoke(view_of_one(), Warm(), cast(Any, None), Peers(()), 6 * 1024 * 1024)
    return Edge(invoke, cast(Any, None))


def head(target: str, *lines: str) -> bytes:
    """What a client library sends, more or less."""
    first = f"POST {target} HTTP/1.1"
    usual = (
        *("host: 127.0.0.1:8080", "user-agent: bench/1", "accept: */*"),
        *(f"authorization: Bearer {KEY}", "content-type: application/json"),
        f"content-length: {len(BODY)}",
    )
    return "\r\n".join([first, *usual, *lines, "", ""]).encode() + BODY


async def per_request_us(requests: Callable[[], Iterator[bytes]], *, lane: bool) -> float:
    """The best of some rounds: what disturbs one only ever adds."""
    config = uvicorn.Config(
        edge(), interface="asgi3", log_config=None, access_log=False, proxy_headers=False
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Thu, 01 Jan 2030 00:00:00 GMT")]
    found = []
    for _ in range(ROUNDS):
        source = requests()
        wire = Wire(source)
        connection = Connection(config, state, {}, asyncio.get_running_loop())
        connection.connection_made(cast(Any, wire))
        if not lane:
            connection.lane = None
        wire.read = connection.data_received
        found.append(await _timed(wire, source))
    return min(found)


async def stand_ins_us(requests: Callable[[], Iterator[bytes]]) -> float:
    """What the stand-ins alone take of each of these numbers."""
    warm, call, found = Warm(), Call("id", "event", BODY), []
    version = cast(Any, None)
    for _ in range(ROUNDS):
        source = requests()
        wire = Wire(source)
        told = partial(_written, wire)
        wire.read = lambda _, told=told: warm.begin(version, call, told)  # type: ignore[misc]
        found.append(await _timed(wire, source))
    return min(found)


def _written(wire: Wire, outcome: object) -> None:
    wire.write(b"HTTP/1.1 200 OK")


async def _timed(wire: Wire, source: Iterator[bytes]) -> float:
    started = time.thread_time()  # of the processor: whoever else runs here does not count
    wire.read(next(source))
    await wire.done
    return (time.thread_time() - started) / REQUESTS * 1e6


def the_same(target: str) -> Callable[[], Iterator[bytes]]:
    """Requests with one and the same head."""
    request = head(target)
    return lambda: (request for _ in range(REQUESTS))


def ever_new(target: str) -> Callable[[], Iterator[bytes]]:
    """Requests whose head differs in one value."""
    made = [head(target, f"x-request-id: r{number}") for number in range(REQUESTS)]
    return lambda: iter(made)


async def main() -> None:
    """Print one line for each way."""
    event, http = "/v1/functions/hello/invocations", "/function/hello/a/b?c=d"
    spent = await stand_ins_us(the_same(event))
    sys.stdout.write(f"{spent:7.1f} µs  {'':32}  of each of these, the stand-ins\n")
    for target in (event, http):
        for name, requests, lane in (
            ("lane, one head again and again", the_same(target), True),
            ("lane, a new head each time", ever_new(target), True),
            ("the ASGI path", the_same(target), False),
        ):
            spent = await per_request_us(requests, lane=lane)
            sys.stdout.write(f"{spent:7.1f} µs  {target:32}  {name}\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
