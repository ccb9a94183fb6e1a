"""What a person sees and what a script reads: stdout carries answers, stderr everything else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.failures import CliError

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """One for each run of the command, found by `Output.of(context)`."""

    def __init__(self) -> None:
        self.json = False
        self.url: str | None = None  # --url, or HEARTH_URL

    @staticmethod
    def of(context: typer.Context) -> Output:
        """The output of this run."""
        found: Output = context.ensure_object(Output)
        return found

    @property
    def err(self) -> Console:
        """Where progress, hints and errors go."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    @property
    def out(self) -> Console:
        """Where answers go when a person reads them."""
        from rich.console import Console

        return Console(highlight=False)

    def answer(self, value: Any) -> None:
        """One JSON document on stdout: the whole answer of a command run with --json."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def say(self, text: str) -> None:
        """A line for a person; silent with --json."""
        if not self.json:
            self.err.print(text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A plain table on stdout; columns whose name ends in `>` are aligned to the right."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for column in columns:
            right = column.endswith(">")
            table.add_column(column.rstrip(">"), justify="right" if right else "left")
        for row in rows:
            table.add_row(*row)
        self.out.print(table, soft_wrap=not self.out.is_terminal)

    def failure(self, error: CliError) -> None:
        """Show why a command ended."""
        from rich.markup import escape

        if self.json:
            body = {"message": error.message, **error.details}
            self.answer({"error": body | ({"hint": error.hint} if error.hint else {})})
            return
        console = self.err
        console.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            console.print(f"  [dim]→[/] {escape(error.hint)}", soft_wrap=True)


def _set_json(context: typer.Context, value: bool) -> bool:
    if value:
        Output.of(context).json = True
    return value


def _set_url(context: typer.Context, value: str | None) -> str | None:
    if value:
        Output.of(context).url = value
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Answer as JSON on stdout, for scripts.", callback=_set_json, is_eager=True
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="HEARTH_URL",
        help="The platform to talk to; by default the one found through the nearest .hearth.",
        callback=_set_url,
    ),
]
