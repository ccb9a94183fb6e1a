"""What a command ends with when it cannot do what was asked: a sentence, a hint, an exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of `hearth`; docs/cli.md lists them for scripts."""

    OK = 0
    FAILED = 1  # the function failed, or a build did, or the operation did not work out
    USAGE = 2  # the command line, or something it names on this machine, makes no sense
    REFUSED = 3  # the platform answered no: not found, not allowed, not valid
    AWAY = 4  # nobody answers, or the platform cannot right now; trying again may help
    INTERRUPTED = 130  # Ctrl-C


class CliError(Exception):
    """Ends a command. `hint` says what to do next; `details` joins the JSON of `--json`."""

    def __init__(
        self, message: str, *, exit_code: ExitCode = ExitCode.FAILED, hint: str = "", **details: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.details: dict[str, Any] = details


def usage(message: str, hint: str = "") -> CliError:
    """The caller's own mistake, found before anybody else was asked."""
    return CliError(message, exit_code=ExitCode.USAGE, hint=hint, code="usage")
