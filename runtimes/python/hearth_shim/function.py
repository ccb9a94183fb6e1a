"""The function: its handler, and the context that every call of it gets."""

from __future__ import annotations

import inspect
import os
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from .requests import parse_event

Handler = Callable[[Any, Any], Any]


class Context:
    """What AWS Lambda hands a handler beside the event. `deadline` is Unix time in milliseconds."""

    function_name: str
    function_version: str
    memory_limit_in_mb: str
    invoked_function_arn: str
    log_group_name: str
    log_stream_name: str
    client_context = None

    def __init__(self, head: dict[str, Any]) -> None:
        self.aws_request_id: str = head["id"]
        self.deadline: int = head["deadline_ms"]
        self.traceparent: str | None = head.get("trace")
        self.identity = Identity()

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the platform ends this call, never negative."""
        return max(0, int(self.deadline - time.time() * 1000))

    def log(self, message: object) -> None:
        """Write a message to the log as it is."""
        sys.stdout.write(str(message))


class Identity:
    """Always empty here: Hearth has no Cognito."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Function:
    """The handler with what stays the same for all its calls."""

    def __init__(self, handler: Handler, config: dict[str, Any]) -> None:
        self.handler = handler
        self.parse: Callable[[dict[str, Any], memoryview, str], Any] = parse_event
        self.app: Any = None  # what answers in the handler's place: applications.py
        self.loop: AbstractEventLoop | None = None  # on which it was started
        self.body_bytes_max: int = config["payload_bytes_max"]
        self.process = os.getpid()  # a child that the function forks is not asked for answers
        name, version = config["function"], str(config["version"])
        stream = time.strftime("%Y/%m/%d/", time.gmtime()) + f"[{version}]{os.urandom(16).hex()}"
        self.name: str = name
        facts = {
            "function_name": name,
            "function_version": version,
            "memory_limit_in_mb": str(config["memory_mb"]),
            "invoked_function_arn": f"arn:aws:lambda:local:000000000000:function:{name}:{version}",
            "log_group_name": f"/aws/lambda/{name}",
            "log_stream_name": stream,
        }
        self.context: type[Context] = type("LambdaContext", (Context,), facts)


def is_async(handler: Handler) -> bool:
    """Whether calling it runs none of it: `async def`, with `yield` or without."""
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - the method, not whether
    return any(
        inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
        for one in (handler, call)
    )
