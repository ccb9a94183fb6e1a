"""What conformance tests ask of a Python function that streams. streaming.mjs is its twin.

An event (or the JSON body of a request) is a list of what to yield: any JSON value as it is,
{"bytes": n} for n bytes 0x78, {"odd": true} for a value that is not JSON, {"raise": text},
{"write": text} to standard output, {"wait": name} until that file is in the task's folder.
The end is told on standard output.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAUSE_S = 0.002


def steps_of(event: Any) -> Any:
    """The list that an event or a request holds."""
    return event if isinstance(event, list) else json.loads(event["body"])


def values_of(step: Any) -> list[Any]:
    """What a step yields: one value, or none."""
    if not isinstance(step, dict):
        return [step]
    if "write" in step:
        print(step["write"])
        return []
    if "raise" in step:
        raise ValueError(step["raise"])
    if "bytes" in step:
        return [b"x" * step["bytes"]]
    return [{1, 2}] if "odd" in step else [step]


def waits_for(step: Any) -> Path | None:
    """The file that a step waits for."""
    return HERE / step["wait"] if isinstance(step, dict) and "wait" in step else None


def synchronous(event: Any, context: Any) -> Iterator[Any]:
    """A generator."""
    try:
        for step in steps_of(event):
            if path := waits_for(step):
                while not path.exists():
                    time.sleep(PAUSE_S)
            else:
                yield from values_of(step)
    finally:
        print("over")


async def asynchronous(event: Any, context: Any) -> AsyncIterator[Any]:
    """An async generator."""
    try:
        for step in steps_of(event):
            if path := waits_for(step):
                while not path.exists():
                    await asyncio.sleep(PAUSE_S)
            else:
                for value in values_of(step):
                    yield value
    finally:
        print("over")


async def returned(event: Any, context: Any) -> AsyncIterator[Any]:
    """An async function that returns an async generator."""
    return asynchronous(event, context)
