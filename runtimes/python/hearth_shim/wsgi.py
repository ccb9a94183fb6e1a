"""WSGI (PEP 3333): one request as an environ, its response as it is written or iterated."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from io import BytesIO
from os import getpid
from typing import Any

from .answers import Answer
from .asgi import told
from .requests import unescape
from .streaming import at_once
from .values import describe_value
from .web import Misuse, Request, Sink, body_of, head_of, problem_of

App = Callable[..., Iterable[bytes]]
STATUS = re.compile(r"[0-9]{3}($| )", re.ASCII)


def environ_of(request: Request, context: Any) -> dict[str, Any]:
    """What the application is told of the request. Text stands for bytes, as Latin-1."""
    host, port = request.server
    query = f"?{request.query}" if request.query else ""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": as_latin(unescape(request.root)),
        "PATH_INFO": as_latin(request.decoded_path),
        "QUERY_STRING": request.query,
        "REQUEST_URI": f"{request.root}{request.path}{query}",
        "RAW_URI": f"{request.root}{request.path}{query}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "REMOTE_ADDR": request.source_ip,
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "hearth.context": context,
    }
    for name, value in request.headers:
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name != "content-length" and "_" not in name:  # or x_y could pass for x-y
            key = "HTTP_" + name.upper().replace("-", "_")
            glue = "; " if name == "cookie" else ","
            environ[key] = f"{environ[key]}{glue}{value}" if key in environ else value
    return environ


def as_latin(text: str) -> str:
    """Text as WSGI wants it: a character for each of its bytes."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("latin-1")


class Response:
    """What the application does with start_response, write and what it returns."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def start(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        """start_response: may be called again only with an error, and before anything left."""
        try:
            if exc_info and self.sink.has_left:
                raise exc_info[1].with_traceback(exc_info[2])
            if not exc_info and self.sink.head is not None:
                raise Misuse("start_response was called twice, the second time without exc_info")
        finally:
            exc_info = None  # or its frames would hold this one
        self.sink.whole = None
        self.sink.open(head_of(status_of(status), pairs_of(headers)))
        return self.write

    def write(self, data: Any) -> None:
        """What start_response returns: send a piece; returns when there is credit for more."""
        self.put(data, is_last=False)

    def put(self, data: Any, *, is_last: bool) -> None:
        """Send a piece of the body."""
        piece = body_of(data)
        if self.sink.head is None:
            raise Misuse("the body began before start_response was called")
        if self.sink.is_complete:
            raise Misuse("the body went on after its end")
        if piece or is_last:
            at_once(self.sink.write(piece, is_last=is_last))

    def send_all(self, source: Any) -> None:
        """Send what the application returned, and close it."""
        try:
            is_only = hasattr(source, "__len__") and len(source) == 1
            try:
                pieces = iter(source)
            except TypeError:
                kind = describe_value(source)
                raise Misuse(f"the application returned {kind}, not an iterable") from None
            if isinstance(source, (str, bytes)):
                raise Misuse(f"the application returned {type(source).__name__}: put it in a list")
            for piece in pieces:
                self.put(piece, is_last=is_only)
            if not self.sink.is_complete:
                self.put(b"", is_last=True)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()


def status_of(status: Any) -> int:
    """The number in a status like "200 OK"."""
    if isinstance(status, str) and STATUS.match(status):
        return int(status[:3])
    raise Misuse(f"status {describe_value(status)} is not like '200 OK'")


def pairs_of(headers: Any) -> list[tuple[Any, Any]]:
    """The headers that start_response was given; Misuse when they are none."""
    try:
        pairs = [(name, value) for name, value in headers]
    except (TypeError, ValueError):
        raise Misuse("headers is not a list of names and values") from None
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise Misuse(f"header {describe_value(name)} is not two strings")
    return pairs


class Wsgi:
    """A WSGI application."""

    def __init__(self, app: App) -> None:
        self.app = app

    def answer(self, request: Request, sink: Sink, process: int, context: Any) -> Answer:
        """Serve one request. `process` is the one that may answer."""
        response = Response(sink)
        problem: BaseException | None = None
        try:
            response.send_all(self.app(environ_of(request, context), response.start))
        except BaseException as error:  # SystemExit too: the sandbox stays usable
            if getpid() != process:
                raise  # in a forked child: it ends as any Python program does
            problem = error
        if sink.is_complete:
            if problem is not None:
                told(problem)
            return sink.answer()
        missing = Misuse("the application returned without a response")
        return sink.failed(problem_of(problem or missing))
