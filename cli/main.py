"""The `hearth` command: which commands there are, what `--help` teaches, how each ends."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import aliases, calling, deploying, functions, keys, node, scaffold
from cli.failures import CliError, ExitCode
from cli.output import JsonOption, Output, UrlOption

PLATFORM, DEPLOY, USE, ACCESS = "The platform", "Write and deploy", "Use and look", "Access"

EPILOG = """\
[bold]From nothing to an answer[/]

hearth up --detach                            [dim]start the platform here[/]
hearth init hello --runtime python            [dim]write a function into ./hello[/]
hearth deploy hello                           [dim]build it and let it answer[/]
hearth invoke hello -d '{"name": "Ada"}'      [dim]call it[/]
hearth logs hello --follow                    [dim]see what it prints[/]

[bold]Exit codes[/]  0 it worked, 1 the function or the operation failed, 2 usage,
3 the platform refused, 4 it cannot be reached. More in docs/cli.md.
"""


class HearthGroup(TyperGroup):
    """Ends a command that raised CliError with its message and its exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except CliError as error:
            Output.of(ctx).failure(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("\n")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


app = typer.Typer(
    name="hearth",
    cls=HearthGroup,
    help="Your own serverless platform: functions in hardened containers, on machines you own.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # a local may be somebody's key
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"hearth {version('hearth')}\n")
        raise typer.Exit()


@app.callback()
def options(
    url: UrlOption = None,
    json: JsonOption = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options before the command."""


def _add(target: typer.Typer, function: Any, name: str, panel: str | None = None) -> None:
    target.command(name, rich_help_panel=panel)(function)


_add(app, node.up, "up", PLATFORM)
_add(app, node.down, "down", PLATFORM)
_add(app, node.status, "status", PLATFORM)
_add(app, node.doctor, "doctor", PLATFORM)
_add(app, scaffold.init, "init", DEPLOY)
_add(app, deploying.deploy, "deploy", DEPLOY)
_add(app, functions.versions, "versions", DEPLOY)
_add(app, functions.rollback, "rollback", DEPLOY)
_add(app, functions.delete, "delete", DEPLOY)
_add(app, calling.invoke, "invoke", USE)
_add(app, calling.logs, "logs", USE)
_add(app, functions.list_all, "list", USE)
_add(app, functions.describe, "describe", USE)

images = typer.Typer(help="The images that sandboxes run.", no_args_is_help=True)
_add(images, node.images_build, "build")
_add(images, node.images_list, "list")
app.add_typer(images, name="images", rich_help_panel=PLATFORM)

alias = typer.Typer(help="Movable names for versions: prod, canary …", no_args_is_help=True)
_add(alias, aliases.list_all, "list")
_add(alias, aliases.put, "set")
_add(alias, aliases.delete, "delete")
app.add_typer(alias, name="alias", rich_help_panel=DEPLOY)

key = typer.Typer(help="API keys and what each may do.", no_args_is_help=True)
_add(key, keys.list_all, "list")
_add(key, keys.create, "create")
_add(key, keys.delete, "delete")
app.add_typer(key, name="keys", rich_help_panel=ACCESS)

app.command("welcome", hidden=True)(node.welcome)


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
