"""Two ways to wait: to the end even when cancelled, and for the end of a process."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: asyncio.Future[T]) -> T:
    """The result of `work`, which goes on however often the waiting is cancelled: to leave it
    half done would be a leak. The cancellation is raised once it is done."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return work.result()
    if not work.cancelled():
        work.exception()  # looked at: the cancellation takes its place
    raise cancelled


async def ended(pidfd: int, timeout_s: float) -> bool:
    """Whether the process behind the descriptor ended within the time. Polls nothing."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        async with asyncio.timeout(timeout_s):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
