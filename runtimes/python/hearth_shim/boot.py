"""From a started process to a function: connect, become a stem, load, answer until the end."""

from __future__ import annotations

import _socket
import gc
import os
import socket
import sys
from typing import Any, NoReturn

from .ending import Life, leave, watch
from .forking import FIRST_PROCESS, Forking, clear
from .function import Function
from .loading import load
from .output import Tags, flush, prepare_output
from .parallel import Parallel
from .serial import Serial
from .wire import HELLO, INIT, PROTOCOL, Wire, broken


def main() -> NoReturn:
    """The whole life of a shim."""
    life = Life()
    wire = Wire(connect(os.environ.get("HEARTH_SOCKET", "/run/hearth/shim.sock")))
    task = os.environ.get("HEARTH_TASK", "/var/task")
    prepare_output()
    watch(wire, life)
    gc.collect()
    gc.freeze()
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        wire.send(HELLO, 0, {"protocol": PROTOCOL, "runtime": runtime})
        kind, call, config, _ = wire.receive()
        life.busy = True
        if kind != INIT or call != 0:
            broken(f"frame of type {kind} where INIT belongs")
        answer_calls(wire, life, config, task)
    except BaseException as error:  # a signal handler of the function's, while nothing was to do
        leave(error)


def answer_calls(wire: Wire, life: Life, config: dict[str, Any], task: str) -> NoReturn:
    """Become the function, and answer its calls in the way that it asks for."""
    wire.body_bytes_max = int(config["payload_bytes_max"])
    wire.forget()
    per_sandbox = int(config.get("per_sandbox", 1))
    is_forking = config.get("isolation") == "request"
    tags = Tags() if per_sandbox > 1 else None
    (kind, head, _), function = load(config, task)
    if is_forking and os.getpid() == FIRST_PROCESS:
        clear()  # the first call finds what every other finds
    flush()
    life.busy = False
    wire.send(kind, 0, head)
    if function is None:
        broken(f"frame of type {wire.receive()[0]} after INIT_ERROR")
    serial, parallel = ways(function)
    if is_forking:
        Forking(wire, serial(wire, function, life), life).serve()
    elif tags is not None:
        parallel(wire, function, life, tags, per_sandbox).serve()
    else:
        serial(wire, function, life).serve()


def ways(function: Function) -> tuple[type[Serial], type[Parallel]]:
    """How to answer calls one after the other, and several at once."""
    if function.app is None:
        return Serial, Parallel
    from .applications import ParallelApplication, SerialApplication

    return SerialApplication, ParallelApplication


def connect(path: str) -> _socket.socket:
    """The connection to the executor, whose first byte brings our descriptors 1 and 2."""
    spare = os.open(os.devnull, os.O_RDWR)
    while spare < 2:  # started with a closed 0, 1 or 2: the wire must not take its number
        spare = os.dup(spare)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)  # the class that nobody can patch
    if spare > 2:
        os.close(spare)
    sock.connect(path)
    first, descriptors, _, _ = socket.recv_fds(sock, 1, 2)  # type: ignore[arg-type]
    if first != b"H" or len(descriptors) != 2:
        broken("the executor did not hand over two descriptors")
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return sock
