"""The first moments of a sandbox: a socket for one connection, and the pipes it will write to."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
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


async def introduce(sandbox: Sandbox, listener: socket.socket, folder: Path) -> int:
    """Accept the one connection, close the listener, hand over the pipes, wait for HELLO.

    Returns the process id of the shim as this host sees it. SandboxBroken when nobody comes."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            connected, _ = await loop.sock_accept(listener)
    except TimeoutError:
        raise SandboxBroken(f"a {sandbox.runtime.name} sandbox did not connect") from None
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            (folder / SOCKET_NAME).unlink()
    try:
        connected.setblocking(False)
        pid, _, _ = struct.unpack(
            "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        await sandbox.meet(connected, _hand_over_pipes(connected))
    except OSError as error:
        connected.close()
        raise SandboxBroken(f"a {sandbox.runtime.name} sandbox left at once: {error}") from error
    except BaseException:
        connected.close()
        raise
    return int(pid)


def _hand_over_pipes(connected: socket.socket) -> tuple[int, int]:
    """Send the write ends of two fresh pipes; the read ends are the caller's."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    try:
        rights = array.array("i", (out_write, err_write))
        connected.sendmsg([b"H"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except BaseException:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)
    return out_read, err_read
