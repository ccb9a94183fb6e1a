"""HTTP/1.1 on a socket that never blocks: requests in pieces as they come, answers as they fit.

Whoever connects is the function itself, so nothing here trusts it: each part of a request has a
limit, and what breaks one is told why before its connection is closed.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from .heads import Headers, Refusal, Request, read_headers

HEAD_BYTES_MAX = 64 * 1024
TRAILERS_BYTES_MAX = 256 * 1024  # an error's body, in base64, may be among them
CHUNK_LINE_BYTES_MAX = 1024
HELD_BYTES_MAX = 64 * 1024  # of what comes while a request waits for its answer
READ_BYTES = 256 * 1024
UNLIMITED = 1 << 62
# What every connection reads into: a buffer of its own for each read would be mapped and unmapped.
SCRATCH = memoryview(bytearray(READ_BYTES))

IN, OUT = select.EPOLLIN, select.EPOLLOUT
LINGER_NOT = struct.pack("ii", 1, 0)  # close() resets: the other side's next write fails
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
REASONS = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Payload Too Large",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}


class Sink(Protocol):
    """What takes a request's body, and then answers."""

    def room(self) -> int:
        """How many bytes it takes now; 0 holds the connection until `go_on`."""

    def data(self, piece: bytes) -> None:
        """The next bytes, never more than there was room for."""

    def end(self, trailers: Headers) -> None:
        """The whole request is here: to be answered now, or later."""

    def cut(self) -> None:
        """The connection ended before that."""


class Refused:
    """Lets a body pass, then says why the request is not done: who answers earlier and closes
    makes the kernel drop the answer."""

    def __init__(self, connection: Connection, refusal: Refusal) -> None:
        self.connection = connection
        self.refusal = refusal

    def room(self) -> int:
        return UNLIMITED

    def data(self, piece: bytes) -> None:
        pass

    def end(self, trailers: Headers) -> None:
        self.connection.refuse(self.refusal)

    def cut(self) -> None:
        pass


class Connection:
    """One client. `route` is given each request's head and says what takes its body."""

    def __init__(
        self,
        sock: socket.socket,
        epoll: select.epoll,
        route: Callable[[Connection, Request], Sink],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.sock = sock
        self.number = sock.fileno()
        self.epoll = epoll
        self.route = route
        self.on_closed = on_closed
        self.buffer = bytearray()
        self.out = bytearray()
        self.sink: Sink | None = None
        self.is_held = False  # a whole request waits for its answer, or its sink has no room
        self.is_last = False  # close once all is written
        self.is_closed = False
        self.is_chunked = False
        self.left = 0  # bytes of the body, or of its chunk
        self.step = self.take_head
        self.on_pause: Callable[[], None] | None = None  # once, when all that came is taken
        self.interest = IN
        epoll.register(self.number, IN)

    # --- what the loop calls

    def on_event(self, events: int) -> None:
        """The socket has something, or room."""
        if events & OUT:
            self.flush()
        if events & ~OUT and not self.is_closed:
            self.read()

    def read(self) -> bool:
        """Take what has come; whether there was something."""
        try:
            count = self.sock.recv_into(SCRATCH)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.lost()
            return False
        self.buffer += SCRATCH[:count]
        self.advance()
        return not self.is_closed

    def has_left(self) -> bool:
        """Whether the other side has closed, and said nothing more before."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # --- what sinks call

    def go_on(self) -> None:
        """The sink has room again."""
        self.is_held = False
        self.advance()

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Send the answer of the request that is here."""
        last = b"Connection: close\r\n" if self.is_last else b""
        self.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\n%b%bContent-Length: %d\r\n\r\n"
            % (status, REASONS[status], headers, last, len(body))
            + body
        )
        self.sink = None
        self.is_held = False
        self.step = self.take_head

    def refuse(self, refusal: Refusal) -> None:
        """Send why a request is not done."""
        message = str(refusal).replace("\\", "\\\\").replace('"', '\\"')
        text = f'{{"errorMessage":"{message}","errorType":"{refusal.kind}"}}'
        self.answer(refusal.status, text.encode())

    def reset(self) -> None:
        """Nobody wants the rest of this request."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.sink = None
        self.close()

    # --- in

    def advance(self) -> None:
        """Go as far as what has come allows."""
        while not self.is_held and not self.is_closed and self.step():
            pass
        if self.on_pause is not None:
            on_pause, self.on_pause = self.on_pause, None
            on_pause()
        self.rearm()

    def take_head(self) -> bool:
        """A request's head; whether it was there."""
        if self.is_last:
            self.buffer.clear()
            return False
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > HEAD_BYTES_MAX:
                self.give_up(Refusal(431, "BadRequest", f"a head over {HEAD_BYTES_MAX} bytes"))
            return False
        head = bytes(self.buffer[:end])
        del self.buffer[: end + 4]
        try:
            request = Request(head.lstrip(b"\r\n"))
        except Refusal as refusal:  # where its body ends cannot be known
            self.give_up(refusal)
            return False
        self.begin(request)
        return True

    def begin(self, request: Request) -> None:
        """Know what takes the body, and let it come."""
        self.is_last = request.is_last
        self.is_chunked = request.is_chunked
        self.left = request.length
        try:
            self.sink = self.route(self, request)
        except Refusal as refusal:
            if request.expects:
                self.give_up(refusal)
                return
            self.sink = Refused(self, refusal)
        self.step = self.take_chunk_line if request.is_chunked else self.take_body
        if request.expects:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def give_up(self, refusal: Refusal) -> None:
        """Answer at once, and let this be the connection's last answer."""
        self.is_last = True
        self.refuse(refusal)

    def take_body(self) -> bool:
        """The next piece of a body, or of a chunk; whether it was there."""
        sink = self.sink
        assert sink is not None
        if self.left:
            room = sink.room()
            size = min(self.left, len(self.buffer), room)
            if not size:
                self.is_held = not room
                return False
            piece = bytes(self.buffer[:size])
            del self.buffer[:size]
            self.left -= size
            sink.data(piece)
            return True
        if self.is_chunked:
            self.step = self.take_chunk_end
            return True
        self.finish({})
        return True

    def take_chunk_line(self) -> bool:
        """How long the next chunk is."""
        end = self.buffer.find(b"\r\n", 0, CHUNK_LINE_BYTES_MAX)
        if end < 0:
            if len(self.buffer) >= CHUNK_LINE_BYTES_MAX:
                self.break_off("a chunk has no length")
            return False
        found = CHUNK_SIZE.fullmatch(bytes(self.buffer[:end]))
        if found is None:
            self.break_off("a chunk has no length")
            return False
        del self.buffer[: end + 2]
        self.left = int(found[1], 16)
        self.step = self.take_body if self.left else self.take_trailers
        return True

    def take_chunk_end(self) -> bool:
        """The line's end that follows a chunk."""
        if len(self.buffer) < 2:
            return False
        if self.buffer[:2] != b"\r\n":
            self.break_off("a chunk is longer than it says")
            return False
        del self.buffer[:2]
        self.step = self.take_chunk_line
        return True

    def take_trailers(self) -> bool:
        """What follows the last chunk."""
        if self.buffer[:2] == b"\r\n":
            del self.buffer[:2]
            self.finish({})
            return True
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > TRAILERS_BYTES_MAX:
                self.break_off("the trailers are too long")
            return False
        try:
            trailers = read_headers(bytes(self.buffer[:end]))
        except Refusal as refusal:
            self.break_off(str(refusal))
            return False
        del self.buffer[: end + 4]
        self.finish(trailers)
        return True

    def finish(self, trailers: Headers) -> None:
        """The whole request is here."""
        sink = self.sink
        assert sink is not None
        self.is_held = True
        sink.end(trailers)

    def break_off(self, why: str) -> None:
        """The body cannot be read on."""
        if self.sink is not None:
            self.sink.cut()
        self.give_up(Refusal(400, "BadRequest", why))

    # --- out

    def write(self, data: bytes) -> None:
        """Send as much as fits now, the rest when there is room."""
        if self.is_closed:
            return
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lost()
            return
        if sent < len(data):
            self.out += memoryview(data)[sent:]
            self.rearm()

    def flush(self) -> None:
        """Send what waits."""
        try:
            sent = self.sock.send(self.out)
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        del self.out[:sent]
        self.rearm()

    def rearm(self) -> None:
        """Ask the loop for what can be used; close when the last answer is out."""
        if self.is_closed:
            return
        if self.is_last and self.sink is None and not self.out:
            self.linger()
            return
        wants = OUT if self.out else 0
        # A request that waits for its answer is looked at still: its client may leave.
        if not self.is_held or (self.left == 0 and len(self.buffer) < HELD_BYTES_MAX):
            wants |= IN
        if wants != self.interest:
            self.epoll.modify(self.number, wants)
            self.interest = wants

    def linger(self) -> None:
        """Say that no more comes. The other side closes: would we, while something of it is
        unread, the kernel would drop our answer."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        if self.interest != IN:
            self.epoll.modify(self.number, IN)
            self.interest = IN

    def lost(self) -> None:
        """The other side is gone."""
        sink, self.sink = self.sink, None
        self.close()
        if sink is not None:
            sink.cut()

    def close(self) -> None:
        """Give the descriptor back. Any number of times."""
        if not self.is_closed:
            self.is_closed = True
            self.sock.close()  # which takes it out of the epoll, too
            self.on_closed(self)
