"""A supervisor of small children, for tests to run as a process of its own.

`python -m tests.unit.supervised DIR SPECS`: SPECS is a JSON list of ChildSpec fields. It writes
`READY` and then one line for each piece of news to its standard output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cli.children import ChildSpec, Lifeline, Probe, Question
from cli.supervisor import Mark, StartFailed, Supervisor


def spec_of(raw: dict[str, Any]) -> ChildSpec:
    """A ChildSpec from JSON; `socket` makes it answer to a Redis ping before it is ready."""
    socket = raw.pop("socket", None)
    probe = Probe(Question.REDIS_PING, socket) if socket else Probe(Question.NOTHING)
    lifeline = Lifeline(raw.pop("lifeline", "none"))
    command = tuple(raw.pop("command"))
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return ChildSpec(command=command, env=env, probe=probe, lifeline=lifeline, **raw)


def say(mark: Mark, text: str) -> None:
    """News, one line each."""
    sys.stdout.write(f"{mark.value} {text!r}\n")
    sys.stdout.flush()


def main() -> int:
    """Run until told to stop."""
    specs = [spec_of(raw) for raw in json.loads(sys.argv[2])]
    log_dir = Path(sys.argv[1])

    def ready() -> None:
        sys.stdout.write("READY\n")
        sys.stdout.flush()

    def changed(pids: dict[str, int]) -> None:
        new = log_dir / "pids.new"
        new.write_text(json.dumps(pids))
        new.replace(log_dir / "pids.json")

    try:
        Supervisor(specs, log_dir=log_dir, say=say, on_change=changed).run(ready)
    except StartFailed as problem:
        say(Mark.BAD, str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
