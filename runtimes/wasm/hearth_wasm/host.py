"""The host's process: the control connection, on which seats arrive, and the seats' own."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from pathlib import Path

from . import native
from .crew import Crew
from .engine import NAME
from .module import Modules
from .seat import Load, Run, Seat, Turn
from .shared import HELLO, PROTOCOL
from .stream import Broken, Stream

OPEN = b"O"
OPEN_BYTES = 5  # and a seat's number
TASK = Path("/var/task")
GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Host:
    """All seats of one host. Its methods run in whichever thread leads."""

    def __init__(self, control: socket.socket, task: Path) -> None:
        self._control = control
        self._task = task
        self._modules = Modules()
        self._seats: dict[int, Seat] = {}  # by descriptor
        self._guard = threading.Lock()  # of how many use a seat
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        self._crew = Crew(self._step, self._glance, self._turn)

    def serve(self) -> None:
        """Until the control connection ends, and the process with it."""
        Stream(self._control).send(
            HELLO, 0, {"protocol": PROTOCOL, "runtime": "wasm", "engine": NAME}
        )
        self._crew.serve()

    def _step(self) -> None:
        """Wait for events and handle them, as long as this thread leads."""
        for descriptor, flags in self._epoll.poll():
            if descriptor == self._control.fileno():
                self._take_seat()
            elif (seat := self._seats.get(descriptor)) is not None:
                self._look(seat, flags)
                if not self._crew.leads():
                    return

    def _glance(self) -> None:
        """Every thread runs a call: only who is gone is looked at."""
        for descriptor, flags in self._epoll.poll(0):
            seat = self._seats.get(descriptor)
            if descriptor == self._control.fileno() and flags & GONE:
                os._exit(0)
            if seat is not None and flags & GONE:
                self._drop(seat)

    def _turn(self) -> None:
        native.increment_epoch(self._modules.engine_address)

    # --- seats

    def _take_seat(self) -> None:
        """One more, or the end of everything."""
        try:
            message, descriptors, flags, _ = socket.recv_fds(self._control, OPEN_BYTES, 3)
        except OSError:
            message, descriptors, flags = b"", [], 0
        if not message:
            os._exit(0)
        is_whole = len(message) == OPEN_BYTES and message[:1] == OPEN and len(descriptors) == 3
        if not is_whole or flags & socket.MSG_CTRUNC:  # no room for more files: this seat ends
            for descriptor in descriptors:
                os.close(descriptor)
            return
        wire, *pipes = descriptors
        seat = Seat(int.from_bytes(message[1:], "big"), socket.socket(fileno=wire), pipes)
        self._seats[wire] = seat
        self._epoll.register(wire, select.EPOLLIN | select.EPOLLRDHUP)
        seat.greet(NAME)

    def _look(self, seat: Seat, flags: int) -> None:
        """Something arrived for a seat, or it ended."""
        try:
            if flags & GONE:
                raise Broken("the executor hung up")
            while (frame := seat.stream.read()) is not None:
                work = seat.work_of(frame, self._modules, self._task)
                if work is not None:
                    self._run(seat, work)
                # What has not been read yet is another event; a read in vain costs 3 µs.
                if not seat.stream.holds_more or not self._crew.leads():
                    return
        except Turn:
            self._turn()
        except (Broken, ValueError, KeyError, TypeError, AttributeError):
            self._drop(seat)  # hung up, or what it said was no frame

    def _run(self, seat: Seat, work: Load | Run) -> None:
        with self._guard:
            seat.users += 1
        try:
            self._crew.run(work)
        finally:
            with self._guard:
                seat.users -= 1
                is_last = seat.is_gone and not seat.users
            if is_last:
                self._let_go(seat)

    def _drop(self, seat: Seat) -> None:
        """Its connection ended. Who still runs its call lets go of the rest."""
        descriptor = seat.stream.sock.fileno()
        if self._seats.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        with self._guard:
            seat.is_gone = True
            is_last = not seat.users
        if (call := seat.call) is not None:
            call.end("hung up")
            self._turn()
        if is_last:
            self._let_go(seat)

    def _let_go(self, seat: Seat) -> None:
        program, seat.program = seat.program, None
        seat.close()
        if program is not None:
            self._modules.forget(program.loaded)


def main() -> None:
    """Connect, receive the descriptors of this process's own output, and serve."""
    _raise_file_limit()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.connect(os.environ.get("HEARTH_SOCKET", "/run/hearth/shim.sock"))
    first, outputs, _, _ = socket.recv_fds(control, 1, 2)
    if first != b"H" or len(outputs) != 2:
        raise SystemExit("hearth: the executor did not hand over two descriptors")
    for number, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    Host(control, Path(os.environ.get("HEARTH_TASK", TASK))).serve()


def _raise_file_limit() -> None:
    """A seat has three descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
