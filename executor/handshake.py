"""The first moments of a sandbox: a socket for one connection, and the pipes it will write to."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from core.errors import SandboxBroken
from core.limits import HELLO_TIMEOUT_S
from executor.sandbox import Sandbox

SOCKET_NAME = "shim.sock"


def listen(folder: Path) -> socket.socket:
    """A listener at `folder`/shim.sock for any uid: who may reach it is the folder's matter."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        listener.bind(str(folder / SOCKET_NAME))
        (folder / SOCKET_NAME).chmod(0o666)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


async def introduce(
    sandbox: Sandbox, listener: socket.socket, folder: Path, adopt: Callable[[int], None]
) -> None:
    """Accept the one connection, close the listener, hand over the pipes, wait for HELLO.

    `adopt` is told the process id of the shim, as this host sees it, before the shim may go on.
    SandboxBroken when nobody comes."""
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            await _somebody(listener)
        connected, _ = listener.accept()
    except TimeoutError:
        raise SandboxBroken(f"a {sandbox.runtime.name} sandbox did not connect") from None
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            (folder / SOCKET_NAME).unlink()
    try:
        connected.setblocking(False)
        peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        adopt(struct.unpack("3i", peer)[0])
        await sandbox.meet(connected, _hand_over_pipes(connected))
    except OSError as error:
        connected.close()
        raise SandboxBroken(f"a {sandbox.runtime.name} sandbox left at once: {error}") from error
    except BaseException:
        connected.close()
        raise


async def _somebody(listener: socket.socket) -> None:
    """Until somebody connects. Not the loop's `sock_accept`: cancelled in the tick in which it ends
    that loses the connection."""
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(listener, come.set)
    try:
        await come.wait()
    finally:
        loop.remove_reader(listener)


def _hand_over_pipes(connected: socket.socket) -> tuple[int, int]:
    """Send the write ends of two fresh pipes; the read ends are the caller's."""
    fds: list[int] = []
    try:
        for _ in range(2):
            fds += os.pipe2(os.O_CLOEXEC)
        rights = array.array("i", (fds[1], fds[3]))
        connected.sendmsg([b"H"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    os.close(fds[1])
    os.close(fds[3])
    return fds[0], fds[2]
