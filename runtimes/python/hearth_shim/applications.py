"""Web applications in place of handlers: which interface one speaks, and how its calls run.

Loaded only for a handler named with a colon, `module:attribute`.
"""

from __future__ import annotations

import inspect
from asyncio import new_event_loop, set_event_loop
from os import getpid
from typing import Any

from .answers import Answer, failure
from .asgi import Asgi
from .ending import leave
from .function import Function, is_async
from .loading import HandlerNotAsync, Unfit
from .output import CALL as WHOSE
from .parallel import Parallel
from .serial import Serial
from .streaming import Channel
from .values import describe_value
from .web import Request, parse_request, sink_of
from .wsgi import Wsgi

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class NotAnApplication(Unfit):
    """What the handler names speaks neither ASGI nor WSGI."""


class IsolationUnsupported(Unfit):
    """A process for each request is asked for, and the application keeps an event loop."""


def become(app: Any, config: dict[str, Any]) -> Function:
    """The function that an application is, started."""
    name = config["handler"]
    function = Function(app, config)
    function.parse = parse_request
    if not speaks_asgi(app, name):
        if config.get("per_sandbox", 1) > 1:
            raise HandlerNotAsync(
                f"{name} speaks WSGI, which takes one request at a time: per_sandbox must be 1"
            )
        function.app = Wsgi(app)
        return function
    if config.get("isolation") == "request":
        raise IsolationUnsupported(
            f"{name} speaks ASGI: it keeps one event loop for all requests, which cannot be forked "
            "for each; isolation request is for WSGI applications and handlers"
        )
    loop = function.loop = new_event_loop()
    set_event_loop(loop)
    function.app = asgi = Asgi(app, loop)
    asgi.lifespan.start()
    return function


def speaks_asgi(app: Any, name: str) -> bool:
    """Whether it is ASGI, not WSGI, by how it is called; NotAnApplication when it is neither."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        raise NotAnApplication(f"{name} is {describe_value(app)}, not an application") from None
    parameters = signature.parameters.values()
    if not inspect.isclass(app) and is_async(app) and takes_three(signature):
        return True
    wanted = [p for p in parameters if p.kind in POSITIONAL and p.default is p.empty]
    taken = [p for p in parameters if p.kind in POSITIONAL]
    if is_async(app) and not inspect.isclass(app):
        raise NotAnApplication(
            f"{name} is async and does not take (scope, receive, send), which is ASGI; "
            "a handler that takes (event, context) is named with a dot"
        )
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(wanted) <= 2 <= len(taken):
        return False
    if len(wanted) == 3:  # returns what is awaited: a class, or a wrapper that is not async itself
        return True
    if len(taken) == 1:
        raise NotAnApplication(
            f"{name} takes one argument, as applications of ASGI 2 do: asgiref's "
            "guarantee_single_callable(app) makes ASGI 3 of one"
        )
    if not taken:
        raise NotAnApplication(
            f"{name} takes no argument: if it makes the application, say app = {name_of(app)}() "
            "and name app"
        )
    raise NotAnApplication(
        f"{name} takes {len(wanted)} arguments: an application takes (scope, receive, send), "
        "which is ASGI, or (environ, start_response), which is WSGI"
    )


def takes_three(signature: inspect.Signature) -> bool:
    """Whether it can be called with scope, receive and send."""
    try:
        signature.bind(None, None, None)
    except TypeError:
        return False
    return True


def name_of(app: Any) -> str:
    """What a callable calls itself."""
    return str(getattr(app, "__name__", "create_app"))


class SerialApplication(Serial):
    """Serves the requests of an application one after the other."""

    def run(self, number: int, head: dict[str, Any], event: Request) -> Answer:
        """Serve one."""
        function = self.function
        channel = self.open_channel(number)
        sink = sink_of(event, channel, function.body_bytes_max)
        context = function.context(head)
        if isinstance(function.app, Wsgi):
            channel.wait = self.wait
            answer: Answer = function.app.answer(event, sink, function.process, context)
        else:
            try:
                answer = self.finish(number, function.app.answer(event, sink, channel, context))
            except BaseException as error:  # the application stopped the loop, say
                if getpid() != function.process:
                    raise
                answer = sink.failed(failure("function_error", error))
        channel.is_over = True
        self.channel = None
        return answer


class ParallelApplication(Parallel):
    """Serves several requests of an ASGI application at the same time."""

    async def run(self, channel: Channel, head: dict[str, Any], event: Request) -> None:
        """Serve one."""
        WHOSE.set(channel.number)
        function = self.function
        sink = sink_of(event, channel, function.body_bytes_max)
        try:
            answer = await function.app.answer(event, sink, channel, function.context(head))
        except BaseException as error:
            leave(error)  # in a forked child: it ends as any Python program does
        self.answer(channel, answer)
