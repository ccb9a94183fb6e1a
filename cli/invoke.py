"""`hearth invoke`: what is sent to a function and how its answer is shown."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cli.client import Client, error_of, is_function_fault
from cli.connection import Connection
from cli.failures import CliError, ExitCode, usage
from cli.output import Output

if TYPE_CHECKING:
    import httpx

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
_UNCOMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2"}


@dataclass(frozen=True, slots=True)
class Request:
    """One invocation as HTTP."""

    method: str
    path: str
    body: bytes | Path
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line says to send; at most one of data, file and piped."""

    name: str
    data: str | None = None
    file: Path | None = None
    piped: bytes | None = None
    path: str | None = None
    method: str | None = None
    headers: Sequence[str] = ()


def plan(said: Said) -> Request:
    """Choose the route: JSON goes in as the event itself, everything else as an HTTP request."""
    if said.data is not None and said.file is not None:
        raise usage("--data and --file exclude each other")
    headers = dict(_header(text) for text in said.headers)
    as_http = said.path is not None or said.method is not None or bool(headers)
    body, kind = _body(said, as_http)
    if not as_http and kind == JSON_TYPE:
        path = f"/v1/functions/{quote(said.name, safe=':')}/invocations"
        return Request("POST", path, body or b"{}", {"Content-Type": JSON_TYPE})
    below = said.path or "/"
    if not below.startswith("/"):
        raise usage(f"--path begins with a slash: /{below}")
    if body and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = kind
    method = (said.method or ("POST" if body else "GET")).upper()
    return Request(method, f"/function/{quote(said.name, safe=':')}{below}", body, headers)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise usage(f"a header is written `Name: value`, not {text!r}")
    return name.strip(), value.strip()


def _body(said: Said, as_http: bool) -> tuple[bytes | Path, str]:
    """The body and its content type."""
    if said.file is not None:
        return _file(said.file)
    if said.data is not None:
        body = said.data.encode()
        if is_json(body):
            return body, JSON_TYPE
        if as_http:
            return body, "text/plain; charset=utf-8"
        raise usage(f"--data is not JSON: {_json_problem(said.data)}", _json_hint(said.data))
    if said.piped:
        if is_json(said.piped):
            return said.piped, JSON_TYPE
        return said.piped, "text/plain; charset=utf-8" if is_text(said.piped) else BINARY_TYPE
    return b"", JSON_TYPE


def _file(file: Path) -> tuple[bytes | Path, str]:
    if not file.is_file():
        raise usage(f"{file} is not a file")
    kind = content_type_of(file.name)
    if kind == JSON_TYPE and not is_json(file.read_bytes()):
        raise usage(f"{file} is not JSON: {_json_problem(file.read_text(errors='replace'))}")
    return file, kind


def content_type_of(filename: str) -> str:
    """The content type that a file's name suggests."""
    kind, encoding = mimetypes.guess_type(filename)
    if encoding is not None:
        return _UNCOMPRESSED.get(encoding, BINARY_TYPE)
    if filename.endswith((".md", ".markdown")):
        kind = "text/markdown"
    if kind is not None and kind.startswith("text/"):
        return f"{kind}; charset=utf-8"
    return kind or BINARY_TYPE


def is_json(data: bytes) -> bool:
    """Whether these bytes are one JSON document."""
    try:
        json.loads(data)
    except ValueError:  # also what is not UTF-8
        return False
    return True


def _json_problem(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as problem:
        return str(problem)
    return "no problem"


def _json_hint(data: str) -> str:
    if Path(data.removeprefix("@")).is_file():
        return f"for a file: --file {data.removeprefix('@')}"
    return """write it like --data '{"name": "Ada"}'; for other bodies add --path /"""


def read_piped() -> bytes | None:
    """What another command or a file pours into us; None at a terminal or without such a thing.

    Only pipes and files: reading anything else may wait for ever."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return None
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return None
    return sys.stdin.buffer.read()


# --- the answer ---


def is_text(data: bytes) -> bool:
    """Whether a terminal can show it."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def deliver(
    answer: httpx.Response, connection: Connection, output: Output, to: Path | None
) -> ExitCode:
    """Show the answer, or save it; the exit code says whose fault a failure is."""
    if (error := platform_error(answer, connection)) is not None:
        if not output.json:
            output.say(summary(answer))
            _show_trace(output, error)
        raise error
    if to is not None:
        to.write_bytes(answer.content)
    if output.json:
        output.answer(as_json(answer, to))
    else:
        output.say(summary(answer) + (f" → {to}" if to is not None else ""))
        if to is None:
            _print_body(answer)
    return ExitCode.OK if answer.status_code < 400 else ExitCode.FAILED


def platform_error(answer: httpx.Response, connection: Connection) -> CliError | None:
    """The error if the platform answered in the function's stead, None if the function did.

    A function may answer any status and any body; what it cannot do is set our headers."""
    if answer.status_code < 400 or answered_by_function(answer):
        return None
    return error_of(answer, connection)


def answered_by_function(answer: httpx.Response) -> bool:
    """Whether status and body are the function's own words: it ran, and did not fail."""
    return "x-cold-start" in answer.headers and not _is_fault(answer)


def _is_fault(answer: httpx.Response) -> bool:
    if answer.status_code not in (502, 504):
        return False
    try:
        return is_function_fault(str(answer.json()["error"]["code"]))
    except (ValueError, KeyError, TypeError):
        return False


def _show_trace(output: Output, error: CliError) -> None:
    from rich.markup import escape

    for line in error.details.get("trace") or ():
        for part in str(line).rstrip("\n").split("\n"):
            output.say(f"  [dim]│[/] {escape(part)}")


def summary(answer: httpx.Response) -> str:
    """One line for a person: status, time and where it went, version, size."""
    colour = "green" if answer.status_code < 400 else "red"
    parts = [f"[bold {colour}]{answer.status_code}[/]"]
    parts.append(f"{answer.elapsed.total_seconds() * 1000:.0f} ms{_legs(answer)}")
    if version := answer.headers.get("x-hearth-version"):
        parts.append(f"version {version}")
    if peak := answer.headers.get("x-hearth-memory-peak"):
        parts.append(f"{int(peak) / 2**20:.0f} MB")
    kind = answer.headers.get("content-type", "").partition(";")[0]
    parts.append(f"{len(answer.content):,} bytes{' ' + kind if kind else ''}")
    return "[dim] · [/]".join(parts)


def _legs(answer: httpx.Response) -> str:
    legs = timing(answer)
    if answer.headers.get("x-cold-start") == "true":
        why = answer.headers.get("x-cold-start-reason", "").replace("_", " ")
        told = [f"{leg} {legs[leg]:.0f}" for leg in ("boot", "init") if legs.get(leg)]
        named = ", ".join([why, *told] if why else told)
        return f" [yellow]cold start[/]{f' ({named})' if named else ''}"
    named = ", ".join(f"{leg} {legs[leg]:.1f}" for leg in ("handler", "cpu") if leg in legs)
    return f" ({named})" if named else ""


def timing(answer: httpx.Response) -> dict[str, float]:
    """The legs of Server-Timing, in milliseconds."""
    legs: dict[str, float] = {}
    for part in answer.headers.get("server-timing", "").split(","):
        name, _, duration = part.strip().partition(";dur=")
        try:
            legs[name] = float(duration)
        except ValueError:
            continue
    return legs


def as_json(answer: httpx.Response, saved_to: Path | None) -> dict[str, Any]:
    """The whole answer for a script."""
    said: dict[str, Any] = {
        "status": answer.status_code,
        "invocation_id": answer.headers.get("x-hearth-invocation-id"),
        "version": answer.headers.get("x-hearth-version"),
        "cold_start": answer.headers.get("x-cold-start") == "true",
        "elapsed_ms": round(answer.elapsed.total_seconds() * 1000, 2),
        "timing_ms": timing(answer),
        "content_type": answer.headers.get("content-type", ""),
    }
    if saved_to is not None:
        return said | {"saved_to": str(saved_to), "bytes": len(answer.content)}
    if is_json(answer.content):
        return said | {"result": json.loads(answer.content)}
    if is_text(answer.content):
        return said | {"text": answer.text}
    return said | {"base64": base64.b64encode(answer.content).decode()}


def _print_body(answer: httpx.Response) -> None:
    body = answer.content
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    if not is_text(body):
        kind = answer.headers.get("content-type", "something binary")
        raise usage(
            f"the answer is {len(body):,} bytes of {kind}: not for a terminal",
            "save it with --output FILE, or pipe it on",
        )
    if is_json(body):
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    else:
        text = body.decode()
    sys.stdout.write(text + ("" if text.endswith("\n") else "\n"))


def invoke(client: Client, request: Request) -> httpx.Response:
    """Send it."""
    return client.invoke(request.method, request.path, body=request.body, headers=request.headers)
