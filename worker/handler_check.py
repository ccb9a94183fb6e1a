"""The handler check: the node's gateway boots the new version once and says whether it loads."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.limits import BUILD_CHECK_S, BUILD_LOG_TAIL_BYTES

_ANSWER_BYTES_MAX = 1024 * 1024
_FOUND_SHOWN_MAX = 10
_LINE_LENGTH_MAX = 500


class GatewayAway(Exception):
    """Nobody answers at the internal socket, or not to the end."""


class NotNow(Exception):
    """The gateway answers, but cannot try: no room, or a part of its own is away."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the version cannot be loaded: one line, and what a developer wants to see besides."""

    line: str
    details: tuple[str, ...] = ()


class CheckCall:
    """One try. `interrupt` may be called from another thread, and ends it with GatewayAway."""

    def __init__(self, service: Path) -> None:
        self._connection = _UnixConnection(service)

    def ask(self, version_id: str, layers: Sequence[str]) -> Refusal | None:
        """None when the version loads. GatewayAway, NotNow."""
        body = json.dumps({"version_id": version_id, "layers": list(layers)})
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", "/internal/check", body, headers)
            response = self._connection.getresponse()
            raw = response.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise GatewayAway(str(error) or type(error).__name__) from error
        finally:
            self._connection.close()
        if response.status == 200:
            return None
        said = _error_of(raw)
        if response.status == 422:
            return refusal(said)
        raise NotNow(_line(said.get("message")) or f"HTTP status {response.status}")

    def interrupt(self) -> None:
        """Stop waiting for the answer."""
        self._connection.interrupt()


def refusal(error: dict[str, Any]) -> Refusal:
    """What the gateway's 422 says, for people."""
    message = _line(error.get("message")) or "the function could not be loaded"
    kind = _line(error.get("type"))
    if kind and kind not in message:
        message = f"{kind}: {message}"
    if found := [_line(name) for name in _texts(error.get("found")) if name.strip()]:
        shown = ", ".join(found[:_FOUND_SHOWN_MAX])
        more = f" and {len(found) - _FOUND_SHOWN_MAX} more" if len(found) > _FOUND_SHOWN_MAX else ""
        message = f"{message} (found: {shown}{more})"
    return Refusal(message[:_LINE_LENGTH_MAX], tuple(_details(error)))


def _details(error: dict[str, Any]) -> Iterator[str]:
    printed = error.get("log")
    if isinstance(printed, str) and printed.strip():
        yield "the function printed:"
        yield from (f"  {line}" for line in printed[-BUILD_LOG_TAIL_BYTES:].splitlines())
    for text in _texts(error.get("trace")):
        yield from text.rstrip().splitlines()


def _error_of(raw: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        body = json.loads(raw)
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            return dict(body["error"])
    return {}


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


class _UnixConnection(http.client.HTTPConnection):
    """The standard library's client: httpx would hold 6 MB in the builder for this one call."""

    def __init__(self, service: Path) -> None:
        super().__init__("hearth", timeout=BUILD_CHECK_S)
        self._service = service
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self.sock = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._service))

    def interrupt(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # not connected yet, or no longer
                self._socket.shutdown(socket.SHUT_RDWR)
