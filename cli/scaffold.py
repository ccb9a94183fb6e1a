"""`hearth init`: a new function that works as it is written."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.failures import usage
from cli.output import JsonOption, Output
from cli.project import as_name
from cli.templates import files_of
from core.errors import NameInvalid
from core.model import check_name


class Language(StrEnum):
    """The languages there is a template for."""

    PYTHON = "python"
    NODE = "node"
    DART = "dart"
    CUSTOM = "custom"


def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The function's name, and the directory to make.")],
    runtime: Annotated[
        Language, typer.Option("--runtime", "-r", help="The language.")
    ] = Language.PYTHON,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Where; by default ./NAME.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a new function that works as it stands.

    [dim]hearth init resize --runtime node[/]
    """
    output = Output.of(context)
    folder = directory or Path(name)
    try:
        name = check_name(name, what="function")
    except NameInvalid as problem:
        near = as_name(name)
        raise usage(problem.message, f"for example: hearth init {near}" if near else "") from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise usage(f"{folder} exists and is not empty", "choose another with --directory")
    folder.mkdir(parents=True, exist_ok=True)
    written = files_of(runtime.value, name)
    for path, text in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        if text.startswith("#!"):
            (folder / path).chmod(0o755)
    if output.json:
        output.answer({"name": name, "directory": str(folder), "files": sorted(written)})
        return
    output.say(f"[green]✓[/] {folder}/ holds {', '.join(sorted(written))}")
    output.say(f"  next: [bold]hearth deploy {folder}[/]")
