"""The hot lane: a request that arrives as a whole, and whose seat is warm, is served where it is
read and where its outcome is told. It has no task, no future and no ASGI messages.

Whatever is not that ordinary is declined before anything has happened, and goes the other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from core.errors import HearthError
from executor.call import Outcome, Stream
from gateway.body import ClientGone
from gateway.head import Head
from gateway.reply import Reply
from gateway.response import WAITING, Opening, leaving, pour, write_whole

if TYPE_CHECKING:
    from gateway.protocol import Connection

BODY_BYTES_MAX = 64 * 1024  # of a request in the lane
HEAD_KEPT_BYTES_MAX = 2 * 1024  # a connection remembers its last head up to this size


class Lane(Protocol):
    """What a connection asks of the application."""

    def takes(self, head: Head) -> bool:
        """Whether a request with this head may be an ordinary one. Depends on nothing else."""
        ...

    def begin(self, head: Head, body: bytes, turn: Turn) -> bool:
        """Start it; `turn` is told how it ended. False: nothing has happened."""
        ...


class Turn:
    """A connection's request in the lane: what uvicorn's cycle is for others, made once for each
    connection. To the connection it looks like a cycle whose request has been read entirely."""

    __slots__ = (
        *("connection", "disconnected", "flow", "keep_alive", "message_event", "on_response"),
        *("reply", "response_complete", "response_started", "scope", "transport"),
    )
    body = b""
    more_body = False
    waiting_for_100_continue = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.flow = connection.flow
        self.on_response = connection.on_response_complete
        self.message_event = _Nobody()
        self.keep_alive = True
        self.disconnected = False
        self.response_started = self.response_complete = False
        self.scope: dict[str, Any] = {}
        self.reply: Reply

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The date, made once a second."""
        return self.connection.server_state.default_headers

    def told(self, end: Outcome | HearthError) -> None:
        """By the executor, once."""
        try:
            self._answer(end)
        finally:
            if not (self.response_complete or self.scope.get(WAITING)):
                self.transport.abort()  # a fault of ours; the client must not wait for ever

    def _answer(self, end: Outcome | HearthError) -> None:
        stream = None if isinstance(end, HearthError) else end.stream
        if self.transport.is_closing():
            self.response_complete = True  # there is nobody to hear of it
            if stream is not None:
                stream.close()
        elif isinstance(end, HearthError):
            write_whole(self, self.reply.refusal(end))
        elif stream is None:
            write_whole(self, self.reply.answer(end))
        else:
            self._stream(self.reply.opening(end), stream)

    def _stream(self, opening: Opening, stream: Stream) -> None:
        """This takes a task after all, known to the connection and the server as any other."""
        connection = self.connection
        task = connection.loop.create_task(self._pour(opening, stream))
        task.add_done_callback(lambda _: stream.close())  # also when it is cancelled unbegun
        task.add_done_callback(connection.tasks.discard)
        connection.tasks.add(task)
        self.scope[WAITING] = True
        connection.running = self, task

    async def _pour(self, opening: Opening, stream: Stream) -> None:
        try:
            with leaving(self.scope):
                await pour(self, opening, stream)
        except ClientGone:
            pass


class _Nobody:
    """In the place of an event: nobody waits for more of a request that has been read."""

    def set(self) -> None:
        """Nothing to do."""
