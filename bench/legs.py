"""Where the microseconds of a warm call go: `python -m bench.legs`.

Each part of the gateway's work is run alone, many times; system calls on sockets, pipes and control
groups like those of a sandbox. What the parts do not explain is the loop's own work, and what a
cache loses to the other processes of a call.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from bench.lane import BODY, KEY, view_of_one
from bench.seats import EchoDriver, Nothing, echo_version
from core.settings import Settings
from executor import cgroup
from executor.call import Call
from executor.cgroup import SandboxCgroup
from executor.executor import Executor
from executor.journal import Journal
from executor.logpipe import Outputs
from executor.messages import call_head_json
from executor.meter import GroupMeter
from executor.wire import Decoder, FrameType, encode
from gateway.auth import authenticate
from gateway.invoke import checked_event

ROUNDS = 5
TIMES = 20_000


def main() -> None:
    """Print the table."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(legs())


async def legs() -> None:
    """All parts, in the order of a call."""
    view = view_of_one()
    header = f"Bearer {KEY}".encode()
    frame = encode(FrameType.RESULT, 1, None, BODY)
    decoder = Decoder(1 << 20)
    call = Call("2b3d6c0e-6d0e-4c6e-8f0a-0d6f3c1b2a11", "event", BODY)
    show("authenticate (once for each new head)", lambda: authenticate(view.callers, header))
    show("resolve name and alias", lambda: view.target("default", "hello", None))
    show("look at the event", lambda: checked_event(BODY))
    await plan()
    show("frame of the call", lambda: encode(FrameType.CALL, 1, call_head_json(call, 30), BODY))
    show("frame of the answer", lambda: decoder.feed(frame))
    for name, work in system_calls():
        show(name, work)


async def plan() -> None:
    """Admission, the plan and the pool: a seat lent and given back."""
    nothing = Nothing()
    async with Executor(Settings(stems=0), EchoDriver(), nothing, nothing) as executor:
        version = echo_version()
        await executor.invoke(version, Call("1", "event", b"{}"))
        admission, pool = executor._admission, executor._pool

        def lend() -> None:
            admission.enter(version)
            seat = pool.lend(version)
            assert seat is not None
            pool.give_back(seat)
            admission.leave(version.function_id)

        show("admit, lend a seat, give both back", lend)


def system_calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """What a call asks of the kernel, without anybody to wake."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    loop = asyncio.get_running_loop()
    fds = [*os.pipe(), *os.pipe()]
    outputs = Outputs(fds[0], fds[2], Journal(lambda *_: None))
    group = SandboxCgroup(f"/hearth-bench-{os.getpid()}/legs")
    group.make()
    meter = GroupMeter(group)
    try:
        yield "to the shim and from it: write, read", lambda: (ours.send(BODY), theirs.recv(4096))
        yield "from the client and to it: write, read", lambda: (
            client.send(BODY), server.recv(4096)
        )  # fmt: skip
        yield "log pipes, found empty", outputs.settle

        def measure() -> None:
            meter.cpu_ns()
            meter.peak_bytes()
            meter.reset_peak()

        yield "CPU and peak read, peak reset", measure
        yield "a timer for the deadline", lambda: loop.call_later(30, print).cancel()
        poll = select.poll()
        yield "the loop asks what is ready", lambda: poll.poll(0)
    finally:
        meter.close()
        outputs.close()
        group.close()
        for tree in cgroup.trees(str(Path(group.path).parent)):
            cgroup.remove_tree(tree)
        for end in (ours, theirs, listener, client, server):
            end.close()
        os.close(fds[1])
        os.close(fds[3])


def show(name: str, work: Callable[[], Any]) -> None:
    """One row: the best round, in microseconds."""
    best = min(_round(work) for _ in range(ROUNDS))
    sys.stdout.write(f"{best:6.2f} µs  {name}\n")


def _round(work: Callable[[], Any]) -> float:
    started = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - started) / TIMES * 1e6


if __name__ == "__main__":
    main()
