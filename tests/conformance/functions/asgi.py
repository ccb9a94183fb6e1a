"""Applications in ASGI, each a way to answer. For test_python_asgi.py and test_python_events.py."""

import asyncio
import json
from pathlib import Path
from typing import Any

seen: list[str] = []
gates: dict[str, asyncio.Event] = {}


async def start(
    send: Any, status: int = 200, headers: Any = ((b"content-type", b"text/plain"),)
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send: Any, data: bytes = b"", **more: Any) -> None:
    await send({"type": "http.response.body", "body": data, **more})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Speaks no lifespan. Its first path segment says what it does."""
    assert scope["type"] == "http"
    await ROUTES[scope["path"].removeprefix(scope["root_path"]).split("/")[1]](scope, receive, send)


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """The scope and the body, as JSON."""
    request = await receive()
    told: dict[str, Any] = {}
    for name, value in scope.items():
        if isinstance(value, bytes):
            told[name] = value.decode("latin-1")
        elif name == "headers":
            told[name] = [[part.decode("latin-1") for part in pair] for pair in value]
        elif name == "hearth.context":
            told["request_id"] = value.aws_request_id
        else:
            told[name] = value
    told["body"] = [request["type"], request["body"].decode("latin-1"), request["more_body"]]
    print(f"told {scope['path']}")
    await start(send, headers=[(b"Content-Type", b"application/json")])
    await body(send, json.dumps(told).encode())


async def plain(scope: Any, receive: Any, send: Any) -> None:
    cookies = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-raw", "é".encode())]
    await start(send, 201, cookies)
    await body(send, b"whole")


async def empty(scope: Any, receive: Any, send: Any) -> None:
    await start(send, 204, [])
    await body(send)


async def large(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await body(send, b"x" * int(scope["query_string"]))


async def pieces(scope: Any, receive: Any, send: Any) -> None:
    """As a middleware makes one answer into several messages."""
    await start(send, headers=[(b"content-length", b"5")])
    await body(send, b"whole", more_body=True)
    await body(send)


async def stream(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    for name in ("go", "on"):
        while not Path(name).exists():
            await asyncio.sleep(0.005)
        await body(send, name.encode(), more_body=True)
    await body(send, b"end")


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Writes what it sends, until nobody reads."""
    await start(send)
    number = 0
    try:
        while True:
            print(number)
            await body(send, b"x" * 65536, more_body=True)
            number += 1
    except OSError as error:
        print(f"left: {error}")
        raise


async def together(scope: Any, receive: Any, send: Any) -> None:
    """Two tasks that send at the same time, each more than there is credit for."""
    await start(send)
    sends = [asyncio.create_task(body(send, c * 300_000, more_body=True)) for c in (b"a", b"b")]
    await asyncio.gather(*sends)
    await body(send)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    """Begins, and ends when it hears that nobody waits."""
    await receive()
    await start(send)
    await body(send, b"begun", more_body=True)
    print((await receive())["type"])
    await body(send, b"", more_body=False)


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """Does not care who waits."""
    print("begun", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        print("ended")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def unfinished(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await body(send, b"some", more_body=True)


async def twice(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await start(send)


async def more(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await body(send, b"all")
    await body(send, b"more")


async def early(scope: Any, receive: Any, send: Any) -> None:
    await body(send, b"early")


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("no ördér")


async def raises_late(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await body(send, b"some", more_body=True)
    raise ValueError("no ördér")


async def raises_after(scope: Any, receive: Any, send: Any) -> None:
    """As Starlette does: an error page, and the error for the server's log."""
    await start(send, 500)
    await body(send, b"sorry")
    raise ValueError("no ördér")


async def leaves(scope: Any, receive: Any, send: Any) -> None:
    raise SystemExit(3)


def odd(message: Any) -> Any:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send(message)

    return serve


def odd_start(**fields: Any) -> Any:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, **fields})
        await body(send, b"never")

    return serve


async def meet(scope: Any, receive: Any, send: Any) -> None:
    """Answers once as many requests as its query says are there."""
    print(f"here {scope['path']}")
    seen.append(scope["path"])
    gate = gates.setdefault("all", asyncio.Event())
    if len(seen) == int(scope["query_string"]):
        gate.set()
    await gate.wait()
    print(f"gone {scope['path']}")
    await start(send)
    await body(send, scope["path"].encode())


ROUTES = {
    "odd-body": odd({"type": "http.response.body", "body": "text"}),
    "odd-type": odd({"type": "websocket.accept"}),
    "odd-message": odd(["http.response.body"]),
    "odd-status": odd_start(status="200"),
    "odd-number": odd_start(status=99),
    "odd-header": odd_start(headers=[("content-type", "text/plain")]),
    "odd-headers": odd_start(headers=7),
    "odd-name": odd_start(headers=[(b"bad name", b"x")]),
    "odd-value": odd_start(headers=[(b"x", b"a\r\nb: c")]),
    "odd-size": odd_start(headers=[(b"x", b"y" * 200_000)]),
    **{
        made.__name__.replace("_", "-"): made
        for made in (
            *(tell, plain, empty, large, pieces, stream, endless, waits, deaf, silent, meet),
            *(together, unfinished, twice, more, early, raises, raises_late, raises_after, leaves),
        )
    },
}


class Living:
    """An application with a lifespan."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await start(send)
            await body(send, scope["state"]["told"].encode())
            return
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["told"] = "started"
        print("starting")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await asyncio.sleep(0)
        print("stopping")
        await send({"type": "lifespan.shutdown.complete"})


living = Living()


async def fails(scope: Any, receive: Any, send: Any) -> None:
    """Says that it cannot start."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})


async def fails_loudly(scope: Any, receive: Any, send: Any) -> None:
    """As Starlette does: says so, and raises what it was."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "a whole traceback"})
        raise KeyError("no database")


async def breaks(scope: Any, receive: Any, send: Any) -> None:
    """Raises in its startup without a word."""
    if scope["type"] == "lifespan":
        await receive()
        raise KeyError("no database")


async def hangs(scope: Any, receive: Any, send: Any) -> None:
    """Never comes to an end of its startup."""
    print("hanging", flush=True)
    await asyncio.sleep(600)


async def naive(scope: Any, receive: Any, send: Any) -> None:
    """Takes everything for a request."""
    await receive()
    await start(send)
    await body(send, b"naive")


async def leaves_at_start(scope: Any, receive: Any, send: Any) -> None:
    raise SystemExit("no database")


def wrapped(scope: Any, receive: Any, send: Any) -> Any:
    """Not async itself."""
    return plain(scope, receive, send)


class Endpoint:
    """A class whose instances are awaited, as Starlette's endpoints are."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.parts = scope, receive, send

    def __await__(self) -> Any:
        return app(*self.parts).__await__()


def of_asgi_2(scope: Any) -> None:
    """The application interface of old."""


def create_app() -> Any:
    """A factory."""
    return app


def handler(event: Any, context: Any, more: Any, still_more: Any) -> None:
    """No application at all."""


async def tell_event(event: Any, context: Any) -> Any:
    """A handler, whose name has a dot elsewhere."""
    return event


number = 7
nested = type("Holder", (), {"app": staticmethod(app)})
