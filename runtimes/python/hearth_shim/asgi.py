"""ASGI: one request as scope, receive and send; and the application's lifespan around all of them.

websocket is not offered: a call is one request and one response.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
from asyncio import AbstractEventLoop, CancelledError, Handle, TimerHandle
from collections.abc import Awaitable, Callable
from os import getpid
from typing import Any

from .answers import Answer, user_trace
from .streaming import Channel
from .values import describe_value
from .web import Misuse, Request, Sink, body_of, head_of, problem_of

PATIENCE_S = 1.0  # for an application to end by itself once nobody waits for it
VERSION = {"version": "3.0", "spec_version": "2.4"}
FAILED_WAIT_S = 1.0  # for an application that said that it failed to also raise why

Message = dict[str, Any]
App = Callable[..., Awaitable[None]]


class LifespanFailed(Exception):
    """The application said that it cannot start."""


class Exchange:
    """One request and its response."""

    def __init__(
        self, request: Request, sink: Sink, channel: Channel, loop: AbstractEventLoop
    ) -> None:
        self.request = request
        self.sink = sink
        self.channel = channel
        self.loop = loop
        self.is_read = False  # the request's body was received
        self.is_gone = False  # nobody waits for the response any more
        self.over: asyncio.Event | None = None  # what a second receive waits for
        self.beginning: Handle | None = None  # lets the head leave, if the body is not there soon
        self.ending: TimerHandle | None = None
        channel.stop = self.leave

    def scope(self, state: Message, context: Any) -> Message:
        """What the application is told of the request."""
        request = self.request
        return {
            "type": "http",
            "asgi": VERSION.copy(),
            "http_version": request.version,
            "method": request.method,
            "scheme": request.scheme,
            "path": request.root + request.decoded_path,
            "raw_path": (request.root + request.path).encode("latin-1", "replace"),
            "root_path": request.root,
            "query_string": request.query.encode("latin-1", "replace"),
            "headers": [(as_bytes(name), as_bytes(value)) for name, value in request.headers],
            "client": (request.source_ip, 0),
            "server": request.server,
            "state": state.copy(),
            "hearth.context": context,
        }

    async def receive(self) -> Message:
        """The request's body; after it only that nobody waits any more."""
        if not self.is_read and not self.is_gone:
            self.is_read = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        if not self.is_gone and not self.sink.is_complete:
            if self.over is None:
                self.over = asyncio.Event()
            await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the response; a body waits until there is credit for more."""
        if self.is_gone:
            raise OSError("nobody waits for the response any more")
        kind = message["type"] if isinstance(message, dict) else None
        sink = self.sink
        if kind == "http.response.start" and sink.head is None:
            sink.open(head_of(message.get("status"), list(pairs_of(message.get("headers", ())))))
            self.beginning = self.loop.call_soon(sink.begin)
        elif kind == "http.response.body" and sink.head is not None and not sink.is_complete:
            await self.send_body(message)
        else:
            raise Misuse(f"{describe_value(kind or message)} was sent {self.state()}")

    async def send_body(self, message: Message) -> None:
        body = body_of(message.get("body", b""))
        if self.beginning is not None:
            self.beginning.cancel()
            self.beginning = None
        try:
            await self.sink.write(body, is_last=not message.get("more_body", False))
        except CancelledError:
            if self.is_gone:
                raise OSError("nobody waits for the response any more") from None
            raise
        if self.sink.is_complete and self.over is not None:
            self.over.set()

    def state(self) -> str:
        """How far the response is, for a message."""
        if self.sink.head is None:
            return "before http.response.start"
        return "after the response's end" if self.sink.is_complete else "after the response began"

    def leave(self) -> None:
        """CANCEL: tell the application, and end it if that does not."""
        self.is_gone = True
        if self.over is not None:
            self.over.set()
        self.channel.wake()
        task = self.channel.task
        if task is not None and self.ending is None:
            self.ending = self.loop.call_later(PATIENCE_S, task.cancel)

    def end(self, error: BaseException | None) -> Answer:
        """What is left to say once the application has returned, or raised."""
        self.channel.stop = None
        for handle in (self.beginning, self.ending):
            if handle is not None:
                handle.cancel()
        if self.sink.is_complete:
            if (
                error is not None
            ):  # as servers do: the response is the client's, the error the log's
                told(error)
            return self.sink.answer()
        missing = Misuse(f"the application returned {self.state()}, which was not its end")
        return self.sink.failed(problem_of(error or missing))


class Asgi:
    """An ASGI application on its event loop."""

    def __init__(self, app: App, loop: AbstractEventLoop) -> None:
        self.app = app
        self.loop = loop
        self.process = getpid()
        self.lifespan = Lifespan(app, loop)

    async def answer(self, request: Request, sink: Sink, channel: Channel, context: Any) -> Answer:
        """Serve one request."""
        exchange = Exchange(request, sink, channel, self.loop)
        problem: BaseException | None = None
        try:
            if channel.is_over:
                exchange.leave()
            scope = exchange.scope(self.lifespan.state, context)
            work = self.app(scope, exchange.receive, exchange.send)
            if not hasattr(type(work), "__await__"):
                raise Misuse(f"the application returned {describe_value(work)}, not an awaitable")
            await work
        except BaseException as error:  # SystemExit too: the sandbox stays usable
            if getpid() != self.process:
                raise  # in a forked child: it ends as any Python program does
            problem = error
        return exchange.end(problem)


class Lifespan:
    """What an application does before its first request and after its last, if it wants to."""

    def __init__(self, app: App, loop: AbstractEventLoop) -> None:
        self.app = app
        self.loop = loop
        self.process = getpid()
        self.state: Message = {}
        self.failure: str | None = None  # what the application said
        self.error: BaseException | None = None  # what it raised
        self.has_asked = False  # it received lifespan.startup: it knows what that is
        self.is_up = False
        self.settled = asyncio.Event()  # startup, then shutdown, is over
        self.leaving = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the application; raises what it raised, or LifespanFailed with what it said."""
        self.loop.run_until_complete(self.start_up())
        if self.is_up:
            atexit.register(self.stop)

    async def start_up(self) -> None:
        self.task = asyncio.create_task(self.run())
        await self.settled.wait()
        if self.failure is not None:
            await asyncio.wait({self.task}, timeout=FAILED_WAIT_S)
            raise self.error or LifespanFailed(self.failure)
        # An application without a lifespan refuses the scope, or takes it for a request.
        is_foreign = isinstance(self.error, Exception) and not self.has_asked
        if self.error is not None and not is_foreign and not isinstance(self.error, Misuse):
            raise self.error

    async def run(self) -> None:
        """The application's own part."""
        scope = {"type": "lifespan", "asgi": VERSION.copy(), "state": self.state}
        try:
            await self.app(scope, self.receive, self.send)
        except BaseException as error:
            self.error = error
        self.settled.set()

    async def receive(self) -> Message:
        """startup at once, shutdown when this process ends."""
        if not self.has_asked:
            self.has_asked = True
            return {"type": "lifespan.startup"}
        await self.leaving.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        """What came of it."""
        kind = message["type"] if isinstance(message, dict) else None
        phase = "shutdown" if self.leaving.is_set() else "startup"
        if self.settled.is_set() or kind not in (
            f"lifespan.{phase}.complete",
            f"lifespan.{phase}.failed",
        ):
            raise Misuse(f"{describe_value(kind or message)} was sent in {phase} of the lifespan")
        if kind.endswith("failed"):
            self.failure = str(message.get("message", ""))
        else:
            self.is_up = True
        self.settled.set()

    def stop(self) -> None:
        """Shut the application down, in the process that started it."""
        if getpid() != self.process or self.loop.is_running() or self.loop.is_closed():
            return
        if self.task is None or self.task.done():
            return
        self.settled.clear()
        self.leaving.set()
        self.loop.run_until_complete(self.settled.wait())
        if self.error is not None:
            told(self.error)
        elif self.failure is not None:
            print(f"the application did not shut down well: {self.failure}", file=sys.stderr)


def pairs_of(headers: Any) -> list[tuple[Any, Any]]:
    """The headers of a message; Misuse when they are none."""
    try:
        pairs = [(name, value) for name, value in headers]
    except (TypeError, ValueError):
        raise Misuse("headers is not a list of names and values") from None
    for pair in pairs:
        if not all(isinstance(part, (bytes, bytearray, memoryview)) for part in pair):
            raise Misuse(f"header {describe_value(pair[0])} is not two bytes objects")
    return pairs


def as_bytes(text: str) -> bytes:
    """Part of a header as it came."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def told(error: BaseException) -> None:
    """Write an error that comes too late for the response to the log."""
    try:
        print("\n".join(user_trace(error)), file=sys.stderr)
    except BaseException:  # formatting runs user code
        pass
