"""Asks a child whether it is ready, over bare sockets: the supervisor stays small."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from cli.children import Probe, Question

ASK_TIMEOUT_S = 2.0
_ANSWER_BYTES_MAX = 8192


def ask(probe: Probe) -> str | None:
    """None when the child is ready, else a few words on why not."""
    if probe.question is Question.NOTHING:
        return None
    if probe.also and not listening(Path(probe.also)):
        return "not listening yet"
    try:
        answer = _exchange(probe, _REQUESTS[probe.question])
    except OSError as problem:
        return problem.strerror or str(problem)
    return _verdict(probe.question, answer)


_REQUESTS = {
    Question.REDIS_PING: b"PING\r\n",
    Question.PODMAN_PING: b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n",
    Question.READYZ: b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n",
}


def is_free(host: str, port: int) -> bool:
    """Whether one could listen there; an address that is not this machine's counts as free, for
    whoever tries will say so better."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen()
        except OSError as problem:
            return problem.errno != errno.EADDRINUSE
        return True


def _verdict(question: Question, answer: bytes) -> str | None:
    if question is Question.REDIS_PING:
        return None if answer.startswith(b"+PONG") else answer.decode(errors="replace").strip()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")
    if len(status) > 1 and status[1] == b"200":
        return None
    return (body or head).decode(errors="replace").strip() or "no answer yet"


def _exchange(probe: Probe, request: bytes) -> bytes:
    with _connect(probe) as connection:
        connection.sendall(request)
        answer = b""
        while len(answer) < _ANSWER_BYTES_MAX:
            piece = connection.recv(_ANSWER_BYTES_MAX)
            if not piece:
                break
            answer += piece
            if probe.question is Question.REDIS_PING:
                break  # Redis keeps the connection open
        return answer


def _connect(probe: Probe) -> socket.socket:
    if probe.question is not Question.READYZ:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            connection.connect(probe.address)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = probe.address.rpartition(":")
    plain = socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_TIMEOUT_S)
    return _encrypted(plain) if probe.tls else plain


def _encrypted(plain: socket.socket) -> socket.socket:
    import ssl

    # We ask a process of ours on this machine whether it is up; whose name the certificate
    # carries is the clients' business.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(plain)
    except OSError:
        plain.close()
        raise


def listening(path: Path) -> bool:
    """Whether somebody accepts connections on this Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True
