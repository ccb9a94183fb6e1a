"""Frames of an attached container, however they are cut."""

from __future__ import annotations

import itertools
import socket
import struct
import threading

from hypothesis import given
from hypothesis import strategies as st

from executor.attachment import Attachment


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(content)) + content


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=100)), max_size=20),
    st.lists(st.integers(1, 60), min_size=1),
    st.integers(0, 30),
)
def test_what_was_written_comes_out_whatever_the_cuts(
    written: list[tuple[int, bytes]], cuts: list[int], first: int
) -> None:
    raw = b"".join(frame(stream, content) for stream, content in written)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        attachment = Attachment(ours, raw[:first])
        out = b""

        def write() -> None:  # beside the reader: the kernel holds a few hundred small pieces
            at = first
            for step in itertools.cycle(cuts):
                if at >= len(raw):
                    break
                theirs.sendall(raw[at : at + step])
                at += step
            theirs.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        while (chunk := attachment.read(60.0)) is not None:
            out += chunk
        writer.join()
    assert out == b"".join(content for _, content in written)


def test_nothing_in_time_is_not_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Attachment(ours, b"").read(0.01) == b""
