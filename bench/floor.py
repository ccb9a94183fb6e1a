"""The floors: a bare Starlette JSON echo, and a bare ASGI answer that shows the generator's own
ceiling. `python -m bench.floor <port>`; uvicorn with uvloop and httptools, access log off."""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """What a Python service that does nothing costs."""
    return JSONResponse(await request.json())


app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])


def main() -> None:
    """Serve until told to stop."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
