"""The AWS Lambda Runtime API, version 2018-06-01, over the calls of our wire.

One call is under way at a time. It belongs to whoever asked for it until it is answered; others
that ask wait for the next one, so that a bootstrap may have several processes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hearth_shim.requests import http_event
from hearth_shim.responses import http_response
from hearth_shim.values import Invalid, encode, loads
from hearth_shim.wire import (
    CHUNK,
    CREDIT_BYTES,
    END,
    ERROR,
    INIT_ERROR,
    READY,
    RESULT,
    Wire,
    broken,
    credit_of,
)

from .bodies import ErrorBody, Question, Response
from .bootstrap import NotStarted, start
from .failures import check_size, failure, refusal
from .heads import Refusal, Request
from .http import Connection
from .streams import MODE_HEADER, Stream

ROOT = b"/2018-06-01/runtime/"
CALLS_WAITING_MAX = 16
ENVELOPE_BYTES = 128 * 1024  # of a response's JSON beside its body: headers and cookies
ESCAPED_TIMES = 6  # so many bytes of JSON can one byte of a body take: \u0001


class Call:
    """One CALL of the wire."""

    __slots__ = (
        "credit",
        "event",
        "has_begun",
        "head",
        "is_cancelled",
        "number",
        "stream",
        "taker",
    )

    def __init__(self, number: int, head: dict[str, Any], event: bytes) -> None:
        self.number = number
        self.head = head
        self.event = event
        self.credit = CREDIT_BYTES
        self.has_begun = False  # a CHUNK was sent
        self.is_cancelled = False
        self.taker: Connection | None = None  # brings the answer
        self.stream: Stream | None = None  # which comes in pieces


class Api:
    """What the bootstrap asks, and what it is told."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.is_ready = False  # it has asked for a call
        self.is_over = False  # it said, or was found, to be of no use
        self.bytes_max = 0
        self.name = self.arn = ""
        self.calls: deque[Call] = deque()  # not yet asked for
        self.current: Call | None = None
        self.answered = b""  # the last call's id
        self.asking: deque[Connection] = deque()

    # --- from the executor

    def begin(self, config: dict[str, Any], task: str, variables: dict[str, str]) -> int:
        """Start the bootstrap; its process id, 0 after an INIT_ERROR."""
        self.bytes_max = int(config["payload_bytes_max"])
        self.name = name = config["function"]
        self.arn = f"arn:aws:lambda:local:000000000000:function:{name}:{config['version']}"
        try:
            return start(task, variables)
        except NotStarted as error:
            told = {"type": "Runtime.InvalidEntrypoint", "message": str(error), "trace": []}
            self.fail_init(told | ({} if error.found is None else {"found": error.found}))
            return 0

    def call(self, number: int, head: dict[str, Any], body: memoryview) -> None:
        """A CALL came."""
        if len(self.calls) >= CALLS_WAITING_MAX:
            broken("a CALL while others wait")
        if head["kind"] == "http":
            event = encode(http_event(head, body, self.name))
        else:
            event = bytes(body) or b"{}"
        self.calls.append(Call(number, head, event))
        self.deliver()

    def cancel(self, number: int) -> None:
        """Nobody waits for the call any more. A whole answer may still come; a stream is cut, and
        the call ends when its function asks for the next."""
        call = self.current
        if call is None or call.number != number or call.is_cancelled:
            return
        call.is_cancelled = True
        if call.stream is not None:
            call.stream.give_up()

    def credit(self, number: int, body: memoryview) -> None:
        """So many more bytes may be sent."""
        size = credit_of(body)
        call = self.current
        if call is not None and call.number == number:
            call.credit += size
            if call.stream is not None:
                call.stream.connection.go_on()

    def ended(self, told: str) -> None:
        """The bootstrap ended."""
        if not self.is_ready and not self.is_over:
            message = f"{told} before it asked for an invocation"
            self.fail_init({"type": "Runtime.ExitError", "message": message, "trace": []})

    # --- requests of the bootstrap

    def route(self, connection: Connection, request: Request) -> Any:
        """What takes the body of this request. Refusal when it is not one that can be done."""
        path = request.path
        if not path.startswith(ROOT):
            raise Refusal(404, "NotFound", "there is no such path")
        rest = path[len(ROOT) :]
        if rest == b"invocation/next":
            self.require(request, b"GET")
            return Question(connection, self)
        if rest == b"init/error":
            self.require(request, b"POST")
            self.require_init()
            return ErrorBody(connection, self, request, None)
        parts = rest.split(b"/")
        if len(parts) != 3 or parts[0] != b"invocation" or parts[2] not in (b"response", b"error"):
            raise Refusal(404, "NotFound", "there is no such path")
        self.require(request, b"POST")
        return self.answering(connection, request, parts[1], is_error=parts[2] == b"error")

    def answering(
        self, connection: Connection, request: Request, asked: bytes, *, is_error: bool
    ) -> Any:
        """What takes an answer's body. From here on the call is this connection's."""
        call = self.current
        if call is None or call.head["id"].encode() != asked:
            if asked == self.answered:
                raise state_refusal("this invocation is answered already")
            raise Refusal(400, "InvalidRequestID", "Invalid request ID")
        if call.taker is not None and not (is_error and call.is_cancelled):
            raise state_refusal("this invocation is being answered")
        if is_error:
            call.taker = connection
            return ErrorBody(connection, self, request, call)
        mode = request.headers.get(MODE_HEADER, b"").lower()
        if mode not in (b"", b"streaming", b"buffered"):
            message = "Invalid function response mode"
            raise Refusal(400, "InvalidFunctionResponseMode", message)
        call.taker = connection
        if mode == b"streaming":
            call.stream = Stream(connection, self, request, call)
            return call.stream
        return Response(connection, self, call, self.most_of(call))

    def most_of(self, call: Call) -> int:
        """The bytes that a whole response may take as it travels. A body that fits may be much
        longer inside of JSON, as base64 or escaped."""
        if call.head["kind"] != "http":
            return self.bytes_max
        return self.bytes_max * ESCAPED_TIMES + ENVELOPE_BYTES

    def require(self, request: Request, method: bytes) -> None:
        """Refuse what is asked in another way."""
        if request.method != method:
            raise Refusal(405, "MethodNotAllowed", f"only {method.decode()} is possible here")

    def require_init(self) -> None:
        """Refuse what belongs before the first question."""
        if self.is_ready or self.is_over:
            raise state_refusal("the function has left its initialisation")

    def ask(self, connection: Connection) -> None:
        """`next`: from now on this connection waits for a call."""
        if self.is_over:
            connection.refuse(state_refusal("the initialisation has failed"))
            return
        self.asking.append(connection)
        if not self.is_ready:
            self.is_ready = True
            self.wire.send(READY, 0, {})
        call = self.current
        if call is not None and call.is_cancelled and (call.stream or call.taker is None):
            self.settle_cancelled(call)
        self.deliver()

    def deliver(self) -> None:
        """Give the next call to whoever asked first."""
        while self.current is None and self.calls and self.asking:
            connection = self.asking.popleft()
            if connection.has_left():  # which the loop has not come to yet
                connection.lost()
                continue
            call = self.current = self.calls.popleft()
            event, call.event = call.event, b""
            connection.answer(200, event, self.headers_of(call))
            connection.advance()

    def headers_of(self, call: Call) -> bytes:
        """What `next` says beside the event."""
        head = call.head
        text = (
            f"Lambda-Runtime-Aws-Request-Id: {head['id']}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {head['deadline_ms']}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {self.arn}\r\n"
        )
        trace = head.get("trace")
        return (text + trace_header(trace) if trace else text).encode()

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        if connection in self.asking:
            self.asking.remove(connection)

    # --- answers

    def respond(self, call: Call, body: bytes) -> None:
        """The whole response is here."""
        try:
            value = loads(str(body, "utf-8"))
            if call.head["kind"] == "http":
                head, data = http_response(value)
                check_size(head, data, self.bytes_max)
                self.answer(call, RESULT, head, data)
            else:
                self.answer(call, RESULT, {}, body)
        except Invalid as error:
            self.answer(call, ERROR, refusal(str(error), error.kind))
        except (ValueError, RecursionError, MemoryError) as error:
            self.answer(call, ERROR, refusal(f"the response is not JSON: {error}"))

    def send_chunk(self, call: Call, head: dict[str, Any], data: bytes) -> None:
        """A piece of a streamed response, for which there is credit."""
        call.has_begun = True
        call.credit -= len(data)
        self.wire.send(CHUNK, call.number, head, data)

    def fail(self, call: Call, problem: dict[str, Any]) -> None:
        """The call ends with an error, in its stream's middle if it has one."""
        self.answer(call, END if call.has_begun else ERROR, problem)

    def settle_cancelled(self, call: Call) -> None:
        """Its function has stopped."""
        self.fail(call, failure("Cancelled", "the call was cancelled"))

    def answer(self, call: Call, kind: int, head: dict[str, Any], data: bytes = b"") -> None:
        """Send the last frame of a call. The next one is delivered to whoever waits."""
        if call is not self.current:
            return  # cancelled, and given up by another connection
        self.wire.send(kind, call.number, head, data)
        self.answered = call.head["id"].encode()
        self.current = None
        if self.asking:
            self.deliver()

    def fail_init(self, problem: dict[str, Any]) -> None:
        """There will be no function."""
        self.is_over = True
        self.wire.send(INIT_ERROR, 0, problem)


def state_refusal(message: str) -> Refusal:
    """What comes at the wrong moment."""
    return Refusal(403, "InvalidStateTransition", message)


def trace_header(traceparent: str) -> str:
    """W3C's trace as X-Ray writes it: the same numbers."""
    parts = traceparent.split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16:
        return ""
    sampled = parts[3][-1:] in "13579bdf"
    root = f"1-{parts[1][:8]}-{parts[1][8:]}"
    return f"Lambda-Runtime-Trace-Id: Root={root};Parent={parts[2]};Sampled={int(sampled)}\r\n"
