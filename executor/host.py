"""The sandbox of a hosted runtime: functions of one namespace have seats in it, each with a
connection of its own on which the ordinary wire is spoken. Its first connection is for opening
seats alone (runtimes/PROTOCOL.md).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import os
import socket

from executor.sandbox import Sandbox, State

_OPEN = b"O"


class Host(Sandbox):
    """Made by a driver, and a stem until it is given to a namespace."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._control = transport.get_extra_info("socket").fileno()
        self._numbers = itertools.count(1)

    async def open(self, body_bytes_max: int) -> Sandbox:
        """A seat: a sandbox in state STEM, whose code the host looks for at /var/task/<number>;
        `folder` is that directory on this side. SandboxBroken when the host is gone."""
        if self.state is not State.STEM:
            raise self.epitaph()
        number = next(self._numbers)
        seat = Sandbox(
            id=f"{self.id}-{number}",
            runtime=self.runtime,
            network=self.network,
            folder=self.folder / "task" / str(number),
            body_bytes_max=body_bytes_max,
        )
        seat.folder.mkdir(parents=True)
        seat.folder.chmod(0o755)  # whatever the umask
        try:
            ours, pipes = self._hand_over(number)
            try:
                await seat.meet(ours, pipes)
            except BaseException:
                ours.close()
                raise
        except BaseException as error:
            leave(seat)
            if isinstance(error, OSError):
                raise self.epitaph() from error
            raise
        return seat

    def _hand_over(self, number: int) -> tuple[socket.socket, tuple[int, int]]:
        """Give the host its ends of a connection and of two pipes; ours are returned."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds: list[int] = []
        try:
            ours.setblocking(False)
            for _ in range(2):
                fds += os.pipe2(os.O_CLOEXEC)
            rights = array.array("i", (theirs.fileno(), fds[1], fds[3]))
            with socket.socket(fileno=os.dup(self._control)) as control:
                message = _OPEN + number.to_bytes(4, "big")
                control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except BaseException:
            ours.close()
            for fd in fds:
                os.close(fd)
            raise
        finally:
            theirs.close()
        os.close(fds[1])
        os.close(fds[3])
        return ours, (fds[0], fds[2])


def leave(seat: Sandbox) -> None:
    """A seat of a host ends: the host hears that by its connection."""
    seat.hang_up()
    with contextlib.suppress(OSError):  # what is left of it goes with the host
        seat.folder.rmdir()
