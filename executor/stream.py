"""A response's body on its way from a sandbox to its reader, never more than a window of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from core.errors import HearthError
from core.limits import STREAM_WINDOW_BYTES
from executor.wire import WireError


class BodyStream:
    """See `executor.call.Stream`. `grant` tells the shim that it may send so many bytes more,
    `cancel` that nobody reads any more."""

    def __init__(self, grant: Callable[[int], None], cancel: Callable[[], None]) -> None:
        self._grant = grant
        self._cancel = cancel
        self._chunks: deque[bytes] = deque()
        self._credit = STREAM_WINDOW_BYTES  # what may still come without a further grant
        self._owed = 0  # what was read and not granted again yet
        self._woken: asyncio.Future[None] | None = None
        self._ended = False
        self._error: HearthError | None = None
        self._closed = False

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises what ended it otherwise, after the bytes before.
        One reader at a time."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended or self._closed:
                return b""
            self._woken = asyncio.get_running_loop().create_future()
            try:
                await self._woken
            finally:
                self._woken = None
        chunk = self._chunks.popleft()
        self._give_credit(len(chunk))
        return chunk

    def close(self) -> None:
        """Nobody reads any more: what still comes is dropped, and the function is told."""
        if self._closed:
            return
        self._closed = True
        left = sum(map(len, self._chunks))
        self._chunks.clear()
        if not self._ended:
            self._cancel()
            self._give_credit(left)
        self._wake()

    def feed(self, data: bytes) -> None:
        """Bytes from the sandbox. WireError when they are more than it was granted."""
        if len(data) > self._credit:
            raise WireError(f"{len(data)} bytes of a stream with a credit of {self._credit}")
        self._credit -= len(data)
        if self._closed or self._ended:  # what comes after the deadline is dropped, too
            self._give_credit(len(data))
        elif data:
            self._chunks.append(data)
            self._wake()

    def finish(self, error: HearthError | None = None) -> None:
        """Nothing more comes."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def _give_credit(self, size: int) -> None:
        # In few frames: half a window is left when the next grant is on its way.
        self._owed += size
        if not self._ended and self._owed >= STREAM_WINDOW_BYTES // 2:
            self._credit += self._owed
            owed, self._owed = self._owed, 0
            self._grant(owed)

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
