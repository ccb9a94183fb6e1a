"""One seat: its connection, its two pipes, the program of its version, and the call under way."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from .answers import answer_of
from .instance import Call
from .module import Modules, Program, Unloadable
from .outputs import Pipe
from .shared import (
    CALL,
    CANCEL,
    CREDIT,
    HELLO,
    INIT,
    INIT_ERROR,
    PROTOCOL,
    READY,
    dumps,
    http_event,
)
from .stream import Broken, Frame, Stream

PATIENCE_S = 0.25  # after a call's deadline: the executor tells it first, and hangs up
LOADING_S = 60.0  # the executor gives up earlier


class Seat:
    """`number` names its directory. Used by the leading thread, and by one that runs its call."""

    def __init__(self, number: int, sock: socket.socket, pipes: list[int]) -> None:
        self.number = number
        self.stream = Stream(sock)
        self.stdout, self.stderr = (Pipe(descriptor) for descriptor in pipes)
        self.program: Program | None = None
        self.call: Call | None = None  # under way
        self.users = 0  # threads that run something of it
        self.is_gone = False
        self._environment: list[bytes] = []
        self._facts: dict[str, Any] = {}

    def greet(self, engine: str) -> None:
        """HELLO."""
        said = {"protocol": PROTOCOL, "runtime": "wasm", "engine": engine}
        self.stream.send(HELLO, 0, said)

    def close(self) -> None:
        """Let go of its descriptors. No thread uses it any more."""
        self.stream.sock.close()
        self.stdout.close()
        self.stderr.close()

    def work_of(self, frame: Frame, modules: Modules, task: Path) -> Load | Run | None:
        """What a frame asks for; None when it asks for nothing. Broken."""
        kind, number, head, body = frame
        if kind == INIT and not self._facts:
            self._facts = head
            self.stream.body_bytes_max = head["payload_bytes_max"]
            return Load(self, modules, task / str(self.number))
        if kind == CALL and self.program is not None and self.call is None:
            call = self._call_of(self.program, head, body)
            self.call = call
            return Run(self, call, number, head["kind"])
        if kind == CANCEL or (kind == CREDIT and self.program is not None):
            if kind == CANCEL and self.call is not None:
                self.call.end("cancelled")
                raise Turn
            return None
        raise Broken(f"a frame of type {kind} is not legal now")

    def load(self, modules: Modules, folder: Path) -> None:
        """INIT."""
        facts = self._facts
        try:
            self.program = modules.program(folder, facts["handler"], facts["memory_mb"])
        except Unloadable as why:
            head = {"type": why.kind, "message": str(why), "trace": []}
            if why.found is not None:
                head["found"] = why.found
            self.stream.send(INIT_ERROR, 0, head)
            return
        self._environment = environment_of(facts)
        self.stream.send(READY, 0, {})

    def _call_of(self, program: Program, head: dict[str, Any], body: bytes) -> Call:
        facts = self._facts
        if head["kind"] == "http":
            body = dumps(http_event(head, memoryview(body), facts["function"])).encode()
        call = Call(program, body or b"{}", head["deadline_ms"] / 1000 + PATIENCE_S)
        call.argv = [facts["function"].encode(), facts["handler"].encode()]
        call.environment = [
            *self._environment,
            f"HEARTH_REQUEST_ID={head['id']}".encode(),
            b"HEARTH_DEADLINE_MS=%d" % head["deadline_ms"],
        ]
        if trace := head.get("trace"):
            call.environment.append(f"TRACEPARENT={trace}".encode())
        call.memory_bytes = facts["memory_mb"] << 20
        call.out_bytes_max = self.stream.body_bytes_max
        call.stdout, call.stderr = self.stdout, self.stderr
        return call


class Turn(Exception):
    """A call was told to end: the epoch must be turned for it to notice."""


class Load:
    """Mapping a module, which may wait for the disk."""

    def __init__(self, seat: Seat, modules: Modules, folder: Path) -> None:
        self.seat, self._modules, self._folder = seat, modules, folder
        self.deadline = time.time() + LOADING_S

    def run(self) -> None:
        """Do it, and say so."""
        self.seat.load(self._modules, self._folder)

    def end(self, why: str) -> None:
        """It cannot be cut short."""


class Run:
    """A call, and its answer."""

    def __init__(self, seat: Seat, call: Call, number: int, kind: str) -> None:
        self.seat, self.call, self._number, self._kind = seat, call, number, kind
        self.deadline = call.deadline

    def run(self) -> None:
        """Do it, and answer. Before the answer leaves the seat is free: the next call may come at
        once, to another thread."""
        self.call.run()
        kind, head, body = answer_of(self.call, self._kind)
        self.seat.call = None
        self.seat.stream.send(kind, self._number, head, body)

    def end(self, why: str) -> None:
        """From any thread."""
        self.call.end(why)


def environment_of(facts: dict[str, Any]) -> list[bytes]:
    """What every call of a version finds in its environment."""
    ours = {
        "_HANDLER": facts["handler"],
        "AWS_LAMBDA_FUNCTION_NAME": facts["function"],
        "AWS_LAMBDA_FUNCTION_VERSION": facts["version"],
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(facts["memory_mb"]),
        "HEARTH_NAMESPACE": facts["namespace"],
    }
    both = {**facts["env"], **ours}
    return [f"{name}={value}".encode() for name, value in both.items()]
