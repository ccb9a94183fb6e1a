"""A body stream in any order of events: credit, what is kept and what is owed are a window; bytes
arrive as they were sent, and nobody waits for ever.
"""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import integers

from core.errors import FunctionCrashed, HearthError
from core.limits import STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES
from executor.stream import BodyStream
from executor.wire import WireError

sizes = integers(0, STREAM_CHUNK_BYTES_MAX)


class StreamMachine(RuleBasedStateMachine):
    """A shim that keeps to its credit, a reader, and ends of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = BodyStream(self.grant, self.cancel)
        self.credit = STREAM_WINDOW_BYTES
        self.cancels = 0
        self.sent = b""  # that a reader should see
        self.read = b""
        self.error: HearthError | None = None
        self.is_ended = self.is_closed = False
        self.loop = asyncio.new_event_loop()
        self.count = 0

    def grant(self, size: int) -> None:
        assert not self.is_ended, "credit after the end"
        assert size >= STREAM_WINDOW_BYTES // 2, "credit in small change"
        self.credit += size

    def cancel(self) -> None:
        self.cancels += 1

    @rule(size=sizes)
    def the_shim_sends(self, size: int) -> None:
        self.count += 1
        chunk = bytes([self.count % 256]) * min(size, self.credit)
        self.credit -= len(chunk)
        if not self.is_ended and not self.is_closed:
            self.sent += chunk
        self.stream.feed(chunk)

    @rule()
    def a_byte_too_much_is_refused(self) -> None:
        try:
            self.stream.feed(b"x" * (self.credit + 1))
        except WireError:
            return
        raise AssertionError("taken beyond the credit")

    @rule()
    def the_reader_reads(self) -> None:
        self.loop.run_until_complete(self.look())

    async def look(self) -> None:
        """What a reader sees that does not wait."""
        reading = self.stream.read()
        try:
            reading.send(None)
        except StopIteration as end:
            self.read += end.value
            if not end.value:
                assert self.is_closed or (self.is_ended and self.error is None)
                assert self.is_closed or self.read == self.sent
        except HearthError as error:
            assert error is self.error
            assert self.is_closed or self.read == self.sent, "an error before the bytes before it"
        else:
            reading.close()  # it waits, and leaves
            assert self.read == self.sent
            assert not self.is_ended
            assert not self.is_closed

    @rule()
    def it_ends_well(self) -> None:
        self.stream.finish()
        self.is_ended = True

    @rule()
    def it_ends_badly(self) -> None:
        error = FunctionCrashed("gone")
        self.stream.finish(error)
        if not self.is_ended:
            self.error = error
        self.is_ended = True

    @precondition(lambda self: self.count > 3)
    @rule()
    def the_reader_closes(self) -> None:
        was_running = not self.is_ended and not self.is_closed
        before = self.cancels
        self.is_closed = True
        self.stream.close()
        assert self.cancels - before == was_running

    def teardown(self) -> None:
        self.loop.close()

    @invariant()
    def the_window_is_whole(self) -> None:
        kept = sum(map(len, self.stream._chunks))
        assert self.stream._credit == self.credit >= 0
        if not self.is_ended:
            assert self.credit + kept + self.stream._owed == STREAM_WINDOW_BYTES
        assert kept <= STREAM_WINDOW_BYTES

    @invariant()
    def a_shim_never_waits_for_a_reader_who_has_read_all(self) -> None:
        if not self.is_ended and (self.is_closed or self.read == self.sent):
            assert self.credit > STREAM_WINDOW_BYTES // 2

    @invariant()
    def what_is_read_is_what_was_sent(self) -> None:
        assert self.sent.startswith(self.read)


TestStreamMachine = StreamMachine.TestCase
TestStreamMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
