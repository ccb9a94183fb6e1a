"""One child process of the supervisor: it dies with us, and its output is kept within bounds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cli.children import GUARD_FD_VARIABLE, ChildSpec, Lifeline
from core.limits import MIB

LOG_BYTES_MAX = 8 * MIB  # of one child's current file; the one before it is kept
TAIL_LINES = 15
READ_BYTES = 64 * 1024
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_AFTER_S = 60.0  # a child that ran this long has earned a fresh start of its back-off
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def backoff_s(failures: int) -> float:
    """How long to wait before starting a child again after this many failures in a row."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)))


class LogFile:
    """A child's output on disk: two files at most, each within LOG_BYTES_MAX."""

    def __init__(self, path: Path, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._file: BinaryIO = path.open("ab", buffering=0)
        path.chmod(0o600)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses log lines rather than the platform."""
        with contextlib.suppress(OSError):
            if self._file.tell() + len(data) > self._bytes_max:
                self._turn_over()
            self._file.write(data)

    def _turn_over(self) -> None:
        self._file.close()
        self.path.replace(self.path.with_suffix(self.path.suffix + ".1"))
        self._file = self.path.open("ab", buffering=0)
        self.path.chmod(0o600)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines written."""
        return tail_of(self.path, lines)

    def fileno(self) -> int:
        """The current file's descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def tail_of(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a file, as text."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Lifelines:
    """The two ends of the pipe between gateway and guard, as the supervisor holds them."""

    read: int
    write: int  # -1 once the holder has it: ours must be closed for its end to be noticed


@dataclass(eq=False, slots=True)
class Child:
    """A spec and, while it runs, its process."""

    spec: ChildSpec
    log: LogFile
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    output: int = -1  # read end of the pipe that is its stdout and stderr
    failures: int = 0  # in a row
    started_at: float = 0.0
    restart_at: float | None = None
    status: int | None = None  # of the last run, as Popen.returncode says it
    log_start: int = field(default=0)  # where the last run began in the log

    @property
    def running(self) -> bool:
        """Whether its process lives, as far as we have heard."""
        return self.process is not None

    def start(self, lifelines: Lifelines | None, now: float) -> None:
        """Start the process. OSError when the command cannot be run."""
        read, write = os.pipe()
        try:
            self.process = self._spawn(lifelines, write)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        self.output, self.pidfd = read, os.pidfd_open(self.process.pid)
        self.started_at, self.restart_at, self.status = now, None, None

    def _spawn(self, lifelines: Lifelines | None, output: int) -> subprocess.Popen[bytes]:
        env, stdin = dict(self.spec.env), subprocess.DEVNULL
        inherit: tuple[int, ...] = ()
        if lifelines is not None and self.spec.lifeline is Lifeline.READS:
            # Its work begins when all of us are gone: no pipe of ours may break under its words.
            stdin, output = lifelines.read, self.log.fileno()
        if lifelines is not None and self.spec.lifeline is Lifeline.HOLDS:
            env[GUARD_FD_VARIABLE], inherit = str(lifelines.write), (lifelines.write,)
        return subprocess.Popen(
            self.spec.command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=self.spec.cwd,
            pass_fds=inherit,
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
            # Safe after a fork: the supervisor has one thread.
            preexec_fn=_dying_with(os.getpid(), self.spec.lifeline),
        )

    def reap(self) -> int:
        """Take the status of a process that has ended."""
        assert self.process is not None
        self.status = self.process.wait()
        self.process = None
        os.close(self.pidfd)
        self.pidfd = -1
        return self.status

    def signal(self, number: signal.Signals) -> None:
        """Signal the process; with SIGKILL everything it started in its session's group too."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


def _dying_with(supervisor: int, lifeline: Lifeline) -> Callable[[], None] | None:
    """The guard has its pipe and must outlive the gateway; every other child is told by the kernel
    when the supervisor is gone, however it went."""
    if lifeline is Lifeline.READS:
        return None

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before we asked to be told
            os._exit(1)

    return before_exec


def describe_status(status: int) -> str:
    """`exit status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
