"""`hearth keys`: who may do what."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.output import JsonOption, Output
from cli.session import open_client


class RoleName(StrEnum):
    """Rights, each including the next but viewer, which only reads."""

    ADMIN = "admin"
    DEPLOYER = "deployer"
    INVOKER = "invoker"
    VIEWER = "viewer"


def list_all(context: typer.Context, json: JsonOption = False) -> None:
    """Every key: its rights and limits, never its text."""
    output = Output.of(context)
    with open_client(output) as client:
        found = list(client.keys())
    if output.json:
        output.answer({"keys": found})
        return
    rows = [
        (
            str(key["id"]),
            str(key["name"]),
            str(key["role"]),
            str(key["namespace"]),
            ", ".join(key.get("functions") or ()) or "all",
            str(key.get("expires_at") or "never"),
        )
        for key in found
    ]
    output.table(("ID", "NAME", "ROLE", "NAMESPACE", "FUNCTIONS", "EXPIRES"), rows)


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for; for you to read.")],
    role: Annotated[
        RoleName, typer.Option("--role", help="Its rights: admin > deployer > invoker; viewer.")
    ] = RoleName.INVOKER,
    function: Annotated[
        list[str] | None, typer.Option("--function", help="Only this one; may be repeated.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Its namespace.")] = None,
    expires_at: Annotated[
        str | None, typer.Option("--expires-at", help="Like 2030-01-31T00:00:00Z.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key. It is shown once: the platform keeps only its hash.

    [dim]hearth keys create ci --role deployer[/]
    """
    output = Output.of(context)
    body: dict[str, Any] = {"name": name, "role": role.value}
    if function:
        body["functions"] = function
    if namespace:
        body["namespace"] = namespace
    if expires_at:
        body["expires_at"] = expires_at
    with open_client(output) as client:
        made = client.add_key(body)
    if output.json:
        output.answer(made)
        return
    output.say(f"[green]✓[/] {name} ({role.value}); this is the only time it is shown:")
    output.out.print(made["key"], soft_wrap=True)


def delete(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As hearth keys list shows it.")],
    json: JsonOption = False,
) -> None:
    """Take a key back; whoever still uses it is refused from now on."""
    output = Output.of(context)
    with open_client(output) as client:
        client.delete_key(key_id)
    if output.json:
        output.answer({"deleted": key_id})
        return
    output.say(f"[green]✓[/] {key_id} is no key any more")
