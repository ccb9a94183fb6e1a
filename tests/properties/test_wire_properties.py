"""The codec, for every stream of bytes, cut anywhere."""

from __future__ import annotations

import contextlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core.limits import FRAME_HEAD_BYTES_MAX
from executor.wire import Decoder, Frame, FrameType, WireError, encode, head_of

BODY_MAX = 300
FROM_SHIM = [t for t in FrameType if t >= FrameType.HELLO]

frames = st.lists(
    st.tuples(
        st.sampled_from(FROM_SHIM),
        st.integers(0, 2**32 - 1),
        st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=3),
        st.binary(max_size=BODY_MAX),
    ),
    max_size=6,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(frames, st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_survive_being_cut_anywhere(
    sent: list[tuple[FrameType, int, dict[str, object], bytes]], places: list[int]
) -> None:
    stream = b"".join(encode(*frame) for frame in sent)
    decoder = Decoder(BODY_MAX)
    got = [frame for part in cut(stream, places) for frame in decoder.feed(part)]
    assert [(f.type, f.call, head_of(f), f.body) for f in got] == sent
    assert decoder.is_empty


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_give_frames_within_limits_or_a_wire_error(parts: list[bytes]) -> None:
    decoder = Decoder(BODY_MAX)
    try:
        for part in parts:
            for frame in decoder.feed(part):
                assert len(frame.body) <= BODY_MAX
                assert len(frame.head) <= FRAME_HEAD_BYTES_MAX
    except WireError:
        pass


@given(st.binary(max_size=200))
def test_any_head_is_an_object_or_a_wire_error(head: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(head_of(Frame(FrameType.ERROR, 1, head, b"")), dict)
