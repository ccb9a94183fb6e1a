"""A handler's generator as CHUNKs and an END: no further than credit goes, no longer than asked."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, CancelledError, Future, current_task, sleep
from collections.abc import Callable, Coroutine
from os import getpid
from typing import Any, TypeVar

from .answers import Answer, check_head, failure, refusal
from .responses import http_response
from .values import encode, encode_text
from .wire import CANCEL, CHUNK, CHUNK_BYTES_MAX, CREDIT_BYTES, END, ERROR, Wire, credit_of

T = TypeVar("T")
OCTETS = {"status": 200, "headers": [("content-type", "application/octet-stream")]}


class Refused(Exception):
    """What was yielded cannot be sent."""


class Channel:
    """One call's way out: how much it may send, and whether anybody still waits for it."""

    __slots__ = (
        *("wire", "number", "look", "wait", "is_shared", "credit", "has_begun", "is_over"),
        *("task", "waiter", "stop"),
    )

    def __init__(self, wire: Wire, number: int, look: Callable[[], None]) -> None:
        self.wire = wire
        self.number = number
        self.look = look  # obey what has come for any call, without waiting
        self.wait: Callable[[], None] | None = None  # obey the next that comes; None: on a loop
        self.is_shared = False  # the loop runs other calls too
        self.credit = CREDIT_BYTES
        self.has_begun = False
        self.is_over = False  # cancelled, or answered
        self.task: Future[Any] | None = None  # what runs the call on a loop
        self.waiter: Future[None] | None = None  # done when there is credit again
        self.stop: Callable[[], None] | None = None  # what CANCEL does, if not to cancel the task

    def obey(self, kind: int, body: memoryview) -> None:
        """Follow a CANCEL or a CREDIT for this call."""
        if kind == CANCEL:
            self.is_over = True
            if self.stop is not None:
                self.stop()
            elif self.task is not None and self.task is not running_task(self.task.get_loop()):
                self.task.cancel()
            return
        self.credit += credit_of(body)
        self.wake()

    def wake(self) -> None:
        """Let whoever waits for credit look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def ready(self) -> None:
        """Have credit; CancelledError when nobody waits any more."""
        self.look()
        if self.is_shared:
            await sleep(0)  # a stream that never waits for anything lets others run
        while self.credit <= 0 and not self.is_over:
            if self.wait is not None:
                self.wait()
                continue
            if self.waiter is None or self.waiter.done():
                self.waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self.waiter)  # several tasks of an application may wait for it
        if self.is_over:
            raise CancelledError("the call was cancelled")

    async def write(self, value: Any) -> None:
        """Send what was yielded, in as many CHUNKs as it takes."""
        await self.put(*self.parts_of(value))

    def begin(self, head: dict[str, Any]) -> None:
        """Let the head leave, if it has not; it takes no credit."""
        if not self.has_begun and not self.is_over:
            self.has_begun = True
            self.wire.send(CHUNK, self.number, head)

    async def put(self, head: dict[str, Any], data: bytes) -> None:
        """Send a head, if there is one, and bytes."""
        view = memoryview(data)
        while head or view:
            await self.ready()
            piece = view[: min(CHUNK_BYTES_MAX, self.credit)]
            self.has_begun = True
            self.credit -= len(piece)
            self.wire.send(CHUNK, self.number, head, piece)
            head, view = {}, view[len(piece) :]

    def parts_of(self, value: Any) -> tuple[dict[str, Any], bytes]:
        """The head (of the first CHUNK) and the bytes that a yielded value is."""
        try:
            if self.has_begun:
                return {}, data_of(value)
            if not isinstance(value, dict) or "statusCode" not in value:
                return OCTETS, data_of(value)
            head, data = http_response(value)
            check_head(head)
            return head, data
        except BaseException as error:  # the value's own methods may raise anything
            raise Refused from error

    def end_of(self, problem: dict[str, Any]) -> Answer:
        """What is left to say when something went wrong."""
        return END if self.has_begun else ERROR, problem, b""


def running_task(loop: AbstractEventLoop) -> Any:
    """The task whose step this is, if any."""
    return current_task(loop) if loop.is_running() else None


def data_of(value: Any) -> bytes:
    """Bytes as they are, text as UTF-8, anything else as a line of JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return encode_text(value) if isinstance(value, str) else encode(value) + b"\n"


def is_stream(result: Any) -> bool:
    """Whether a handler's result is to be asked for more and more."""
    return hasattr(type(result), "__next__") or hasattr(type(result), "__anext__")


def is_async_stream(result: Any) -> bool:
    """Whether asking it takes a loop."""
    return hasattr(type(result), "__anext__")


async def drive(source: Any, channel: Channel, process: int) -> Answer:
    """Send everything that a generator yields; the END that is left to say, or the ERROR."""
    try:
        await send_all(source, channel)
        return END, {}, b""
    except BaseException as error:  # the function's own, or that it is cancelled
        if getpid() != process:
            raise  # in a forked child: it ends as any Python program does
        problem = told(error)
        try:
            await close(source)
        except BaseException as another:  # as where `finally` raises: the later one counts
            problem = told(another)
        return channel.end_of(problem)


async def send_all(source: Any, channel: Channel) -> None:
    is_async = is_async_stream(source)
    while True:
        if channel.credit <= 0:
            await channel.ready()
        try:
            value = await anext(source) if is_async else next(source)
        except (StopIteration, StopAsyncIteration):
            break
        await channel.write(value)
    if not channel.has_begun:
        await channel.write(b"")


def told(error: BaseException) -> dict[str, Any]:
    """The head that says what ended a stream."""
    if isinstance(error, Refused) and error.__cause__ is not None:
        return refusal(error.__cause__)
    return failure("function_error", error)


async def close(source: Any) -> None:
    """Let a generator clean up."""
    if is_async_stream(source):
        if hasattr(source, "aclose"):
            await source.aclose()
    elif hasattr(source, "close"):
        source.close()


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what is asynchronous in form only: a plain generator, on a channel that blocks."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise RuntimeError("a stream waited for a loop that it has not")
