"""The output of a container as it is written, read from Podman's attach call.

podman-py does not implement attach. Its stream also needs no log file: with the log driver `none`
nothing that a container prints reaches the disk, and a container that prints faster than it is
read is slowed down.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import PartAway

_CHUNK_BYTES = 64 * 1024
_HEAD_BYTES_MAX = 16 * 1024
_FRAME = struct.Struct(">BxxxI")  # which stream, and how many bytes follow


class Attachment:
    """Both streams of one container, in the order they were written."""

    def __init__(self, connection: socket.socket, first: bytes) -> None:
        self._connection = connection
        self._waiting = bytearray(first)
        self._in_frame = 0

    def read(self, timeout_s: float) -> bytes | None:
        """What has been written since; b"" when nothing was in time; None at the end."""
        self._connection.settimeout(timeout_s)
        if not self._waiting:
            try:
                chunk = self._connection.recv(_CHUNK_BYTES)
            except TimeoutError:
                return b""
            except OSError:
                return None
            if not chunk:
                return None
            self._waiting += chunk
        return self._content()

    def _content(self) -> bytes:
        """What waits, without the frames around it; an incomplete frame head stays."""
        out = bytearray()
        while self._waiting:
            if not self._in_frame:
                if len(self._waiting) < _FRAME.size:
                    self._waiting += self._rest_of_head()
                    if len(self._waiting) < _FRAME.size:
                        self._waiting.clear()
                        break
                _, self._in_frame = _FRAME.unpack_from(self._waiting)
                del self._waiting[: _FRAME.size]
            taken = self._waiting[: self._in_frame]
            del self._waiting[: len(taken)]
            self._in_frame -= len(taken)
            out += taken
        return bytes(out)

    def _rest_of_head(self) -> bytes:
        rest = b""
        wanted = _FRAME.size - len(self._waiting)
        while len(rest) < wanted:
            try:
                more = self._connection.recv(wanted - len(rest))
            except OSError:
                break
            if not more:
                break
            rest += more
        return rest


@contextmanager
def attach(service: Path, container: str, timeout_s: float) -> Iterator[Attachment]:
    """Attach to a container that exists; before its start, so that no line is missed.

    PartAway when Podman's service does not answer within the time."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(service))
            first = _ask(connection, container)
        except OSError as error:
            raise PartAway("podman", f"its service does not answer: {error}") from error
        yield Attachment(connection, first)
    finally:
        connection.close()


def _ask(connection: socket.socket, container: str) -> bytes:
    """Returns what came behind the answer's head."""
    path = f"/v4.0.0/libpod/containers/{container}/attach?stream=true&stdout=true&stderr=true"
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: podman\r\nContent-Length: 0\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        chunk = connection.recv(_CHUNK_BYTES)
        if not chunk or len(answer) > _HEAD_BYTES_MAX:
            raise PartAway("podman", "its service ended the connection")
        answer += chunk
    head, _, rest = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status not in (b"101", b"200"):
        raise PartAway("podman", f"attach was answered {head.splitlines()[0].decode()}")
    return rest
