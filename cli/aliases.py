"""`hearth alias`: movable names for versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.failures import usage
from cli.functions import NameArgument
from cli.output import JsonOption, Output
from cli.session import open_client


def list_all(context: typer.Context, name: NameArgument, json: JsonOption = False) -> None:
    """The aliases of a function."""
    output = Output.of(context)
    with open_client(output) as client:
        found = client.function(name)["aliases"]
    if output.json:
        output.answer({"aliases": found})
        return
    rows = [(str(a["name"]), str(a["version"]), _weights(a.get("weights"))) for a in found]
    output.table(("ALIAS", "VERSION>", "SPLIT"), rows)


def _weights(weights: Mapping[str, float] | None) -> str:
    return ", ".join(f"{share:.0%} to {number}" for number, share in (weights or {}).items())


def put(
    context: typer.Context,
    name: NameArgument,
    alias: Annotated[str, typer.Argument(help="The alias, like prod.")],
    version: Annotated[int, typer.Argument(help="The version it names.")],
    split: Annotated[
        str | None, typer.Option("--split", metavar="N=SHARE", help="Like 4=0.1: 10 % go to 4.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Point an alias at a version, or split it over two.

    [dim]hearth alias set hello prod 3 --split 4=0.1[/]
    """
    output = Output.of(context)
    body: dict[str, Any] = {"version": version}
    if split:
        number, _, share = split.partition("=")
        try:
            body["weights"] = {str(int(number)): float(share)}
        except ValueError:
            raise usage(f"--split is written like 4=0.1, not {split!r}") from None
    with open_client(output) as client:
        now = client.put_alias(name, alias, body)
    if output.json:
        output.answer(now)
        return
    output.say(
        f"[green]✓[/] {name}:{alias} is version [bold]{version}[/] {_weights(now['weights'])}"
    )


def delete(
    context: typer.Context,
    name: NameArgument,
    alias: Annotated[str, typer.Argument(help="The alias.")],
    json: JsonOption = False,
) -> None:
    """Remove an alias; its version stays."""
    output = Output.of(context)
    with open_client(output) as client:
        client.delete_alias(name, alias)
    if output.json:
        output.answer({"deleted": f"{name}:{alias}"})
        return
    output.say(f"[green]✓[/] {name}:{alias} is gone")
