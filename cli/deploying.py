"""The `hearth deploy` command: what the flags say, and what is shown at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.deploy import Deployed, show_build_log
from cli.deploy import deploy as make_version
from cli.failures import CliError, usage
from cli.output import JsonOption, Output
from cli.project import open_project
from cli.session import connection_of, open_client


def deploy(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="A directory, an archive, or one .py .mjs .js file.")
    ] = Path(),
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Default: hearth.toml's, or the directory's.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", "-r", help="python, node, python3.13, node24.")
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(
            "--handler", help="file.function, like main.handler; file:app for a web application."
        ),
    ] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MB", help="Memory in MB.")
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="CPUs, like 0.5.")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Seconds one call may take.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", help="Calls at once on each node.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="none, or egress to call the internet.")
    ] = None,
    auth: Annotated[
        str | None, typer.Option("--auth", help="key, or none for a public function.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="May be repeated.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the build to its end.")
    ] = True,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Do nothing when the code is what runs already.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Build and activate a function's next version.

    What .gitignore leaves out stays here, and what hearth.toml excludes. Flags win over
    hearth.toml. A build that fails changes nothing: the version before still answers.

    [dim]hearth deploy examples/thumbnail
    hearth deploy hello.py --name hi --memory 256 --env GREETING=Hi[/]
    """
    output = Output.of(context)
    project = open_project(path, name=name, runtime=runtime)
    config = {
        "runtime": project.runtime,
        "handler": handler,
        "memory_mb": memory,
        "cpus": cpus,
        "timeout_s": timeout,
        "concurrency": concurrency,
        "network": network,
        "auth": auth,
        "env": environment(env) or None,
    }
    said = {key: value for key, value in config.items() if value is not None}
    if project.note:
        output.say(f"[dim]{escape(project.note)}[/]")
    if if_changed and said.keys() - {"runtime"}:
        raise usage("--if-changed compares code alone: say the configuration in hearth.toml")
    with open_client(output) as client:
        try:
            made = make_version(client, project, said, output, wait=wait, if_changed=if_changed)
        except CliError as error:
            show_build_log(output, error)
            raise
    _show_deployed(output, project.name, made)


def environment(pairs: Sequence[str] | None) -> dict[str, str]:
    """`K=V` texts as a mapping."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise usage(f"--env is written KEY=VALUE, not {pair!r}")
        found[key] = value
    return found


def _show_deployed(output: Output, name: str, made: Deployed) -> None:
    version = made.version
    if output.json:
        output.answer({**version, "unchanged": made.unchanged, "took_s": round(made.took_s, 3)})
        return
    label = f"[bold]{name}:{version['version']}[/]"
    if made.unchanged:
        output.say(f"[green]✓[/] {label} is this code already")
    elif version["status"] == "building":
        output.say(f"[yellow]…[/] {label} is building; see: hearth versions {name}")
    else:
        output.say(f"[green]✓[/] {label} answers after {made.took_s:.1f} s")
        url = connection_of(output).url
        output.say(f"  [dim]{url}/function/{name}[/]   [dim]hearth invoke {name}[/]")
