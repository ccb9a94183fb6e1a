"""What conformance tests ask of a Python function that takes several calls at once.

An event is a list of steps: {"wait": name} until another call has opened that gate,
{"open": name}, {"out": text} and {"err": text} written as they are, {"log": text} by the
language's own logging, {"raise": text}, and so on. The last step is the result of `whole`;
`stream` yields every step that is a value (a number is so many letters). Its twin: concurrency.mjs.
"""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

print("at import")
GATES: dict[str, asyncio.Event] = {}


def gate(name: str) -> asyncio.Event:
    """A gate that one call opens for others."""
    return GATES.setdefault(name, asyncio.Event())


def fail(text: str) -> None:
    """Raise."""
    raise ValueError(text)


async def stubborn(value: Any) -> Any:
    """Wait for the cancel and return all the same."""
    print("begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return value


def in_thread(text: str) -> None:
    """Write in a thread that was not handed the call's context."""
    thread = threading.Thread(target=sys.stdout.write, args=(text,))
    thread.start()
    thread.join()


async def in_task(text: str) -> None:
    """Write in a task of its own."""
    sys.stdout.write(text)


ASYNC: dict[str, Callable[[Any], Any]] = {
    "wait": lambda name: gate(name).wait(),
    "task": lambda text: asyncio.create_task(in_task(text)),
    "thread": lambda text: asyncio.to_thread(sys.stdout.write, text),
    "sleep": asyncio.sleep,
}
SYNC: dict[str, Callable[[Any], Any]] = {
    "open": lambda name: gate(name).set(),
    "out": sys.stdout.write,
    "err": lambda text: sys.stderr.write(text),
    "log": logging.warning,
    "raise": fail,
    "raw": lambda text: os.write(1, text.encode()),
    "run": lambda text: subprocess.run(["echo", text], check=True),
    "exit": sys.exit,
    "own_thread": in_thread,
    "buffer": lambda text: sys.stdout.buffer.write(text.encode()),
    "print": print,
    "stop": lambda _: asyncio.get_running_loop().stop(),
    "cancel_all": lambda _: [task.cancel() for task in asyncio.all_tasks()],
}


async def value_of(step: Any, context: Any) -> Any:
    """Do what a step says; what it is when it says nothing."""
    if not isinstance(step, dict):
        return step
    ((do, value),) = step.items()
    if do == "id":
        return context.aws_request_id
    if do == "stubborn":
        return await stubborn(value)
    if do in ASYNC:
        await ASYNC[do](value)
    else:
        SYNC[do](value)
    return None


async def whole(event: Any, context: Any) -> Any:
    """One answer."""
    result = None
    for step in event:
        result = await value_of(step, context)
    return result


async def stream(event: Any, context: Any) -> AsyncIterator[Any]:
    """An answer in parts."""
    for step in event:
        value = await value_of(step, context)
        if value is not None:
            yield "x" * value if isinstance(value, int) else value
