"""Commands about functions as things: list, describe, versions, delete, rollback."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich.markup import escape

from cli.client import Client
from cli.completion import function_names
from cli.failures import CliError, usage
from cli.output import JsonOption, Output
from cli.session import connection_of, open_client

NameArgument = Annotated[
    str, typer.Argument(help="The function.", metavar="NAME", autocompletion=function_names)
]
STATUS_COLOURS = {"active": "green", "building": "yellow", "failed": "red"}
VERSIONS_SHOWN = 5


def list_all(context: typer.Context, json: JsonOption = False) -> None:
    """List every function."""
    output = Output.of(context)
    with open_client(output) as client:
        found = list(client.functions())
    if output.json:
        output.answer({"functions": found})
        return
    if not found:
        output.say("no function yet: [bold]hearth init hello[/], then [bold]hearth deploy hello[/]")
        return
    columns = ("NAME", "RUNTIME", "VERSION>", "STATUS", "MEMORY>", "CREATED")
    output.table(columns, [_row(function) for function in found])


def _row(function: Mapping[str, Any]) -> Sequence[str]:
    config = function.get("config") or {}
    newest, version = function.get("newest"), function.get("version")
    status = coloured(str(function.get("status") or "no version"))
    if version is not None and newest != version:
        status = f"{coloured('active')}, {newest} is {status}"
    return (
        f"[bold]{function['name']}[/]",
        str(config.get("runtime", "")),
        str(version or "-"),
        status,
        f"{config['memory_mb']} MB" if "memory_mb" in config else "",
        age(function.get("created_at")),
    )


def coloured(status: str) -> str:
    """A status in its colour."""
    return f"[{STATUS_COLOURS.get(status, 'dim')}]{status}[/]"


def age(when: object) -> str:
    """`3 minutes ago` for an ISO time."""
    if not isinstance(when, str):
        return ""
    try:
        then = datetime.fromisoformat(when)
    except ValueError:
        return when
    seconds = (datetime.now(UTC) - then).total_seconds()
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def describe(context: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    """Show one function: its setup, its addresses, its versions."""
    output = Output.of(context)
    with open_client(output) as client:
        function = client.function(name)
        found = list(islice(client.versions(name), VERSIONS_SHOWN))
    if output.json:
        output.answer({**function, "versions": found})
        return
    output.out.print(f"[bold]{escape(name)}[/]", soft_wrap=True)
    for label, value in _facts(function, connection_of(output).url).items():
        if value:
            output.out.print(f"  [dim]{label:<8}[/] {escape(str(value))}", soft_wrap=True)
    output.out.print()
    _versions_table(output, found, function["aliases"])


def _facts(function: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    config, name = function.get("config") or {}, function["name"]
    limits = (
        f"{config.get('memory_mb')} MB, {config.get('cpus')} cpus, {config.get('timeout_s')} s, "
        f"{config.get('concurrency')} at once"
    )
    return {
        "runtime": f"{config.get('runtime')}, {config.get('handler')}",
        "limits": limits,
        "network": config.get("network"),
        "auth": config.get("auth"),
        "env": ", ".join(config.get("env") or {}),
        "about": config.get("description"),
        "http": f"{url}/function/{name}",
        "invoke": f"{url}/v1/functions/{name}/invocations",
        "created": age(function.get("created_at")),
    }


def versions(context: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    """List a function's versions, newest first."""
    output = Output.of(context)
    with open_client(output) as client:
        found = list(client.versions(name))
        aliases = client.function(name)["aliases"]
    if output.json:
        output.answer({"versions": found})
        return
    _versions_table(output, found, aliases)


def _versions_table(
    output: Output, found: Sequence[Mapping[str, Any]], aliases: Sequence[Mapping[str, Any]]
) -> None:
    rows = [
        (
            str(version["version"]),
            coloured(str(version["status"])),
            ", ".join(a["name"] for a in aliases if a["version"] == version["version"]),
            f"{version['archive']['bytes']:,} bytes",
            age(version.get("created_at")),
            escape(str(version.get("error") or "")),
        )
        for version in found
    ]
    output.table(("VERSION>", "STATUS", "ALIASES", "SIZE>", "DEPLOYED", "ERROR"), rows)


def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete a function with all its versions."""
    output = Output.of(context)
    with open_client(output) as client:
        if not yes:
            _ask(client, output, name)
        client.delete_function(name)
    if output.json:
        output.answer({"deleted": name})
        return
    output.say(f"[green]✓[/] {name} is gone")


def _ask(client: Client, output: Output, name: str) -> None:
    client.function(name)  # nobody is asked about what does not exist
    if output.json or not sys.stdin.isatty():
        raise usage(f"{name} would be deleted for good", "say --yes to mean it")
    if not typer.confirm(f"Delete {name} with all its versions?", err=True):
        raise CliError("nothing was deleted", code="not_confirmed")


def rollback(
    context: typer.Context,
    name: NameArgument,
    alias: Annotated[str, typer.Option("--alias", help="Which one to put back.")] = "latest",
    json: JsonOption = False,
) -> None:
    """Put `latest`, or another alias, back on the version before."""
    output = Output.of(context)
    with open_client(output) as client:
        now = client.rollback(name, alias)
    if output.json:
        output.answer(now)
        return
    output.say(f"[green]✓[/] {name}:{alias} is version [bold]{now['version']}[/] again")
