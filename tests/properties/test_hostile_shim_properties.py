"""A sandbox against a shim that says anything, in any pieces, in each state: nothing is raised, the
sandbox goes on or is closed, and every call is told once and gives its place back once.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.sandbox import State
from executor.wire import FrameType, encode
from tests.fixtures.hostile_shim import HEADS, KINDS, Hostile, play

frames = st.builds(
    encode,
    st.sampled_from(KINDS),
    st.integers(0, 5),
    st.sampled_from(HEADS),
    st.sampled_from([b"", b"1", b"x" * 999, b"x" * 1001]),
)
pieces = frames | st.binary(max_size=40) | st.lists(frames, max_size=4).map(b"".join)
steps = st.lists(
    st.tuples(st.just("hear"), pieces)
    | st.tuples(st.just("hear"), frames)
    | st.tuples(st.just("call"), st.booleans())
    | st.tuples(st.sampled_from(["expire", "close_stream", "read_stream"]), st.integers(0, 7)),
    max_size=30,
)
states = st.sampled_from([State.READY, State.READY, State.BOOTING, State.STEM, State.INIT])


@settings(max_examples=200, deadline=None)
@given(states, st.sampled_from(["hard", "graceful"]), steps)
async def test_nothing_that_a_shim_says_harms_more_than_its_sandbox(
    state: State, mode: str, story: list[tuple[str, object]]
) -> None:
    shim = Hostile()
    await shim.come_to(state, mode)
    for what, argument in story:
        getattr(shim, what)(argument)
        shim.check()
    await shim.end()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(frames.filter(lambda frame: len(frame) < 1000), max_size=6).map(b"".join),
    st.lists(st.integers(0, 10_000), max_size=10),
    st.integers(0, 3),
)
async def test_how_frames_are_cut_changes_nothing(
    data: bytes, places: list[int], calls: int
) -> None:
    ends = []
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    for cut in ([0, len(data)], cuts):
        shim = Hostile()
        await shim.come_to(State.READY)
        for _ in range(calls):
            shim.call(True)
        for a, b in pairwise(cut):
            shim.hear(data[a:b])
            shim.check()
        told = [[type(said) for said in shim.told[n]] for n in sorted(shim.told)]
        ends.append((shim.sandbox.state, told, shim.overs))
        await shim.end()
    assert ends[0] == ends[1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(bytes([0, 0, 0, 0, 0, 0, 0, 1, 3, 1, 0, 0, 0]))
def test_the_fuzzer_finds_nothing_in_a_moment(data: bytes) -> None:
    play(data)


async def test_a_hostile_shim_is_heard_at_all() -> None:
    shim = Hostile()
    await shim.come_to(State.READY)
    shim.call(False)
    shim.hear(encode(FrameType.RESULT, 1, None, b"1"))
    assert shim.overs == {1: 1}
    shim.hear(encode(FrameType.RESULT, 1, None, b"1"))
    assert shim.wired.is_closed
    await shim.end()
