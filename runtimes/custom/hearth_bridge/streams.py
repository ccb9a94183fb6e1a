"""A response that comes in pieces, each passed on as it comes, no further than credit goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hearth_shim.responses import HEADER_VALUE, http_response
from hearth_shim.values import Invalid, loads
from hearth_shim.wire import CHUNK_BYTES_MAX, END

from .bodies import ACCEPTED, TYPE_HEADER
from .failures import check_size, failure, refusal, reported_by_trailers
from .heads import Headers, Refusal, Request
from .http import Connection

if TYPE_CHECKING:
    from .api import Api, Call

MODE_HEADER = b"lambda-runtime-function-response-mode"
BODY_HEADER = b"lambda-runtime-function-error-body"
# A prelude of JSON (statusCode, headers, cookies), eight zeros, then the body.
INTEGRATION = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = bytes(8)
PRELUDE_BYTES_MAX = 128 * 1024
OCTETS = "application/octet-stream"
# What clients say who were not told a type.
NO_TYPES = ("", "application/x-www-form-urlencoded")


class Stream:
    """The sink of a streamed response."""

    __slots__ = ("api", "call", "connection", "head", "is_given_up", "prelude")

    def __init__(self, connection: Connection, api: Api, request: Request, call: Call) -> None:
        self.connection = connection
        self.api = api
        self.call = call
        self.is_given_up = False
        kind = request.headers.get(b"content-type", b"").decode("latin-1").strip()
        has_prelude = kind.partition(";")[0].strip().lower() == INTEGRATION
        self.prelude: bytearray | None = bytearray() if has_prelude else None
        shown = OCTETS if kind in NO_TYPES or not HEADER_VALUE.fullmatch(kind) else kind
        self.head: dict[str, Any] = {"status": 200, "headers": [("content-type", shown)]}
        if not has_prelude:
            connection.on_pause = self.show_head

    def room(self) -> int:
        """Room for a prelude is always; for a body, what credit allows."""
        if self.call.is_cancelled:
            self.give_up()
            return 0
        if self.prelude is not None:
            return int(CHUNK_BYTES_MAX)
        return int(min(self.call.credit, CHUNK_BYTES_MAX))

    def show_head(self) -> None:
        """The head is known before the first byte is: whoever reads may see it."""
        if self.call.stream is self and not self.call.is_cancelled:
            self.send(b"")

    def data(self, piece: bytes) -> None:
        if self.prelude is not None:
            self.read_prelude(piece)
        else:
            self.send(piece)

    def send(self, piece: bytes) -> None:
        head, self.head = self.head, {}
        if head or piece:
            self.api.send_chunk(self.call, head, piece)

    def read_prelude(self, piece: bytes) -> None:
        """Look for the zeros. What follows them in this piece is sent at once: a piece is never
        longer than a CHUNK, and a stream's first one has credit."""
        prelude = self.prelude
        assert prelude is not None
        prelude += piece
        end = prelude.find(PRELUDE_END)
        if end < 0:
            if len(prelude) > PRELUDE_BYTES_MAX:
                self.refuse("the response's prelude has no end")
            return
        try:
            self.head = head_of(bytes(prelude[:end]))
        except Invalid as error:
            self.refuse(str(error), error.kind)
            return
        self.prelude = None
        self.send(bytes(prelude[end + len(PRELUDE_END) :]))

    def refuse(self, message: str, kind: str = "Runtime.MarshalError") -> None:
        """It is no response."""
        self.close(refusal(message, kind))
        self.connection.reset()

    def end(self, trailers: Headers) -> None:
        """All is said, or the trailers say what went wrong."""
        if self.call.is_cancelled:
            self.give_up()
            return
        if kind := trailers.get(TYPE_HEADER, b""):
            self.close(reported_by_trailers(kind, trailers.get(BODY_HEADER, b"")))
        elif self.prelude is not None:
            self.close(refusal("the response ended within its prelude"))
            message = "the response ended within its prelude"
            self.connection.refuse(Refusal(400, "BadRequest", message))
            return
        else:
            self.send(b"")
            self.call.stream = None
            self.api.answer(self.call, END, {})
        self.connection.answer(202, ACCEPTED)

    def cut(self) -> None:
        """The function's client left in the middle of it."""
        if not self.is_given_up:
            message = "the connection ended in the middle of the response"
            self.close(failure("Runtime.TruncatedResponse", message))

    def close(self, problem: dict[str, Any]) -> None:
        """The call ends with an error."""
        self.call.stream = None
        self.api.fail(self.call, problem)

    def give_up(self) -> None:
        """Nobody reads any more: the client's next write fails, which is all that can tell it."""
        if not self.is_given_up:
            self.is_given_up = True
            self.connection.reset()


def head_of(prelude: bytes) -> dict[str, Any]:
    """The head of the response that a prelude describes. Invalid says what is wrong with it."""
    try:
        said = loads(str(prelude, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the response's prelude is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise Invalid("the response's prelude is no object")
    fields = {name: said.get(name) for name in ("headers", "cookies")}
    head: dict[str, Any]
    head, _ = http_response({"statusCode": said.get("statusCode", 200), **fields})
    check_size(head, b"", 0)
    return head
