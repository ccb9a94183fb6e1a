"""Writes responses of the hot path: whole ones in one piece, others while they are made.

Both work on uvicorn's cycle, or on what stands for it in the lane.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Iterator, MutableMapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from starlette.types import Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from core.errors import HearthError
from executor.call import Stream
from gateway.body import ClientGone

WAITING = "hearth.waiting"  # in the scope: true while the application wants to be cancelled
GONE = "hearth.gone"  # when the client leaves; and true once that has happened
ONE_WRITE_BYTES_MAX = 64 * 1024  # of a body that is copied behind its head: one system call less
_RESET = struct.pack("ii", 1, 0)  # linger for no time: what is not sent yet is dropped

log = logging.getLogger("hearth.invoke")


class Answer(NamedTuple):
    """A response's head, and the body unless that is a stream."""

    status: int
    lines: str  # headers, each with its CRLF; Latin-1, sound, and not about the connection
    body: bytes = b""
    closes: bool = False  # no other request may follow on the connection


class Framing(Enum):
    """How a response without a known length tells where it ends."""

    CHUNKED = "chunked"
    RAW = "raw"  # it ends with the connection: HTTP/1.0
    NONE = "none"  # it has no body: HEAD, 204, 304


class Opening(NamedTuple):
    """The head of a response that is still being made."""

    answer: Answer
    framing: Framing
    request_id: str  # for the log


class Cycle(Protocol):
    """What writing needs of a request under way."""

    transport: asyncio.Transport
    flow: FlowControl
    keep_alive: bool
    response_started: bool
    response_complete: bool

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The date, made once a second."""
        ...

    @property
    def message_event(self) -> Any:
        """Set when the response is complete."""
        ...

    @property
    def on_response(self) -> Any:
        """Called then."""
        ...


def cycle_of(send: Send) -> RequestResponseCycle:
    """The cycle behind uvicorn's `send`: one write for a response instead of two, and none of the
    regular expressions by which it looks at every header."""
    cycle = getattr(send, "__self__", None)
    assert isinstance(cycle, RequestResponseCycle)
    return cycle


async def deliver(cycle: RequestResponseCycle, answer: Answer) -> None:
    """Write a whole response when the client takes it. Nothing if it has left."""
    if cycle.flow.write_paused:
        await cycle.flow.drain()
    if cycle.transport.is_closing():
        cycle.disconnected = True  # uvicorn will hear of it in a moment
    if not cycle.disconnected:
        cycle.waiting_for_100_continue = False
        write_whole(cycle, answer)


def write_whole(cycle: Cycle, answer: Answer) -> None:
    """A response in one write if it is small."""
    if answer.closes:
        cycle.keep_alive = False
    head, body = _head(cycle, answer), answer.body
    cycle.response_started = True
    if len(body) <= ONE_WRITE_BYTES_MAX:
        cycle.transport.write(head + body)
    else:
        cycle.transport.write(head)
        cycle.transport.write(body)
    _complete(cycle)


async def pour(cycle: Cycle, opening: Opening, stream: Stream) -> None:
    """Write a response while it is made: each piece leaves as it comes, and the next is not asked
    for before the client has room for it. One that breaks off ends the connection without its end,
    so that the client can tell. Whatever happens, the stream is closed. ClientGone."""
    framing = opening.framing
    try:
        cycle.response_started = True
        _put(cycle, _head(cycle, opening.answer))
        while framing is not Framing.NONE:
            await cycle.flow.drain()
            piece = await stream.read()
            if not piece:
                break
            is_raw = framing is Framing.RAW
            _put(cycle, piece if is_raw else b"%x\r\n%b\r\n" % (len(piece), piece))
        if framing is Framing.CHUNKED:
            _put(cycle, b"0\r\n\r\n")
        _complete(cycle)
    except HearthError as error:
        told = (opening.request_id, error.code, error.message)
        log.warning("request %s: its response broke off: %s: %s", *told)
    finally:
        stream.close()
        if not cycle.response_complete:
            _break_off(cycle, framing)


@contextlib.contextmanager
def leaving(scope: MutableMapping[str, Any]) -> Iterator[None]:
    """While the block waits, a client that leaves cancels it: ClientGone."""
    scope[WAITING] = True
    try:
        yield
    except asyncio.CancelledError:
        if scope.get(GONE):
            raise ClientGone from None
        raise
    finally:
        scope[WAITING] = False


def _put(cycle: Cycle, data: bytes) -> None:
    if cycle.transport.is_closing():
        raise ClientGone
    cycle.transport.write(data)


def _head(cycle: Cycle, answer: Answer) -> bytes:
    """Everything in front of the body."""
    date = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
    last = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    return b"".join((STATUS_LINE[answer.status], date, answer.lines.encode("latin-1"), last))


def _complete(cycle: Cycle) -> None:
    """What uvicorn's cycle does after the last byte."""
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _break_off(cycle: Cycle, framing: Framing) -> None:
    cycle.response_started = cycle.response_complete = True  # as far as it ever will be
    if framing is Framing.RAW:  # only a reset tells: an orderly end would mean that this was all
        sock = cycle.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        cycle.transport.abort()
    else:
        cycle.transport.close()
