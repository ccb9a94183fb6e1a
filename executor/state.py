"""The states of a sandbox, and which frames belong to them."""

from __future__ import annotations

from enum import Enum

from executor.wire import FrameType


class State(Enum):
    """Forward only: BOOTING → STEM → INIT → READY → CLOSED, and from each of them to CLOSED."""

    BOOTING = 0
    STEM = 1
    INIT = 2
    READY = 3
    CLOSED = 4


EXPECTED_IN = {
    FrameType.HELLO: State.BOOTING,
    FrameType.READY: State.INIT,
    FrameType.INIT_ERROR: State.INIT,
}
