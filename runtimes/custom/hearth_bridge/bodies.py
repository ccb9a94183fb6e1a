"""What becomes of the bodies of requests that come whole: a question, a response, an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .failures import failure, refusal, reported, too_large
from .heads import Headers, Refusal, Request
from .http import UNLIMITED, Connection

if TYPE_CHECKING:
    from .api import Api, Call

ACCEPTED = b'{"status":"OK"}\n'
ERROR_BYTES_MAX = 16 * 1024 * 1024  # its words are cut to a few KiB; a message may be an event
TYPE_HEADER = b"lambda-runtime-function-error-type"


class Question:
    """`next`: its body means nothing."""

    __slots__ = ("api", "connection")

    def __init__(self, connection: Connection, api: Api) -> None:
        self.connection = connection
        self.api = api

    def room(self) -> int:
        return UNLIMITED

    def data(self, piece: bytes) -> None:
        pass

    def end(self, trailers: Headers) -> None:
        self.api.ask(self.connection)

    def cut(self) -> None:
        pass


class Response:
    """A whole response. One over the limit is the call's error as soon as that is known; what
    still comes of it is let pass, so that the answer is heard."""

    __slots__ = ("api", "call", "connection", "is_too_large", "most", "pieces", "size")

    def __init__(self, connection: Connection, api: Api, call: Call, most: int) -> None:
        self.connection = connection
        self.api = api
        self.call = call
        self.most = most
        self.pieces: list[bytes] = []
        self.size = 0
        self.is_too_large = False
        if connection.left > most:
            self.refuse(connection.left)

    def refuse(self, size: int) -> None:
        """It is too large."""
        self.is_too_large = True
        self.pieces.clear()
        message = too_large(size, self.most)
        self.api.fail(self.call, refusal(message, "Function.ResponseSizeTooLarge"))

    def room(self) -> int:
        return UNLIMITED

    def data(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.is_too_large:
            return
        self.pieces.append(piece)
        if self.size > self.most:
            self.refuse(self.size)

    def end(self, trailers: Headers) -> None:
        if self.is_too_large:
            message = f"Exceeded maximum allowed payload size ({self.api.bytes_max} bytes)."
            self.connection.refuse(Refusal(413, "RequestEntityTooLarge", message))
            return
        pieces = self.pieces
        self.api.respond(self.call, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self.connection.answer(202, ACCEPTED)

    def cut(self) -> None:
        if not self.is_too_large:
            message = f"the connection ended after {self.size} bytes of the response"
            self.api.fail(self.call, failure("Runtime.TruncatedResponse", message))


class ErrorBody:
    """What the function says went wrong: in a call, or before the first one."""

    __slots__ = ("api", "call", "connection", "kind", "pieces", "size")

    def __init__(
        self, connection: Connection, api: Api, request: Request, call: Call | None
    ) -> None:
        self.connection = connection
        self.api = api
        self.call = call
        self.kind = request.headers.get(TYPE_HEADER, b"").decode("latin-1")
        self.pieces: list[bytes] = []
        self.size = 0

    def room(self) -> int:
        return UNLIMITED

    def data(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= ERROR_BYTES_MAX:
            self.pieces.append(piece)

    def end(self, trailers: Headers) -> None:
        try:
            if self.size > ERROR_BYTES_MAX:
                raise ValueError(f"it has {self.size} bytes; {ERROR_BYTES_MAX} are allowed")
            problem = reported(b"".join(self.pieces), self.kind)
        except ValueError as error:
            message = f"the error's body cannot be read: {error}"
            self.tell(failure(self.kind or "Runtime.Unknown", message))
            self.connection.refuse(Refusal(400, "InvalidErrorBody", "this is no error's JSON"))
            return
        self.tell(problem)
        self.connection.answer(202, ACCEPTED)

    def tell(self, problem: dict[str, object]) -> None:
        """The executor hears of it."""
        if self.call is not None:
            self.api.fail(self.call, problem)
        elif not self.api.is_over:  # said twice at once
            del problem["code"]
            self.api.fail_init(problem)

    def cut(self) -> None:
        message = f"the connection ended after {self.size} bytes of an error"
        self.tell(failure(self.kind or "Runtime.TruncatedError", message))
