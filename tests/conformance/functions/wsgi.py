"""Applications in WSGI, each a way to answer. For tests/conformance/test_python_wsgi.py."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEXT = [("Content-Type", "text/plain")]
loaded = os.getpid()
seen: list[int] = []


class Pieces:
    """What an application returns, and whether it is closed."""

    def __init__(self, made: Any, closing: BaseException | None = None) -> None:
        self.made = made
        self.closing = closing

    def __iter__(self) -> Any:
        return iter(self.made)

    def close(self) -> None:
        print("closed")
        if self.closing is not None:
            raise self.closing


def app(environ: Any, start_response: Any) -> Any:
    """Its first path segment says what it does."""
    return ROUTES[environ["PATH_INFO"].split("/")[1]](environ, start_response)


def tell(environ: Any, start_response: Any) -> Any:
    plain = {k: v for k, v in environ.items() if isinstance(v, (str, bool, tuple))}
    plain["body"] = environ["wsgi.input"].read().decode("latin-1")
    plain["request_id"] = environ["hearth.context"].aws_request_id
    print("to the log", file=environ["wsgi.errors"])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(plain).encode()]


def whole(environ: Any, start_response: Any) -> Any:
    cookies = [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("x-raw", "Ã©")]
    start_response("201 Created", cookies)
    return [b"whole"]


def empty(environ: Any, start_response: Any) -> Any:
    start_response("204 No Content", [])
    return []


def length(environ: Any, start_response: Any) -> Any:
    """As frameworks do: an iterator of one piece, and a length."""
    start_response("200 OK", [("Content-Length", "5")])
    return Pieces(iter([b"", b"whole", b""]))


def longer(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "5")])
    return iter([b"whole", b"and more"])


def stream(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return Pieces(steps())


def steps() -> Any:
    for name in ("go", "on"):
        while not Path(name).exists():
            time.sleep(0.005)
        yield name.encode()
    yield b"end"


def late(environ: Any, start_response: Any) -> Any:
    """A generator: start_response is called when it is first asked."""
    start_response("200 OK", TEXT)
    yield b"la"
    yield b"te"


def endless(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return Pieces(numbers())


def numbers() -> Any:
    number = 0
    while True:
        print(number)
        yield b"x" * 65536
        number += 1


def writes(environ: Any, start_response: Any) -> Any:
    write = start_response("200 OK", TEXT)
    write(b"written ")
    write(b"")
    write(b"at once ")
    return Pieces([b"and returned"])


def writes_endlessly(environ: Any, start_response: Any) -> Any:
    write = start_response("200 OK", TEXT)
    for number in range(10_000):
        print(number)
        write(b"x" * 65536)
    return []


def corrected(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    try:
        raise ValueError("no ördér")
    except ValueError:
        start_response("500 Sorry", TEXT, sys.exc_info())
    return [b"sorry"]


def corrected_late(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b"some"
    try:
        raise ValueError("no ördér")
    except ValueError:
        start_response("500 Sorry", TEXT, sys.exc_info())
    yield b"never"


def twice(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"never"]


def silent(environ: Any, start_response: Any) -> Any:
    return []


def early(environ: Any, start_response: Any) -> Any:
    return [b"early"]


def raises(environ: Any, start_response: Any) -> Any:
    raise ValueError("no ördér")


def raises_late(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    yield b"some"
    raise ValueError("no ördér")


def closes_badly(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "5")])
    return Pieces([b"whole"], ValueError("no ördér"))


def breaks(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return Pieces(raising())


def raising() -> Any:
    raise ValueError("no ördér")
    yield b"never"


def leaves(environ: Any, start_response: Any) -> Any:
    sys.exit(3)


def forgets(environ: Any, start_response: Any) -> Any:
    """Whether anything is left of the requests before."""
    seen.append(1)
    start_response("200 OK", TEXT)
    return [f"{len(seen)} {os.getpid() != loaded}".encode()]


def odd(status: Any = "200 OK", headers: Any = TEXT, answer: Any = (b"never",)) -> Any:
    def serve(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return answer

    return serve


ROUTES = {
    "odd-status": odd(status=200),
    "odd-number": odd(status="99 Low"),
    "odd-header": odd(headers=[(b"content-type", b"text/plain")]),
    "odd-headers": odd(headers=7),
    "odd-name": odd(headers=[("bad name", "x")]),
    "odd-value": odd(headers=[("x", "a\r\nb: c")]),
    "odd-letter": odd(headers=[("x", "🦊")]),
    "odd-answer": odd(answer=None),
    "odd-text": odd(answer="text"),
    "odd-piece": odd(answer=["text"]),
    **{
        made.__name__.replace("_", "-"): made
        for made in (
            *(tell, whole, empty, length, longer, stream, late, endless, writes, corrected),
            *(writes_endlessly, corrected_late, twice, silent, early, raises, raises_late),
            *(closes_badly, breaks, leaves, forgets),
        )
    },
}


class Application:
    """An application as an object, and as a class whose instances are iterated."""

    def __init__(self, environ: Any = None, start_response: Any = None) -> None:
        self.parts = environ, start_response

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    def __iter__(self) -> Any:
        return iter(app(*self.parts))


an_object = Application()


def of_any(*parts: Any) -> Any:
    """Takes whatever it is given."""
    return app(*parts)
