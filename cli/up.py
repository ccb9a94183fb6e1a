"""`python -m cli.up`: the process that stays while Hearth runs. `hearth up` starts or becomes it.

It holds the lock on the data directory, keeps the children of cli/children.py alive and writes
down what a client needs to find the platform. It imports next to nothing, so that it stays small.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from cli.child import LogFile
from cli.children import children_of, module, reachable_url
from cli.host import HostUnfit, ensure_containers_conf, search_path
from cli.probe import is_free
from cli.state import AlreadyRunning, Running, hold, lock_file, state_file, write_running
from cli.supervisor import Mark, StartFailed, Supervisor
from core.settings import Settings, SettingsInvalid

EXIT_FAILED = 1
EXIT_USAGE = 2
COLOURS = {
    Mark.GOOD: "\033[32m✓\033[0m",
    Mark.BAD: "\033[31m✗\033[0m",
    Mark.NOTE: "\033[2m·\033[0m",
}
PLAIN = {Mark.GOOD: "✓", Mark.BAD: "✗", Mark.NOTE: "·"}


@dataclass(frozen=True, slots=True)
class Manner:
    """How this run shows itself, from the command line."""

    detach: bool  # stdout is a pipe of `hearth up --detach`: let go of it when all is ready
    colour: bool
    welcome: Sequence[str] = field(default=())  # what to run in the foreground once ready

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Manner:
        """`[--detach] [--colour] [-- command of the welcome]`; only `hearth up` writes these."""
        flags, welcome = list(arguments), []
        if "--" in flags:
            at = flags.index("--")
            flags, welcome = flags[:at], flags[at + 1 :]
        return cls("--detach" in flags, "--colour" in flags, welcome)


class Voice:
    """Says each line twice: to whoever watches, and to the supervisor's own log."""

    def __init__(self, manner: Manner, log: LogFile, watcher: TextIO) -> None:
        self._manner, self._log, self._watcher = manner, log, watcher

    def __call__(self, mark: Mark, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._log.write(f"{stamp} {mark.value} {text}\n".encode())
        sign = (COLOURS if self._manner.colour else PLAIN)[mark]
        with contextlib.suppress(OSError):  # a watcher that went away takes nothing down
            self._watcher.write(f"  {sign} {text}\n")
            self._watcher.flush()


def main(arguments: Sequence[str]) -> int:
    """Run until asked to stop; the exit status."""
    manner = Manner.parse(arguments)
    # Sandboxes run as users of their own, and see what the children make for them: a stricter
    # umask of the caller's would close it to them. Secrets have modes of their own.
    os.umask(0o022)
    try:
        settings = Settings.from_env()
        prepare(settings)
        with hold(lock_file(settings.data_dir)):
            return _run(settings, manner)
    except SettingsInvalid as problem:
        return _refuse(str(problem), EXIT_USAGE)
    except AlreadyRunning as running:
        return _refuse(f"Hearth already runs on this data directory (pid {running.pid})", 3)
    except (HostUnfit, OSError) as problem:
        return _refuse(str(problem), EXIT_FAILED)


def prepare(settings: Settings) -> None:
    """The directories, closed to other users; whoever made them before must have been us."""
    for folder in (settings.data_dir, settings.data_dir / "log", settings.data_dir / "tmp"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = settings.run_dir.stat().st_uid
    if owner != os.geteuid() or settings.run_dir.is_symlink():
        raise PermissionError(f"{settings.run_dir} belongs to user {owner}: not used for sockets")
    settings.run_dir.chmod(0o700)


def _run(settings: Settings, manner: Manner) -> int:
    if not is_free(settings.host, settings.port):
        message = f"{settings.address} is taken by another program; HEARTH_ADDRESS names another"
        return _refuse(message, EXIT_FAILED)
    log = LogFile(settings.data_dir / "log" / "up.log")
    say = Voice(manner, log, sys.stdout)
    conf = ensure_containers_conf(settings.data_dir)
    remove_sockets(settings.run_dir)
    specs = children_of(
        settings,
        python=sys.executable,
        environ={**os.environ, "PATH": search_path()},
        containers_conf=conf,
    )
    state = _StateWriter(settings)
    supervisor = Supervisor(
        specs, log_dir=settings.data_dir / "log", say=say, on_change=state.children
    )
    try:
        supervisor.run(_when_ready(supervisor, state, manner, log))
    except StartFailed as problem:
        say(Mark.BAD, str(problem))
        return EXIT_FAILED
    finally:
        state_file(settings.data_dir).unlink(missing_ok=True)
        remove_sockets(settings.run_dir)
        with contextlib.suppress(OSError):  # unless something is left in it
            settings.run_dir.rmdir()
        log.close()
    return 0


class _StateWriter:
    """Keeps the state file true: who runs, where, since when, and whether all is ready."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started_at = time.time()
        self._children: dict[str, int] = {}
        self._ready = False

    def children(self, pids: dict[str, int]) -> None:
        self._children = pids
        self._write()

    def ready(self) -> None:
        self._ready = True
        self._write()
        share_with_sudo_user(self._settings)

    def _write(self) -> None:
        running = Running(
            pid=os.getpid(),
            url=reachable_url(self._settings),
            run_dir=str(self._settings.run_dir),
            started_at=self._started_at,
            ready=self._ready,
            children=self._children,
        )
        with contextlib.suppress(OSError):  # a full disk must not take the platform down
            write_running(self._settings.data_dir, running)


def share_with_sudo_user(settings: Settings) -> None:
    """Who typed `sudo hearth up` may use what it made without sudo: the key, and the way to it."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not uid.isdigit() or not gid.isdigit():
        return
    for path in (settings.data_dir, settings.admin_key_file):
        with contextlib.suppress(FileNotFoundError):
            os.chown(path, int(uid), int(gid), follow_symlinks=False)


def _when_ready(
    supervisor: Supervisor, state: _StateWriter, manner: Manner, log: LogFile
) -> Callable[[], None]:
    def ready() -> None:
        state.ready()
        if manner.detach:
            _let_go_of_terminal()
        elif manner.welcome:
            supervisor.run_aside(module(sys.executable, "cli.main") + tuple(manner.welcome))

    return ready


def _let_go_of_terminal() -> None:
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def remove_sockets(run_dir: Path) -> None:
    """Sockets that a killed run left; with the lock held nobody listens on them any more."""
    for path in run_dir.iterdir():
        if path.is_socket():
            path.unlink(missing_ok=True)


def _refuse(message: str, status: int) -> int:
    sys.stdout.write(f"  {PLAIN[Mark.BAD]} {message}\n")
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
