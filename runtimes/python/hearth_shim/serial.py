"""One call at a time, on the main thread. The fast path: a blocking read, the handler, a write."""

from __future__ import annotations

from asyncio import AbstractEventLoop, ensure_future, new_event_loop, set_event_loop
from os import getpid
from typing import Any, NoReturn

from .answers import Answer, answer_of, failure
from .ending import Life
from .function import Function
from .output import flush
from .requests import unread
from .streaming import Channel, at_once, drive, is_async_stream, is_stream
from .wire import CALL, CANCEL, CREDIT, ERROR, Wire, broken


class Serial:
    """Answers the calls of a function one after the other."""

    def __init__(self, wire: Wire, function: Function, life: Life) -> None:
        self.wire = wire
        self.function = function
        self.life = life
        self.channel: Channel | None = None  # of a call that streams, or waits on the loop
        self.loop: AbstractEventLoop | None = function.loop
        self.is_listening = False  # whether the loop tells when there is something to read

    def serve(self) -> NoReturn:
        """Answer every call exactly once. Ends with the process."""
        life, receive = self.life, self.wire.receive
        while True:
            kind, number, head, body = receive()
            life.busy = True
            if kind == CALL:
                self.answer(number, head, body)
            elif kind != CANCEL and kind != CREDIT:  # those are for a call that is over
                broken(f"frame of type {kind} where CALL belongs")

    def answer(self, number: int, head: dict[str, Any], body: memoryview) -> None:
        """Run the handler and send what became of it."""
        try:
            event = self.function.parse(head, body, self.function.name)
        except Exception as error:  # not JSON, too deep, too large: never the end of the sandbox
            problem = failure("function_error", error, unread(error))
            answer: Answer = (ERROR, problem, b"")
        else:
            body.release()
            self.wire.shrink()
            answer = self.run(number, head, event)
            del event
        flush()
        self.life.busy = False  # before: whoever has read the answer may send a stop signal
        self.wire.send(answer[0], number, *answer[1:])

    def run(self, number: int, head: dict[str, Any], event: Any) -> Answer:
        """Call the handler and put what came back into one frame."""
        function = self.function
        try:
            result = function.handler(event, function.context(head))
            if hasattr(type(result), "__await__"):
                result = self.finish(number, result)
            streams = is_stream(result)
        except BaseException as error:  # SystemExit too: the sandbox stays usable
            if getpid() != function.process:
                raise  # in a forked child: it ends as any Python program does
            answer: Answer = (ERROR, failure("function_error", error), b"")
        else:
            if not streams:
                answer = answer_of(head["kind"], result, function.body_bytes_max)
            else:
                answer = self.stream(number, result)
        if self.channel is not None:
            self.channel.is_over = True
            self.channel = None
        return answer

    def stream(self, number: int, source: Any) -> Answer:
        """Send what the handler's generator yields."""
        channel = self.open_channel(number)
        work = drive(source, channel, self.function.process)
        try:
            if is_async_stream(source):
                answer: Answer = self.finish(number, work)
                return answer
            channel.wait = self.wait
            return at_once(work)
        except BaseException as error:  # the function stopped the loop, say
            if getpid() != self.function.process:
                raise
            return channel.end_of(failure("function_error", error))

    def open_channel(self, number: int) -> Channel:
        """The one of this call."""
        if self.channel is None:
            self.channel = Channel(self.wire, number, self.look)
        return self.channel

    # --- asynchronous handlers ---

    def finish(self, number: int, awaitable: Any) -> Any:
        """Run to the end, on the sandbox's one event loop, what a handler began."""
        loop = self.open_loop()
        channel = self.open_channel(number)
        channel.task = task = ensure_future(awaitable, loop=loop)
        if self.wire.end != self.wire.start:
            self.obey()
        try:
            return loop.run_until_complete(task)
        finally:
            channel.task = None
            if not task.done():  # the loop was stopped under it: it is not to go on in a later call
                task.cancel()

    def open_loop(self) -> AbstractEventLoop:
        """The loop, which also hears of a CANCEL while it runs."""
        loop = self.loop
        if loop is None or loop.is_closed():
            loop = self.loop = new_event_loop()
            set_event_loop(loop)
            self.is_listening = False
        if not self.is_listening:
            loop.add_reader(self.wire.sock.fileno(), self.listen)
            self.is_listening = True
        return loop

    def listen(self) -> None:
        """Something came while the loop ran."""
        self.look()
        if self.wire.peek() is not None and self.loop is not None:  # the next CALL: it can wait
            self.loop.remove_reader(self.wire.sock.fileno())
            self.is_listening = False

    # --- what is said of a call under way ---

    def look(self) -> None:
        """Obey what has come, without waiting."""
        self.wire.read()
        self.obey()

    def wait(self) -> None:
        """Wait for something to obey."""
        self.wire.fill(self.wire.end - self.wire.start + 1)
        self.obey()
        if measure := self.wire.peek():
            broken(f"frame of type {measure[0]} while a call waits for credit")

    def obey(self) -> None:
        """Follow every CANCEL and CREDIT that is there."""
        wire = self.wire
        while (measure := wire.peek()) and measure[0] in (CANCEL, CREDIT):
            kind, number, _, body = wire.take(measure)
            if self.channel is not None and number == self.channel.number:
                self.channel.obey(kind, body)
