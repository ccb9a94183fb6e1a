"""Commands about the platform on this machine: up, down, status, doctor, images."""

from __future__ import annotations

import json as json_module
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from cli.children import Probe, Question, module, settings_environment
from cli.connection import find_connection, find_data_dir, read_settings
from cli.doctor import doctor as check_machine
from cli.failures import CliError, ExitCode, usage
from cli.leftovers import leftovers
from cli.output import JsonOption, Output
from cli.probe import ask
from cli.showcase import EXAMPLES, show_examples
from cli.state import Running, holder, lock_file, read_running
from core.settings import Settings

STOP_MARGIN_S = 90.0  # beyond drain_s: everything that is not the gateway's drain


def up(
    context: typer.Context,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; it stays up.")
    ] = False,
    examples: Annotated[
        bool, typer.Option("--examples", help="Deploy the examples and call each.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Start Hearth on this machine and keep it running.

    In the foreground Ctrl-C drains it: what runs may finish, then everything is stopped and
    cleaned up. A second Ctrl-C waits for nothing.

    [dim]hearth up --detach[/]
    """
    output = Output.of(context)
    settings = read_settings()
    running = _already_up(settings)
    if running is not None and not detach:
        raise CliError(
            f"Hearth already runs here (pid {running.pid}) at {running.url}",
            exit_code=ExitCode.REFUSED,
            hint="hearth down stops it; hearth status tells more",
            code="already_running",
        )
    if running is not None:
        output.say(f"[green]✓[/] already running (pid {running.pid})")
    elif not detach:
        _become_supervisor(output, settings, examples)
    else:
        _start_detached(output, settings)
    _welcome(output, settings, examples)


def _already_up(settings: Settings) -> Running | None:
    if holder(lock_file(settings.data_dir)) is None:
        return None
    running = read_running(settings.data_dir)
    if running is None or not running.ready:
        raise CliError(
            "another `hearth up` is starting or stopping on this data directory",
            exit_code=ExitCode.REFUSED,
            hint="wait for it, or: hearth down",
            code="already_running",
        )
    return running


def _supervisor(output: Output, *flags: str) -> list[str]:
    colour = ["--colour"] if output.err.color_system else []
    return [*module(sys.executable, "cli.up"), *flags, *colour]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings_environment(settings)}


def _become_supervisor(output: Output, settings: Settings, examples: bool) -> NoReturn:
    """Nothing of this process stays: what runs for months is the small one."""
    if output.json:
        raise usage("--json needs --detach: in the foreground there is no single answer")
    command = [*_supervisor(output), "--", "welcome", *(["--examples"] if examples else [])]
    _headline(output)
    sys.stderr.flush()
    os.execve(command[0], command, _environment(settings))  # noqa: S606 - no shell is wanted


def _start_detached(output: Output, settings: Settings) -> None:
    _headline(output)
    process = subprocess.Popen(
        _supervisor(output, "--detach"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(settings),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:  # ends when the supervisor lets go of it, or is gone
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()
        running = read_running(settings.data_dir)
        if running is not None and running.ready and running.pid == process.pid:
            process.returncode = 0  # it outlives us on purpose: not a forgotten child
            return
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        process.stdout.close()
    raise CliError(
        "Hearth did not start",
        exit_code=ExitCode(status) if status in (1, 2, 3) else ExitCode.FAILED,
        hint=f"hearth doctor looks for the reason; the logs are in {settings.data_dir / 'log'}",
        code="not_started",
    )


def _headline(output: Output) -> None:
    output.say("[bold]Starting Hearth[/]")


# --- once it is up ---


def welcome(
    context: typer.Context,
    examples: Annotated[bool, typer.Option("--examples")] = False,
    json: JsonOption = False,
) -> None:
    """What `hearth up` says when everything is ready."""
    _welcome(Output.of(context), read_settings(), examples)


def _welcome(output: Output, settings: Settings, examples: bool) -> None:
    connection = find_connection(None, settings_environment(settings))
    _warn_of_images(output, settings)
    shown, failed = show_examples(connection, output) if examples else ([], [])
    if output.json:
        said = {"url": connection.url, "admin_key_file": str(settings.admin_key_file)}
        said["data_dir"] = str(settings.data_dir)
        output.answer({**said, "examples": shown, "examples_failed": failed})
    else:
        _summary(output, settings, connection.url, examples=examples)
    if failed:
        output.say(f"\n[bold red]These examples failed:[/] {', '.join(failed)}")
        raise typer.Exit(ExitCode.FAILED)


def _warn_of_images(output: Output, settings: Settings) -> None:
    """Without its image no sandbox of a runtime starts: better said now than by a first build."""
    command = [*module(sys.executable, "runtimes.images"), "list", "--json"]
    done = subprocess.run(
        command, env=_environment(settings), capture_output=True, text=True, check=False
    )
    try:
        lacking = [image["name"] for image in json_module.loads(done.stdout) if not image["ready"]]
    except (ValueError, KeyError, TypeError):
        return  # it could not tell
    if lacking:
        names = ", ".join(lacking)
        output.say(f"\n[yellow]Images missing or out of date:[/] {names}")
        output.say(f"  [bold]{command_name()} images build[/] makes them")


def _summary(output: Output, settings: Settings, url: str, *, examples: bool) -> None:
    output.say(f"\n[bold green]Hearth is up[/]   [bold]{url}[/]")
    output.say(f"  [dim]admin key[/]  {_short(settings.admin_key_file)}")
    output.say(f"  [dim]logs     [/]  {_short(settings.data_dir / 'log')}/")
    output.say("\n[bold]Try next[/]")
    for line in _next_commands(settings, url, examples=examples):
        output.say(f"  {line}")
    command = command_name()
    output.say(f"\n[dim]{command} --help shows the rest, {command} down stops it.[/]")


def _next_commands(settings: Settings, url: str, *, examples: bool) -> Sequence[str]:
    """Three commands that work as they stand, here and now."""
    command, key = command_name(), _short(settings.admin_key_file)
    curl = f'curl -H "Authorization: Bearer $(cat {key})"'
    if not examples:
        return (
            f"{command} init hello && {command} deploy hello",
            f"""{command} invoke hello --data '{{"name": "Ada"}}'""",
            f"{curl} {url}/v1/functions",
        )
    photo = _short(EXAMPLES / "thumbnail" / "photo.jpg")
    return (
        f"{command} init hello && {command} deploy hello",
        f"{command} invoke thumbnail --file {photo} --output small.jpg",
        f"""{curl} -d '{{"name": "Ada"}}' {url}/v1/functions/hello-python/invocations""",
    )


def command_name() -> str:
    """How this shell calls us: `hearth` if that finds this very installation, else its path."""
    ours = Path(sys.executable).parent / "hearth"
    found = shutil.which("hearth")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "hearth"
    return _short(ours)


def _short(path: Path) -> str:
    """As seen from here, when that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# --- stopping and looking ---


def down(
    context: typer.Context,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for running invocations.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Drain and stop Hearth; check that nothing is left."""
    output = Output.of(context)
    settings = read_settings()
    pid = holder(lock_file(settings.data_dir))
    if pid is not None:
        output.say(f"stopping Hearth (pid {pid}); running invocations may finish …")
        _stop(pid, settings.drain_s + STOP_MARGIN_S, signals=2 if now else 1)
    left = leftovers(settings.data_dir, settings.run_dir)
    if output.json:
        output.answer({"stopped": pid is not None, "pid": pid, "left": left})
    elif pid is None:
        output.say(f"nothing runs on {_short(settings.data_dir)}")
    elif not left:
        output.say("[green]✓[/] stopped; no process, container, mount or socket is left")
    if left:
        for line in left:
            output.say(f"  [red]✗[/] left behind: {escape(line)}")
        output.say("  the next [bold]hearth up[/] clears it away")
        raise typer.Exit(ExitCode.FAILED)


def _stop(pid: int, patience_s: float, *, signals: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for _ in range(signals):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            time.sleep(0.2)  # two of the same signal at once would be one
        if select.select([pidfd], [], [], patience_s)[0]:
            return
    except ProcessLookupError:
        return
    except PermissionError:
        raise CliError(
            f"pid {pid} belongs to another user", exit_code=ExitCode.REFUSED, hint="try sudo"
        ) from None
    finally:
        os.close(pidfd)
    raise CliError(
        f"Hearth (pid {pid}) is still stopping after {patience_s:.0f} s",
        hint="hearth down --now waits for no invocation",
        code="still_stopping",
    )


def status(context: typer.Context, json: JsonOption = False) -> None:
    """Show what runs here, and the memory it holds."""
    output = Output.of(context)
    settings = read_settings()
    running = read_running(settings.data_dir)
    pid = holder(lock_file(settings.data_dir))
    if pid is None or running is None:
        raise CliError(
            f"nothing runs on {_short(settings.data_dir)}",
            exit_code=ExitCode.AWAY,
            hint=f"start it: {command_name()} up --detach",
            code="not_running",
        )
    problem = _not_ready(running)
    found = {"supervisor": pid, **running.children}
    memory = {name: memory_mb(child) for name, child in found.items()}
    if output.json:
        parts = {n: {"pid": p, "memory_mb": memory[n]} for n, p in found.items()}
        state = {"url": running.url, "ready": not problem, "problem": problem}
        output.answer({**state, "started_at": running.started_at, "processes": parts})
    else:
        word = f"[red]not ready:[/] {escape(problem)}" if problem else "[green]ready[/]"
        output.out.print(f"[bold]{running.url}[/]   {word}", soft_wrap=True)
        rows = [(name, str(child), f"{memory[name]:.1f} MB") for name, child in found.items()]
        rows.append(("", "", f"[bold]{sum(memory.values()):.1f} MB[/]"))
        output.table(("PROCESS", "PID>", "MEMORY>"), rows)
    raise typer.Exit(ExitCode.AWAY if problem else ExitCode.OK)


def _not_ready(running: Running) -> str:
    """Why it is not ready, as far as the gateway can say; empty when it is."""
    scheme, _, address = running.url.partition("://")
    answer = ask(Probe(Question.READYZ, address, tls=scheme == "https"))
    try:
        return str(json_module.loads(answer or "")["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer or ""


def memory_mb(pid: int) -> float:
    """What a process holds in memory, its share of what it shares with others counted once."""
    for name in ("smaps_rollup", "status"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(("Pss:", "VmRSS:")):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def images_build(
    names: Annotated[list[str] | None, typer.Argument(help="Which; by default all.")] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="The base anew, for the system's updates.")
    ] = False,
) -> None:
    """Make the images that are missing or out of date."""
    _images("build", *(names or ()), *(["--refresh"] if refresh else []))


def images_list(json: JsonOption = False) -> None:
    """Which images there are, and whether they are up to date."""
    _images("list", *(["--json"] if json else []))


def _images(*arguments: str) -> None:
    settings = read_settings()
    command = [*module(sys.executable, "runtimes.images"), *arguments]
    done = subprocess.run(command, env=_environment(settings), check=False)
    raise typer.Exit(done.returncode)


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Check this machine, and say how to mend it."""
    # It reads the environment by itself, so that it can judge settings that cannot be used.
    if (folder := find_data_dir(Path.cwd())) is not None:
        os.environ.setdefault("HEARTH_DATA_DIR", str(folder))
    raise typer.Exit(check_machine(Output.of(context).json))
