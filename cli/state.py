"""What a running `hearth up` leaves in the data directory: a lock with its pid, and its state."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Running:
    """The state file."""

    pid: int
    url: str
    run_dir: str
    started_at: float  # Unix time, seconds
    ready: bool
    children: Mapping[str, int]  # name → pid


class AlreadyRunning(Exception):
    """Another process holds the lock."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"held by {pid}")
        self.pid = pid


def lock_file(data_dir: Path) -> Path:
    """The pid file; whoever runs on the data directory holds a lock on it."""
    return data_dir / "up.pid"


def state_file(data_dir: Path) -> Path:
    """What the platform that runs on the data directory says about itself."""
    return data_dir / "up.json"


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock, with our pid in the file. AlreadyRunning when somebody else does.

    The kernel drops the lock with the process, so no crash leaves one behind."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(_pid_in(path)) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        path.chmod(0o644)
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock; None when nobody does."""
    try:
        with path.open("r") as file:
            # A lock that can be shared is held by nobody.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return _pid_in(path)
    except FileNotFoundError:
        return None


def _pid_in(path: Path) -> int | None:
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def write_running(data_dir: Path, running: Running) -> None:
    """Replace the state file as a whole, so that a reader never sees half of it."""
    path = state_file(data_dir)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(running)))
    new.chmod(0o644)  # an address is no secret, and a user without root may ask for it
    new.replace(path)


def read_running(data_dir: Path) -> Running | None:
    """The state file's content; None when there is none. It may be that of a run that was killed:
    `holder` knows whether somebody lives."""
    try:
        return Running(**json.loads(state_file(data_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None
