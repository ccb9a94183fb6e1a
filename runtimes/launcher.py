"""Starts a shim whose language cannot receive descriptors: `launcher.py node shim.mjs`.

Connects, receives, installs descriptors 1 and 2, then becomes the shim with the connection as
descriptor 3. Uses the C module `_socket`: importing `socket` would double the time to get there.
"""

import _socket
import os
import sys

WIRE = 3


def main() -> None:
    """Become the command in argv, with the wire as descriptor 3."""
    spare = os.open(os.devnull, os.O_RDWR)
    while spare < WIRE:  # started with a closed 0, 1 or 2: the wire must not take its number
        spare = os.dup(spare)
    wire = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    wire.connect(os.environ.get("HEARTH_SOCKET", "/run/hearth/shim.sock"))
    outputs = receive_outputs(wire)
    for number, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(wire.fileno(), WIRE)  # over `spare`; inheritable, unlike the original
    os.environ["HEARTH_FD"] = str(WIRE)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is the point


def receive_outputs(wire: _socket.socket) -> list[int]:
    """The two descriptors that come with the executor's first byte."""
    size = 4
    first, ancillary, _, _ = wire.recvmsg(1, _socket.CMSG_LEN(2 * size))
    outputs = [
        int.from_bytes(data[at : at + size], sys.byteorder)
        for _, _, data in ancillary
        for at in range(0, len(data), size)
    ]
    if first != b"H" or len(outputs) != 2:
        sys.exit("hearth: the executor did not hand over two descriptors")
    return outputs


if __name__ == "__main__":
    main()
