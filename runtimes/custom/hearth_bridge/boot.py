"""From a started process to the end of the function's: connect, wait for code, start it, serve."""

from __future__ import annotations

import _socket
import gc
import os
import select
import signal
import socket
from collections.abc import Callable
from os import _exit as exit_now
from typing import Any, NoReturn

from hearth_shim.wire import CALL, CANCEL, CREDIT, HELLO, INIT, PROTOCOL, Wire, broken

from .api import Api
from .bootstrap import end_of, environment, exit_status
from .heads import Refusal
from .http import Connection

LOOPBACK = "127.0.0.1"
CONNECTIONS_MAX = 64
RECEIVE_BUFFER_BYTES = 64 * 1024  # of a connection: what is sent to nobody stays with its sender
STOPPED = 128 + signal.SIGTERM


def main() -> NoReturn:
    """The whole life of a bridge."""
    wire = Wire(connect(os.environ.get("HEARTH_SOCKET", "/run/hearth/shim.sock")))
    bridge = Bridge(wire, os.environ.get("HEARTH_TASK", "/var/task"))
    gc.collect()
    gc.freeze()
    wire.send(HELLO, 0, {"protocol": PROTOCOL, "runtime": "custom"})
    bridge.serve()


def connect(path: str) -> _socket.socket:
    """The connection to the executor, whose first byte brings our descriptors 1 and 2."""
    spare = os.open(os.devnull, os.O_RDWR)
    while spare < 2:  # started with a closed 0, 1 or 2: the wire must not take its number
        spare = os.dup(spare)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
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


class Bridge:
    """One loop over the wire, the clients and the signals. It sleeps when none of them speaks."""

    def __init__(self, wire: Wire, task: str) -> None:
        self.wire = wire
        self.task = task
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], Any]] = {}
        self.connections: dict[int, Connection] = {}
        self.process = 0  # the bootstrap's id, once there is one
        self.is_stopping = False
        self.signals = self.catch_signals()
        self.listener = self.listen()
        host, port = self.listener.getsockname()
        self.address = f"{host}:{port}"
        self.api = Api(wire)
        self.watch(wire.sock.fileno(), self.on_wire)

    def watch(self, number: int, handler: Callable[[int], Any]) -> None:
        """Call the handler when the descriptor can be read."""
        self.handlers[number] = handler
        self.epoll.register(number, select.EPOLLIN)

    def serve(self) -> NoReturn:
        """Until the wire ends, or the bootstrap does."""
        poll, handlers = self.epoll.poll, self.handlers
        while True:
            for number, events in poll():
                handler = handlers.get(number)
                if handler is not None:  # closed by another one of this turn
                    handler(events)

    # --- the executor

    def on_wire(self, events: int) -> None:
        """Frames, or the end of everything."""
        wire = self.wire
        wire.read()
        while (measure := wire.peek()) is not None:
            kind, number, head, body = wire.take(measure)
            if kind == CALL and self.api.is_ready:
                self.api.call(number, head, body)
            elif kind == CANCEL and self.api.is_ready:
                self.api.cancel(number)
            elif kind == CREDIT and self.api.is_ready:
                self.api.credit(number, body)
            elif kind == INIT and number == 0 and not self.process and not self.api.is_over:
                self.become(head)
            else:
                broken(f"frame of type {kind} at the wrong moment")
            body.release()
        wire.shrink()

    def become(self, config: dict[str, Any]) -> None:
        """Start the function that INIT describes. READY waits for its first question."""
        self.wire.body_bytes_max = int(config["payload_bytes_max"])
        variables = environment(config, self.task, self.address)
        self.process = self.api.begin(config, self.task, variables)
        self.wire.forget()

    # --- the function

    def listen(self) -> socket.socket:
        """The Runtime API's own address; no network but this sandbox's loopback."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Small, and inherited: a stream that nobody reads soon stops whoever writes it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        listener.bind((LOOPBACK, 0))
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
        self.watch(listener.fileno(), self.on_client)
        return listener

    def on_client(self, events: int) -> None:
        """Somebody connects."""
        try:
            sock, _ = self.listener.accept()
        except OSError:  # it has left again
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = Connection(sock, self.epoll, self.api.route, self.on_closed)
        self.connections[made.number] = made
        self.handlers[made.number] = made.on_event
        if len(self.connections) > CONNECTIONS_MAX:
            made.give_up(Refusal(503, "TooManyConnections", f"{CONNECTIONS_MAX} are open already"))
            made.rearm()

    def on_closed(self, connection: Connection) -> None:
        """A client is gone."""
        del self.connections[connection.number]
        del self.handlers[connection.number]
        self.api.forget(connection)

    # --- signals

    def catch_signals(self) -> socket.socket:
        """Have each signal as a byte that the loop reads; its number."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        signal.set_wakeup_fd(inner.fileno(), warn_on_full_buffer=False)
        # As process 1 of its container the default action of SIGTERM would be to ignore it.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.watch(outer.fileno(), self.on_signals)
        self.inner = inner  # kept open
        return outer

    def on_signals(self, events: int) -> None:
        """Children that ended, and the wish to end."""
        try:
            told = self.signals.recv(4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in told:
            self.stop()
        if signal.SIGCHLD in told:
            self.reap()

    def stop(self) -> None:
        """SIGTERM is the bootstrap's to obey; without one there is nothing to wait for."""
        if not self.process:
            exit_now(STOPPED)
        self.is_stopping = True
        try:
            os.kill(self.process, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def reap(self) -> None:
        """Children that ended; orphans of the function's are ours, too."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if process == self.process:
                self.end(status)

    def end(self, status: int) -> NoReturn:
        """The bootstrap ended: what it still said counts, then the sandbox ends as it did."""
        for connection in list(self.connections.values()):
            while not connection.is_closed and connection.read():
                pass
        told = f"bootstrap {end_of(status)}"
        if not self.is_stopping and not self.api.is_over:
            os.write(2, f"hearth: {told}\n".encode())
        self.api.ended(told)
        exit_now(exit_status(status))
