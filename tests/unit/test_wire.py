"""The codec: exact bytes, and every way in which a frame can be wrong."""

from __future__ import annotations

import struct

import pytest

from core.limits import FRAME_HEAD_BYTES_MAX, FRAME_OVERHEAD_BYTES
from executor.wire import Decoder, Frame, FrameType, WireError, encode, head_of

BODY_MAX = 1000


def prefix(kind: int, head: int, body: int, *, length: int | None = None) -> bytes:
    size = FRAME_OVERHEAD_BYTES + head + body if length is None else length
    return struct.pack(">IBII", size, kind, 7, head)


def test_a_frame_has_exactly_the_bytes_of_the_protocol() -> None:
    frame = encode(FrameType.CALL, 258, {"id": "é"}, b"body")
    head = b'{"id":"\\u00e9"}'
    assert frame == struct.pack(">I", 9 + len(head) + 4) + b"\x02\x00\x00\x01\x02" + struct.pack(
        ">I", len(head)
    ) + head + b"body"  # fmt: skip


def test_an_empty_head_takes_no_bytes() -> None:
    assert encode(FrameType.CANCEL, 1, None) == encode(FrameType.CANCEL, 1, {})
    assert len(encode(FrameType.CANCEL, 1, None)) == 13


def test_one_whole_frame_is_read_at_once() -> None:
    decoder = Decoder(BODY_MAX)
    assert decoder.feed(encode(FrameType.RESULT, 3, {"a": 1}, b"xyz")) == [
        Frame(FrameType.RESULT, 3, b'{"a":1}', b"xyz")
    ]
    assert decoder.is_empty


def test_a_frame_that_comes_byte_by_byte_is_read_at_its_last() -> None:
    decoder = Decoder(BODY_MAX)
    data = encode(FrameType.ERROR, 1, {"type": "E"})
    for byte in data[:-1]:
        assert decoder.feed(bytes([byte])) == []
        assert not decoder.is_empty
    assert decoder.feed(data[-1:]) == [Frame(FrameType.ERROR, 1, b'{"type":"E"}', b"")]
    assert decoder.is_empty


def test_nothing_fed_is_nothing_read() -> None:
    assert Decoder(BODY_MAX).feed(b"") == []


def test_bodies_may_have_the_limit_and_not_a_byte_more() -> None:
    data = encode(FrameType.RESULT, 1, {"k": "v"}, b"x" * BODY_MAX)
    assert len(Decoder(BODY_MAX).feed(data)[0].body) == BODY_MAX
    with pytest.raises(WireError, match="limits"):
        Decoder(BODY_MAX).feed(prefix(FrameType.RESULT, 9, BODY_MAX + 1))


def test_heads_may_have_the_limit_and_not_a_byte_more() -> None:
    most = FRAME_HEAD_BYTES_MAX
    data = prefix(FrameType.RESULT, most, 0) + b"x" * most
    assert len(Decoder(BODY_MAX).feed(data)[0].head) == most
    with pytest.raises(WireError, match="limits"):
        Decoder(BODY_MAX).feed(prefix(FrameType.RESULT, most + 1, 0))


@pytest.mark.parametrize("length", [0, 8, 2**32 - 1])
def test_impossible_lengths_are_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(WireError):
        Decoder(BODY_MAX).feed(prefix(FrameType.RESULT, 0, 0, length=length))


def test_heads_longer_than_their_frame_are_refused() -> None:
    with pytest.raises(WireError):
        Decoder(BODY_MAX).feed(prefix(FrameType.RESULT, 20, 0, length=FRAME_OVERHEAD_BYTES + 19))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 15, 23, 255])
def test_types_that_a_shim_may_not_send_are_refused(kind: int) -> None:
    with pytest.raises(WireError, match=f"unknown frame type {kind}"):
        Decoder(BODY_MAX).feed(prefix(kind, 0, 0))


def test_a_bad_frame_after_a_good_one_is_found() -> None:
    with pytest.raises(WireError):
        Decoder(BODY_MAX).feed(encode(FrameType.RESULT, 1, {}) + prefix(0, 0, 0))


@pytest.mark.parametrize(
    "head",
    [
        b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{" * 5000, b'{"a":' + b"[" * 100_000,
        b'{"n":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_heads_that_are_no_json_objects_are_wire_errors(head: bytes) -> None:
    with pytest.raises(WireError):
        head_of(Frame(FrameType.RESULT, 1, head, b""))


def test_no_head_is_an_empty_object() -> None:
    assert head_of(Frame(FrameType.READY, 0, b"", b"")) == {}


def test_a_head_that_is_json_already_is_sent_as_it_is() -> None:
    assert encode(FrameType.CALL, 1, b'{"a":1}') == encode(FrameType.CALL, 1, {"a": 1})
    assert encode(FrameType.CALL, 1, b"") == encode(FrameType.CALL, 1, None)


@pytest.mark.parametrize("kind", [FrameType.CHUNK, FrameType.END])
def test_frames_of_a_stream_are_a_shims_to_send(kind: FrameType) -> None:
    assert Decoder(BODY_MAX).feed(encode(kind, 9, None, b"x")) == [Frame(kind, 9, b"", b"x")]


def test_what_a_frame_holds_is_its_own() -> None:
    data = bytearray(encode(FrameType.RESULT, 1, {"a": 1}, b"body"))
    decoder = Decoder(BODY_MAX)
    frames = [*decoder.feed(bytes(data[:20])), *decoder.feed(bytes(data[20:]))]
    assert [type(part) for part in frames[0][2:]] == [bytes, bytes]
    assert decoder.is_empty
