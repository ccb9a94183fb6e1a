"""One client's connection: uvicorn's HTTP protocol with the limits that it leaves to others.

A head has a size, a number of headers and a time; a body may not pause for long; an answer must be
taken; an answer given before the request was read entirely still arrives. No timer for each
request: `sweep` looks at every connection once a second.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from core.errors import CallerError, HeadersTooLarge, RequestInvalid, RequestTimeout
from core.limits import (
    CLIENT_BODY_IDLE_S,
    CLIENT_HEAD_S,
    CLIENT_LINGER_S,
    CLIENT_READ_IDLE_S,
    CONNECTIONS_MAX,
    HEADER_COUNT_MAX,
    HEADERS_BYTES_MAX,
    KEEP_ALIVE_S,
)
from executor.swift import SwiftSocket
from gateway.errors import status_of
from gateway.head import Head
from gateway.headers import new_id
from gateway.lane import BODY_BYTES_MAX, HEAD_KEPT_BYTES_MAX, Lane, Turn
from gateway.response import GONE, WAITING

_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, bounded."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _Lingers(transport, self)  # type: ignore[assignment]
        self.now = self.loop.time
        self.heard_at = self.now()
        self.head_since: float | None = self.heard_at
        self.stalled_since: float | None = None
        self.lingering = False
        self.head_bytes = 0  # of the unfinished head, in earlier chunks
        self.chunk_bytes = 0
        self.refusal: CallerError | None = None
        self.running: tuple[RequestResponseCycle | Turn, asyncio.Task[None]] | None = None
        self.lane: Lane | None = getattr(self.app, "lane", None)
        self.turn = Turn(self)
        self.between = True  # two requests, as far as the parser knows
        self.chunk = b""  # what is being parsed, if a request began with it
        self.held: Head | None = None  # of a request that may be the lane's, until it is read
        self.held_body: list[bytes] = []
        self.kept: _Kept | None = None
        self.declined = False  # by the lane, what is being parsed
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.now()
        if self.lingering:
            return
        kept, self.kept, self.declined = self.kept, None, False
        if kept is not None and kept.begins(data):  # then the parser stands between two requests
            if self._serve(kept.head, data[len(kept.raw) :]):
                self.kept = kept
                return
            self.declined = True  # asking again would change nothing
        self.chunk, self.chunk_bytes = data if self.between else b"", len(data)
        super().data_received(data)
        self.chunk = b""
        if self.head_since is not None and not self.lingering:
            self.head_bytes += len(data)
            if self.head_bytes > HEADERS_BYTES_MAX:
                self.refuse(HeadersTooLarge(f"the head is over {HEADERS_BYTES_MAX} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.between = False
        self.head_bytes = 0
        self.head_since = self.heard_at

    def on_headers_complete(self) -> None:
        self.head_since = None
        if len(self.headers) > HEADER_COUNT_MAX:
            self.refusal = HeadersTooLarge(f"more than {HEADER_COUNT_MAX} headers")
        elif self.head_bytes + self.chunk_bytes > HEADERS_BYTES_MAX:  # perhaps: look closer
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEADERS_BYTES_MAX:
                self.refusal = HeadersTooLarge(f"the head is over {HEADERS_BYTES_MAX} bytes")
        if self.refusal is not None:
            raise self.refusal  # the parser stops, and uvicorn calls send_400_response
        self.held = self._may_hold()
        if self.held is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.held is None:
            super().on_body(body)
        else:
            self.held_body.append(body)

    def on_message_complete(self) -> None:
        self.between = True
        if self.held is not None:
            body = b"".join(self.held_body)
            if self._serve(self.held, body):
                self.kept = _Kept.of(self.chunk, self.held, body)
                self._let_go()
                return
            self._release()
        super().on_message_complete()

    def _may_hold(self) -> Head | None:
        """The head of a request that the lane may take once it is read: nothing else is under way
        on this connection, the body is small, and it is not the last request."""
        parser, named = self.parser, dict(self.headers)
        if (
            self.lane is None
            or self.declined
            or not (self.cycle is None or self.cycle.response_complete)
            or int(named.get(b"content-length", 0)) > BODY_BYTES_MAX
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
        ):
            return None
        url = httptools.parse_url(self.url)
        method, query = parser.get_method().decode("ascii"), url.query or b""
        scheme = self.scheme or "http"
        head = Head(method, url.path, query, "1.1", self.headers, self.client, scheme, named)
        return head if self.lane.takes(head) else None

    def _release(self) -> None:
        """What is held goes the other way, as far as it is here."""
        body = b"".join(self.held_body)
        self._let_go()
        super().on_headers_complete()
        super().on_body(body)

    def _let_go(self) -> None:
        self.held = None
        self.held_body.clear()
        self.chunk = b""

    def _serve(self, head: Head, body: bytes) -> bool:
        """In the lane, if the client takes its answers and the request is an ordinary one."""
        turn = self.turn
        if self.lane is None or self.flow.write_paused or self.transport.is_closing():
            return False
        if not (self.cycle is None or self.cycle.response_complete):
            return False
        turn.response_started = turn.response_complete = False
        turn.keep_alive = True
        if self.lane.begin(head, body, turn):
            self.cycle = turn  # type: ignore[assignment]
            return True
        turn.response_complete = True
        return False

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.refusal or RequestInvalid("not an HTTP request"))

    def refuse(self, error: CallerError) -> None:
        """Answer instead of the application, unless it is in the middle of that, and close."""
        cycle = self.running[0] if self.running is not None else None
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
            return
        status, request_id = status_of(error), new_id()
        facts = {"code": error.code, "message": error.message, "request_id": request_id}
        body = json.dumps({"error": facts}).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self.running = cycle, task

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._let_go()
        if self.running is None:
            return
        (cycle, task), self.running = self.running, None
        cycle.disconnected = True  # uvicorn has told the last of the pipeline alone
        scope = cast("dict[str, Any]", cycle.scope)
        if not cycle.response_complete and scope.get(WAITING):
            scope[GONE] = True
            task.cancel()

    def on_response_complete(self) -> None:
        """uvicorn's, without a timer to close what stays idle: `sweep` sees to that."""
        self.server_state.total_requests += 1
        self.heard_at = self.now()  # it may be idle from here on
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def shutdown(self) -> None:
        if self.held is not None:
            self._release()
        super().shutdown()
        if self.lingering:
            self.transport.abort()

    def pause_writing(self) -> None:
        self.stalled_since = self.now()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """Part with a client that keeps us waiting. Called about once a second."""
        if self.held is not None:
            self._release()  # a body that takes so long need not be hurried by us
        cycle = self.cycle
        answered = cycle is None or cycle.response_complete
        if self.lingering:
            return
        if self.stalled_since is not None:
            if now - self.stalled_since > CLIENT_READ_IDLE_S:
                self.transport.abort()
        elif not answered:
            if self._owes_body() and now - self.heard_at > CLIENT_BODY_IDLE_S:
                self._end_body()
        elif self.head_since is not None:
            if now - self.head_since > CLIENT_HEAD_S:
                self._end_head()
        elif now - self.heard_at > KEEP_ALIVE_S:
            self.transport.close()

    def _owes_body(self) -> bool:
        """Whether the application may be waiting for bytes that this client does not send."""
        cycle = self.cycle
        unread = cycle.body or self.flow.read_paused or cycle.waiting_for_100_continue
        return cycle.more_body and not cycle.response_started and not unread

    def _end_body(self) -> None:
        cycle = self.cycle
        cycle.disconnected = True  # for the application it has hung up
        cycle.message_event.set()
        self.refuse(RequestTimeout(f"the body paused for {CLIENT_BODY_IDLE_S:g} seconds"))

    def _end_head(self) -> None:
        if self.head_bytes:
            self.refuse(RequestTimeout(f"the head took over {CLIENT_HEAD_S:g} seconds"))
        else:
            self.transport.close()


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last head of a connection, if the lane took it: the same bytes mean the same again, and
    the parser, which stands between two requests, need not see them."""

    raw: bytes
    size: int  # of the whole request
    head: Head

    @classmethod
    def of(cls, chunk: bytes, head: Head, body: bytes) -> _Kept | None:
        """Of a chunk that begins with the request; None unless that is all of it."""
        size = chunk.find(b"\r\n\r\n") + 4
        if size + len(body) != len(chunk) or size > HEAD_KEPT_BYTES_MAX:
            return None
        return cls(chunk[:size], len(chunk), head)

    def begins(self, data: bytes) -> bool:
        """Whether `data` is this head and its body."""
        return len(data) == self.size and data.startswith(self.raw)


class _Lingers:
    """The transport, whose `close` lets an early answer arrive: closing a socket with unread input
    makes the kernel send RST, and the client would lose the answer that it was just sent."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._socket = SwiftSocket.of(transport)
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_protocol = transport.set_protocol
        self._transport = transport
        self._connection = connection

    def write(self, data: bytes) -> None:
        """Now, if nothing waits before it."""
        if self._socket is None or not self._socket.write(data):
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more is written."""
        return self._connection.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close now if the request was read entirely, else after the client had time to notice."""
        connection, transport = self._connection, self._transport
        cycle = connection.cycle
        unread = connection.head_since is not None or (cycle is not None and cycle.more_body)
        if not unread or connection.lingering or transport.is_closing():
            transport.close()
            return
        connection.lingering = True
        if transport.can_write_eof():
            transport.write_eof()
        connection.flow.resume_reading()
        connection.loop.call_later(CLIENT_LINGER_S, transport.abort)


def sweep(connections: set[Any], now: float) -> None:
    """`Connection.sweep` on each."""
    for connection in list(connections):
        connection.sweep(now)
