"""The codec of the wire, without I/O: bytes in, frames out, and back (runtimes/PROTOCOL.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from core.limits import FRAME_HEAD_BYTES_MAX, FRAME_OVERHEAD_BYTES

PROTOCOL = 2  # its version, told by HELLO
_PREFIX = struct.Struct(">IBII")
_LENGTH_BYTES = 4

_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one each time


class WireError(ValueError):
    """The peer sent what the protocol does not allow. The connection cannot be used any more."""


class FrameType(IntEnum):
    """Frame types of protocol version 2."""

    INIT = 1
    CALL = 2
    CANCEL = 3
    CREDIT = 4
    HELLO = 16
    READY = 17
    INIT_ERROR = 18
    RESULT = 19
    ERROR = 20
    CHUNK = 21
    END = 22


_FROM_SHIM = {
    int(t): t
    for t in (
        FrameType.HELLO,
        FrameType.READY,
        FrameType.INIT_ERROR,
        FrameType.RESULT,
        FrameType.ERROR,
        FrameType.CHUNK,
        FrameType.END,
    )
}


class Frame(NamedTuple):
    """One message. `head` is still JSON text: who needs it calls `head_of`."""

    type: FrameType
    call: int
    head: bytes
    body: bytes


Head = Mapping[str, Any] | bytes | None  # bytes are JSON already


def encode(kind: FrameType, call: int, head: Head, body: bytes = b"") -> bytes:
    """One frame as bytes. The body is copied once, into the frame."""
    head_bytes = head if isinstance(head, bytes) else to_json(head) if head else b""
    length = FRAME_OVERHEAD_BYTES + len(head_bytes) + len(body)
    return _PREFIX.pack(length, kind, call, len(head_bytes)) + head_bytes + body


def to_json(head: Mapping[str, Any]) -> bytes:
    """A head as it travels."""
    return _encode(head).encode()


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

    __slots__ = ("_body_bytes_max", "_buffer")

    def __init__(self, body_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._body_bytes_max = body_bytes_max

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame waits for its rest."""
        return not self._buffer

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. WireError as soon as a prefix breaks a rule, so that
        nothing is kept of a frame that nobody will take."""
        buffer = self._buffer
        if not buffer and self._size(data, 0) == len(data) > 0:
            # The hot path: one read holds exactly one answer, cut without the buffer's extra copy.
            _, kind, call, head_length = _PREFIX.unpack_from(data)
            split = _PREFIX.size + head_length
            return [Frame(_FROM_SHIM[kind], call, data[_PREFIX.size : split], data[split:])]
        buffer += data
        frames: list[Frame] = []
        at = 0
        while (size := self._size(buffer, at)) and len(buffer) - at >= size:
            frames.append(_cut(buffer, at, size))
            at += size
        if at:
            del buffer[:at]
        return frames

    def _size(self, data: bytes | bytearray, at: int) -> int:
        """What the frame that begins at `at` takes in all; 0 while its prefix is not there."""
        if len(data) - at < _PREFIX.size:
            return 0
        length, kind, _, head_length = _PREFIX.unpack_from(data, at)
        if kind not in _FROM_SHIM:
            raise WireError(f"unknown frame type {kind}")
        body_length = length - FRAME_OVERHEAD_BYTES - head_length
        if head_length > FRAME_HEAD_BYTES_MAX or not 0 <= body_length <= self._body_bytes_max:
            raise WireError(f"a frame of {length} bytes, {head_length} of head, breaks the limits")
        return _LENGTH_BYTES + int(length)


def _cut(data: bytearray, at: int, size: int) -> Frame:
    _, kind, call, head_length = _PREFIX.unpack_from(data, at)
    start = at + _PREFIX.size
    split = start + head_length
    with memoryview(data) as view:
        return Frame(
            _FROM_SHIM[kind], call, bytes(view[start:split]), bytes(view[split : at + size])
        )
