"""Commands that use functions: invoke, logs."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli import invoke as invoking
from cli.client import Client
from cli.completion import function_names
from cli.functions import NameArgument
from cli.output import JsonOption, Output
from cli.session import connection_of

FOLLOW_PAUSE_S = 1.0
FOLLOW_LINES_MAX = 10_000  # as many as the platform gives at once
STREAM_COLOURS = {"stderr": "yellow", "platform": "cyan"}


def invoke(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:QUALIFIER]",
            help="hello, hello:3, hello:prod.",
            autocompletion=function_names,
        ),
    ],
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="JSON", help="The event, or a body.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Send a file, of any kind.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the answer there.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", "-p", help="Send an HTTP request to this path.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-X", help="Of the HTTP request.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'Name: value'; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Call a function and show what it answers.

    JSON is handed to the handler as its event. Any other file, and anything with --path, --method
    or --header, arrives as an HTTP request. Without --data and --file, what is piped in is sent.

    [dim]hearth invoke hello --data '{"name": "Ada"}'
    hearth invoke thumbnail --file photo.jpg --output small.jpg
    hearth invoke orders-api --path /orders/7 --method DELETE[/]
    """
    output = Output.of(context)
    piped = invoking.read_piped() if data is None and file is None else None
    said = invoking.Said(name, data, file, piped, path, method, header or ())
    request = invoking.plan(said)
    connection = connection_of(output)
    with Client(connection) as client:
        answer = invoking.invoke(client, request)
    raise typer.Exit(invoking.deliver(answer, connection, output, to))


def logs(
    context: typer.Context,
    name: NameArgument,
    tail: Annotated[
        int, typer.Option("--tail", "-n", min=0, max=10_000, help="How many lines to begin with.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a function printed.

    Also what the platform says about it. With --json one JSON document on each line.

    [dim]hearth logs hello --tail 20 --follow[/]
    """
    output = Output.of(context)
    with Client(connection_of(output)) as client:
        lines: Sequence[Mapping[str, Any]] = client.logs(name, tail=tail) if tail else []
        _show(output, lines)
        if not lines and not follow and not output.json:
            output.say(f"[dim]nothing yet; call it with[/] hearth invoke {escape(name)}")
        seen = Seen.of(lines)
        while follow:
            time.sleep(FOLLOW_PAUSE_S)
            found = client.logs(name, tail=FOLLOW_LINES_MAX, since=seen.at)
            lines = seen.new_of(found)
            _show(output, lines)
            seen = seen.after(lines)


@dataclass(frozen=True, slots=True)
class Seen:
    """How far the log was shown: up to this moment, and so many lines of that very moment."""

    at: str
    count: int

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Seen:
        """After these lines; after now when there were none."""
        if not lines:
            return cls(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), 0)
        at = str(lines[-1]["at"])
        return cls(at, sum(1 for line in lines if line["at"] == at))

    def new_of(self, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What of a log that begins at our moment was not shown yet."""
        known, new = 0, []
        for line in lines:
            if line["at"] == self.at and known < self.count:
                known += 1
            else:
                new.append(line)
        return new

    def after(self, lines: Sequence[Mapping[str, Any]]) -> Seen:
        """Once these too were shown."""
        if not lines:
            return self
        next_ = Seen.of(lines)
        return Seen(next_.at, next_.count + (self.count if next_.at == self.at else 0))


def _show(output: Output, lines: Iterable[Mapping[str, Any]]) -> None:
    for line in lines:
        if output.json:
            sys.stdout.write(json_module.dumps(line, ensure_ascii=False) + "\n")
        else:
            output.out.print(_as_text(line), soft_wrap=True)
    sys.stdout.flush()


def _as_text(line: Mapping[str, Any]) -> str:
    colour = STREAM_COLOURS.get(str(line.get("stream")))
    text = escape(printable(str(line.get("text", ""))))
    shown = f"[{colour}]{text}[/]" if colour else text
    call = str(line.get("invocation_id") or "-")[:8]
    return f"[dim]{_clock(line.get('at'))} {line.get('version', '')}:{call:<8}[/] {shown}"


def printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its title: logs are others' words."""
    return "".join(c if c.isprintable() or c == "\t" else "·" for c in text)


def _clock(at: object) -> str:
    try:
        when = datetime.fromisoformat(str(at))
    except ValueError:
        return str(at)
    return when.astimezone().strftime("%H:%M:%S.%f")[:-3]
