"""Several calls at once: a task for each, side by side on one event loop that reads the wire."""

from __future__ import annotations

from asyncio import Task, new_event_loop, set_event_loop
from os import getpid
from typing import Any, NoReturn

from .answers import Answer, answer_of, failure
from .ending import STOPPED, Life, leave, retire
from .function import Function
from .output import CALL as WHOSE
from .output import Tags, flush
from .requests import unread
from .streaming import Channel, drive, is_stream
from .wire import CALL, CANCEL, CREDIT, ERROR, Wire, broken


class Parallel:
    """Answers up to `per_sandbox` calls of a function at the same time."""

    def __init__(
        self, wire: Wire, function: Function, life: Life, tags: Tags, per_sandbox: int
    ) -> None:
        self.wire = wire
        self.function = function
        self.life = life
        self.tags = tags
        self.per_sandbox = per_sandbox
        self.calls: dict[int, Channel] = {}  # under way, by number
        self.loop = life.loop = function.loop or new_event_loop()
        set_event_loop(self.loop)
        self.loop.add_reader(wire.sock.fileno(), self.look)

    def serve(self) -> NoReturn:
        """Answer every call exactly once. Ends with the process."""
        self.loop.call_soon(self.obey)  # what came together with INIT
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # a task of the function's called sys.exit, say
                if not self.calls:
                    leave(error)
            if self.life.is_leaving:
                retire(STOPPED)

    def look(self) -> None:
        """Obey what has come, without waiting."""
        self.wire.read()
        self.obey()

    def obey(self) -> None:
        """Begin every call that is there, follow every CANCEL and CREDIT."""
        while measure := self.wire.peek():
            kind, number, head, body = self.wire.take(measure)
            if kind == CALL:
                self.begin(number, head, body)
            elif kind not in (CANCEL, CREDIT):
                broken(f"frame of type {kind} where CALL belongs")
            elif number in self.calls:
                self.calls[number].obey(kind, body)
        self.wire.shrink()

    def begin(self, number: int, head: dict[str, Any], body: memoryview) -> None:
        """A call: a task of its own, in a context of its own."""
        if number in self.calls or len(self.calls) >= self.per_sandbox:
            broken(f"call {number} beside {len(self.calls)} others")
        self.life.busy = True
        channel = self.calls[number] = Channel(self.wire, number, self.look)
        channel.is_shared = True
        self.tags.begin(number)
        try:
            event = self.function.parse(head, body, self.function.name)
        except Exception as error:  # not JSON, too deep, too large
            problem = failure("function_error", error, unread(error))
            self.answer(channel, (ERROR, problem, b""))
            return
        task = self.loop.create_task(self.run(channel, head, event))
        channel.task = task
        task.add_done_callback(lambda task: self.make_sure(channel, task))

    async def run(self, channel: Channel, head: dict[str, Any], event: Any) -> None:
        """Call the handler and send what became of it."""
        WHOSE.set(channel.number)
        function = self.function
        try:
            result = function.handler(event, function.context(head))
            if hasattr(type(result), "__await__"):
                result = await result
            streams = is_stream(result)
        except BaseException as error:  # SystemExit too: the sandbox stays usable
            if getpid() != function.process:
                leave(error)  # in a forked child: it ends as any Python program does
            answer: Answer = (ERROR, failure("function_error", error), b"")
        else:
            if not streams:
                answer = answer_of(head["kind"], result, function.body_bytes_max)
            else:
                answer = await drive(result, channel, function.process)
        self.answer(channel, answer)

    def make_sure(self, channel: Channel, task: Task[None]) -> None:
        """Answer a call whose task was ended before it could: cancelled before it began, say."""
        if channel.number in self.calls:
            try:
                task.result()
            except BaseException as error:
                self.answer(channel, channel.end_of(failure("function_error", error)))

    def answer(self, channel: Channel, answer: Answer) -> None:
        """Send a call's last frame, after all that it wrote."""
        flush()
        self.tags.finish(channel.number)
        channel.is_over = True
        del self.calls[channel.number]
        self.life.busy = bool(self.calls)
        self.wire.send(answer[0], channel.number, *answer[1:])
