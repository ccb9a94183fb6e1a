"""`hearth up --examples`: deploys each example, makes the calls it lists, shows the answers.

example.json holds {"calls": [{"data"} | {"file", "path"?} | {"method", "path", "data"?}, …]}; each
may have "expect": {"status": 200, "contains": "text", "content_type": "image/jpeg"}. "needs" names
settings of which one must be set, or the example is left out, saying so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from cli import deploy as deploying
from cli.client import Client
from cli.connection import Connection
from cli.failures import CliError
from cli.invoke import Request, Said, is_text, plan, platform_error
from cli.output import Output
from cli.project import open_project

if TYPE_CHECKING:
    import httpx

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOLD_CHARACTERS = 44


@dataclass(frozen=True, slots=True)
class Step:
    """One call of an example, and what its answer must be."""

    request: Request
    told: str  # for a person: what was sent
    status: int
    contains: str
    content_type: str


def find_examples(folder: Path = EXAMPLES) -> list[Path]:
    """Every example, by name."""
    return sorted(path.parent for path in folder.glob("*/example.json"))


def missing_settings(example: Path, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The settings of which an example needs one, when none is set."""
    needs: list[str] = json.loads((example / "example.json").read_text()).get("needs", [])
    return [] if any(environ.get(name) for name in needs) else needs


def read_steps(example: Path, name: str) -> list[Step]:
    """The calls that an example.json lists."""
    calls = json.loads((example / "example.json").read_text())["calls"]
    return [_step(example, name, call) for call in calls]


def _step(example: Path, name: str, call: Mapping[str, Any]) -> Step:
    file = example / call["file"] if "file" in call else None
    data = call.get("data")
    said = Said(
        name=name,
        data=data if data is None or isinstance(data, str) else json.dumps(data),
        file=file,
        path=call.get("path"),
        method=call.get("method"),
        headers=[f"{key}: {value}" for key, value in call.get("headers", {}).items()],
    )
    expect = call.get("expect", {})
    sent = call.get("file") or said.data or ""
    told = " ".join(part for part in (call.get("method"), call.get("path"), sent) if part)
    return Step(
        plan(said),
        told,
        int(expect.get("status", 200)),
        str(expect.get("contains", "")),
        str(expect.get("content_type", "")),
    )


def show_examples(
    connection: Connection, output: Output, folder: Path = EXAMPLES
) -> tuple[list[dict[str, object]], list[str]]:
    """Deploy and call every example, a line for each answer. What came back, and who failed."""
    shown: list[dict[str, object]] = []
    failed: list[str] = []
    output.say("\n[bold]Examples[/]")
    with Client(connection) as client:
        for example in find_examples(folder):
            if needs := missing_settings(example):
                output.say(f"  [yellow]–[/] {example.name}: left out, set {' or '.join(needs)}")
                continue
            try:
                shown += _show(client, connection, output, example)
            except CliError as error:
                failed.append(example.name)
                deploying.show_build_log(output, error)
                output.say(f"  [red]✗[/] {example.name}: {escape(error.message)}")
    return shown, failed


def _show(
    client: Client, connection: Connection, output: Output, example: Path
) -> list[dict[str, object]]:
    project = open_project(example, name=None, runtime=None)
    made = deploying.deploy(client, project, {}, _Quiet(output), if_changed=True)
    note = "unchanged" if made.unchanged else f"deployed in {made.took_s:.1f} s"
    output.say(f"  [green]✓[/] [bold]{project.name}[/] [dim]{note}[/]")
    shown: list[dict[str, object]] = []
    for step in read_steps(example, project.name):
        request = step.request
        answer = client.invoke(
            request.method, request.path, body=request.body, headers=request.headers
        )
        check(answer, step, connection)
        took = answer.elapsed.total_seconds() * 1000
        text = answer_text(answer)
        told = shortened(step.told, TOLD_CHARACTERS)
        room = max(30, output.err.width - len(told) - 18)
        shown_text = escape(shortened(text, room))
        output.say(f"      [dim]{escape(told)} →[/] {shown_text} [dim]{took:.0f} ms[/]")
        facts = {"function": project.name, "call": step.told, "answer": text}
        shown.append({**facts, "status": answer.status_code})
    return shown


class _Quiet(Output):
    """Deploys of examples show their bars but not their lines."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.json = output.json

    def say(self, text: str) -> None:
        """Nothing: the caller sums it up."""


def check(answer: httpx.Response, step: Step, connection: Connection) -> None:
    """CliError unless the answer is what the example promises."""
    if step.status == answer.status_code and step.contains in answer.text:
        kind = answer.headers.get("content-type", "")
        if kind.startswith(step.content_type):
            return
        raise CliError(f"{step.told}: the answer is {kind}, not {step.content_type}")
    if (error := platform_error(answer, connection)) is not None:
        raise error
    got = f"{answer.status_code} {shortened(answer_text(answer), 200)}"
    raise CliError(f"{step.told}: expected {step.status} {step.contains!r}, got {got}")


def answer_text(answer: httpx.Response) -> str:
    """The answer in one line."""
    if not is_text(answer.content):
        kind = answer.headers.get("content-type", "something binary")
        return f"{len(answer.content):,} bytes of {kind}"
    return " ".join(answer.text.split())


def shortened(text: str, characters: int) -> str:
    """The text, cut to so many characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
