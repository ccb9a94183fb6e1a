"""The codec of the wire, without I/O: bytes in, frames out, and back (runtimes/PROTOCOL.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from core.limits import FRAME_HEAD_BYTES_MAX, FRAME_OVERHEAD_BYTES

_PREFIX = struct.Struct(">IBII")
_LENGTH_BYTES = 4


class WireError(ValueError):
    """The peer sent what the protocol does not allow. The connection cannot be used any more."""


class FrameType(IntEnum):
    """Frame types of protocol version 1."""

    INIT = 1
    CALL = 2
    CANCEL = 3
    HELLO = 16
    READY = 17
    INIT_ERROR = 18
    RESULT = 19
    ERROR = 20


_FROM_SHIM = {
    int(t): t
    for t in (
        FrameType.HELLO,
        FrameType.READY,
        FrameType.INIT_ERROR,
        FrameType.RESULT,
        FrameType.ERROR,
    )
}


class Frame(NamedTuple):
    """One message. `head` is still JSON text: who needs it calls `head_of`."""

    type: FrameType
    call: int
    head: bytes
    body: bytes


def encode(kind: FrameType, call: int, head: Mapping[str, Any] | None, body: bytes = b"") -> bytes:
    """One frame as bytes. The body is copied once, into the frame."""
    head_bytes = json.dumps(head, separators=(",", ":")).encode() if head else b""
    length = FRAME_OVERHEAD_BYTES + len(head_bytes) + len(body)
    return _PREFIX.pack(length, kind, call, len(head_bytes)) + head_bytes + body


def head_of(frame: Frame) -> dict[str, Any]:
    """The frame's head as a dictionary. WireError when it is not a JSON object."""
    if not frame.head:
        return {}
    try:
        head = json.loads(frame.head)
    except (ValueError, RecursionError) as error:
        raise WireError(f"head of {frame.type.name} is not JSON") from error
    if not isinstance(head, dict):
        raise WireError(f"head of {frame.type.name} is not an object")
    return head


class Decoder:
    """Cuts a byte stream into frames. `body_bytes_max` bounds one frame's body."""

    __slots__ = ("_buffer", "_length_max", "_need")

    def __init__(self, body_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._need = 0  # bytes the frame at the front of the buffer takes; 0 = not known yet
        self._length_max = FRAME_OVERHEAD_BYTES + FRAME_HEAD_BYTES_MAX + body_bytes_max

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. WireError as soon as a prefix breaks a rule."""
        buffer = self._buffer
        if not buffer and self._is_one_frame(data):
            return [_cut(data, 0, len(data))]
        buffer += data
        frames: list[Frame] = []
        at = 0
        while True:
            if not self._need:
                if len(buffer) - at < _LENGTH_BYTES:
                    break
                self._need = _LENGTH_BYTES + self._checked_length(buffer, at)
            if len(buffer) - at < self._need:
                break
            frames.append(_cut(buffer, at, self._need))
            at += self._need
            self._need = 0
        if at:
            del buffer[:at]
        return frames

    def _is_one_frame(self, data: bytes) -> bool:
        # The hot path: one read holds exactly one answer, cut without the buffer's extra copy.
        if len(data) < _PREFIX.size:
            return False
        return self._checked_length(data, 0) + _LENGTH_BYTES == len(data)

    def _checked_length(self, data: bytes | bytearray, at: int) -> int:
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        if not FRAME_OVERHEAD_BYTES <= length <= self._length_max:
            raise WireError(f"a frame of {length} bytes is outside the limits")
        return length


def _cut(data: bytes | bytearray, at: int, size: int) -> Frame:
    _, kind, call, head_length = _PREFIX.unpack_from(data, at)
    known = _FROM_SHIM.get(kind)
    if known is None:
        raise WireError(f"unknown frame type {kind}")
    start = at + _PREFIX.size
    if head_length > min(FRAME_HEAD_BYTES_MAX, size - _PREFIX.size):
        raise WireError(f"a head of {head_length} bytes is outside the limits")
    split = start + head_length
    return Frame(known, call, bytes(data[start:split]), bytes(data[split : at + size]))
