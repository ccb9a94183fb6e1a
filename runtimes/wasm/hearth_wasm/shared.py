"""What the host takes from the Python shim: JSON, HTTP events and responses, the codes of frames.

In the image that package stands beside this one; in a checkout it is another runtime's.
"""

from __future__ import annotations

from hearth_shim.answers import check_body, check_head, refusal
from hearth_shim.requests import http_event
from hearth_shim.responses import http_response
from hearth_shim.values import Invalid, dumps, encode, loads
from hearth_shim.wire import (
    CALL,
    CANCEL,
    CREDIT,
    ERROR,
    HEAD_BYTES_MAX,
    HEADER,
    HELLO,
    INIT,
    INIT_ERROR,
    LENGTH_BYTES,
    OVERHEAD_BYTES,
    PROTOCOL,
    READY,
    RESULT,
    smaller,
)

__all__ = [
    "CALL",
    "CANCEL",
    "CREDIT",
    "ERROR",
    "HEADER",
    "HEAD_BYTES_MAX",
    "HELLO",
    "INIT",
    "INIT_ERROR",
    "LENGTH_BYTES",
    "OVERHEAD_BYTES",
    "PROTOCOL",
    "READY",
    "RESULT",
    "Invalid",
    "check_body",
    "check_head",
    "dumps",
    "encode",
    "http_event",
    "http_response",
    "loads",
    "refusal",
    "smaller",
]
