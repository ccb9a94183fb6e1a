"""A process for each call: forked from the state after the import, gone before the answer leaves.

The child is a serial shim of one call at the other end of a socket pair. The parent passes frames
between it and the wire, and forks the next child ahead of need, once nothing of the last is left.
"""

from __future__ import annotations

import _socket
import gc
import select
import sys
import warnings
from os import _exit as exit_now
from os import close as close_descriptor
from os import fork, getpid, kill, killpg, pidfd_open, setpgid, waitpid, waitstatus_to_exitcode
from os import write as write_bytes
from signal import SIGKILL
from typing import NoReturn

from .answers import failure
from .ending import Life, watch_hangup
from .function import is_async
from .scratch import FOLDERS, NotEmptied, empty
from .secrecy import Secrecy
from .serial import Serial
from .wire import (
    BUFFER_BYTES,
    CALL,
    CANCEL,
    CHUNK,
    CHUNK_BYTES_MAX,
    CREDIT,
    CREDIT_BYTES,
    END,
    ERROR,
    HEADER,
    RESULT,
    Wire,
    broken,
    credit_of,
)

FIRST_PROCESS = 1
CANNOT_GO_ON = 70


class ChildHungUp(Exception):
    """There is nothing more to read from a child."""


class ChildWire(Wire):
    """The parent's end of the socket pair."""

    def hung_up(self) -> None:
        """The child closed its end, by ending as a rule."""
        raise ChildHungUp


class Child:
    """A process that answers one call."""

    def __init__(self, pid: int, wire: ChildWire, executor: int) -> None:
        self.pid = pid
        self.wire = wire
        self.descriptor = pidfd_open(pid)  # readable once it ended
        self.poll = select.poll()
        for descriptor in (executor, wire.sock.fileno(), self.descriptor):
            self.poll.register(descriptor, select.POLLIN)
        self.credit = CREDIT_BYTES

    def tell(self, frame: memoryview) -> None:
        """Pass a frame on. Whether the child is there is seen elsewhere."""
        try:
            self.wire.sock.sendall(frame)
        except OSError:
            pass

    def ignore(self, descriptor: int) -> None:
        """Do not hear of this one any more."""
        try:
            self.poll.unregister(descriptor)
        except KeyError:
            pass

    def is_gone(self) -> bool:
        """Whether it ended."""
        return any(descriptor == self.descriptor for descriptor, _ in self.poll.poll(0))

    def status(self) -> int:
        """Wait until it ended; its status as a shell would say it."""
        try:
            code = waitstatus_to_exitcode(waitpid(self.pid, 0)[1])
        except ChildProcessError:  # the function's import made the kernel reap children by itself
            return CANNOT_GO_ON
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """Let go of what stood for it."""
        self.wire.close()
        close_descriptor(self.descriptor)


class Forking:
    """Answers the calls of a function one after the other, none in the process of another."""

    def __init__(self, wire: Wire, serial: Serial, life: Life) -> None:
        function = serial.function
        self.wire = wire
        self.life = life
        self.serial = serial
        self.body_bytes_max = function.body_bytes_max
        self.is_async = function.app is None and is_async(function.handler)
        # As process 1 all others in the sandbox are ours to end. On a host, in tests, they are not.
        self.is_alone = getpid() == FIRST_PROCESS
        self.spare: Child | None = None
        self.secrecy = Secrecy()
        self.secrecy.begin()  # a child that is turned against us does not reach the next one

    def serve(self) -> NoReturn:
        """Answer every call exactly once. Ends with the process."""
        gc.freeze()  # what the import made stays shared between the processes
        wire, life = self.wire, self.life
        while True:
            self.have_spare()
            wire.fill(HEADER.size)
            measure = wire.measure()
            wire.fill(measure[3])
            life.busy = True
            frame = wire.take_raw(measure)
            if measure[0] == CALL:
                self.answer(measure[1], frame)
            elif measure[0] not in (CANCEL, CREDIT):  # those are for a call that is over
                broken(f"frame of type {measure[0]} where CALL belongs")

    def answer(self, number: int, frame: memoryview) -> None:
        """Have a child answer; pass its last frame on once nothing of it is left."""
        try:
            child = self.take_child()
        except OSError as error:  # no memory, no process number
            self.life.busy = False
            self.wire.send(ERROR, number, failure("function_error", error))
            return
        child.tell(frame)
        last = self.relay(number, child)
        self.end_all(child)
        self.life.busy = False
        try:
            self.wire.sock.sendall(last)
        except OSError:
            self.life.end(0)
        last.release()
        for wire in (child.wire, self.wire):  # the next child inherits our memory
            wire.forget()
            wire.shrink()

    # --- children ---

    def have_spare(self) -> None:
        """Fork the next child before anybody waits for it."""
        if self.spare is None:
            try:
                self.spare = self.fork()
            except OSError:  # the call will say so, if it is still so
                pass

    def take_child(self) -> Child:
        """The spare one, unless something ended it."""
        child, self.spare = self.spare, None
        if child is not None and child.is_gone():
            self.end_all(child)
            child = None
        return child or self.fork()

    def fork(self) -> Child:
        """A child that waits for its call."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        for sock in (ours, theirs):
            sock.settimeout(None)  # the function may have set another default
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads, which in the child are none
                pid = fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            self.be_child(theirs)
        theirs.close()
        if not self.is_alone:
            self.life.group = pid
        wire = ChildWire(ours)
        wire.body_bytes_max = self.body_bytes_max
        return Child(pid, wire, self.wire.sock.fileno())

    def be_child(self, sock: _socket.socket) -> NoReturn:
        """Answer one call. That this is a fork has closed the wire itself."""
        self.wire.go_on_with(sock)
        self.wire.use(bytearray(BUFFER_BYTES), 0)
        self.serial.function.process = getpid()
        self.life.busy = True
        if not self.is_alone:
            self.life.group = 0
            setpgid(0, 0)
            watch_hangup(self.wire, self.life)
        self.secrecy.end()
        reseed()
        if self.is_async:
            self.serial.open_loop()
        _, number, head, body = self.wire.receive()
        self.serial.answer(number, head, body)
        exit_now(0)

    def end_all(self, child: Child) -> None:
        """Leave nothing of a child: no process that it started, no file that it wrote."""
        if self.is_alone:
            clear()
        else:
            end_group(child.pid)
            self.life.group = 0
        child.close()

    # --- frames ---

    def relay(self, number: int, child: Child) -> memoryview:
        """Pass frames on in both directions; the child's last one."""
        executor, heard = self.wire.sock.fileno(), child.wire.sock.fileno()
        while True:
            is_gone = False
            for descriptor, _ in child.poll.poll():
                if descriptor == executor:
                    self.listen(number, child)
                elif descriptor == heard:
                    if last := self.hear(number, child):
                        return last
                else:
                    is_gone = True
            if is_gone:
                return self.last_words(number, child)

    def listen(self, number: int, child: Child) -> None:
        """Tell the child what the executor says of its call."""
        self.wire.read()
        while measure := self.wire.peek():
            if measure[0] not in (CANCEL, CREDIT):  # the next CALL: it can wait
                child.ignore(self.wire.sock.fileno())
                return
            frame = self.wire.take_raw(measure)
            if measure[1] == number:
                if measure[0] == CREDIT:
                    child.credit += credit_of(frame[HEADER.size + measure[2] :])
                child.tell(frame)

    def hear(self, number: int, child: Child) -> memoryview | None:
        """Pass on what the child says; its last frame is kept back."""
        try:
            child.wire.read()
        except ChildHungUp:
            child.ignore(child.wire.sock.fileno())  # how it ended is told by its descriptor
        while measure := child.wire.peek():
            kind, call, head_bytes, whole = measure
            frame = child.wire.take_raw(measure)
            if call != number or kind not in (RESULT, ERROR, CHUNK, END):
                broken(f"frame of type {kind} for call {call} from a child")
            if kind != CHUNK:
                return frame
            size = whole - HEADER.size - head_bytes
            child.credit -= size
            if size > CHUNK_BYTES_MAX or child.credit < 0:
                broken(f"a CHUNK of {size} bytes, {-child.credit} beyond its credit, from a child")
            try:
                self.wire.sock.sendall(frame)
            except OSError:
                self.life.end(0)
        return None

    def last_words(self, number: int, child: Child) -> memoryview:
        """What a child that is gone had still said; the sandbox ends with it when that is none."""
        before, last = -1, None  # bytes received, a frame
        while last is None and before != child.wire.received:
            before = child.wire.received
            last = self.hear(number, child)
        return last or self.life.end(child.status())


def clear() -> None:
    """End every other process of this sandbox, and empty the folders where it may write."""
    try:
        kill(-1, SIGKILL)
    except OSError:  # there is none
        pass
    try:
        while True:
            waitpid(-1, 0)
    except ChildProcessError:
        pass
    try:
        for folder in FOLDERS:
            empty(folder)
    except NotEmptied as error:  # the next call would see it
        write_bytes(2, f"hearth: {error}\n".encode())
        exit_now(CANNOT_GO_ON)


def end_group(leader: int) -> None:
    """End a child and what it started, as far as a host lets us know that."""
    for _ in range(2):  # before the child made its group, and after
        try:
            killpg(leader, SIGKILL)
        except OSError:
            kill(leader, SIGKILL)
    try:
        waitpid(leader, 0)
    except ChildProcessError:
        pass


def reseed() -> None:
    """Give the child random numbers of its own. Python does so for its `random` by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        try:
            numpy.seed()
        except Exception:
            pass
