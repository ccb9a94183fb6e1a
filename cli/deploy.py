"""`hearth deploy`: pack, upload, follow the build, show where it answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from cli.client import Client
from cli.failures import CliError, ExitCode
from cli.output import Output
from cli.project import Project, Upload, open_upload

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

POLL_FIRST_S = 0.05
POLL_MAX_S = 1.0
BUILD_PATIENCE_S = 3600.0  # past any HEARTH_BUILD_TIMEOUT_S that makes sense to wait for
LIVE_LINES = 8  # of the build log while it runs
FAILED_LINES = 40  # of the build log when it failed


@dataclass(frozen=True, slots=True)
class Deployed:
    """What came of a deploy."""

    version: Mapping[str, Any]  # as the platform describes it
    took_s: float
    unchanged: bool = False


def deploy(
    client: Client,
    project: Project,
    config: Mapping[str, Any],
    output: Output,
    *,
    wait: bool = True,
    if_changed: bool = False,
) -> Deployed:
    """Make the next version of a function. CliError with the build log when the build fails."""
    began = time.monotonic()
    upload = open_upload(project)
    with upload.file:
        if if_changed and (same := _same_version(client, project, upload)) is not None:
            return Deployed(same, time.monotonic() - began, unchanged=True)
        for hint in upload.hints:
            output.say(f"  [dim]{hint}[/]")
        with _uploading(output, upload) as file:
            version: Mapping[str, Any] = client.deploy(project.name, config, file, upload.filename)
    if wait:
        version = follow_build(client, project.name, version, output)
    return Deployed(version, time.monotonic() - began)


def _same_version(client: Client, project: Project, upload: Upload) -> Mapping[str, Any] | None:
    """The function's newest version if it was made from these very bytes and works."""
    if upload.digest is None:
        return None
    try:
        latest = next(client.versions(project.name), None)
    except CliError as problem:
        if problem.exit_code is ExitCode.REFUSED:
            return None
        raise
    if latest and latest.get("status") == "active":
        same = latest.get("archive", {}).get("sha256") == upload.digest
        return latest if same else None
    return None


def follow_build(
    client: Client, name: str, version: Mapping[str, Any], output: Output
) -> Mapping[str, Any]:
    """Wait for a build to end, its log in sight. CliError when it failed."""
    number = int(version["version"])
    deadline = time.monotonic() + BUILD_PATIENCE_S
    pause = POLL_FIRST_S
    with _building(output, f"{name}:{number}") as show:
        while version["status"] == "building":
            if time.monotonic() > deadline:
                raise CliError(
                    f"{name}:{number} is still building",
                    hint=f"hearth versions {name} shows what becomes of it",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)
            version = client.version(name, number)
            if show is not None and version["status"] == "building":
                show(_build_log(client, name, number))
    if version["status"] != "active":
        raise _build_failed(client, name, number, version)
    return version


def _build_log(client: Client, name: str, number: int) -> str:
    try:
        return client.build_log(name, number)
    except CliError:
        return ""  # the build is what matters; its log may not be there yet


def _build_failed(client: Client, name: str, number: int, version: Mapping[str, Any]) -> CliError:
    why = version.get("error") or "the build failed"
    log = _build_log(client, name, number)
    return CliError(
        f"{name}:{number} was not built: {why}",
        hint="what was deployed before still answers",
        code="build_failed",
        function=name,
        version=number,
        log=log,
    )


# --- what one sees meanwhile ---


@contextlib.contextmanager
def _uploading(output: Output, upload: Upload) -> Iterator[IO[bytes]]:
    """The file to send; reading it moves a bar along when a person watches."""
    if output.json or not output.err.is_terminal:
        yield upload.file
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=output.err, transient=True) as progress:
        task = progress.add_task("uploading", total=upload.size)
        yield _Watched(upload.file, progress, task)  # type: ignore[misc]


@dataclass(eq=False, slots=True)
class _Watched:
    """A file that tells a progress bar how far it has been read."""

    file: IO[bytes]
    progress: Progress
    task: TaskID

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.progress.update(self.task, completed=self.file.tell())
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


@contextlib.contextmanager
def _building(output: Output, label: str) -> Iterator[_BuildView | None]:
    if output.json or not output.err.is_terminal:
        output.say(f"building {label} …")
        yield None
        return
    from rich.live import Live

    view = _BuildView(label)
    with Live(view, console=output.err, refresh_per_second=10, transient=True):
        yield view


@dataclass(eq=False, slots=True)
class _BuildView:
    """A turning wheel, the seconds, and the end of the build log below."""

    label: str
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    def __call__(self, log: str) -> None:
        self.lines = log.splitlines()[-LIVE_LINES:]

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        took = time.monotonic() - self.began
        spinner = Spinner("dots", f"building {self.label}  {took:.1f} s", style="cyan")
        text = [Text("    " + line, style="dim", no_wrap=True) for line in self.lines]
        return Group(spinner, *text)


def show_build_log(output: Output, error: CliError) -> None:
    """The end of a failed build's log, before the error itself is shown."""
    log = str(error.details.get("log") or "")
    if output.json or not log:
        return
    from rich.markup import escape

    output.say(f"[dim]the end of the build log ({error.details['function']}):[/]")
    for line in log.splitlines()[-FAILED_LINES:]:
        output.say(f"  [dim]│[/] {escape(line)}")
